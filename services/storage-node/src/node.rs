//! The node within its cluster: registration, the session with the controller, and roles from metadata.
//!
//! A controller of another cluster, or one whose metadata is older than what this node has seen, is not obeyed: nothing
//! changes on the disk, writes are refused, reads go on, and registration is tried again until the right metadata is
//! back or an operator has accepted what was restored.
//!
//! A node that was fenced stays up: its leads go with the metadata that says so, and it is unfenced once the controller
//! hears that it has seen that (amendment A10). Only a later incarnation of the same node ends this one.

mod follow;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use walser_log::SeenMetadata;
use walser_metadata::View;
use walser_model::{ClusterId, LeaderEpoch, Offset, TopicPartition};
use walser_rpc::{
    ApiError, ControllerClient, MetadataSeen, Network, NodeRole, NodeStart, Outage, Reason, Registered, ReplicaHeld,
};
use walser_service::Shutdown;
use walser_service::admin::Health;

use self::session::{STOPPING_BEAT, SessionEnd};
use crate::config::Config;
use crate::disposal::Disposal;
use crate::engine::Engine;
use crate::error::StartError;
use crate::metrics::StorageMetrics;
use crate::replica_registry::ReplicaRegistry;
use crate::settling::Settling;

/// Wait before the controller is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Wait before a controller is tried again whose metadata does not fit.
const REFUSED_RETRY: Duration = Duration::from_secs(1);
/// Attempts to register, [`REFUSED_RETRY`] apart, while a node of the same id is in service on another directory. It may
/// have just ended; this is longer than its session by default.
const IN_USE_ATTEMPTS: u32 = 30;
/// Time between beats where the controller does not say.
const BEAT: Duration = Duration::from_secs(1);
/// Length of the session where the controller does not say.
const SESSION: Duration = Duration::from_secs(2);

/// What the node knows of its place in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) config: Config,
    /// Whichever of them leads.
    pub(crate) controller: ControllerClient,
    /// All of them are told that this node lives.
    pub(crate) controllers: Vec<ControllerClient>,
    /// Where the other nodes are reached.
    pub(crate) network: Network,
    pub(crate) engine: Engine,
    pub(crate) registry: ReplicaRegistry,
    /// Partitions whose logs could not be opened at the start.
    pub(crate) unopened: Arc<[TopicPartition]>,
    /// Id of the data directory, if it has none yet.
    pub(crate) new_directory: [u8; 16],
    pub(crate) metrics: StorageMetrics,
    /// Unique per start of the process.
    pub(crate) incarnation: String,
    pub(crate) disposal: Disposal,
    pub(crate) health: Health,
    pub(crate) settling: Settling,
    /// The metadata that was applied last. Cloning shares it.
    pub(crate) view: Arc<ArcSwap<View>>,
    /// Its version, with the history that it is of.
    pub(crate) applied: Arc<ArcSwap<MetadataSeen>>,
    /// Has the next beat sent at once: the controller waits for something that it will say.
    pub(crate) beat_now: watch::Sender<()>,
    /// Partitions, and the epochs in which this node leads them, for which a leader epoch was asked above that of what is
    /// set aside.
    pub(crate) renewing: Arc<Mutex<HashSet<(TopicPartition, LeaderEpoch)>>>,
    /// This node's incarnation as the controller knows it; 0: not registered.
    pub(crate) node_epoch: Arc<AtomicI64>,
    pub(crate) shutdown: Shutdown,
    /// How many controllers hear this node now.
    pub(crate) sessions: Arc<AtomicUsize>,
}

/// Told once when the node serves, or why it cannot start.
pub(crate) type Begun = oneshot::Sender<Result<(), StartError>>;

/// Whether the controller's metadata is not that of this node.
fn is_foreign(failure: &ApiError) -> bool {
    matches!(failure.reason(), Reason::ClusterIdMismatch | Reason::MetadataRollback)
}

/// Whether a registration that failed so may succeed later: the controller is not there, or cannot decide now.
fn may_pass(failure: &ApiError) -> bool {
    !failure.answered() || failure.is_unavailable() || failure.is_transient()
}

impl Membership {
    /// Lives in the cluster until the stop. `begun` is told when this node leads what it can lead, or when the
    /// controller's metadata was found not to fit.
    pub(crate) async fn run(self, begun: Begun) {
        let (mut begun, shutdown) = (Some(begun), self.shutdown.clone());
        loop {
            let ended = tokio::select! {
                ended = self.live(&mut begun) => ended,
                () = self.stop_unheard() => return,
                () = shutdown.wait() => return,
            };
            match ended {
                Ok(SessionEnd::RegisterAgain) => {
                    tracing::warn!("the metadata is in another store now; this node registers again");
                    tokio::time::sleep(RETRY).await;
                }
                Ok(SessionEnd::Replaced(reason)) => {
                    tracing::error!(reason, "this process is not the node of its id any more; it stops");
                    shutdown.begin_failed(format!("this process is not the node of its id any more: {reason}"));
                    return;
                }
                Err(StartError::Registration(failure)) if is_foreign(&failure) => {
                    self.disobey(failure);
                    if let Some(begun) = begun.take() {
                        let _ = begun.send(Ok(()));
                    }
                    tokio::time::sleep(REFUSED_RETRY).await;
                }
                Err(error) => {
                    let Some(begun) = begun.take() else {
                        tracing::error!(%error, "the controller does not take this node; it stops");
                        return shutdown.begin_failed(error.to_string());
                    };
                    // First: whoever hears of the error ends the threads, which must not look like their death.
                    shutdown.begin();
                    return drop(begun.send(Err(error)));
                }
            }
        }
    }

    /// Begins a stop that is asked for while no controller hears this node: nobody can give its leads to others. One that is
    /// only being restarted, or another, is waited for as long as this node may lead without it.
    async fn stop_unheard(&self) {
        self.shutdown.asked().await;
        while self.sessions.load(Ordering::Acquire) > 0 || self.registry.contact.with_controller() {
            tokio::time::sleep(STOPPING_BEAT).await;
        }
        self.shutdown.begin();
    }

    /// Registers and serves; returns why the session was ended by the controller, or what keeps the node from one.
    async fn live(&self, begun: &mut Option<Begun>) -> Result<SessionEnd, StartError> {
        // Before the controller hears of a node that there is not.
        self.engine.directory.check_node(self.config.node)?;
        let registered = self.register().await.map_err(StartError::Registration)?;
        self.engine.directory.bind(registered.cluster, self.config.node, self.directory_id())?;
        self.engine.directory.run_recorded()?;
        self.node_epoch.store(registered.node_epoch, Ordering::Release);
        self.registry.contact.set_session(registered.session.unwrap_or(SESSION));
        let every = registered.beat_interval.unwrap_or(BEAT);
        tokio::select! {
            ended = self.keep_sessions(registered.node_epoch, every) => ended.map_err(StartError::Registration),
            failure = self.follow_metadata(begun) => Err(StartError::Registration(failure)),
        }
    }

    /// What this node has seen of the metadata, also what is only in memory: a controller that is behind it is behind what
    /// this node has said and done.
    fn latest_seen(&self) -> MetadataSeen {
        let (applied, noted) = (MetadataSeen::clone(&self.applied.load()), self.seen());
        if applied.version > noted.version { applied } else { noted }
    }

    /// What this data directory has seen of the metadata.
    fn seen(&self) -> MetadataSeen {
        let SeenMetadata { version, lineage } = self.engine.directory.metadata_seen();
        let known = lineage != [0; 16];
        MetadataSeen {
            cluster_id: self
                .engine
                .directory
                .identity()
                .map(|identity| identity.cluster.to_string())
                .unwrap_or_default(),
            version,
            lineage: if known { ClusterId::from_bytes(lineage).to_string() } else { String::new() },
        }
    }

    /// Registers with the controller; tries again while it is not there.
    async fn register(&self) -> Result<Registered, ApiError> {
        let mut attempts = 0;
        let mut outage = Outage::of("registration with the controller");
        loop {
            let start = NodeStart {
                node: self.config.node,
                incarnation: self.incarnation.clone(),
                roles: self.config.roles.clone(),
                internal_address: self.config.internal_address.clone(),
                public_address: self.config.public_address.clone(),
                version: self.config.version.clone(),
                seen: self.latest_seen(),
                directory: self.directory_id(),
                replicas: self.replicas(),
                unclean_stop: self.engine.directory.ended_unclean(),
                logs_node_epoch: self.engine.directory.registration_seen(),
            };
            match self.controller.register_node(start).await {
                Ok(registered) => {
                    outage.ended();
                    return Ok(registered);
                }
                Err(failure) if may_pass(&failure) => {
                    self.show_wait(&failure);
                    outage.failed(&failure);
                    tokio::time::sleep(RETRY).await;
                }
                // The other may have just ended: its session is over soon.
                Err(failure) if self.may_be_free_soon(&failure) && attempts < IN_USE_ATTEMPTS => {
                    attempts += 1;
                    self.show_wait(&failure);
                    outage.failed(&failure);
                    tokio::time::sleep(REFUSED_RETRY).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether the id or the address of the node may be free in a while: another process has it, or somebody may delete the
    /// topics whose only copies another directory has. In the process of the controller nobody can do that before this node
    /// serves.
    fn may_be_free_soon(&self, failure: &ApiError) -> bool {
        let alone = self.config.roles.contains(&NodeRole::Controller);
        matches!(failure.reason(), Reason::NodeIdInUse | Reason::NodeAddressInUse)
            && !(alone && failure.value("partitions").is_some())
    }

    /// Says in the probe what keeps the node from its first registration.
    fn show_wait(&self, failure: &ApiError) {
        if self.node_epoch.load(Ordering::Acquire) == 0 {
            self.health.set_problems(vec![format!("registration with the controller: {failure}")]);
        }
    }

    /// Whether the controller may have fenced this node: it has answered nothing for a session. In the process of the
    /// controller nobody else can lead.
    pub(crate) fn is_unheard(&self) -> bool {
        let alone = self.config.roles.contains(&NodeRole::Controller);
        !alone && self.node_epoch.load(Ordering::Acquire) != 0 && !self.registry.contact.with_controller()
    }

    /// Id of the data directory: the one that it has, or is given when it is bound.
    fn directory_id(&self) -> [u8; 16] {
        self.engine.directory.identity().map_or(self.new_directory, |identity| identity.directory)
    }

    /// Every replica on this disk; those without a record and without an epoch say nothing.
    fn replicas(&self) -> Vec<ReplicaHeld> {
        let all = self.registry.all();
        let opened: HashSet<TopicPartition> = all.iter().map(|(partition, _)| *partition).collect();
        let open = all.into_iter().map(|(partition, replica)| ReplicaHeld {
            partition,
            log_end: replica.reader.log_end(),
            leader_epoch: replica.reader.latest_epoch(),
            damaged: replica.damaged(),
        });
        let closed = self.unopened.iter().filter(|id| !opened.contains(id)).map(|id| ReplicaHeld {
            partition: *id,
            log_end: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            damaged: true,
        });
        let says =
            |held: &ReplicaHeld| held.damaged || held.log_end > Offset::ZERO || held.leader_epoch > LeaderEpoch::NONE;
        open.chain(closed).filter(says).collect()
    }
}
