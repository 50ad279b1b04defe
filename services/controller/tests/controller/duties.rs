//! What the controller does by itself, and what it finishes for an earlier one.

use std::sync::Arc;

use walser_metadata::View;
use walser_metadata::value::{PartitionValue, StagedPartitions, TombstoneValue, TopicValue, Value, encode};
use walser_metastore::{Memory, Metastore, Op, Txn, read_all};
use walser_model::{NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_replication::PartitionState;
use walser_rpc::{ApiError, Reason};

use crate::harness::{Started, config, start};

fn put<V: Value>(key: String, value: &V) -> Op {
    Op::Put { key, value: encode(value).into(), lease: None }
}

async fn write(store: &Arc<dyn Metastore>, ops: Vec<Op>) {
    for part in ops.chunks(100) {
        store.transact(Txn { compares: Vec::new(), ops: part.to_vec() }).await.unwrap();
    }
}

fn partition(topic: TopicId, number: i32) -> Op {
    let value = PartitionValue::from(PartitionState::new(vec![NodeId(1)], 1));
    put(format!("parts/{}/{number:010}", topic.to_hex()), &value)
}

/// Partitions of all topics that are led, and by whom nobody leads.
fn led(view: &View) -> (usize, usize) {
    let leaders = view.topics().flat_map(|topic| topic.leaders());
    leaders.fold((0, 0), |(led, not), (_, leader, _)| if leader.is_some() { (led + 1, not) } else { (led, not + 1) })
}

/// Keys that begin with a prefix.
async fn keys(store: &Arc<dyn Metastore>, prefix: &str) -> usize {
    read_all(&**store, prefix).await.unwrap().entries.len()
}

async fn started_on(store: &Arc<dyn Metastore>) -> Started {
    let started = start(Arc::clone(store), config()).await;
    started.node(1).await.in_service().await;
    started
}

/// What a controller finds that is started after another one: a store with all that was written, and without its lease.
async fn left_behind(store: &Arc<dyn Metastore>) -> Arc<dyn Metastore> {
    let left: Arc<dyn Metastore> = Arc::new(Memory::new());
    let all = read_all(&**store, "").await.unwrap();
    left.raise_revision(all.revision).await.unwrap();
    let kept = all.entries.into_iter().filter(|entry| entry.lease == 0);
    write(&left, kept.map(|entry| Op::Put { key: entry.key, value: entry.value, lease: None }).collect()).await;
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leads_all_of_its_partitions_again_after_it_has_registered_again() {
    for count in [1, 1_000, 10_000] {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let started = started_on(&store).await;
        started.create("t", count).await;
        let before = started.until(|view| led(view).0 == usize::try_from(count).unwrap()).await;
        // Another start of the node, and then another start of the controller.
        started.node(1).await.in_service().await;
        let again = started.until(|view| led(view) == led(&before)).await;
        let started = started_on(&left_behind(&store).await).await;
        let last = started.until(|view| led(view) == led(&before)).await;
        let topic = |view: &View| Arc::clone(view.topic_named("t").unwrap());
        for (((number, _, first), (.., second)), (.., third)) in
            topic(&before).leaders().zip(topic(&again).leaders()).zip(topic(&last).leaders())
        {
            assert!(first < second && second < third, "a leader epoch begins with every start: {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_an_earlier_controller_has_begun_is_finished() {
    for (count, there) in [(3, 0), (1_000, 1), (10_000, 4_321)] {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        drop(started_on(&store).await);
        let store = left_behind(&store).await;
        let id = TopicId::from_bytes([7; 16]);
        let topic = TopicValue {
            name: "begun".to_owned(),
            partition_count: count,
            replication_factor: 1,
            ..TopicValue::default()
        };
        let staged = StagedPartitions { topic, ..StagedPartitions::default() };
        let mut ops = vec![put(format!("staged/{}", id.to_hex()), &staged)];
        ops.extend((0..there).map(|number| partition(id, number)));
        write(&store, ops).await;
        let started = started_on(&store).await;
        let view = started.until(|view| view.topic_named("begun").is_some()).await;
        let count = usize::try_from(count).unwrap();
        assert_eq!(view.topic_named("begun").unwrap().partitions().count(), count, "all at once, or none");
        started.until(|view| led(view) == (count, 0)).await;
        assert_eq!(keys(&store, "staged/").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_an_earlier_controller_was_adding_are_finished() {
    let store: Arc<dyn Metastore> = Arc::new(Memory::new());
    let started = started_on(&store).await;
    let id: TopicId = started.create("grows", 2).await.id.parse().unwrap();
    let store = left_behind(&store).await;
    let topic =
        TopicValue { name: "grows".to_owned(), partition_count: 500, replication_factor: 1, ..TopicValue::default() };
    let staged = StagedPartitions { topic, first: 2, ..StagedPartitions::default() };
    write(&store, vec![put(format!("staged/{}", id.to_hex()), &staged), partition(id, 2)]).await;
    let started = started_on(&store).await;
    started.until(|view| led(view) == (500, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_an_earlier_controller_has_begun_is_finished_and_waits_for_the_nodes() {
    for left in [0, 1, 1_000, 10_000] {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        drop(started_on(&store).await);
        let store = left_behind(&store).await;
        let id = TopicId::from_bytes([7; 16]);
        // Node 1 has replicas, and the tombstone does not name it: it got them while the topic was being deleted.
        let tombstone = TombstoneValue { name: "gone".to_owned(), operation: "op-1".to_owned(), ..Default::default() };
        let nodes = if left == 0 { vec![1] } else { Vec::new() };
        let tombstone = TombstoneValue { nodes, ..tombstone };
        let mut ops = vec![put(format!("deleting/{}", id.to_hex()), &tombstone)];
        ops.extend((0..left).map(|number| partition(id, number)));
        write(&store, ops).await;
        let started = start(Arc::clone(&store), config()).await;
        let node = started.node(1).await;
        let gone = |view: &View| view.partitions_of(id).next().is_none();
        let view = started.until(gone).await;
        assert_eq!(view.tombstone(id).unwrap().value.nodes, [1], "it stays until node 1 has confirmed");
        node.confirm(id).await;
        started.until(|view| view.tombstone(id).is_none()).await;
        assert_eq!((keys(&store, "deleting/").await, keys(&store, "parts/").await), (0, 0));
        let mut operations =
            walser_proto::v1::operation_service_client::OperationServiceClient::new(started.connection.clone());
        let found = operations.get_operation(pb::GetOperationRequest { id: "op-1".to_owned() }).await.unwrap();
        assert_eq!(found.into_inner().operation.unwrap().state(), pb::OperationState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_topics_come_grow_change_and_go() {
    let store: Arc<dyn Metastore> = Arc::new(Memory::new());
    let started = start(Arc::clone(&store), config()).await;
    let node = started.node(1).await;
    node.in_service().await;
    let id: TopicId = started.create("large", 5_000).await.id.parse().unwrap();
    let mut topics = started.topics();
    let grown = pb::AddPartitionsRequest { topic: "large".to_owned(), partition_count: 10_000, ..Default::default() };
    assert_eq!(topics.add_partitions(grown).await.unwrap().into_inner().topic.unwrap().partition_count, 10_000);
    let update = pb::UpdateTopicRequest {
        name: "large".to_owned(),
        config_updates: [("min.insync.replicas".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    topics.update_topic(update).await.unwrap();
    started.until(|view| led(view) == (10_000, 0)).await;
    let delete = pb::DeleteTopicRequest { name: "large".to_owned(), ..Default::default() };
    topics.delete_topic(delete).await.unwrap();
    assert!(topics.get_topic(pb::GetTopicRequest { name: "large".to_owned() }).await.is_err(), "gone at once");
    started.create("large", 1).await;
    started.until(|view| view.partitions_of(id).next().is_none()).await;
    node.confirm(id).await;
    started.until(|view| view.tombstone(id).is_none()).await;
}

/// The first one under this start of the controller is further on than the caller can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_asks_for_another_epoch_is_told_the_one_that_begins() {
    let store: Arc<dyn Metastore> = Arc::new(Memory::new());
    let started = start(Arc::clone(&store), config()).await;
    let node = started.node(1).await;
    node.in_service().await;
    let id: TopicId = started.create("t", 1).await.id.parse().unwrap();
    let epoch_of = |view: &View| {
        view.partition(TopicPartition { topic: id, partition: PartitionIndex(0) })
            .map(|found| found.record.state.leader_epoch.0)
    };
    for records_lost in [false, true] {
        // As an earlier start has left it.
        write(&store, vec![partition(id, 0)]).await;
        started.until(|view| epoch_of(view) == Some(0)).await;
        let r#ref = Some(pbi::PartitionRef { topic_id: id.to_bytes().to_vec().into(), partition: 0, leader_epoch: 0 });
        let request = pbi::RenewLeaderEpochRequest { node_epoch: node.epoch, r#ref, above: 5, records_lost };
        let told = started.controller().renew_leader_epoch(request).await.unwrap().into_inner().leader_epoch;
        assert!(records_lost || told > 5);
        started.until(|view| epoch_of(view) == Some(told)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_no_node_has_looked_at_yet_is_not_accepted() {
    let store: Arc<dyn Metastore> = Arc::new(Memory::new());
    drop(started_on(&store).await);
    let started = start(left_behind(&store).await, config()).await;
    let accept = async |without_missing_nodes| {
        let request = pb::AcceptMetadataRestoreRequest { without_missing_nodes };
        started.cluster().accept_metadata_restore(request).await.map(tonic::Response::into_inner)
    };
    let early = ApiError::from(accept(false).await.unwrap_err());
    assert_eq!((early.reason(), early.value("nodes")), (Reason::PolicyViolation, Some("1")), "{early}");
    assert!(accept(true).await.unwrap().node_ids.is_empty());
    // It obeys: there is nothing to be accepted.
    started.node(1).await.in_service().await;
    assert!(accept(false).await.unwrap().node_ids.is_empty());
}
