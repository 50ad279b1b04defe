//! The services of the controller: decode, decide, encode.

mod change_log;
mod cluster;
mod metadata;
mod node;
mod topic;

use std::sync::Arc;

use tonic::service::Routes;
use walser_model::{Clock, ClusterId, Random};
use walser_proto::internal::v1::controller_service_server::ControllerServiceServer;
use walser_proto::v1::cluster_service_server::ClusterServiceServer;
use walser_proto::v1::operation_service_server::OperationServiceServer;
use walser_proto::v1::topic_service_server::TopicServiceServer;
use walser_service::{Shutdown, vital};

use crate::config::Config;
use crate::operations::Operations;
use crate::restore::RefusedNodes;
use crate::sessions::Sessions;
use crate::store::Store;

/// Largest registration in bytes: it names every replica of a node.
const REGISTRATION_BYTES_MAX: usize = 32 << 20;

/// The controller behind its services.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) sessions: Sessions,
    pub(crate) operations: Operations,
    pub(crate) refused: RefusedNodes,
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    /// Of the metadata, begun with the start of this controller.
    pub(crate) lineage: String,
    /// Ends the streams that other processes hold open.
    pub(crate) stopping: Shutdown,
}

/// All services of the controller.
pub(crate) fn routes(controller: &Arc<Controller>) -> Routes {
    if !controller.config.standalone {
        tokio::spawn(vital::must_not_panic("fencing of silent nodes", node::fence_silent(Arc::clone(controller))));
    }
    let internal = ControllerServiceServer::from_arc(Arc::clone(controller));
    Routes::new(internal.max_decoding_message_size(REGISTRATION_BYTES_MAX))
        .add_service(TopicServiceServer::from_arc(Arc::clone(controller)))
        .add_service(ClusterServiceServer::from_arc(Arc::clone(controller)))
        .add_service(OperationServiceServer::from_arc(Arc::clone(controller)))
}
