//! What writers are told when the leader is another one, when too few replicas are in sync, and when time runs out.

use std::time::Duration;

use walser_client::Client;
use walser_model::{Compression, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, Producer, RecordFields};
use walser_rpc::{ApiError, Reason, RetryAdvice};

use crate::faults::until;
use crate::replicated::{NODES, Nodes, alone_in_sync, leads, partitions};
use crate::server::{cli_at, place, record};

/// A node is asked as a gateway asks it, in a leader epoch that the gateway believes in (-1: in any); how the append failed.
pub(crate) async fn append_at(address: &str, topic: TopicId, leader_epoch: i32, acks: pb::Acks) -> Option<pb::Error> {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: 1_000, key: None, value: Some(b"a"), headers: &[] });
    let request = pbi::AppendStreamRequest {
        correlation_id: 1,
        r#ref: Some(first_partition(topic, leader_epoch)),
        record_batch: builder.build(Producer::NONE),
        acks: acks.into(),
        ..Default::default()
    };
    let mut node = StorageServiceClient::connect(format!("http://{address}")).await.unwrap();
    let mut answers = node.append_stream(tokio_stream::iter([request])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().error
}

pub(crate) fn first_partition(topic: TopicId, leader_epoch: i32) -> pbi::PartitionRef {
    pbi::PartitionRef { topic_id: topic.to_bytes().to_vec().into(), partition: 0, leader_epoch }
}

/// The id of topic `t`.
pub(crate) async fn topic_id(client: &Client) -> TopicId {
    let request = pb::GetTopicRequest { name: "t".to_owned() };
    client.topics().get_topic(request).await.unwrap().into_inner().topic.unwrap().id.parse().unwrap()
}

async fn append_failure(address: &str, topic: TopicId, leader_epoch: i32) -> pb::Error {
    append_at(address, topic, leader_epoch, pb::Acks::All).await.expect("the append is refused")
}

/// Writes through the gateway; how it failed.
async fn write_failure(client: &Client, acks: pb::Acks, limit: Duration) -> (tonic::Status, ApiError) {
    let mut request = tonic::Request::new(pb::ProduceRequest {
        topic: "t".to_owned(),
        records: vec![record("a")],
        acks: acks.into(),
        ..Default::default()
    });
    request.set_timeout(limit);
    let status = client.producer().produce(request).await.expect_err("the write is refused");
    (status.clone(), ApiError::from(status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_at_another_node_or_in_another_epoch_says_who_leads_and_in_which_epoch() {
    let (_dir, data) = place();
    let (nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let topic = topic_id(&client).await;
    // The first leader epoch is 0, and nothing is older.
    let next = partitions(&client, "t").await[0].leader.unwrap() % NODES + 1;
    let elected = cli_at(&nodes.cluster.address(), &["partition", "elect", "t", "--node", &next.to_string()], b"");
    assert!(elected.status.success(), "{elected:?}");
    leads(&client, next).await;
    let first = partitions(&client, "t").await.remove(0);
    let (leader, epoch) = (first.leader.unwrap(), first.leader_epoch);

    let follower = nodes.address(leader % NODES + 1);
    // It may hear of the election a moment later.
    let told = async || {
        let failure = append_failure(&follower, topic, epoch).await;
        assert_eq!((failure.reason.as_str(), failure.effect()), ("NOT_LEADER", pb::Effect::None), "{failure:?}");
        ["leader", "leaderEpoch"].map(|key| failure.metadata[key].clone()) == [leader.to_string(), epoch.to_string()]
    };
    until(told, "the follower says who leads, and in which epoch").await;
    for (epoch, direction) in [(epoch - 1, "older"), (epoch + 1, "newer")] {
        let failure = append_failure(&nodes.address(leader), topic, epoch).await;
        assert_eq!((failure.reason.as_str(), failure.effect()), ("STALE_EPOCH", pb::Effect::None), "{failure:?}");
        let told = ["direction", "currentEpoch"].map(|key| failure.metadata[key].clone());
        assert_eq!(told, [direction.to_owned(), first.leader_epoch.to_string()], "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_say_that_too_few_replicas_are_in_sync_and_whether_they_may_have_been_done() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let leader = partitions(&client, "t").await[0].leader.unwrap();
    let others: Vec<_> = (1..=NODES).filter(|node| *node != leader).collect();

    // Followers hang: the time runs out before they leave the in-sync set.
    others.iter().for_each(|node| nodes.signal(*node, "-STOP"));
    let (status, failure) = write_failure(&client, pb::Acks::All, Duration::from_millis(400)).await;
    assert_eq!(
        (status.code(), failure.reason()),
        (tonic::Code::DeadlineExceeded, Reason::RequestTimedOut),
        "{failure}"
    );
    assert_eq!(failure.effect(), pb::Effect::Maybe, "{failure}");

    // With more time they leave it while the write waits: it is in the log of the leader.
    let (status, failure) = write_failure(&client, pb::Acks::All, Duration::from_secs(60)).await;
    assert_eq!((status.code(), failure.reason()), (tonic::Code::Aborted, Reason::NotEnoughReplicas), "{failure}");
    assert_eq!(failure.effect(), pb::Effect::Maybe, "{failure}");

    // From then on nothing is appended.
    alone_in_sync(&client, leader).await;
    let (status, failure) = write_failure(&client, pb::Acks::All, Duration::from_secs(2)).await;
    assert_eq!((status.code(), failure.reason()), (tonic::Code::Unavailable, Reason::NotEnoughReplicas), "{failure}");
    assert_eq!((failure.effect(), failure.retry()), (pb::Effect::None, RetryAdvice::Backoff), "{failure}");
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    let request = pb::ProduceRequest {
        topic: "t".to_owned(),
        records: vec![record("b")],
        acks: pb::Acks::Leader.into(),
        ..Default::default()
    };
    client.producer().produce(request.clone()).await.expect("the leader alone is enough for acks=leader");

    others.iter().for_each(|node| nodes.signal(*node, "-CONT"));
    let again = async || {
        let request = pb::ProduceRequest { acks: pb::Acks::All.into(), ..request.clone() };
        client.producer().produce(request).await.is_ok()
    };
    until(again, "enough are in sync again").await;
    nodes.kill(others[0]);
}
