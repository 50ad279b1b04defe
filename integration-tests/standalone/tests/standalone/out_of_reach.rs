//! A leader that hears neither the controller nor the others answers nothing by itself: somebody else may lead by now.

use walser_client::Client;
use walser_model::TopicId;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use crate::faults::until;
use crate::replica_errors::{append_at, first_partition, topic_id};
use crate::replicated::{NODES, Nodes, all_in_sync, leader, leads, partitions};
use crate::server::{place, read_all, record};

/// The node that leads the first partition of topic `t`, asked as a gateway asks it.
struct Asked {
    address: String,
    topic: TopicId,
}

impl Asked {
    async fn leader(nodes: &Nodes, client: &Client, leader: i32) -> Self {
        Self { address: nodes.address(leader), topic: topic_id(client).await }
    }

    /// The end of the partition, or why it does not say.
    async fn end(&self) -> Result<i64, ApiError> {
        let at = Some(pbi::offset_lookup::At::Bound(pb::Bound::Latest.into()));
        let lookup = pbi::OffsetLookup { r#ref: Some(first_partition(self.topic, -1)), at, ..Default::default() };
        let request = pbi::LookupOffsetsRequest { lookups: vec![lookup] };
        let mut node = StorageServiceClient::connect(format!("http://{}", self.address)).await.unwrap();
        let found = node.lookup_offsets(request).await.unwrap().into_inner().found.remove(0);
        found.error.map_or(Ok(found.offset), |error| Err(ApiError::from(error)))
    }

    /// Why a record is not written, if it is not.
    async fn append(&self, acks: pb::Acks) -> Option<ApiError> {
        append_at(&self.address, self.topic, -1, acks).await.map(ApiError::from)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_the_controller_answers_by_itself_only_while_every_successor_follows_it() {
    let (_dir, data) = place();
    let (nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let first = leader(&client, "t").await;
    let asked = Asked::leader(&nodes, &client, first).await;
    let write = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("a")], ..Default::default() };
    client.producer().produce(write).await.unwrap();
    assert_eq!(asked.end().await.unwrap(), 1);

    nodes.cluster.signal_controller("-STOP");
    let follower = first % NODES + 1;
    nodes.signal(follower, "-STOP");
    until(async || asked.end().await.is_err(), "a session without the controller and a follower is over").await;
    let refused = asked.end().await.unwrap_err();
    assert_eq!(refused.reason(), Reason::LeaderNotAvailable, "{refused}");
    assert!(refused.to_string().contains("has heard neither the controller nor every other replica"), "{refused}");
    let refused = asked.append(pb::Acks::Leader).await.expect("whoever leads now need not have it");
    assert_eq!(refused.reason(), Reason::LeaderNotAvailable, "{refused}");

    // The controller is still silent; all who could lead instead say again that they follow.
    nodes.signal(follower, "-CONT");
    until(async || asked.end().await == Ok(1), "the followers answer for the lead").await;
    assert!(asked.append(pb::Acks::Leader).await.is_none());
    assert!(asked.append(pb::Acks::All).await.is_none());

    nodes.cluster.signal_controller("-CONT");
    all_in_sync(&client, "t").await;
    assert_eq!(read_all(&client, "t", 0).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_suspended_does_not_answer_from_the_past() {
    let (_dir, data) = place();
    let (nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let first = leader(&client, "t").await;
    let asked = Asked::leader(&nodes, &client, first).await;
    assert_eq!(asked.end().await.unwrap(), 0);
    nodes.signal(first, "-STOP");
    until(async || partitions(&client, "t").await[0].leader != Some(first), "somebody else leads").await;
    let write = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("a")], ..Default::default() };
    client.producer().produce(write).await.unwrap();
    // Asked before it goes on: it answers this before it can have heard of anything.
    let early = tokio::spawn(async move { (asked.end().await, asked.append(pb::Acks::Leader).await, asked) });
    nodes.signal(first, "-CONT");
    let (end, append, asked) = early.await.unwrap();
    assert!(end != Ok(0), "what it had when it was suspended is not all");
    assert!(append.is_some(), "whoever leads now need not have it");
    leads(&client, partitions(&client, "t").await[0].leader.unwrap()).await;
    until(async || asked.end().await.is_err_and(|failure| failure.reason() == Reason::NotLeader), "it follows").await;
}
