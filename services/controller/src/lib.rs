//! The controller: the only writer of cluster metadata.
//!
//! Every decision is one of `walser_replication::control`, taken on a view of the store that is of one revision, and
//! commits with a transaction that compares everything it was taken on: it does not matter how late the view is. Beside
//! them there are producer ids and the lineage of the metadata, which compare the values that they go on from. What
//! others need to know they get from `WatchMetadata`, which any controller process serves from its view.
//!
//! Invariant: nothing but this crate writes to the metadata store.

mod api;
mod census;
mod cluster_view;
mod committer;
mod compaction;
mod config;
mod duties;
mod error;
mod keys;
mod leadership;
mod metrics;
mod nodes;
mod operations;
mod placement;
mod producer_ids;
mod restore;
mod sessions;
mod store;
mod store_writes;
mod topics;
mod turns;
mod views;

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;
use walser_metastore::Metastore;
use walser_model::{Clock, ClusterId, Random};
use walser_rpc::{Network, local_connection};
use walser_service::{Metrics, Shutdown, vital};

pub use config::{Config, KEYS, PROCESS_KEYS, SessionTooShort};
pub use error::StartError;

use crate::committer::Committer;
use crate::leadership::ControllerLead;
use crate::metrics::{ClusterMetrics, TimedStore};
use crate::nodes::Nodes;
use crate::operations::Operations;
use crate::store::Store;
use crate::store_writes::StoreWrites;
use crate::topics::Topics;
use crate::turns::Turns;
use crate::views::Views;

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
    let Environment { store: inner, clock, random, metrics } = environment;
    let writes = StoreWrites::default();
    let timed: Arc<dyn Metastore> = Arc::new(TimedStore::new(inner, &metrics, writes.clone()));
    let store = Store::new(Arc::clone(&timed));
    let own = random.bytes();
    let lead = ControllerLead::new(Arc::clone(&timed), &ClusterId::from_random(own).to_string());
    // The first write of a start. A revision that came before it would count as one of the lineage before, and an older
    // copy of the metadata could not be told from what a node has seen.
    let lineage = store.begin_lineage(own).await?;
    // Neither needs the other one: together they cost the disk one sync.
    let (cluster, lease) = tokio::try_join!(
        async { Ok(store.ensure_cluster(&config.cluster_name, random.bytes(), clock.now_millis()).await?) },
        async { Ok::<_, StartError>(lead.win().await?) },
    )?;
    let views = Views::open(Arc::clone(&timed)).await?;

    let committer = Committer { store: Arc::clone(&timed), views: views.clone(), lead: lead.clone() };
    let operations = Operations::default();
    let stopping = Shutdown::new(Duration::ZERO);
    let controller = Arc::new(api::Controller {
        store,
        topics: Topics::new(committer.clone(), config.clone(), operations.clone()),
        nodes: Nodes::new(committer, Turns::new(1), config.standalone),
        operations,
        sessions: sessions::Sessions::default(),
        refused: restore::RefusedNodes::default(),
        bell: duties::DutyBell::default(),
        history: restore::OwnHistory { cluster_id: cluster.to_string(), lineage },
        views: views.clone(),
        clock,
        random,
        config,
        stopping: stopping.clone(),
        writes: writes.clone(),
    });
    let counted = ClusterMetrics::new(&metrics);
    tokio::spawn(vital::must_not_panic("metadata view", views.clone().follow()));
    tokio::spawn(vital::must_not_panic("leadership", lead.keep(lease)));
    tokio::spawn(vital::must_not_panic("census", metrics::follow(views, counted)));
    tokio::spawn(vital::must_not_panic("compaction", compaction::run(Arc::clone(&timed))));
    tokio::spawn(vital::must_not_panic("probe of the store", writes.probe(timed)));
    tokio::spawn(vital::must_not_panic("duties", controller.duties().run()));
    // Where everything runs in one process, sessions end with it.
    if !controller.config.standalone {
        tokio::spawn(vital::must_not_panic("fencing of silent nodes", controller.duties().fence_silent()));
    }
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
