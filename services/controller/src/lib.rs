//! The controller: the only writer of cluster metadata.
//!
//! Every decision reads its keys from the metadata store, and commits with a transaction that compares all of them:
//! the controller holds no state that could be stale. What others need to know they get from `WatchMetadata`, which
//! any controller process serves straight from the store.
//!
//! Invariant: nothing but this crate writes to the metadata store.

mod api;
mod availability;
mod census;
mod compaction;
mod config;
mod error;
mod keys;
mod metrics;
mod nodes;
mod operations;
mod paging;
mod placement;
mod producer_ids;
mod restore;
mod sessions;
mod store;
mod topics;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;
use walser_metastore::Metastore;
use walser_model::{Clock, ClusterId, Random};
use walser_rpc::{Network, local_connection};
use walser_service::{Metrics, Shutdown, vital};

pub use config::{Config, KEYS, PROCESS_KEYS};
pub use error::StartError;

use crate::metrics::{ClusterMetrics, TimedStore};
use crate::store::Store;

/// A running controller.
#[derive(Debug)]
pub struct Started {
    /// The cluster that it runs.
    pub cluster: ClusterId,
    /// Its services, for a listener.
    pub routes: Routes,
    /// Streams that other processes hold open.
    pub streams: OpenStreams,
}

/// Streams that other processes hold open for as long as they live: a stop must end them.
#[derive(Debug)]
pub struct OpenStreams(Shutdown);

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Where metadata lives.
    pub store: Arc<dyn Metastore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
}

/// Starts a controller: makes or finds the cluster, and registers with the network.
///
/// # Errors
/// [`StartError`] when the store cannot be read or written.
pub async fn start(config: Config, environment: Environment, network: &Network) -> Result<Started, StartError> {
    let counted = ClusterMetrics::new(&environment.metrics);
    let timed: Arc<dyn Metastore> = Arc::new(TimedStore::new(environment.store, &environment.metrics));
    let store = Store::new(Arc::clone(&timed), config.clone());
    let cluster = store.ensure_cluster(environment.random.bytes(), environment.clock.now_millis()).await?;
    let lineage = store.begin_lineage(environment.random.bytes()).await?;
    tokio::spawn(vital::must_not_panic("census", census::follow(Arc::clone(&timed), counted)));
    tokio::spawn(vital::must_not_panic("compaction", compaction::run(timed)));
    let stopping = Shutdown::new(Duration::ZERO);
    let controller = Arc::new(api::Controller {
        store,
        clock: environment.clock,
        random: environment.random,
        sessions: sessions::Sessions::default(),
        operations: operations::Operations::default(),
        refused: restore::RefusedNodes::default(),
        config,
        cluster,
        lineage,
        stopping: stopping.clone(),
    });
    let routes = api::routes(&controller);
    network.register_controller(local_connection(routes.clone()));
    Ok(Started { cluster, routes, streams: OpenStreams(stopping) })
}

// === impl OpenStreams ===

impl OpenStreams {
    /// Ends them when `stop` begins; those who held them open them again at another controller, or at the next one.
    pub async fn end_at(self, stop: Shutdown) {
        stop.wait().await;
        self.0.begin();
    }
}
