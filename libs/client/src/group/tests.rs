//! A reader against a server that does what the test says.

mod fake_groups;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, Streaming};
use walser_proto::v1::group_service_server::GroupServiceServer;

use self::fake_groups::FakeGroups;
use super::*;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

type Answers = mpsc::Sender<Result<pb::ConsumeResponse, Status>>;

/// The server's side of a stream.
struct FakeStream {
    requests: Streaming<pb::ConsumeRequest>,
    answers: Answers,
}

/// A server whose streams the test plays.
struct FakeServer {
    address: String,
    streams: mpsc::Receiver<FakeStream>,
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

impl FakeServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, streams) = mpsc::channel(4);
        let groups = GroupServiceServer::new(FakeGroups(sender));
        let server = tonic::transport::Server::builder().add_service(groups);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, streams }
    }

    fn reader(&self) -> GroupReader {
        let join = pb::ConsumeJoin { group: "g".to_owned(), topics: vec!["t".to_owned()], ..Default::default() };
        let config = GroupReaderConfig { join, patience: PATIENCE };
        GroupReader::new(&Client::new(&self.address).unwrap(), config)
    }

    /// The next stream, with what it joined by.
    async fn stream(&mut self) -> (FakeStream, pb::ConsumeJoin) {
        let mut stream = in_time(self.streams.recv()).await.unwrap();
        let Some(Message::Join(join)) = stream.request().await else { panic!("no join") };
        (stream, join)
    }

    /// A reader that has joined as `m1` and was given partitions 0 and 1.
    async fn joined(&mut self) -> (GroupReader, FakeStream) {
        let mut reader = self.reader();
        let play = async {
            let (stream, join) = self.stream().await;
            assert_eq!((join.group.as_str(), join.resume_token.as_str()), ("g", ""));
            stream.join("m1", &[0, 1]).await;
            stream
        };
        let ((), stream) = tokio::join!(expect_join(&mut reader, "m1"), play);
        (reader, stream)
    }
}

impl FakeStream {
    /// The next request that is no heartbeat; `None`: half-closed.
    async fn request(&mut self) -> Option<Message> {
        loop {
            match in_time(self.requests.next()).await {
                Some(Ok(pb::ConsumeRequest { message: Some(Message::Heartbeat(_)) })) => {}
                Some(Ok(request)) => return request.message,
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn send(&self, event: Event) {
        self.answers.send(Ok(pb::ConsumeResponse { event: Some(event) })).await.unwrap();
    }

    async fn join(&self, member: &str, partitions: &[i32]) {
        let resume_token = format!("token of {member}");
        let joined = pb::ConsumeJoined { member_id: member.to_owned(), resume_token, ..Default::default() };
        self.send(Event::Joined(joined)).await;
        let one =
            |partition: &i32| pb::AssignedPartition { topic_partition: Some(at(*partition)), ..Default::default() };
        let partitions = partitions.iter().map(one).collect();
        self.send(Event::Assigned(pb::PartitionsAssigned { partitions })).await;
    }

    async fn chunk(&self, partition: i32, next_offset: i64) {
        let chunk = pb::RecordChunk { topic: "t".to_owned(), partition, next_offset, ..Default::default() };
        self.send(Event::Records(chunk)).await;
    }

    async fn answer(&self, commit_id: i64) {
        self.send(Event::CommitResult(pb::CommitResult { commit_id, errors: Vec::new() })).await;
    }

    async fn commit(&mut self) -> pb::ConsumeCommit {
        match self.request().await {
            Some(Message::Commit(commit)) => commit,
            other => panic!("no commit: {other:?}"),
        }
    }

    async fn end(self, failure: ApiError) {
        self.answers.send(Err(failure.into())).await.unwrap();
    }
}

fn at(partition: i32) -> pb::TopicPartition {
    pb::TopicPartition { topic: "t".to_owned(), partition }
}

fn offset(partition: i32, offset: i64) -> pb::OffsetCommit {
    pb::OffsetCommit { topic_partition: Some(at(partition)), offset, ..Default::default() }
}

fn lost() -> ApiError {
    ApiError::new(Reason::GatewayDraining, "the gateway stops")
}

async fn next(reader: &mut GroupReader) -> GroupEvent {
    in_time(reader.next()).await.unwrap()
}

async fn expect_join(reader: &mut GroupReader, member: &str) {
    let event = next(reader).await;
    assert!(matches!(&event, GroupEvent::Joined(joined) if joined.member_id == member), "{event:?}");
    let event = next(reader).await;
    assert!(matches!(event, GroupEvent::Assigned(_)), "{event:?}");
}

async fn expect_answer(reader: &mut GroupReader, id: i64) -> CommitOutcome {
    match next(reader).await {
        GroupEvent::Committed(answer) if answer.id == id => answer.outcome,
        other => panic!("no answer to {id}: {other:?}"),
    }
}

#[tokio::test]
async fn chunks_come_in_order_and_commits_are_answered() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    assert_eq!(reader.commit_delivered().unwrap(), None, "nothing was delivered");
    for end in 1..=20 {
        stream.chunk(0, end).await;
    }
    stream.chunk(1, 7).await;
    for end in 1..=20 {
        let event = next(&mut reader).await;
        assert!(matches!(&event, GroupEvent::Chunk(chunk) if chunk.next_offset == end), "{end}: {event:?}");
    }
    // What waits in the connection is not delivered, and so not committed.
    assert_eq!(reader.commit_delivered().unwrap(), Some(1));
    let commit = stream.commit().await;
    assert_eq!(commit.commit_id, 1);
    assert_eq!(commit.offsets, [pb::OffsetCommit { leader_epoch: Some(0), ..offset(0, 20) }]);
    assert!(matches!(next(&mut reader).await, GroupEvent::Chunk(chunk) if chunk.partition == 1));
    stream.answer(1).await;
    assert_eq!(expect_answer(&mut reader, 1).await, CommitOutcome::Done);
    let id = reader.commit(vec![offset(1, 3)]).unwrap();
    let error = pb::PartitionError { topic_partition: Some(at(1)), ..Default::default() };
    stream.send(Event::CommitResult(pb::CommitResult { commit_id: id, errors: vec![error.clone()] })).await;
    assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Refused(vec![error]));
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_with_the_token() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    for (reason, told) in [
        (Reason::GatewayDraining, false),
        (Reason::SessionExpired, false),
        (Reason::CoordinatorNotAvailable, true),
        (Reason::LeaderNotAvailable, true),
    ] {
        stream.end(ApiError::new(reason, "over")).await;
        if told {
            let event = next(&mut reader).await;
            assert!(matches!(&event, GroupEvent::Away(failure) if failure.reason() == reason), "{event:?}");
        }
        let play = async {
            let (stream, join) = server.stream().await;
            assert_eq!(join.resume_token, "token of m1");
            stream.join("m1", &[0, 1]).await;
            stream
        };
        stream = tokio::join!(expect_join(&mut reader, "m1"), play).1;
        stream.chunk(1, 5).await;
        assert!(matches!(next(&mut reader).await, GroupEvent::Chunk(chunk) if chunk.next_offset == 5));
    }
}

#[tokio::test]
async fn the_end_of_a_member_is_told_before_the_next_one_begins() {
    let mut server = FakeServer::start().await;
    let (mut reader, stream) = server.joined().await;
    stream.end(lost()).await;
    let moved = async {
        let (stream, _) = server.stream().await;
        stream.join("m1", &[1]).await;
        stream
    };
    let read = async {
        expect_join(&mut reader, "m1").await;
    };
    let ((), stream) = tokio::join!(read, moved);
    assert_eq!(reader.pause(at(0)).unwrap_err().reason(), Reason::PartitionNotOwned, "it has moved meanwhile");
    reader.pause(at(1)).unwrap();
    stream.end(lost()).await;
    // Asked for before the reader hears of the end: it is of the old stream.
    let id = reader.commit(vec![offset(1, 1)]).unwrap();
    let anew = async {
        let (stream, _) = server.stream().await;
        stream.join("m2", &[0]).await;
    };
    let read = async {
        assert!(matches!(expect_answer(&mut reader, id).await, CommitOutcome::Unknown(_)));
        let event = next(&mut reader).await;
        assert!(matches!(&event, GroupEvent::Revoked(revoked) if revoked.partitions == [at(0), at(1)]), "{event:?}");
        expect_join(&mut reader, "m2").await;
    };
    tokio::join!(read, anew);
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_after_a_break() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    let id = reader.commit(vec![offset(0, 9)]).unwrap();
    stream.commit().await;
    let unavailable = ApiError::new(Reason::CoordinatorNotAvailable, "loading");
    stream.end(unavailable.clone()).await;
    assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Unknown(unavailable.clone()));
    let event = next(&mut reader).await;
    assert!(matches!(&event, GroupEvent::Away(failure) if *failure == unavailable), "{event:?}");
    // One of the time without a stream is, too; and answers to what is given up are nobody's.
    let second = reader.commit(vec![offset(0, 10)]).unwrap();
    let play = async {
        let (mut stream, _) = server.stream().await;
        stream.answer(id).await;
        stream.join("m1", &[0, 1]).await;
        let third = stream.commit().await.commit_id;
        stream.answer(second).await;
        stream.answer(third).await;
        third
    };
    let read = async {
        assert!(matches!(expect_answer(&mut reader, second).await, CommitOutcome::Unknown(_)));
        expect_join(&mut reader, "m1").await;
        let third = reader.commit(vec![offset(0, 10)]).unwrap();
        assert_eq!(expect_answer(&mut reader, third).await, CommitOutcome::Done);
        third
    };
    let (third, sent) = tokio::join!(read, play);
    assert_eq!((third, sent), (second + 1, third));
}

#[tokio::test]
async fn a_reader_leaves_after_its_commits_are_answered() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    let id = reader.commit(vec![offset(0, 3)]).unwrap();
    reader.leave(false);
    assert!(reader.commit(vec![offset(0, 4)]).is_err(), "too late");
    let play = async {
        stream.chunk(0, 5).await;
        assert_eq!(stream.commit().await.commit_id, id);
        stream.answer(id).await;
        let leave = pb::ConsumeLeave { keep_static_assignment: false };
        assert_eq!(stream.request().await, Some(Message::Leave(leave)));
        assert_eq!(stream.request().await, None, "half-closed");
        drop(stream);
    };
    let read = async {
        assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Done);
        assert!(matches!(next(&mut reader).await, GroupEvent::End), "without the records that came meanwhile");
        assert!(matches!(next(&mut reader).await, GroupEvent::End));
    };
    tokio::join!(read, play);
}

#[tokio::test]
async fn a_static_member_can_keep_its_partitions() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    reader.leave(true);
    let play = async {
        let leave = pb::ConsumeLeave { keep_static_assignment: true };
        assert_eq!(stream.request().await, Some(Message::Leave(leave)));
        assert_eq!(stream.request().await, None, "half-closed");
        drop(stream);
    };
    let read = async { assert!(matches!(next(&mut reader).await, GroupEvent::End)) };
    tokio::join!(read, play);
}

#[tokio::test]
async fn leaving_without_an_answer_to_a_commit_is_an_error() {
    let mut server = FakeServer::start().await;
    let (mut reader, stream) = server.joined().await;
    let id = reader.commit(vec![offset(0, 3)]).unwrap();
    reader.leave(false);
    stream.end(lost()).await;
    assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Unknown(lost()));
    assert_eq!(in_time(reader.next()).await.unwrap_err(), lost());
    // Who has not joined has nothing to leave.
    let mut reader = server.reader();
    reader.leave(false);
    assert!(matches!(next(&mut reader).await, GroupEvent::End));
}

#[tokio::test]
async fn a_member_that_is_fenced_or_refused_ends_with_an_error() {
    for reason in [Reason::MemberFenced, Reason::InstanceFenced, Reason::GroupSizeLimitReached] {
        let mut server = FakeServer::start().await;
        let (mut reader, stream) = server.joined().await;
        let id = reader.commit(vec![offset(0, 3)]).unwrap();
        let failure = ApiError::new(reason, "no more");
        stream.end(failure.clone()).await;
        assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Unknown(failure.clone()));
        assert_eq!(in_time(reader.next()).await.unwrap_err(), failure);
        assert_eq!(in_time(reader.next()).await.unwrap_err(), failure, "for good");
        assert!(reader.commit(vec![offset(0, 4)]).is_err());
    }
}

#[tokio::test]
async fn a_server_that_was_never_there_is_not_waited_for() {
    let server = FakeServer::start().await;
    let mut reader = server.reader();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    reader.client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
    drop(listener);
    assert!(in_time(reader.next()).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn what_is_asked_for_is_sent_in_order_and_paused_again_after_a_break() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    let start = pb::Position { at: Some(pb::position::At::Offset(2)) };
    reader.pause(at(0)).unwrap();
    reader.pause(at(1)).unwrap();
    reader.resume(at(1)).unwrap();
    reader.seek(at(1), start).unwrap();
    reader.extend(Duration::from_secs(60)).unwrap();
    reader.confirm_revocation(7, vec![offset(1, 2)]).unwrap();
    assert_eq!(stream.request().await, Some(Message::Pause(at(0))));
    assert_eq!(stream.request().await, Some(Message::Pause(at(1))));
    assert_eq!(stream.request().await, Some(Message::Resume(at(1))));
    let target = pb::ReadTarget { topic: "t".to_owned(), partition: Some(1), start: Some(start), ..Default::default() };
    assert_eq!(stream.request().await, Some(Message::Seek(target)));
    let extension = Some(Duration::from_secs(60).into());
    assert_eq!(stream.request().await, Some(Message::ExtendProcessing(pb::ExtendProcessing { extension })));
    let confirmed = pb::ConfirmRevocation { revocation_id: 7, offsets: vec![offset(1, 2)] };
    assert_eq!(stream.request().await, Some(Message::ConfirmRevocation(confirmed)));
    stream.end(lost()).await;
    let play = async {
        let (mut stream, _) = server.stream().await;
        stream.join("m1", &[0, 1]).await;
        assert_eq!(stream.request().await, Some(Message::Pause(at(0))));
    };
    let read = async {
        expect_join(&mut reader, "m1").await;
        let nothing = tokio::time::timeout(PATIENCE, reader.next());
        assert!(nothing.await.is_err());
    };
    tokio::select! {
        () = play => {}
        () = read => panic!("nothing else was to come"),
    }
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let mut server = FakeServer::start().await;
    let mut reader = server.reader();
    let play = async {
        let (mut stream, _) = server.stream().await;
        stream.join("m1", &[0, 1]).await;
        for end in 1..=500 {
            stream.chunk(0, end).await;
        }
        for id in 1..=50 {
            assert_eq!(stream.commit().await.commit_id, id);
            stream.answer(id).await;
        }
        stream
    };
    let read = async {
        let (mut delivered, mut answered, mut committed) = (0, 0, 0);
        while delivered < 500 || answered < 50 {
            // Every wait is given up after one poll, wherever it is.
            let event = tokio::select! {
                biased;
                event = reader.next() => event.unwrap(),
                () = tokio::task::yield_now() => continue,
            };
            match event {
                GroupEvent::Chunk(chunk) => {
                    delivered += 1;
                    assert_eq!(chunk.next_offset, delivered);
                    if delivered % 10 == 0 {
                        committed += 1;
                        assert_eq!(reader.commit(vec![offset(0, delivered)]).unwrap(), committed);
                    }
                }
                GroupEvent::Committed(answer) => {
                    answered += 1;
                    assert_eq!((answer.id, answer.outcome), (answered, CommitOutcome::Done));
                }
                GroupEvent::Joined(_) | GroupEvent::Assigned(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    in_time(async { tokio::join!(read, play) }).await;
}

#[tokio::test]
async fn what_waits_has_a_bound() {
    let mut server = FakeServer::start().await;
    let (mut reader, mut stream) = server.joined().await;
    // More offsets than a message may have: one commit in two messages, with one answer.
    let offsets = (0..=10_000).map(|partition| offset(partition, 1)).collect();
    let id = reader.commit(offsets).unwrap();
    for count in [10_000, 1] {
        let commit = stream.commit().await;
        assert_eq!((commit.commit_id, commit.offsets.len()), (id, count));
    }
    let error = pb::PartitionError { topic_partition: Some(at(3)), ..Default::default() };
    stream.send(Event::CommitResult(pb::CommitResult { commit_id: id, errors: vec![error.clone()] })).await;
    stream.answer(id).await;
    assert_eq!(expect_answer(&mut reader, id).await, CommitOutcome::Refused(vec![error]));
    let failure = loop {
        if let Err(failure) = reader.commit(vec![offset(0, 1)]) {
            break failure;
        }
    };
    assert_eq!(failure.reason(), Reason::InFlightLimitExceeded);
}
