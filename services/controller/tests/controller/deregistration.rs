//! Nodes that have left for good are taken out of the cluster.

use std::sync::Arc;
use std::time::Duration;

use walser_metadata::View;
use walser_metastore::{Memory, Metastore, Op, Outcome, Txn};
use walser_model::{NodeId, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, FEATURE_LEVELS, Reason};

use crate::harness::{Started, config, start};
use crate::observed_store::ObservedStore;

async fn cluster(store: Arc<dyn Metastore>) -> Started {
    start(store, walser_controller::Config { standalone: false, ..config() }).await
}

async fn deregister(started: &Started, node_id: i32, accept_loss: bool) -> Result<pb::Node, ApiError> {
    let request = pb::DeregisterNodeRequest { node_id, accept_loss };
    let answer = started.cluster().deregister_node(request).await.map_err(ApiError::from)?;
    Ok(answer.into_inner().node.unwrap())
}

/// Why it is refused.
async fn policy(started: &Started, node_id: i32) -> String {
    let refused = deregister(started, node_id, false).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::PolicyViolation, "{refused}");
    refused.value("policy").unwrap().to_owned()
}

/// A topic with a replica on each of two nodes.
async fn create_on_both(started: &Started, name: &str) -> Result<pb::Topic, ApiError> {
    let topic = pb::Topic { name: name.to_owned(), partition_count: 3, replication_factor: 2, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    let created = started.topics().create_topic(request).await.map_err(ApiError::from)?;
    Ok(created.into_inner().topic.unwrap())
}

async fn delete(started: &Started, name: &str) {
    let request = pb::DeleteTopicRequest { name: name.to_owned(), ..Default::default() };
    started.topics().delete_topic(request).await.unwrap();
}

async fn issues(started: &Started) -> Vec<String> {
    let answer = started.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    answer.cluster.unwrap().health.unwrap().issues.into_iter().map(|issue| issue.code).collect()
}

fn is_known(view: &View, node: i32) -> bool {
    view.node(NodeId(node)).is_some()
}

/// Whether a replica is on a node that is not registered.
fn has_orphans(view: &View) -> bool {
    view.partitions().flat_map(|partition| &partition.record.state.replicas).any(|node| view.node(*node).is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_left_is_deregistered_and_whatever_has_its_id_later_is_a_new_one() {
    let started = cluster(Arc::new(Memory::new())).await;
    started.node(1).await.in_service().await;
    let missing = deregister(&started, 7, true).await.unwrap_err();
    assert_eq!(missing.reason(), Reason::NodeNotFound, "{missing}");
    let gone = started.node(2).await;
    gone.in_service().await;
    create_on_both(&started, "t").await.unwrap();
    assert_eq!(policy(&started, 2).await, "node-in-service");
    gone.leave().await;
    let refused = deregister(&started, 2, true).await.unwrap_err();
    assert_eq!(refused.value("policy"), Some("node-has-replicas"), "{refused}");
    assert!(refused.message().contains("3 replicas: 3 of topic \"t\""), "{refused}");
    let view = started.until(|_| true).await;
    assert!(!view.node(NodeId(2)).unwrap().liveness.cordoned, "nothing was done");

    delete(&started, "t").await;
    // With very many partitions elsewhere.
    started.create("elsewhere", 10_000).await;
    assert_eq!(issues(&started).await, ["NODE_DOWN"]);
    assert_eq!(deregister(&started, 2, false).await.unwrap().id, 2);
    started.until(|view| !is_known(view, 2)).await;
    assert_eq!(issues(&started).await, [""; 0]);
    let again = deregister(&started, 2, true).await.unwrap_err();
    assert_eq!(again.reason(), Reason::NodeNotFound, "{again}");

    let new = started.node(2).await;
    assert!(new.epoch > gone.epoch);
    new.in_service().await;
    let view = started.until(|view| is_known(view, 2)).await;
    let liveness = &view.node(NodeId(2)).unwrap().liveness;
    assert!(!liveness.cordoned && liveness.served_epoch == 0, "nothing is left of the one before: {liveness:?}");
    create_on_both(&started, "again").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_does_not_wait_for_a_node_that_is_deregistered() {
    let started = cluster(Arc::new(Memory::new())).await;
    let stays = started.node(1).await;
    stays.in_service().await;
    let gone = started.node(2).await;
    gone.in_service().await;
    let [first, second] = ["first", "second"].map(str::to_owned);
    let first: TopicId = create_on_both(&started, &first).await.unwrap().id.parse().unwrap();
    let second: TopicId = create_on_both(&started, &second).await.unwrap().id.parse().unwrap();
    gone.leave().await;
    delete(&started, "first").await;
    delete(&started, "second").await;
    stays.confirm(first).await;
    started.until(|view| view.tombstone(first).is_some_and(|known| known.value.nodes == [2])).await;
    deregister(&started, 2, false).await.unwrap();
    let view = started.until(|view| view.tombstone(first).is_none()).await;
    assert_eq!(view.tombstone(second).map(|known| known.value.nodes.contains(&1)), Some(true));
    stays.confirm(second).await;
    started.until(|view| view.tombstone(second).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_held_aside_or_may_be_is_given_up_only_by_who_says_so() {
    let started = cluster(Arc::new(Memory::new())).await;
    started.node(1).await.in_service().await;
    let (holds, still_looks) = (started.node(2).await, started.node(3).await);
    holds.hold_aside(3, true).await;
    holds.in_service().await;
    still_looks.hold_aside(0, false).await;
    still_looks.in_service().await;
    still_looks.leave().await;
    assert_eq!(policy(&started, 3).await, "node-may-hold-data-aside", "there may be more than it has said");
    holds.leave().await;
    let refused = deregister(&started, 2, false).await.unwrap_err();
    assert_eq!(refused.value("policy"), Some("node-holds-data-aside"), "{refused}");
    deregister(&started, 2, true).await.unwrap();
    started.until(|view| !is_known(view, 2)).await;

    // It has registered, and is gone before it says anything.
    let features = Some(FEATURE_LEVELS.into());
    let request = pbi::RegisterNodeRequest { node_id: 2, incarnation: "b".to_owned(), features, ..Default::default() };
    started.controller().register_node(request).await.unwrap();
    assert_eq!(policy(&started, 2).await, "node-in-service", "it is about to be in service");
    let mut refused = policy(&started, 2).await;
    while refused == "node-in-service" {
        tokio::time::sleep(Duration::from_millis(100)).await;
        refused = policy(&started, 2).await;
    }
    assert_eq!(refused, "node-may-hold-data-aside");
    deregister(&started, 2, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_node_that_has_left_does_not_hold_up_the_end_of_an_upgrade() {
    let store = Arc::new(Memory::new());
    let record = format!(r#"{{"id":"{}","name":"before"}}"#, walser_model::ClusterId::from_bytes([9; 16]));
    let put = Op::Put { key: "cluster".to_owned(), value: record.into_bytes().into(), lease: None };
    store.transact(Txn { compares: Vec::new(), ops: vec![put] }).await.unwrap();
    let started = cluster(store).await;
    started.node(1).await.in_service().await;
    let old = pbi::RegisterNodeRequest { node_id: 2, ..Default::default() };
    started.controller().register_node(old).await.unwrap();
    let finalize = async || {
        let answer = started.cluster().finalize_upgrade(pb::FinalizeUpgradeRequest::default()).await;
        answer.map(|answer| answer.into_inner().feature_level).map_err(ApiError::from)
    };
    let refused = finalize().await.unwrap_err();
    assert!(refused.message().contains("storage node 2"), "{refused}");
    assert!(refused.message().contains("walser node deregister"), "{refused}");
    while deregister(&started, 2, true).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(finalize().await.unwrap(), FEATURE_LEVELS.max);
}

/// Node 1, and node 2 that has left.
async fn with_one_gone(store: &Arc<ObservedStore>) -> Arc<Started> {
    let started = cluster(Arc::clone(store) as Arc<dyn Metastore>).await;
    started.node(1).await.in_service().await;
    let gone = started.node(2).await;
    gone.in_service().await;
    gone.leave().await;
    Arc::new(started)
}

const LIVE: &str = "nodes/0000000002/live";
const REGISTRATION: &str = "nodes/0000000002/reg";

fn deregistering(started: &Arc<Started>) -> tokio::task::JoinHandle<Result<pb::Node, ApiError>> {
    let started = Arc::clone(started);
    tokio::spawn(async move { deregister(&started, 2, true).await })
}

/// Whatever was decided about the node before, and is written in between, is seen, or is not written.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_meanwhile_is_not_placed_on_a_node_that_goes() {
    // Before the node is cordoned: the topic is there, and the node stays.
    let store = Arc::new(ObservedStore::new());
    let started = with_one_gone(&store).await;
    let caught = store.catch(LIVE);
    let deregistered = deregistering(&started);
    let (_, go_on) = caught.await.unwrap();
    create_on_both(&started, "before").await.unwrap();
    go_on.send(()).unwrap();
    let refused = deregistered.await.unwrap().unwrap_err();
    assert_eq!(refused.value("policy"), Some("node-has-replicas"), "{refused}");
    assert!(!has_orphans(&started.until(|_| true).await));

    // Between the last look and the removal: the node goes, and the topic is refused.
    let store = Arc::new(ObservedStore::new());
    let started = with_one_gone(&store).await;
    let caught = store.catch(REGISTRATION);
    let deregistered = deregistering(&started);
    let (removal, go_on) = caught.await.unwrap();
    assert_eq!(removal.ops.len(), 2, "both keys go at once");
    let refused = create_on_both(&started, "between").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ReplicationFactorTooHigh, "{refused}");
    go_on.send(()).unwrap();
    deregistered.await.unwrap().unwrap();
    assert!(!has_orphans(&started.until(|view| !is_known(view, 2)).await));

    // Decided before the node is cordoned, and written when it is gone: it is decided again.
    let store = Arc::new(ObservedStore::new());
    let started = with_one_gone(&store).await;
    let caught = store.catch("names/late");
    let creating = tokio::spawn({
        let started = Arc::clone(&started);
        async move { create_on_both(&started, "late").await }
    });
    let (_, go_on) = caught.await.unwrap();
    deregister(&started, 2, true).await.unwrap();
    go_on.send(()).unwrap();
    let refused = creating.await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Reason::ReplicationFactorTooHigh, "{refused}");
    assert!(!has_orphans(&started.until(|view| !is_known(view, 2)).await));
}

/// It finds the node gone when it looks again, and does not say that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_answer_was_lost_is_known_again() {
    let store = Arc::new(ObservedStore::new());
    let started = with_one_gone(&store).await;
    let caught = store.catch(REGISTRATION);
    let deregistered = deregistering(&started);
    let (removal, go_on) = caught.await.unwrap();
    assert!(matches!(store.inner.transact(removal).await, Ok(Outcome::Committed(_))));
    go_on.send(()).unwrap();
    assert_eq!(deregistered.await.unwrap().unwrap().id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_meanwhile_is_not_removed() {
    let store = Arc::new(ObservedStore::new());
    let started = with_one_gone(&store).await;
    let caught = store.catch(REGISTRATION);
    let deregistered = deregistering(&started);
    let (_, go_on) = caught.await.unwrap();
    let alive = Op::Put { key: LIVE.to_owned(), value: br#"{"fenced":false}"#.to_vec().into(), lease: None };
    store.inner.transact(Txn { compares: Vec::new(), ops: vec![alive] }).await.unwrap();
    go_on.send(()).unwrap();
    let refused = deregistered.await.unwrap().unwrap_err();
    assert_eq!(refused.value("policy"), Some("node-in-service"), "{refused}");
    assert!(is_known(&started.until(|_| true).await, 2));
}
