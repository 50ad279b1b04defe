//! A gateway from its start on: what it is made of, and in which order.

use std::sync::Arc;

use tonic::service::Routes;
use walser_model::{Clock, Random};
use walser_rpc::{ApiError, AppendBudget, ControllerClient, Network, Reason};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, Tasks};

use crate::api;
use crate::config::Config;
use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::metadata::Metadata;
use crate::metrics::GatewayMetrics;
use crate::producing::{Admission, ProducerIds, Producing, Writers};
use crate::readiness::Readiness;
use crate::reading::{ReadBudget, Reading, ReadingParts};
use crate::router::Router;
use crate::topics::Topics;

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct Dependencies {
    pub clock: Arc<dyn Clock>,
    /// Randomness: for choosing partitions and heartbeats.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
}

/// A gateway that is running.
#[derive(Debug)]
pub struct Started {
    /// Its services, for the public listener.
    pub routes: Routes,
    /// Whether it can do anything for clients.
    pub readiness: Readiness,
    tasks: Tasks,
}

/// Starts a gateway; returns once it knows the cluster's metadata.
///
/// # Errors
/// When no controller is known.
pub async fn start(
    config: Config,
    dependencies: Dependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, ApiError> {
    let started = begin(config, dependencies, network, shutdown.clone()).await?;
    tokio::select! {
        () = started.readiness.metadata.first_snapshot() => Ok(started),
        () = shutdown.wait() => Err(ApiError::new(Reason::GatewayDraining, "told to stop before it was ready")),
    }
}

/// Starts a gateway that may not have met its controller: until it has, calls that need the controller are answered
/// with `CONTROLLER_NOT_AVAILABLE` instead of being left to wait.
///
/// # Errors
/// When no controller is known.
pub async fn begin(
    config: Config,
    dependencies: Dependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, ApiError> {
    let unknown = || ApiError::new(Reason::ControllerNotAvailable, "no controller is known");
    let controller = network.controller().ok_or_else(unknown)?;
    let metadata = Metadata::default();
    let metrics = GatewayMetrics::new(&dependencies.metrics, &metadata, config.topic_labels_max);
    let version = metrics.metadata_version();
    let asked = ControllerClient::new(controller.clone());
    let followed = network.controllers().into_iter().map(ControllerClient::new).collect();
    let following = metadata.clone().follow(followed, network.clone(), version, shutdown.clone());
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.start("metadata follower", following);
    let readiness = Readiness { metadata: metadata.clone(), network: network.clone() };
    let producer_ids = ProducerIds::new(asked.clone(), metadata.clone());
    let prefetch = producer_ids.clone().prefetch();
    tasks.start_short("first producer ids", prefetch);
    let router = Router::new(metadata.clone(), network.clone());
    let (clock, random) = (dependencies.clock, dependencies.random);
    let ticking = (&mut tasks, shutdown.clone());
    let writers = Writers::start(Arc::clone(&clock), router.clone(), producer_ids.clone(), metrics.clone(), ticking);
    let (budget, room) = (ReadBudget::new(config.read_bytes_max), AppendBudget::new(config.write_bytes_max));
    show_memory(&dependencies.metrics, room.clone(), budget.clone());
    let leaders = Leaders::new(network.clone());
    let created_with = config.auto_create.then_some(config.partitions);
    let topics = Topics::new(asked, metadata.clone(), leaders.clone(), created_with, shutdown.clone());
    let producing = Producing {
        topics: topics.clone(),
        router: router.clone(),
        admission: Admission::new(router.clone(), room, Arc::clone(&clock)),
        writers,
        producer_ids,
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        metrics: metrics.clone(),
        validate_compressed: config.validate_compressed,
    };
    let reading = Reading::new(ReadingParts {
        topics: topics.clone(),
        router: router.clone(),
        budget,
        metadata: metadata.clone(),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        metrics,
        shutdown: shutdown.clone(),
    });
    let network = network.clone();
    let members = (reading.clone(), metadata.clone(), topics.clone());
    let groups = Groups::start(members, &network, Arc::clone(&random), &mut tasks);
    let (hosted, help) = (groups.clone(), "Members of groups whose streams are open here.");
    dependencies.metrics.gauge_of("walser_gateway_group_members", help, move || hosted.member_count());
    let parts = api::PublicParts {
        config,
        clock,
        random,
        network,
        controller,
        metadata,
        topics,
        leaders,
        router,
        producing,
        reading,
        groups,
        shutdown,
    };
    Ok(Started { routes: api::routes(parts, &mut tasks).await, readiness, tasks })
}

/// Shows how much of the memory for writes and reads is in use.
fn show_memory(metrics: &Metrics, writes: AppendBudget, reads: ReadBudget) {
    let limits = [
        ("walser_gateway_write_memory_limit_bytes", "Memory that writes may take.", writes.limit_bytes()),
        ("walser_gateway_read_memory_limit_bytes", "Memory that reads may take.", reads.limit_bytes()),
    ];
    for (name, help, bytes) in limits {
        metrics.gauge(name, help).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    let help = "Memory that writes without an answer take, of gateway.write.bytes.max.";
    metrics.gauge_of("walser_gateway_write_memory_bytes", help, move || writes.used_bytes());
    let (waiting, help) = (reads.clone(), "Reads that wait until others return memory.");
    metrics.gauge_of("walser_gateway_reads_waiting", help, move || waiting.waiting());
    let help = "Memory that records take that are read and not sent yet, of gateway.read.bytes.max.";
    metrics.gauge_of("walser_gateway_read_memory_bytes", help, move || reads.used_bytes());
}

// === impl Started ===

impl Started {
    /// Tells `health` from now on whether the gateway can do anything for clients.
    pub fn report_readiness(&mut self, health: Health, shutdown: Shutdown) {
        self.tasks.start("readiness", self.readiness.clone().report(health, shutdown));
    }

    /// Ends what the gateway does by itself. To be called once the stop has begun and no call runs any more.
    pub async fn drain(self) {
        self.tasks.drain().await;
    }
}
