//! A coordinator from its start to its end: what it is made of, and in which order.

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;
use walser_group::Config;
use walser_model::{Clock, PartitionIndex};
use walser_rpc::{ApiError, ControllerClient, GROUP_SHARDS, Network, Reason, local_connection};
use walser_service::{Shutdown, Tasks};

use crate::api::{self, Api};
use crate::internal_topic::InternalTopic;
use crate::log::PartitionLog;
use crate::metadata::Metadata;
use crate::shard::{ShardHandle, ShardParts};
use crate::terms::Terms;

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct CoordinatorDependencies {
    pub clock: Arc<dyn Clock>,
}

/// A coordinator that is running.
#[derive(Debug)]
pub struct RunningCoordinator {
    /// Its services, for a listener.
    pub routes: Routes,
    tasks: Tasks,
    stopping: Shutdown,
}

/// Starts a coordinator in the process of everything else, and registers with the network. It waits for nothing: until the
/// metadata is known and a shard is loaded, calls are answered with `COORDINATOR_NOT_AVAILABLE`. Sessions stay until
/// [`RunningCoordinator::drain`], so that gateways can end theirs first.
///
/// # Errors
/// When no controller is known.
pub fn start(
    dependencies: CoordinatorDependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<RunningCoordinator, ApiError> {
    let unknown = || ApiError::new(Reason::ControllerNotAvailable, "no controller is known");
    let controller = ControllerClient::new(network.controller().ok_or_else(unknown)?);
    let metadata = Metadata::default();
    let controllers = network.controllers().into_iter().map(ControllerClient::new).collect();
    let following = metadata.clone().follow(controllers, network.clone(), shutdown.clone());
    let mut tasks = Tasks::new(shutdown);
    tasks.start("metadata follower of the group coordinator", following);
    let (terms, mut shards) = (Terms::default(), Vec::new());
    for number in 0..GROUP_SHARDS {
        let (shard, driver) = ShardHandle::of(ShardParts {
            log: Arc::new(PartitionLog::new(metadata.clone(), network.clone(), PartitionIndex(number))),
            clock: Arc::clone(&dependencies.clock),
            topics: metadata.topics(),
            terms: terms.clone(),
            config: Config::default(),
        });
        tasks.start_endless("shard of groups", driver.run());
        shards.push(shard);
    }
    let stopping = Shutdown::new(Duration::ZERO);
    let topic = InternalTopic::new(controller, metadata);
    let routes = api::routes(Api { shards, topic, stopping: stopping.clone() });
    network.register_coordinator(local_connection(routes.clone()));
    Ok(RunningCoordinator { routes, tasks, stopping })
}

// === impl RunningCoordinator ===

impl RunningCoordinator {
    /// Ends the sessions, and what the coordinator does by itself. To be called once the stop has begun and gateways have
    /// drained. What was answered is in the log.
    pub async fn drain(self) {
        self.stopping.begin();
        self.tasks.drain().await;
    }
}
