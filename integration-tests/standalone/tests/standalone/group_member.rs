//! A member of a group, as a client without anything of ours plays it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use walser_client::Client;
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_proto::v1::consume_response::Event;

use crate::server::PATIENCE;

/// A member, with everything that it was told.
pub(crate) struct Member {
    /// Dropped before the requests: else the member would leave.
    stream: Streaming<pb::ConsumeResponse>,
    requests: mpsc::Sender<pb::ConsumeRequest>,
    pub(crate) id: String,
    pub(crate) token: String,
    /// By topic and partition, where it was told that reading starts.
    pub(crate) owned: BTreeMap<(String, i32), i64>,
    /// By topic, the id that was told last.
    pub(crate) topic_ids: BTreeMap<String, String>,
    /// Offset and value of what was read, by partition.
    pub(crate) read: BTreeMap<i32, Vec<(i64, String)>>,
    /// Where the next commit of everything goes, by topic and partition.
    next: BTreeMap<(String, i32), i64>,
    /// The errors of commits, by their ids.
    pub(crate) results: BTreeMap<i64, Vec<pb::PartitionError>>,
    pub(crate) problems: Vec<pb::PartitionError>,
    pub(crate) revoked: Vec<pb::PartitionsRevoked>,
    pub(crate) revoking: Vec<pb::PartitionsRevoking>,
    pub(crate) resets: Vec<pb::OffsetReset>,
    pub(crate) caught_up: u32,
    pub(crate) drained: bool,
    commits: i64,
}

/// A join of a group that reads a topic.
pub(crate) fn join_of(group: &str, topic: &str) -> pb::ConsumeJoin {
    pb::ConsumeJoin { group: group.to_owned(), topics: vec![topic.to_owned()], ..Default::default() }
}

pub(crate) fn at(topic: &str, partition: i32) -> pb::TopicPartition {
    pb::TopicPartition { topic: topic.to_owned(), partition }
}

pub(crate) fn offset(topic: &str, partition: i32, offset: i64) -> pb::OffsetCommit {
    pb::OffsetCommit { topic_partition: Some(at(topic, partition)), offset, ..Default::default() }
}

impl Member {
    /// Joins a group that reads a topic.
    pub(crate) async fn join(client: &Client, group: &str, topic: &str) -> Self {
        Self::join_as(client, join_of(group, topic)).await.unwrap()
    }

    /// Joins. The connection is its own.
    pub(crate) async fn join_as(client: &Client, join: pb::ConsumeJoin) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(1024);
        requests.send(pb::ConsumeRequest { message: Some(Message::Join(join)) }).await.unwrap();
        let opening = client.separate().groups();
        let stream = tokio::time::timeout(PATIENCE, { opening }.consume(ReceiverStream::new(sent))).await.unwrap()?;
        let mut member = Self {
            requests,
            stream: stream.into_inner(),
            id: String::new(),
            token: String::new(),
            owned: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            read: BTreeMap::new(),
            next: BTreeMap::new(),
            results: BTreeMap::new(),
            problems: Vec::new(),
            revoked: Vec::new(),
            revoking: Vec::new(),
            resets: Vec::new(),
            caught_up: 0,
            drained: false,
            commits: 0,
        };
        member.until(|member| !member.id.is_empty()).await;
        Ok(member)
    }

    /// Whether it is let in.
    pub(crate) async fn try_join(client: &Client, join: pb::ConsumeJoin) -> bool {
        let (requests, sent) = mpsc::channel(1);
        requests.send(pb::ConsumeRequest { message: Some(Message::Join(join)) }).await.unwrap();
        let stream = { client.separate().groups() }.consume(ReceiverStream::new(sent)).await;
        match stream {
            Ok(stream) => matches!(stream.into_inner().message().await, Ok(Some(_))),
            Err(_) => false,
        }
    }

    pub(crate) async fn say(&self, message: Message) {
        self.requests.send(pb::ConsumeRequest { message: Some(message) }).await.unwrap();
    }

    /// Takes the next event. `false`: the stream has ended with OK.
    pub(crate) async fn step(&mut self) -> Result<bool, Status> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message()).await.expect("nothing comes")?;
        let Some(message) = message else { return Ok(false) };
        match message.event.expect("events are never empty") {
            Event::Joined(joined) => (self.id, self.token) = (joined.member_id, joined.resume_token),
            Event::Assigned(assigned) => {
                for partition in assigned.partitions {
                    let at = partition.topic_partition.unwrap();
                    self.topic_ids.insert(at.topic.clone(), partition.topic_id);
                    self.owned.insert((at.topic, at.partition), partition.start_offset);
                }
            }
            Event::Revoked(revoked) => {
                for at in &revoked.partitions {
                    self.owned.remove(&(at.topic.clone(), at.partition));
                    self.next.remove(&(at.topic.clone(), at.partition));
                }
                self.revoked.push(revoked);
            }
            Event::Revoking(revoking) => self.revoking.push(revoking),
            Event::Records(chunk) => {
                let of = (chunk.topic.clone(), chunk.partition);
                assert!(self.owned.contains_key(&of), "records of {of:?}, which is not owned");
                let value = |record: &pb::ConsumedRecord| {
                    let value = record.value.clone().unwrap_or_default();
                    (record.offset, String::from_utf8(value.to_vec()).unwrap())
                };
                self.read.entry(chunk.partition).or_default().extend(chunk.records.iter().map(value));
                self.next.insert(of, chunk.next_offset);
            }
            Event::CommitResult(result) => {
                assert!(self.results.insert(result.commit_id, result.errors).is_none(), "answered twice");
            }
            Event::OffsetReset(reset) => self.resets.push(reset),
            Event::PartitionError(problem) => self.problems.push(problem),
            Event::CaughtUp(_) => self.caught_up += 1,
            Event::Drain(_) => self.drained = true,
            Event::Heartbeat(_) => {}
        }
        Ok(true)
    }

    /// Takes events until a condition holds.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let goes_on = self.step().await.unwrap();
            assert!(goes_on, "the stream has ended");
        }
    }

    /// Takes events until so many records were read.
    pub(crate) async fn read_many(&mut self, count: usize) {
        self.until(|member| member.count() >= count).await;
    }

    /// Takes events until it owns so many partitions.
    pub(crate) async fn own(&mut self, count: usize) {
        self.until(|member| member.owned.len() == count).await;
    }

    /// Records that were read.
    pub(crate) fn count(&self) -> usize {
        self.read.values().map(Vec::len).sum()
    }

    /// Values that were read.
    pub(crate) fn values(&self) -> BTreeSet<String> {
        self.read.values().flatten().map(|(_, value)| value.clone()).collect()
    }

    /// Commits offsets, and waits for the answer: what was refused.
    pub(crate) async fn commit(&mut self, offsets: Vec<pb::OffsetCommit>) -> Vec<pb::PartitionError> {
        self.commits += 1;
        let id = self.commits;
        self.say(Message::Commit(pb::ConsumeCommit { commit_id: id, offsets })).await;
        self.until(|member| member.results.contains_key(&id)).await;
        self.results.remove(&id).unwrap()
    }

    /// Commits everything that was read.
    pub(crate) async fn commit_all(&mut self) {
        let offsets = self.next.iter().map(|((topic, partition), next)| offset(topic, *partition, *next)).collect();
        assert_eq!(self.commit(offsets).await, []);
    }

    /// Half-closes the stream, and waits for its end.
    pub(crate) async fn leave(mut self) -> Self {
        let (requests, _) = mpsc::channel(1);
        self.requests = requests;
        while self.step().await.unwrap() {}
        self
    }

    /// Waits for the end of the stream with an error.
    pub(crate) async fn fails(&mut self) -> Status {
        loop {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => panic!("the stream has ended with OK"),
                Err(status) => return status,
            }
        }
    }
}
