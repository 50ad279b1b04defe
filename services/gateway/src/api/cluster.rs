//! `ClusterService` and `OperationService`: the controller's answers.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::cluster_service_server::ClusterService;
use walser_proto::v1::operation_service_client::OperationServiceClient;
use walser_proto::v1::operation_service_server::OperationService;
use walser_rpc::{Failure, Reason};

use super::relayed;
use crate::Gateway;

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl ClusterService for Gateway {
    async fn get_cluster(&self, request: Request<pb::GetClusterRequest>) -> Answer<pb::GetClusterResponse> {
        ClusterServiceClient::new(self.controller.clone()).get_cluster(request.into_inner()).await.map_err(relayed)
    }

    async fn list_nodes(&self, request: Request<pb::ListNodesRequest>) -> Answer<pb::ListNodesResponse> {
        ClusterServiceClient::new(self.controller.clone()).list_nodes(request.into_inner()).await.map_err(relayed)
    }

    async fn repair_partition(
        &self,
        request: Request<pb::RepairPartitionRequest>,
    ) -> Answer<pb::RepairPartitionResponse> {
        let request = request.into_inner();
        let partition = request.topic_partition.ok_or_else(|| Failure::field("topic_partition", "is missing"))?;
        let topic = self.topic(&partition.topic).await?;
        let route = self.route(&topic, partition.partition)?;
        let unknown = || Failure::new(Reason::LeaderNotAvailable, "the leader is not known");
        let connection = self.network.storage(route.node).ok_or_else(unknown)?;
        let request = pbi::RepairPartitionRequest { r#ref: Some(route.reference), accept_loss: request.accept_loss };
        let repaired = StorageServiceClient::new(connection).repair_partition(request).await?.into_inner();
        Ok(Response::new(pb::RepairPartitionResponse {
            old_end_offset: repaired.old_end_offset,
            new_end_offset: repaired.new_end_offset,
            set_aside_bytes: repaired.bytes_set_aside,
        }))
    }
}

#[async_trait]
impl OperationService for Gateway {
    async fn get_operation(&self, request: Request<pb::GetOperationRequest>) -> Answer<pb::GetOperationResponse> {
        OperationServiceClient::new(self.controller.clone()).get_operation(request.into_inner()).await.map_err(relayed)
    }
}
