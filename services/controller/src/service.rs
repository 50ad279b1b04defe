//! A controller from its start to its end: what it is made of, and in which order.

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;
use walser_metastore::Metastore;
use walser_model::{Clock, ClusterId, Random};
use walser_rpc::{ApiError, Network, Outage, Reason, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, Tasks};

use crate::committer::Committer;
use crate::config::Config;
use crate::coordinators::Coordinators;
use crate::error::StartError;
use crate::leadership::ControllerLead;
use crate::metrics::{ClusterMetrics, TimedStore};
use crate::nodes::Nodes;
use crate::operations::Operations;
use crate::store::Store;
use crate::store_problems::StoreProblems;
use crate::store_writes::StoreWrites;
use crate::topics::Topics;
use crate::turns::Turns;
use crate::upgrade::Followers;
use crate::views::Views;
use crate::{api, compaction, duties, metrics, restore, sessions};

/// A controller that does not lead after this long is ready all the same: another one does, and it waits for its turn.
const STANDBY_AFTER: Duration = Duration::from_secs(1);

/// Time between two looks at whether it could lead.
const READINESS_LOOK: Duration = Duration::from_secs(1);

/// Pause before the store is asked again that took no writes at the start.
const START_RETRY: Duration = Duration::from_millis(500);

/// A controller that is running.
#[derive(Debug)]
pub struct Started {
    /// The cluster that it runs.
    pub cluster: ClusterId,
    /// Its services, for a listener.
    pub routes: Routes,
    tasks: Tasks,
    lead: ControllerLead,
}

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct Dependencies {
    /// The store that has the metadata.
    pub store: Arc<dyn Metastore>,
    pub clock: Arc<dyn Clock>,
    /// Source of randomness for ids.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
}

/// Starts a controller: makes or finds the cluster, and registers with the network. Where another one leads it waits for
/// its turn, serves metadata, and hears the nodes meanwhile. Where it is a process of its own it waits for a store that
/// takes no writes at the start. Once `shutdown` begins, the streams
/// that other processes hold open end: they open them again at another controller, or at the next one. Where everything
/// runs in one process, those of its other services stay until the end.
///
/// # Errors
/// [`StartError`] when the store cannot be read or written.
pub async fn start(
    config: Config,
    dependencies: Dependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, StartError> {
    let Dependencies { store: inner, clock, random, metrics } = dependencies;
    let writes = StoreWrites::default();
    let timed: Arc<dyn Metastore> = Arc::new(TimedStore::new(inner, &metrics, writes.clone()));
    let own = random.bytes();
    let problems = StoreProblems::default();
    let lead = ControllerLead::new(Arc::clone(&timed), &ClusterId::from_random(own).to_string(), problems.clone());
    let store = Store::new(Arc::clone(&timed), lead.clone());
    // The first write of a start. A revision that came before it would count as one of the lineage before, and an older
    // copy of the metadata could not be told from what a node has seen.
    let (wait, stop) = (!config.standalone, &shutdown);
    let start = written(wait, stop, async || store.begin_lineage(own).await).await?;
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.start_endless("leadership", lead.clone().run());
    let id = random.bytes();
    let cluster = written(wait, stop, async || store.ensure_cluster(&config, id, clock.now_millis()).await).await?;
    let views = Views::open(Arc::clone(&timed), lead.clone()).await?;
    tasks.start_endless("metadata view", views.clone().follow(shutdown.clone()));
    let _standby = tokio::time::timeout(STANDBY_AFTER, lead.leads()).await;

    let committer = Committer::new(Arc::clone(&timed), views.clone(), lead.clone(), start);
    let operations = Operations::default();
    let stopping = Shutdown::new(Duration::ZERO);
    let controller = Arc::new(api::Controller {
        store,
        topics: Topics::new(committer.clone(), config.clone(), operations.clone()),
        nodes: Nodes::new(committer, Turns::new(1), config.standalone),
        operations,
        sessions: sessions::Sessions::default(),
        coordinators: Coordinators::default(),
        followers: Followers::default(),
        refused: restore::RefusedNodes::default(),
        bell: duties::DutyBell::default(),
        history: restore::OwnHistory { cluster_id: cluster.to_string() },
        views: views.clone(),
        clock,
        random,
        config,
        stopping: stopping.clone(),
        writes: writes.clone(),
        problems: problems.clone(),
    });
    lead.show(&metrics);
    problems.show(&metrics);
    let counted = ClusterMetrics::new(&metrics);
    tasks.start_endless("census", metrics::follow(views, counted));
    look_at_store(&mut tasks, &timed, problems, writes);
    tasks.start_endless("duties", controller.duties().run());
    tasks.start_endless("fencing of silent nodes", controller.duties().fence_silent());
    tasks.start_endless("shards of groups", controller.shard_duty().run());
    tasks.start_endless("preferred leaders", controller.duties().restore_preferred());
    let knowing = Arc::clone(&controller);
    let recovery = controller.duties().recover(move |view, partitions| knowing.lacking(view, partitions));
    tasks.start_endless("leaders without proof", recovery);
    // Where everything runs in one process, streams end with it.
    if !controller.config.standalone {
        // Other processes hold streams open for as long as they live: the calls of this one would never end.
        tasks.start("end of open streams", async move {
            shutdown.wait().await;
            stopping.begin();
        });
    }
    let routes = api::routes(&controller);
    network.register_controller(local_connection(routes.clone()));
    Ok(Started { cluster, routes, tasks, lead })
}

/// What is done by itself about the store, whether this controller leads or not.
fn look_at_store(tasks: &mut Tasks, store: &Arc<dyn Metastore>, problems: StoreProblems, writes: StoreWrites) {
    tasks.start_endless("compaction", compaction::run(Arc::clone(store)));
    tasks.start_endless("problems of the store", problems.watch(Arc::clone(store)));
    tasks.start_endless("probe of the store", writes.probe(Arc::clone(store)));
}

/// Writes what a start writes. `wait`: tries again for as long as the store takes no writes, or until `shutdown` begins;
/// otherwise somebody looks on who is told at once.
async fn written<T>(
    wait: bool,
    shutdown: &Shutdown,
    write: impl AsyncFn() -> Result<T, ApiError>,
) -> Result<T, StartError> {
    let mut outage = Outage::of("the first write of a start");
    loop {
        match write().await {
            // What may have been written is read before it is tried again.
            Err(error) if wait && may_be_written_later(&error) && !shutdown.begun() => {
                outage.failed(&error);
            }
            done => {
                done.is_ok().then(|| outage.ended());
                return Ok(done?);
            }
        }
        let _ = tokio::time::timeout(START_RETRY, shutdown.wait()).await;
    }
}

/// Whether the store takes no writes, which ends. It is full with `REQUEST_TIMED_OUT`.
fn may_be_written_later(failure: &ApiError) -> bool {
    matches!(failure.reason(), Reason::MetadataStoreUnavailable | Reason::RequestTimedOut)
}

// === impl Started ===

impl Started {
    /// Tells `health` what keeps this controller from leading, for ever. One that only waits for its turn is ready.
    pub(crate) fn report_readiness(&self, health: Health) -> impl Future<Output = ()> + use<> {
        let lead = self.lead.clone();
        async move {
            let mut looks = tokio::time::interval(READINESS_LOOK);
            loop {
                looks.tick().await;
                let obstacle = lead.obstacle().filter(|_| lead.epoch().is_err());
                health.set_problems(obstacle.map(|why| format!("cannot lead: {why}")).into_iter().collect());
            }
        }
    }

    /// Ends what the controller does by itself, and leaves the lead to another one. To be called once the stop has begun and no
    /// call runs any more.
    pub async fn drain(self) {
        self.tasks.drain().await;
        self.lead.resign().await;
    }
}
