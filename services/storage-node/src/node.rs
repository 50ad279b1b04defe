//! The node within its cluster: registration, the session with the controller, and roles from metadata.
//!
//! A controller of another cluster, or one whose metadata is older than what this node has seen, is not obeyed: nothing
//! changes on the disk, writes are refused, reads go on, and registration is tried again until the right metadata is
//! back or an operator has accepted what was restored.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use walser_log::{DataDirectory, SeenMetadata};
use walser_model::{ClusterId, LeaderEpoch, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_replication::{Role, Rules, role};
use walser_rpc::{Connection, Failure, MetadataSeen, MetadataStream, Outage, Reason};
use walser_service::Shutdown;

use crate::board::{Board, Problem};
use crate::config::Config;
use crate::disposal::{Disposal, Held};
use crate::error::StartError;
use crate::metrics::{StorageMetrics, Totals};
use crate::shard::{Command, LeadOrder};
use crate::shard_set::ShardSet;
use crate::space::SpaceGuard;
use crate::view::View;

/// Wait before the controller is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Wait before a controller is tried again whose metadata does not fit.
const REFUSED_RETRY: Duration = Duration::from_secs(1);
/// Attempts to register, [`REFUSED_RETRY`] apart, while a node of the same id is in service on another directory. It may
/// have just ended; this is longer than its session by default.
const IN_USE_ATTEMPTS: u32 = 30;
/// Time between beats where the controller does not say.
const BEAT: Duration = Duration::from_secs(1);
/// Largest registration in bytes: it names every replica.
const REGISTRATION_BYTES_MAX: usize = 32 << 20;
/// Partitions out of service that a beat names.
const PROBLEMS_MAX: usize = 100;
/// Deleted topics that one beat confirms.
const CONFIRMED_MAX: usize = 100;
/// Committed groups of metadata that are acted on together.
const GROUPS_MAX: usize = 256;

/// What the node knows of its place in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) config: Config,
    pub(crate) controller: Connection,
    pub(crate) shards: ShardSet,
    pub(crate) board: Board,
    pub(crate) space: SpaceGuard,
    pub(crate) directory: Arc<DataDirectory>,
    /// Id of the data directory, if it has none yet.
    pub(crate) new_directory: [u8; 16],
    pub(crate) metrics: StorageMetrics,
    /// Unique per start of the process.
    pub(crate) incarnation: String,
    pub(crate) disposal: Disposal,
    /// Partitions for which a leader epoch was asked above that of what is set aside.
    pub(crate) renewing: Arc<Mutex<HashSet<TopicPartition>>>,
    /// This node's incarnation as the controller knows it; 0: not registered.
    pub(crate) node_epoch: Arc<AtomicI64>,
}

/// Told once when the node serves, or why it cannot start.
pub(crate) type Begun = oneshot::Sender<Result<(), StartError>>;

fn problem((id, problem): (TopicPartition, Problem)) -> pb::PartitionProblem {
    pb::PartitionProblem {
        topic_id: id.topic.to_string(),
        partition: id.partition.0,
        problem: problem.text,
        damaged: problem.damaged,
    }
}

/// Whether the controller's metadata is not that of this node.
fn is_foreign(failure: &Failure) -> bool {
    matches!(failure.reason(), Reason::ClusterIdMismatch | Reason::MetadataRollback)
}

fn closed() -> Failure {
    Failure::new(Reason::ControllerNotAvailable, "the controller closed the session")
}

impl Membership {
    /// Lives in the cluster until the stop. `begun` is told when the first snapshot has been applied, or when the
    /// controller's metadata was found not to fit.
    pub(crate) async fn run(self, begun: Begun, shutdown: Shutdown) {
        let mut begun = Some(begun);
        loop {
            let ended = tokio::select! {
                ended = self.live(&mut begun) => ended,
                () = shutdown.wait() => return,
            };
            match ended {
                Ok(fenced) => {
                    tracing::error!(reason = fenced, "this node was fenced; it stops");
                    shutdown.begin_failed(format!("this node was fenced: {fenced}"));
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
                    match begun.take() {
                        Some(begun) => drop(begun.send(Err(error))),
                        None => {
                            tracing::error!(%error, "the controller does not take this node; it stops");
                            shutdown.begin_failed(error.to_string());
                        }
                    }
                    shutdown.begin();
                    return;
                }
            }
        }
    }

    /// Registers and serves; returns why the session was ended by the controller, or what keeps the node from one.
    async fn live(&self, begun: &mut Option<Begun>) -> Result<String, StartError> {
        let registered = self.register().await.map_err(StartError::Registration)?;
        let broken = || Failure::new(Reason::InternalError, "the controller names no cluster");
        let cluster = registered.cluster_id.parse().map_err(|_| StartError::Registration(broken()))?;
        self.directory.bind(cluster, self.config.node, self.directory_id())?;
        self.node_epoch.store(registered.node_epoch, Ordering::Release);
        let every = registered.heartbeat_interval.and_then(|every| every.try_into().ok()).unwrap_or(BEAT);
        tokio::select! {
            ended = self.keep_session(registered.node_epoch, every) => ended.map_err(StartError::Registration),
            failure = self.follow_metadata(begun) => Err(StartError::Registration(failure)),
        }
    }

    /// What this data directory has seen of the metadata.
    fn seen(&self) -> MetadataSeen {
        let SeenMetadata { version, lineage } = self.directory.metadata_seen();
        let known = lineage != [0; 16];
        MetadataSeen {
            cluster_id: self.directory.identity().map(|identity| identity.cluster.to_string()).unwrap_or_default(),
            version,
            lineage: if known { ClusterId::from_bytes(lineage).to_string() } else { String::new() },
        }
    }

    /// Registers with the controller; tries again while it is not there.
    async fn register(&self) -> Result<pbi::RegisterNodeResponse, Failure> {
        let mut attempts = 0;
        let mut outage = Outage::of("registration with the controller");
        loop {
            let seen = self.seen();
            let request = pbi::RegisterNodeRequest {
                node_id: self.config.node.0,
                incarnation: self.incarnation.clone(),
                roles: self.config.roles.clone(),
                internal_address: self.config.internal_address.clone(),
                public_address: self.config.public_address.clone(),
                rack: String::new(),
                version: self.config.version.clone(),
                cluster_id: seen.cluster_id,
                metadata_version: seen.version,
                replicas: self.replicas(),
                lineage: seen.lineage,
                directory_id: self.directory_id().to_vec().into(),
            };
            let client = ControllerServiceClient::new(self.controller.clone());
            let mut client = client.max_encoding_message_size(REGISTRATION_BYTES_MAX);
            match client.register_node(request).await.map_err(Failure::from) {
                Ok(response) => {
                    outage.ended();
                    return Ok(response.into_inner());
                }
                Err(failure) if failure.code() == tonic::Code::Unavailable => {
                    outage.failed(&failure);
                    tokio::time::sleep(RETRY).await;
                }
                // The other may have just ended: its session is over soon.
                Err(failure) if failure.reason() == Reason::NodeIdInUse && attempts < IN_USE_ATTEMPTS => {
                    attempts += 1;
                    outage.failed(&failure);
                    tokio::time::sleep(REFUSED_RETRY).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Id of the data directory: the one that it has, or is given when it is bound.
    fn directory_id(&self) -> [u8; 16] {
        self.directory.identity().map_or(self.new_directory, |identity| identity.directory)
    }

    /// Every replica on this disk; those without a record and without an epoch say nothing.
    fn replicas(&self) -> Vec<pbi::ReplicaReport> {
        let report = |(id, replica): (TopicPartition, Arc<crate::board::Replica>)| pbi::ReplicaReport {
            topic_id: id.topic.to_bytes().to_vec().into(),
            partition: id.partition.0,
            log_end: replica.reader.log_end().0,
            leader_epoch: replica.reader.latest_epoch().0,
        };
        let all = self.board.all().into_iter().map(report);
        all.filter(|report| report.log_end > 0 || report.leader_epoch >= 0).collect()
    }

    /// Acts on nothing that this controller says: writes are refused, reads go on.
    fn disobey(&self, failure: Failure) {
        if self.board.refuse_writes(failure.clone()) {
            tracing::error!(error = %failure, "the controller's metadata is not that of this node: writes are refused");
        }
        if self.node_epoch.load(Ordering::Acquire) == 0 {
            self.shards.queues().for_each(|queue| queue.push(Command::ServeReads));
        }
    }

    /// Follows the metadata for as long as it is that of this node.
    async fn follow_metadata(&self, begun: &mut Option<Begun>) -> Failure {
        let mut outage = Outage::of("the metadata stream from the controller");
        loop {
            match self.follow_once(begun, &mut outage).await {
                Err(failure) if is_foreign(&failure) => return failure,
                Err(failure) => outage.failed(&failure),
                Ok(never) => match never {},
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(
        &self,
        begun: &mut Option<Begun>,
        outage: &mut Outage,
    ) -> Result<std::convert::Infallible, Failure> {
        let mut stream = MetadataStream::open(&self.controller, self.seen()).await?;
        let mut view = View::default();
        loop {
            let groups = stream.next_commits(GROUPS_MAX).await?;
            outage.ended();
            let last = groups.iter().flatten().next_back();
            let lineage = last.and_then(|message| message.lineage.parse::<ClusterId>().ok());
            let seen = SeenMetadata {
                version: groups.iter().flatten().map(|message| message.version).max().unwrap_or(0),
                lineage: lineage.map(ClusterId::to_bytes).unwrap_or_default(),
            };
            // Known before it is acted on: a controller that is behind it later is behind what this node has done.
            let directory = Arc::clone(&self.directory);
            let noted = tokio::task::spawn_blocking(move || directory.note_metadata(seen)).await;
            let failed = |error: &dyn std::fmt::Display| {
                Failure::new(Reason::StorageError, format!("the metadata version cannot be written: {error}"))
            };
            noted.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            let mut held = None;
            for group in &groups {
                self.apply(group, &mut view, &mut held);
            }
            self.shards.settle().await;
            self.board.accept_writes();
            if let Some(begun) = begun.take() {
                let _ = begun.send(Ok(()));
            }
        }
    }

    /// `held` is looked up once for all groups that came together: it takes a listing of the directory.
    fn apply(&self, group: &[pbi::WatchMetadataResponse], view: &mut View, held: &mut Option<Held>) {
        let changes = view.apply(group);
        self.board.names.apply(group);
        if changes.snapshot || !changes.tombstones.is_empty() {
            self.disposal.dispose(&changes, view, held.get_or_insert_with(|| self.held()));
        }
        self.disposal.keep(&changes.partitions);
        for partition in changes.partitions {
            self.order(partition, view);
        }
    }

    /// Partitions of which there is anything on this node.
    fn held(&self) -> Held {
        let open = self.board.all().into_iter().map(|(partition, _)| partition);
        let found = self.directory.partitions().unwrap_or_else(|error| {
            tracing::error!(%error, "the data directory cannot be listed");
            Vec::new()
        });
        let aside = self.directory.set_aside_partitions().into_iter().map(|aside| aside.partition);
        Held { here: open.chain(found.into_iter().map(|found| found.partition)).collect(), aside: aside.collect() }
    }

    /// Has the controller begin a leader epoch above that of what was set aside: its offsets were used before.
    fn renew_epoch(&self, partition: TopicPartition, epoch: LeaderEpoch, above: LeaderEpoch) {
        if !self.renewing.lock().insert(partition) {
            return;
        }
        let request = pbi::RenewLeaderEpochRequest {
            node_epoch: self.node_epoch.load(Ordering::Acquire),
            r#ref: Some(walser_proto::partition_ref(partition, epoch)),
            above: above.0,
        };
        let (mut client, renewing) =
            (ControllerServiceClient::new(self.controller.clone()), Arc::clone(&self.renewing));
        let names = self.board.names.clone();
        tokio::spawn(async move {
            if let Err(error) = client.renew_leader_epoch(request).await {
                let error = Failure::from(error);
                tracing::error!(partition = %names.partition(partition), %error, "what was set aside needs a higher leader epoch, and gets none");
            }
            renewing.lock().remove(&partition);
        });
    }

    /// Tells the shard of a partition what metadata says of it.
    fn order(&self, partition: TopicPartition, view: &View) {
        let Some((state, partition_epoch, settings)) = view.partition(partition) else { return };
        let queue = self.shards.queue(partition);
        if let Some(problem) = state.problem() {
            let named = self.board.names.partition(partition);
            tracing::error!(partition = %named, problem, "metadata of a partition contradicts itself, and is not acted on");
            queue.push(Command::Resign(partition));
            return;
        }
        let node_epoch = self.node_epoch.load(Ordering::Acquire);
        if role(Rules::ALL, self.config.node, node_epoch, view.version(), &state) != Role::Lead {
            queue.push(Command::Resign(partition));
            return;
        }
        let aside =
            self.directory.set_aside_partition(partition).filter(|aside| aside.leader_epoch >= state.leader_epoch);
        if let Some(aside) = aside {
            self.board.set_unusable(partition, "it is being taken back from what was set aside".to_owned());
            self.renew_epoch(partition, state.leader_epoch, aside.leader_epoch);
            return;
        }
        let settings = settings.clone();
        let order = LeadOrder { partition, node_epoch, state, partition_epoch, settings };
        queue.push(Command::Lead(Box::new(order)));
    }

    /// Beats until the controller says that the session is over, and why; or that its metadata is not that of this
    /// node.
    async fn keep_session(&self, node_epoch: i64, every: Duration) -> Result<String, Failure> {
        let mut outage = Outage::of("the session with the controller");
        loop {
            match self.session(node_epoch, every, &mut outage).await {
                Err(failure) if !is_foreign(&failure) => outage.failed(&failure),
                ended => return ended,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn session(&self, node_epoch: i64, every: Duration, outage: &mut Outage) -> Result<String, Failure> {
        let (beats, stream) = mpsc::channel(4);
        let mut client = ControllerServiceClient::new(self.controller.clone());
        let mut answers = client.node_session(ReceiverStream::new(stream)).await?.into_inner();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut told = self.disposal.removed();
            told.truncate(CONFIRMED_MAX);
            let seen = self.seen();
            let beat = pbi::NodeSessionRequest {
                node_epoch,
                metadata_version: seen.version,
                stats: Some(self.stats()),
                removed_topic_ids: told.iter().map(|topic| topic.to_bytes().to_vec().into()).collect(),
                cluster_id: seen.cluster_id,
                lineage: seen.lineage,
            };
            beats.send(beat).await.map_err(|_| closed())?;
            let answer = answers.message().await?.ok_or_else(closed)?;
            outage.ended();
            if let Some(pbi::node_session_response::Action::Fenced(fenced)) = answer.action {
                return Ok(fenced.reason);
            }
            self.disposal.told(&told);
        }
    }

    fn stats(&self) -> pb::StorageStats {
        let replicas = self.board.all();
        let held: u64 = replicas.iter().map(|(_, replica)| replica.reader.size_bytes()).sum();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let space = self.directory.space().ok();
        let problems = self.board.problems();
        let aside = self.directory.set_aside_partitions();
        let Totals { appended_records, appended_bytes, read_bytes } = self.metrics.totals();
        pb::StorageStats {
            replica_count: count(replicas.len()),
            leader_count: count(replicas.iter().filter(|(_, replica)| replica.serving()).count()),
            disks: vec![pb::DiskStats {
                path: self.directory.path().display().to_string(),
                used_bytes: bytes(held + aside.iter().map(|aside| aside.size_bytes).sum::<u64>()),
                free_bytes: space.map_or(0, |space| bytes(space.free)),
                total_bytes: space.map_or(0, |space| bytes(space.total)),
                failed: !problems.is_empty(),
                full: self.space.full(),
            }],
            problems: problems.into_iter().take(PROBLEMS_MAX).map(problem).collect(),
            set_aside_count: count(aside.len()),
            set_aside_bytes: bytes(aside.iter().map(|aside| aside.size_bytes).sum()),
            appended_records,
            appended_bytes,
            read_bytes,
        }
    }
}
