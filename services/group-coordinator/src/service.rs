//! A coordinator from its start to its end: what it is made of, and in which order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Routes;
use walser_group::Config;
use walser_model::{Clock, PartitionIndex, Random};
use walser_rpc::{ApiError, ControllerClient, Network, Reason, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, Tasks};

use crate::api::{self, Api};
use crate::beats::Beats;
use crate::internal_topic::InternalTopic;
use crate::lag::LagWatch;
use crate::log::PartitionLog;
use crate::metadata::Metadata;
use crate::shard::{ShardHandle, ShardParts};
use crate::terms::Terms;

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct CoordinatorDependencies {
    pub clock: Arc<dyn Clock>,
    /// Source of randomness for its id, and for keys. Has to be unpredictable.
    pub random: Arc<dyn Random>,
    pub metrics: Metrics,
    /// host:port at which gateways reach it; empty where they are in this process.
    pub address: String,
}

/// A coordinator that is running.
#[derive(Debug)]
pub struct RunningCoordinator {
    /// Its services, for a listener.
    pub routes: Routes,
    metadata: Metadata,
    tasks: Tasks,
    stopping: Shutdown,
}

/// Starts a coordinator, and registers with the network. It waits for nothing: until the metadata is known, and a shard is
/// given to this coordinator and loaded, calls are answered with `COORDINATOR_NOT_AVAILABLE`. Sessions stay until
/// [`RunningCoordinator::drain`], so that gateways can end theirs first.
///
/// # Errors
/// When no controller is known.
pub fn start(
    dependencies: CoordinatorDependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<RunningCoordinator, ApiError> {
    let CoordinatorDependencies { clock, random, metrics, address } = dependencies;
    let unknown = || ApiError::new(Reason::ControllerNotAvailable, "no controller is known");
    let controller = ControllerClient::new(network.controller().ok_or_else(unknown)?);
    let id = uuid::Builder::from_random_bytes(random.bytes()).into_uuid().to_string();
    let metadata = Metadata::new(&id);
    let controllers: Vec<_> = network.controllers().into_iter().map(ControllerClient::new).collect();
    let following = metadata.clone().follow(controllers.clone(), network.clone(), shutdown.clone());
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.start("metadata follower of the group coordinator", following);
    let (terms, mut shards, mut outdated) = (Terms::default(), Vec::new(), Vec::new());
    for (number, given) in (0..).zip(metadata.given()) {
        let (told_outdated, heard_outdated) = watch::channel(None);
        let (shard, driver) = ShardHandle::of(ShardParts {
            number,
            log: Arc::new(PartitionLog::new(metadata.clone(), network.clone(), PartitionIndex(number))),
            clock: Arc::clone(&clock),
            topics: metadata.topics(),
            terms: terms.clone(),
            given,
            outdated: told_outdated,
            config: Config::default(),
        });
        tasks.start_endless("shard of groups", driver.run());
        shards.push(shard);
        outdated.push(heard_outdated);
    }
    let lags = LagWatch::new(shards.clone(), metadata.clone(), network.clone(), &metrics);
    tasks.start_endless("lags of groups", lags.run());
    tracing::info!(coordinator = %id, "group coordinator started");
    tasks.start(
        "signs of life",
        Beats { id, address, outdated, refused: metadata.refused(), shutdown }.run(controllers),
    );
    let stopping = Shutdown::new(Duration::ZERO);
    let topic = InternalTopic::new(controller, metadata.clone());
    let routes = api::routes(Api { shards, topic, random, stopping: stopping.clone() });
    network.register_coordinator(local_connection(routes.clone()));
    Ok(RunningCoordinator { routes, metadata, tasks, stopping })
}

// === impl RunningCoordinator ===

impl RunningCoordinator {
    /// Tells `health` what keeps this coordinator from taking shards, for ever.
    pub(crate) fn report_readiness(&self, health: Health) -> impl Future<Output = ()> + use<> {
        let metadata = self.metadata.clone();
        async move {
            health.set_problems(vec!["no controller has answered yet".to_owned()]);
            let mut refused = metadata.refused();
            let known = metadata.wait_until(|_| true);
            tokio::select! {
                () = known => {}
                _ = refused.wait_for(Option::is_some) => {}
            }
            loop {
                let problem = refused.borrow_and_update().as_ref().map(|why| format!("{}: {why}", why.reason_name()));
                health.set_problems(problem.into_iter().collect());
                if refused.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Ends the sessions once it begins.
    pub(crate) fn sessions(&self) -> Shutdown {
        self.stopping.clone()
    }

    /// Ends the sessions, and what the coordinator does by itself. To be called once the stop has begun and gateways have
    /// drained. What was answered is in the log.
    pub async fn drain(self) {
        self.stopping.begin();
        self.tasks.drain().await;
    }
}
