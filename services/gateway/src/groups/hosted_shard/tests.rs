//! A shard against a coordinator that does what the test says.

use std::pin::Pin;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use walser_group::{Attach, Attached, Join, Subscription, TokenKey};
use walser_metadata::value::GroupShardValue;
use walser_metadata::{Changes, Delta, MetadataChange};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use walser_rpc::{
    local_connection, member_answer_message, member_request_of_message, session_open_of_message, session_opened_message,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Longest wait for what must come; the clock is paused.
const PATIENCE: Duration = Duration::from_secs(60);

type Answers = mpsc::Sender<Result<pbi::MemberSessionResponse, Status>>;

/// Hands every session to the test.
struct FakeCoordinator(mpsc::Sender<FakeSession>);

/// The coordinator's side of a session.
struct FakeSession {
    requests: Streaming<pbi::MemberSessionRequest>,
    answers: Answers,
    gateway: GatewayId,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for it"))
}

#[tonic::async_trait]
impl CoordinatorService for FakeCoordinator {
    type MemberSessionStream = Pin<Box<dyn Stream<Item = Result<pbi::MemberSessionResponse, Status>> + Send>>;

    async fn member_session(
        &self,
        request: Request<Streaming<pbi::MemberSessionRequest>>,
    ) -> Result<Response<Self::MemberSessionStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap();
        let (_, gateway) = session_open_of_message(&first).unwrap();
        let (answers, stream) = mpsc::channel(64);
        answers.send(Ok(session_opened_message(7, first.correlation_id, &TokenKey([7; 32])))).await.unwrap();
        self.0.send(FakeSession { requests, answers, gateway }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_shard_groups(
        &self,
        _: Request<pbi::ListShardGroupsRequest>,
    ) -> Result<Response<pbi::ListShardGroupsResponse>, Status> {
        unused()
    }

    async fn describe_group(
        &self,
        _: Request<pbi::DescribeGroupRequest>,
    ) -> Result<Response<pbi::DescribeGroupResponse>, Status> {
        unused()
    }

    async fn list_committed_offsets(
        &self,
        _: Request<pbi::ListCommittedOffsetsRequest>,
    ) -> Result<Response<pbi::ListCommittedOffsetsResponse>, Status> {
        unused()
    }

    async fn commit_shard_offsets(
        &self,
        _: Request<pbi::CommitShardOffsetsRequest>,
    ) -> Result<Response<pbi::CommitShardOffsetsResponse>, Status> {
        unused()
    }

    async fn reset_shard_offsets(
        &self,
        _: Request<pbi::ResetShardOffsetsRequest>,
    ) -> Result<Response<pbi::ResetShardOffsetsResponse>, Status> {
        unused()
    }

    async fn delete_shard_offsets(
        &self,
        _: Request<pbi::DeleteShardOffsetsRequest>,
    ) -> Result<Response<pbi::DeleteShardOffsetsResponse>, Status> {
        unused()
    }

    async fn delete_shard_group(
        &self,
        _: Request<pbi::DeleteShardGroupRequest>,
    ) -> Result<Response<pbi::DeleteShardGroupResponse>, Status> {
        unused()
    }

    async fn remove_shard_member(
        &self,
        _: Request<pbi::RemoveShardMemberRequest>,
    ) -> Result<Response<pbi::RemoveShardMemberResponse>, Status> {
        unused()
    }
}

impl FakeSession {
    /// The next request, and the number for its answer.
    async fn next(&mut self) -> Option<(i64, MemberRequest)> {
        let message = tokio::time::timeout(PATIENCE, self.requests.message()).await.expect("nothing comes").ok()??;
        let number = message.correlation_id;
        Some((number, member_request_of_message(message, &self.gateway).unwrap()))
    }

    async fn answer(&self, number: i64, answer: MemberAnswer) {
        self.answers.send(Ok(member_answer_message(7, number, Ok(answer)))).await.unwrap();
    }

    /// Answers signs of life until another request comes, which has this number.
    async fn asked(&mut self) -> (i64, MemberRequest) {
        loop {
            match self.next().await.expect("the session is over") {
                (number, MemberRequest::Report(_) | MemberRequest::Alive) => {
                    self.answer(number, MemberAnswer::Done).await;
                }
                asked => return asked,
            }
        }
    }

    /// Answers signs of life up to the next report. Returns how many members it names.
    async fn report(&mut self) -> usize {
        loop {
            let (number, request) = self.next().await.expect("the session is over");
            self.answer(number, MemberAnswer::Done).await;
            match request {
                MemberRequest::Report(hosted) => return hosted.len(),
                MemberRequest::Alive => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Answers signs of life until the gateway ends the session. Returns the members that each report has named.
    async fn reports(mut self) -> Vec<usize> {
        let mut named = Vec::new();
        while let Some((number, request)) = self.next().await {
            match request {
                MemberRequest::Report(hosted) => named.push(hosted.len()),
                MemberRequest::Alive => {}
                other => panic!("{other:?}"),
            }
            self.answer(number, MemberAnswer::Done).await;
        }
        named
    }
}

/// A shard that is served, and the sessions that it opens.
fn served() -> (Arc<HostedShard>, mpsc::Receiver<FakeSession>) {
    let (sender, sessions) = mpsc::channel(4);
    let (network, metadata) = (Network::default(), Metadata::default());
    network.register_coordinator(local_connection(tonic::service::Routes::new(CoordinatorServiceServer::new(
        FakeCoordinator(sender),
    ))));
    let given = MetadataChange::GroupShard { shard: 0, value: Box::new(GroupShardValue::default()), revision: 1 };
    metadata.apply(Delta { version: 1, snapshot: true, changes: vec![given] });
    network.dial_changed(&metadata.view(), &Changes { group_shards: [0].into(), ..Changes::default() });
    let shard = Arc::new(HostedShard::new(0, "gateway".parse().unwrap()));
    tokio::spawn(Arc::clone(&shard).keep(network, metadata));
    (shard, sessions)
}

async fn opened(sessions: &mut mpsc::Receiver<FakeSession>) -> FakeSession {
    tokio::time::timeout(PATIENCE, sessions.recv()).await.expect("no session is opened").unwrap()
}

fn join() -> MemberRequest {
    MemberRequest::Join(Box::new(Join {
        group: "g".parse().unwrap(),
        member: "m".parse().unwrap(),
        instance: None,
        client_id: String::new(),
        client_address: String::new(),
        subscription: Subscription { topics: ["t".parse().unwrap()].into(), ..Subscription::default() },
        session_timeout: SECOND * 15,
        revocation_timeout: SECOND * 15,
        gateway: Some("gateway".parse().unwrap()),
    }))
}

fn leave() -> MemberRequest {
    let (group, member) = ("g".parse().unwrap(), "m".parse().unwrap());
    let member = walser_group::MemberRef { group, member, instance: None, attachment: AttachmentNumber(1) };
    MemberRequest::Leave { member, cause: RemovalCause::Left, keep_static_assignment: false }
}

#[tokio::test(start_paused = true)]
async fn a_join_that_is_given_up_is_undone_by_reports_once_the_coordinator_is_back() {
    let (shard, mut sessions) = served();
    let asking = Arc::clone(&shard);
    let joining = tokio::spawn(async move { asking.ask(join(), Instant::now() + SECOND * 3).await.map(drop) });
    let mut hung = opened(&mut sessions).await;
    let (_, request) = hung.asked().await;
    assert!(matches!(request, MemberRequest::Join(_)));
    assert!(joining.await.unwrap().is_err(), "it is given up");
    // It may still be read from this session, whenever the coordinator goes on.
    drop(hung);
    let reports = opened(&mut sessions).await.reports().await;
    assert!(reports.len() >= 3 && reports.iter().all(|named| *named == 0), "{reports:?}");
    assert!(shard.is_idle(), "all is said");
}

#[tokio::test(start_paused = true)]
async fn a_leave_that_no_coordinator_hears_is_made_up_for_by_reports() {
    let (shard, mut sessions) = served();
    let entry = shard.enter((&"g".parse().unwrap(), &"m".parse().unwrap()), AttachmentNumber(0)).unwrap();
    let mut session = opened(&mut sessions).await;
    let asking = Arc::clone(&shard);
    let leaving = tokio::spawn(async move { asking.ask(leave(), Instant::now() + SECOND * 3).await.map(drop) });
    session.asked().await;
    assert!(leaving.await.unwrap().is_err());
    drop(entry);
    drop(session);
    let reports = opened(&mut sessions).await.reports().await;
    assert!(reports.len() >= 3 && reports.iter().all(|named| *named == 0), "{reports:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_attaches_is_named_from_the_moment_it_asks() {
    let (shard, mut sessions) = served();
    let asking = Arc::clone(&shard);
    let member = walser_group::MemberRef {
        group: "g".parse().unwrap(),
        member: "m".parse().unwrap(),
        instance: None,
        attachment: AttachmentNumber(1),
    };
    let gateway = Some("gateway".parse().unwrap());
    let attach = Attach { member, subscription: None, revocation_timeout: None, gateway };
    let attaching = tokio::spawn(async move { asking.attach(attach, Instant::now() + SECOND * 10).await });
    let mut session = opened(&mut sessions).await;
    let (asked, request) = session.asked().await;
    assert!(matches!(request, MemberRequest::Attach(_)));
    // The log is slow: reports come before the answer.
    for _ in 0..2 {
        assert_eq!(session.report().await, 1);
    }
    let (attachment, session_timeout) = (AttachmentNumber(2), SECOND * 15);
    let attached = Attached { attachment, current: CurrentAssignment::default(), session_timeout };
    session.answer(asked, MemberAnswer::Attached(attached)).await;
    let (_, _, entry) = attaching.await.unwrap().unwrap();
    shard.doubts.add();
    assert_eq!(session.report().await, 1, "it is here");
    drop(entry);
    shard.doubts.add();
    while session.report().await > 0 {}
    assert!(shard.expected.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_leaves_nothing_to_be_undone() {
    let (shard, mut sessions) = served();
    for request in [join(), leave()] {
        let asking = Arc::clone(&shard);
        let asked = tokio::spawn(async move { asking.ask(request, Instant::now() + SECOND * 3).await.map(drop) });
        let mut session = opened(&mut sessions).await;
        let (number, request) = session.asked().await;
        let attached = Attached {
            attachment: AttachmentNumber(1),
            current: CurrentAssignment::default(),
            session_timeout: SECOND * 15,
        };
        let answer = match request {
            MemberRequest::Join(_) => MemberAnswer::Attached(attached),
            _ => MemberAnswer::Done,
        };
        session.answer(number, answer).await;
        asked.await.unwrap().unwrap();
        drop(session);
        assert!(shard.is_idle());
    }
}
