//! What the controller says of the cluster.

use std::sync::Arc;

use walser_metastore::{Memory, Metastore as _, Op, Txn};
use walser_model::ClusterId;
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_rpc::FEATURE_LEVELS;

use crate::harness::{Started, config, start};

async fn health(started: &Started) -> pb::ClusterHealth {
    let mut cluster = ClusterServiceClient::new(started.connection.clone());
    let answer = cluster.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    answer.cluster.unwrap().health.unwrap()
}

async fn problems(started: &Started) -> Vec<String> {
    health(started).await.issues.into_iter().map(|issue| issue.code).collect()
}

/// Registers a node that never beats; returns what it is told.
async fn register(started: &Started, node_id: i32, cluster_id: &str) -> Result<(), tonic::Code> {
    let (incarnation, cluster_id) = ("silent".to_owned(), cluster_id.to_owned());
    let features = Some(FEATURE_LEVELS.into());
    let request = pbi::RegisterNodeRequest { node_id, incarnation, cluster_id, features, ..Default::default() };
    started.controller().register_node(request).await.map(drop).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_is_as_bad_as_what_is_missing_with_it() {
    let started = start(Arc::new(Memory::new()), config()).await;
    register(&started, 2, "").await.unwrap();
    assert_eq!(health(&started).await.status(), pb::HealthStatus::Critical, "no node is in service");
    started.node(1).await.in_service().await;
    let health = health(&started).await;
    assert_eq!(health.status(), pb::HealthStatus::Degraded, "{health:?}");
    assert_eq!((health.issues.len(), health.issues[0].code.as_str()), (1, "NODE_DOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_id_of_a_node_in_service_is_told_from_it() {
    let started = start(Arc::new(Memory::new()), config()).await;
    started.node(1).await.in_service().await;
    let other = ClusterId::from_bytes([9; 16]).to_string();
    register(&started, 1, &other).await.unwrap_err();
    let health = health(&started).await;
    assert_eq!(health.status(), pb::HealthStatus::Degraded, "{health:?}");
    assert!(health.issues[0].message.contains("another process calls itself storage node 1"), "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_storage_node_is_not_healthy() {
    let started = start(Arc::new(Memory::new()), config()).await;
    assert_eq!(problems(&started).await, ["NO_STORAGE_NODE"]);
    started.node(1).await.in_service().await;
    assert_eq!(problems(&started).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_serves_no_clients_itself_is_listed_with_the_address_that_it_has() {
    let started = start(Arc::new(Memory::new()), config()).await;
    started.node_at(7, "10.0.0.7:7465").await.in_service().await;
    let mut cluster = ClusterServiceClient::new(started.connection.clone());
    let nodes = cluster.list_nodes(pb::ListNodesRequest::default()).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.iter().map(|node| (node.id, node.address.as_str())).collect::<Vec<_>>(), [(7, "10.0.0.7:7465")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_feature_level_is_refused_with_what_to_do() {
    let started = start(Arc::new(Memory::new()), config()).await;
    let register = |features| pbi::RegisterNodeRequest { node_id: 4, features, ..Default::default() };
    let newer = started.controller().register_node(register(range(NOW + 1, NOW + 2))).await.unwrap_err();
    assert_eq!(newer.code(), tonic::Code::Unimplemented, "{newer}");
    assert!(
        newer.message().contains("storage node 4") && newer.message().contains("upgrade the controllers"),
        "{newer}"
    );
    let older = started.controller().register_node(register(None)).await.unwrap_err();
    assert_eq!(older.code(), tonic::Code::Unimplemented, "{older}");
    assert!(older.message().contains("start the version that the controllers have"), "{older}");
    for levels in [range(1, 1), range(NOW + 1, NOW + 1)] {
        let watch = pbi::WatchMetadataRequest { features: levels, ..Default::default() };
        assert_eq!(started.controller().watch_metadata(watch).await.unwrap_err().code(), tonic::Code::Unimplemented);
    }
    for works in [range(NOW, NOW), range(1, 9)] {
        started.controller().register_node(register(works)).await.unwrap();
    }
}

/// The level of this version.
const NOW: i32 = FEATURE_LEVELS.max;

fn range(min_level: i32, max_level: i32) -> Option<pbi::FeatureRange> {
    Some(pbi::FeatureRange { min_level, max_level })
}

/// The store of a cluster that a version without feature levels has formed.
async fn formed_before() -> Arc<Memory> {
    let store = Arc::new(Memory::new());
    let record = format!(r#"{{"id":"{}","name":"before"}}"#, ClusterId::from_bytes([9; 16]));
    let put = Op::Put { key: "cluster".to_owned(), value: record.into_bytes().into(), lease: None };
    store.transact(Txn { compares: Vec::new(), ops: vec![put] }).await.unwrap();
    store
}

/// Processes of the version before work on until an operator says that the upgrade is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_ends_when_nobody_is_old_any_more() {
    let started = start(formed_before().await, config()).await;
    let mut cluster = ClusterServiceClient::new(started.connection.clone());
    let level = async |cluster: &mut ClusterServiceClient<_>| {
        let answer = cluster.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
        answer.cluster.unwrap().feature_level
    };
    let register = |features| pbi::RegisterNodeRequest { node_id: 4, features, ..Default::default() };
    started.controller().register_node(register(None)).await.unwrap();
    let watch = pbi::WatchMetadataRequest { features: range(1, 1), ..Default::default() };
    let gateway = started.controller().watch_metadata(watch.clone()).await.unwrap();
    let end = pb::FinalizeUpgradeRequest::default();
    let refused = cluster.finalize_upgrade(end).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("storage node 4"), "{refused}");
    started.controller().register_node(register(range(1, NOW))).await.unwrap();
    let refused = cluster.finalize_upgrade(end).await.unwrap_err();
    assert!(refused.message().contains("1 other process"), "{refused}");
    assert_eq!(level(&mut cluster).await, 1);
    drop(gateway);
    // It has gone when the controller has heard of it.
    let check = pb::FinalizeUpgradeRequest { validate_only: true };
    while cluster.finalize_upgrade(check).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(level(&mut cluster).await, 1, "it was only looked at");
    let ended = cluster.finalize_upgrade(end).await.unwrap().into_inner();
    assert_eq!((ended.previous_level, ended.feature_level), (1, NOW));
    assert_eq!(level(&mut cluster).await, NOW);
    let again = cluster.finalize_upgrade(end).await.unwrap().into_inner();
    assert_eq!((again.previous_level, again.feature_level), (NOW, NOW), "nothing is left to do");
    let older = started.controller().register_node(register(None)).await.unwrap_err();
    assert!(older.message().contains("it is of an older version"), "{older}");
    assert_eq!(started.controller().watch_metadata(watch).await.unwrap_err().code(), tonic::Code::Unimplemented);
}

/// Processes of the version before know no compaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_compacted_once_the_upgrade_is_over() {
    let started = start(formed_before().await, config()).await;
    started.node(1).await.in_service().await;
    let mut topics = pb::topic_service_client::TopicServiceClient::new(started.connection.clone());
    let create = |name: &str, key: &str, value: &str| {
        let config = [(key.to_owned(), value.to_owned())].into();
        let topic = pb::Topic { name: name.to_owned(), config, ..Default::default() };
        pb::CreateTopicRequest { topic: Some(topic), ..Default::default() }
    };
    topics.create_topic(create("t", "cleanup.policy", "delete")).await.unwrap();
    let refused = topics.create_topic(create("u", "delete.retention.ms", "5")).await.unwrap_err();
    assert!(refused.message().contains("finalize-upgrade"), "{refused}");
    let config_updates = [("cleanup.policy".to_owned(), "delete,compact".to_owned())].into();
    let update = pb::UpdateTopicRequest { name: "t".to_owned(), config_updates, ..Default::default() };
    let refused = topics.update_topic(update.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused}");
    let mut cluster = ClusterServiceClient::new(started.connection.clone());
    cluster.finalize_upgrade(pb::FinalizeUpgradeRequest::default()).await.unwrap();
    topics.update_topic(update).await.unwrap();
    topics.create_topic(create("u", "cleanup.policy", "compact")).await.unwrap();
}

/// Metadata that a node has found to be an older copy is changed by nobody before that is settled.
#[tokio::test(flavor = "multi_thread")]
async fn no_topic_of_walser_itself_is_made_in_an_older_copy_of_the_metadata() {
    let started = start(Arc::new(Memory::new()), config()).await;
    started.node(1).await.in_service().await;
    let (incarnation, features) = ("ahead".to_owned(), Some(FEATURE_LEVELS.into()));
    let metadata_version = 1 << 40;
    let ahead = pbi::RegisterNodeRequest { node_id: 2, incarnation, metadata_version, features, ..Default::default() };
    started.controller().register_node(ahead).await.unwrap_err();
    let topic = pb::Topic { name: "t".to_owned(), partition_count: 1, ..Default::default() };
    let own = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    let own = started.topics().create_topic(own).await.unwrap_err();
    let name = "__walser_groups".to_owned();
    let internal = pbi::CreateInternalTopicRequest { name, partition_count: 1, ..Default::default() };
    let internal = started.controller().create_internal_topic(internal).await.unwrap_err();
    assert_eq!((internal.code(), internal.message()), (own.code(), own.message()));
}
