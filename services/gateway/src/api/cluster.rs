//! `ClusterService` and `OperationService`: the controller's answers.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::cluster_service_server::ClusterService;
use walser_proto::v1::operation_service_client::OperationServiceClient;
use walser_proto::v1::operation_service_server::OperationService;

use crate::Gateway;

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl ClusterService for Gateway {
    async fn get_cluster(&self, request: Request<pb::GetClusterRequest>) -> Answer<pb::GetClusterResponse> {
        ClusterServiceClient::new(self.controller.clone()).get_cluster(request.into_inner()).await
    }

    async fn list_nodes(&self, request: Request<pb::ListNodesRequest>) -> Answer<pb::ListNodesResponse> {
        ClusterServiceClient::new(self.controller.clone()).list_nodes(request.into_inner()).await
    }
}

#[async_trait]
impl OperationService for Gateway {
    async fn get_operation(&self, request: Request<pb::GetOperationRequest>) -> Answer<pb::GetOperationResponse> {
        OperationServiceClient::new(self.controller.clone()).get_operation(request.into_inner()).await
    }
}
