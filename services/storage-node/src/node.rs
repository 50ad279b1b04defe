//! The node within its cluster: registration, the session with the controller, and roles from metadata.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use walser_log::DataDirectory;
use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicConfig, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_replication::{PartitionState, Role, Rules, role};
use walser_rpc::{Connection, Failure, MetadataStream, Reason};
use walser_service::{Shutdown, vital};

use crate::board::{Board, Problem};
use crate::config::Config;
use crate::shard::{Command, LeadOrder};
use crate::shard_set::ShardSet;
use crate::space::SpaceGuard;

/// Wait before the controller is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Partitions out of service that a beat names.
const PROBLEMS_MAX: usize = 100;

/// What the node knows of its place in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) config: Config,
    pub(crate) controller: Connection,
    pub(crate) shards: ShardSet,
    pub(crate) board: Board,
    pub(crate) space: SpaceGuard,
    pub(crate) directory: Arc<DataDirectory>,
    /// Deleted topics without data here, not yet told to the controller.
    pub(crate) removed: Arc<Mutex<HashSet<TopicId>>>,
    /// This node's incarnation.
    pub(crate) node_epoch: i64,
}

/// What metadata says of topics.
#[derive(Debug, Default)]
struct Known {
    topics: HashMap<TopicId, TopicConfig>,
    partitions: HashMap<TopicPartition, pbi::PartitionMetadata>,
    /// Revision up to which this is everything.
    version: i64,
}

fn problem((id, problem): (TopicPartition, Problem)) -> pb::PartitionProblem {
    pb::PartitionProblem {
        topic_id: id.topic.to_string(),
        partition: id.partition.0,
        problem: problem.text,
        damaged: problem.damaged,
    }
}

/// What metadata says of a partition, as far as it is told to nodes.
fn partition_state(metadata: &pbi::PartitionMetadata) -> PartitionState {
    let replicas = metadata.replicas.iter().map(|node| NodeId(*node)).collect();
    let min_isr = usize::try_from(metadata.min_isr).unwrap_or(1);
    let epoch = metadata.r#ref.as_ref().map_or(LeaderEpoch::NONE.0, |reference| reference.leader_epoch);
    PartitionState {
        leader: (metadata.leader >= 0).then_some(NodeId(metadata.leader)),
        leader_epoch: LeaderEpoch(epoch),
        isr: metadata.isr.iter().map(|node| NodeId(*node)).collect(),
        ..PartitionState::new(replicas, min_isr)
    }
}

/// Registers with the controller; tries again while it is not there.
pub(crate) async fn register(
    config: &Config,
    controller: &Connection,
    incarnation: &str,
    cluster_id: String,
    shutdown: &Shutdown,
) -> Result<pbi::RegisterNodeResponse, Failure> {
    let request = pbi::RegisterNodeRequest {
        node_id: config.node.0,
        incarnation: incarnation.to_owned(),
        roles: config.roles.clone(),
        internal_address: config.internal_address.clone(),
        public_address: config.public_address.clone(),
        rack: String::new(),
        version: config.version.clone(),
        cluster_id,
        metadata_version: 0,
    };
    loop {
        let answer = ControllerServiceClient::new(controller.clone()).register_node(request.clone()).await;
        match answer.map_err(Failure::from) {
            Ok(response) => return Ok(response.into_inner()),
            Err(failure) if failure.code() == tonic::Code::Unavailable && !shutdown.begun() => {
                tracing::warn!(error = %failure, "controller is not available, registration is tried again");
                tokio::time::sleep(RETRY).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

impl Membership {
    /// Follows the metadata until the stop. `ready` is told once the first snapshot has been applied.
    pub(crate) async fn follow_metadata(self, ready: oneshot::Sender<()>, shutdown: Shutdown) {
        let mut ready = Some(ready);
        while !shutdown.begun() {
            let outcome = tokio::select! {
                outcome = self.follow_once(&mut ready) => outcome,
                () = shutdown.wait() => return,
            };
            if let Err(failure) = outcome {
                tracing::warn!(error = %failure, "metadata stream ended, it is opened again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(&self, ready: &mut Option<oneshot::Sender<()>>) -> Result<(), Failure> {
        let mut stream = MetadataStream::open(&self.controller).await?;
        let mut known = Known::default();
        loop {
            let group = stream.next_commit().await?;
            let snapshot = group.iter().any(|message| message.reset);
            if snapshot {
                known = Known::default();
            }
            let mut changed = BTreeSet::new();
            for message in group {
                known.version = known.version.max(message.version);
                self.apply(message, &mut known, &mut changed);
            }
            if snapshot {
                self.remove_orphans(&known);
            }
            for partition in changed {
                self.order(partition, &known);
            }
            if let Some(ready) = ready.take() {
                self.shards.settle().await;
                let _ = ready.send(());
            }
        }
    }

    fn apply(&self, message: pbi::WatchMetadataResponse, known: &mut Known, changed: &mut BTreeSet<TopicPartition>) {
        for topic in message.topics {
            let Ok(id) = topic.id.parse::<TopicId>() else { continue };
            let pairs = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            match TopicConfig::from_overrides(pairs) {
                Ok(config) => drop(known.topics.insert(id, config)),
                Err(error) => tracing::error!(topic = topic.name, %error, "topic settings are not readable"),
            }
            let partitions = 0..topic.partition_count;
            changed.extend(partitions.map(|number| TopicPartition::new(id, PartitionIndex(number))));
        }
        for partition in message.partitions {
            let Some((id, _)) = partition.r#ref.as_ref().and_then(walser_proto::topic_partition) else { continue };
            known.partitions.insert(id, partition);
            changed.insert(id);
        }
        for raw in message.removed_topic_ids {
            let Ok(bytes) = raw.as_ref().try_into() else { continue };
            let topic = TopicId::from_bytes(bytes);
            known.topics.remove(&topic);
            let gone: Vec<_> = known.partitions.keys().filter(|id| id.topic == topic).copied().collect();
            for id in &gone {
                known.partitions.remove(id);
                changed.remove(id);
            }
            self.remove_topic(topic, gone);
        }
    }

    /// Tells the shard of a partition what metadata says of it.
    fn order(&self, partition: TopicPartition, known: &Known) {
        let (Some(metadata), Some(config)) = (known.partitions.get(&partition), known.topics.get(&partition.topic))
        else {
            return;
        };
        let queue = self.shards.queue(partition);
        let state = partition_state(metadata);
        if let Some(problem) = state.problem() {
            tracing::error!(%partition, problem, "metadata of a partition contradicts itself, and is not acted on");
            queue.push(Command::Resign(partition));
            return;
        }
        if role(Rules::ALL, self.config.node, self.node_epoch, known.version, &state) != Role::Lead {
            queue.push(Command::Resign(partition));
            return;
        }
        queue.push(Command::Lead(Box::new(LeadOrder {
            partition,
            node_epoch: self.node_epoch,
            state,
            partition_epoch: metadata.partition_epoch,
            config: config.clone(),
        })));
    }

    /// Removes the data of a deleted topic; the controller is told with the next beat.
    fn remove_topic(&self, topic: TopicId, partitions: Vec<TopicPartition>) {
        let mut waiting = Vec::new();
        for partition in partitions {
            let (done, removed) = oneshot::channel();
            self.shards.queue(partition).push(Command::Remove { partition, done });
            waiting.push((partition, removed));
        }
        let (removed_topics, membership) = (Arc::clone(&self.removed), self.clone());
        tokio::spawn(vital::must_not_panic("removal of a topic", async move {
            for (partition, mut removed) in waiting {
                while !matches!((&mut removed).await, Ok(Ok(()))) {
                    tracing::warn!(%partition, "removing a deleted partition failed, it is tried again");
                    tokio::time::sleep(RETRY).await;
                    let (done, again) = oneshot::channel();
                    membership.shards.queue(partition).push(Command::Remove { partition, done });
                    removed = again;
                }
            }
            removed_topics.lock().insert(topic);
        }));
    }

    /// Removes what lies on disk and is in no topic: deleted while this node was away.
    fn remove_orphans(&self, known: &Known) {
        let Ok(found) = self.directory.partitions() else { return };
        // Marks without a directory, too: a deletion that did not get to its end.
        let held = self.board.all().into_iter().map(|(partition, _)| partition);
        let found: BTreeSet<_> = found.into_iter().map(|found| found.partition).chain(held).collect();
        let mut orphans: HashMap<TopicId, Vec<TopicPartition>> = HashMap::new();
        for partition in found.into_iter().filter(|partition| !known.topics.contains_key(&partition.topic)) {
            orphans.entry(partition.topic).or_default().push(partition);
        }
        for (topic, partitions) in orphans {
            tracing::info!(%topic, partitions = partitions.len(), "removing the data of a deleted topic");
            self.remove_topic(topic, partitions);
        }
    }

    /// Beats until the stop; stops serving when the controller says that the session is over.
    pub(crate) async fn keep_session(self, node_epoch: i64, every: Duration, shutdown: Shutdown) {
        while !shutdown.begun() {
            let outcome = tokio::select! {
                outcome = self.session(node_epoch, every) => outcome,
                () = shutdown.wait() => return,
            };
            match outcome {
                Ok(fenced) => {
                    tracing::error!(reason = fenced, "this node was fenced; it stops");
                    shutdown.begin();
                    return;
                }
                Err(failure) => tracing::warn!(error = %failure, "session with the controller ended, opened again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn session(&self, node_epoch: i64, every: Duration) -> Result<String, Failure> {
        let (beats, stream) = mpsc::channel(4);
        let mut client = ControllerServiceClient::new(self.controller.clone());
        let mut answers = client.node_session(ReceiverStream::new(stream)).await?.into_inner();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let told: Vec<TopicId> = self.removed.lock().iter().copied().collect();
            let beat = pbi::NodeSessionRequest {
                node_epoch,
                metadata_version: 0,
                stats: Some(self.stats()),
                removed_topic_ids: told.iter().map(|topic| topic.to_bytes().to_vec().into()).collect(),
            };
            let closed = || Failure::new(Reason::ControllerNotAvailable, "the controller closed the session");
            beats.send(beat).await.map_err(|_| closed())?;
            let answer = answers.message().await?.ok_or_else(closed)?;
            if let Some(pbi::node_session_response::Action::Fenced(fenced)) = answer.action {
                return Ok(fenced.reason);
            }
            self.removed.lock().retain(|topic| !told.contains(topic));
        }
    }

    fn stats(&self) -> pb::StorageStats {
        let replicas = self.board.all();
        let used: u64 = replicas.iter().map(|(_, replica)| replica.reader.size_bytes()).sum();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let space = self.directory.space().ok();
        let problems = self.board.problems();
        pb::StorageStats {
            replica_count: count(replicas.len()),
            leader_count: count(replicas.iter().filter(|(_, replica)| replica.serving()).count()),
            disks: vec![pb::DiskStats {
                path: self.directory.path().display().to_string(),
                used_bytes: bytes(used),
                free_bytes: space.map_or(0, |space| bytes(space.free)),
                total_bytes: space.map_or(0, |space| bytes(space.total)),
                failed: !problems.is_empty(),
                full: self.space.full(),
            }],
            problems: problems.into_iter().take(PROBLEMS_MAX).map(problem).collect(),
        }
    }
}
