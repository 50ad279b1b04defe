//! The services of the controller: decode, decide, encode.

mod availability;
mod change_log;
mod cluster;
mod cluster_configs;
mod describe;
mod elections;
mod health;
mod metadata;
mod node;
mod topic;
mod upgrade;

use std::sync::Arc;

use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use walser_model::{Clock, Random};
use walser_proto::internal::v1::controller_service_server::ControllerServiceServer;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_server::ClusterServiceServer;
use walser_proto::v1::operation_service_server::OperationServiceServer;
use walser_proto::v1::topic_service_server::TopicServiceServer;
use walser_service::Shutdown;

use crate::config::Config;
use crate::coordinators::{Coordinators, ShardDuty};
use crate::duties::{Duties, DutyBell};
use crate::nodes::Nodes;
use crate::operations::Operations;
use crate::restore::{OwnHistory, RefusedNodes};
use crate::sessions::Sessions;
use crate::store::Store;
use crate::store_problems::StoreProblems;
use crate::store_writes::StoreWrites;
use crate::topics::Topics;
use crate::upgrade::Followers;
use crate::views::Views;

/// Largest registration in bytes: it names every replica of a node.
const REGISTRATION_BYTES_MAX: usize = 32 << 20;

/// The controller behind its services. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) store: Store,
    pub(crate) views: Views,
    pub(crate) topics: Topics,
    pub(crate) nodes: Nodes,
    pub(crate) operations: Operations,
    pub(crate) sessions: Sessions<pb::StorageStats>,
    pub(crate) coordinators: Coordinators,
    pub(crate) followers: Followers,
    pub(crate) refused: RefusedNodes,
    pub(crate) bell: DutyBell,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: Config,
    pub(crate) history: OwnHistory,
    /// Ends the streams that other processes hold open.
    pub(crate) stopping: Shutdown,
    pub(crate) writes: StoreWrites,
    pub(crate) problems: StoreProblems,
}

impl Controller {
    /// What it does by itself.
    pub(crate) fn duties(&self) -> Duties<pb::StorageStats> {
        Duties {
            nodes: self.nodes.clone(),
            topics: self.topics.clone(),
            sessions: self.sessions.clone(),
            refused: self.refused.clone(),
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            bell: self.bell.clone(),
        }
    }

    /// What gives shards of groups to coordinators.
    pub(crate) fn shard_duty(&self) -> ShardDuty {
        ShardDuty {
            coordinators: self.coordinators.clone(),
            store: self.store.clone(),
            views: self.views.clone(),
            lead: self.nodes.committer().lead.clone(),
            clock: Arc::clone(&self.clock),
            standalone: self.config.standalone,
        }
    }
}

/// All services of the controller. What users ask is answered by the one that leads: another one may not have seen yet
/// what they have changed.
pub(crate) fn routes(controller: &Arc<Controller>) -> Routes {
    let internal = ControllerServiceServer::from_arc(Arc::clone(controller));
    let lead = controller.nodes.committer().lead.clone();
    let led = move |request: Request<()>| lead.epoch().map(|_| request).map_err(Status::from);
    Routes::new(internal.max_decoding_message_size(REGISTRATION_BYTES_MAX))
        .add_service(InterceptedService::new(TopicServiceServer::from_arc(Arc::clone(controller)), led.clone()))
        .add_service(InterceptedService::new(ClusterServiceServer::from_arc(Arc::clone(controller)), led.clone()))
        .add_service(InterceptedService::new(OperationServiceServer::from_arc(Arc::clone(controller)), led))
}
