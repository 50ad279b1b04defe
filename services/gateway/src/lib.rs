//! The gateway: the one address that clients need.
//!
//! It routes every call to the leader or the controller, encodes plain records into batches and decodes them again,
//! gathers small writes, and makes writes idempotent towards storage.
//!
//! Where a produce request goes: `api` decodes it, `batches` validates or encodes it, `writer` gathers plain
//! records, and the storage link hands the batch to the partition's log shard.
//!
//! Invariant: the gateway keeps nothing that a client would miss: any other one can take its place.

mod admission;
mod api;
mod batches;
mod budget;
mod config;
mod cursor;
mod decode;
mod fetch;
mod metadata;
mod metrics;
mod offsets;
mod outcome;
mod part_plan;
mod produce;
mod producer_ids;
mod read;
mod readiness;
mod retry;
mod router;
mod target;
mod topics;
mod within;
mod writer;

use std::sync::Arc;

use tonic::service::Routes;
use walser_model::{Clock, Random};
use walser_rpc::{AppendRoom, Connection, Failure, Network, Reason};
use walser_service::{Metrics, Shutdown, vital};

pub use config::{Config, KEYS};
pub use readiness::Readiness;

use crate::budget::ReadBudget;
use crate::metadata::Metadata;
use crate::metrics::GatewayMetrics;
use crate::producer_ids::ProducerIds;
use crate::router::Router;
use crate::writer::Writers;

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness: for choosing partitions and heartbeats.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
}

/// A running gateway.
#[derive(Debug)]
pub struct Started {
    /// Its services, for the public listener.
    pub routes: Routes,
    /// Whether it can do anything for clients.
    pub readiness: Readiness,
}

/// What every call works with. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) network: Network,
    pub(crate) controller: Connection,
    pub(crate) metadata: Metadata,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) router: Router,
    pub(crate) writers: Writers,
    /// For writes that are not completed.
    pub(crate) write_room: AppendRoom,
    pub(crate) read_budget: ReadBudget,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) shutdown: Shutdown,
}

/// Starts a gateway; returns once it knows the cluster's metadata.
///
/// # Errors
/// When no controller is known.
pub async fn start(
    config: Config,
    environment: Environment,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, Failure> {
    let started = begin(config, environment, network, shutdown.clone()).await?;
    tokio::select! {
        () = started.readiness.metadata.first_snapshot() => Ok(started),
        () = shutdown.wait() => Err(Failure::new(Reason::GatewayDraining, "told to stop before it was ready")),
    }
}

/// Starts a gateway that may not have met its controller: until it has, calls that need the controller are answered
/// with `CONTROLLER_NOT_AVAILABLE` instead of being left to wait.
///
/// # Errors
/// When no controller is known.
pub async fn begin(
    config: Config,
    environment: Environment,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, Failure> {
    let unknown = || Failure::new(Reason::ControllerNotAvailable, "no controller is known");
    let controller = network.controller().ok_or_else(unknown)?;
    let metadata = Metadata::default();
    let metrics = GatewayMetrics::new(&environment.metrics, &metadata, config.topic_labels_max);
    let version = metrics.metadata_version();
    let following = metadata.clone().follow(controller.clone(), network.clone(), version, shutdown.clone());
    let _following = vital::task("metadata follower", &shutdown, following);
    let readiness = Readiness { metadata: metadata.clone(), network: network.clone() };
    let producer_ids = ProducerIds::new(controller.clone());
    let prefetch = producer_ids.clone().prefetch(metadata.clone());
    tokio::spawn(vital::must_not_panic("first producer ids", prefetch));
    let router = Router::new(metadata.clone(), network.clone());
    let clock = Arc::clone(&environment.clock);
    let writers = Writers::start(clock, router.clone(), producer_ids.clone(), metrics.clone(), &shutdown);
    let (read_budget, write_room) = (ReadBudget::new(config.read_bytes_max), AppendRoom::new(config.write_bytes_max));
    GatewayMetrics::show_memory(&environment.metrics, write_room.clone(), read_budget.clone());
    let gateway = Gateway {
        read_budget,
        write_room,
        config,
        clock: environment.clock,
        random: environment.random,
        network: network.clone(),
        controller,
        metadata,
        router,
        writers,
        producer_ids,
        metrics,
        shutdown,
    };
    Ok(Started { routes: api::routes(gateway).await, readiness })
}
