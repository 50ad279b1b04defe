//! What the controller says of the cluster.

use std::sync::Arc;

use walser_metastore::Memory;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;

use crate::harness::{Started, config, start};

async fn problems(started: &Started) -> Vec<String> {
    let mut cluster = ClusterServiceClient::new(started.connection.clone());
    let answer = cluster.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    answer.cluster.unwrap().health.unwrap().issues.into_iter().map(|issue| issue.code).collect()
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
