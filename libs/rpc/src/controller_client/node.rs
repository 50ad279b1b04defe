//! What a storage node asks of the controller, and tells it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_model::{ClusterId, LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;

use super::ControllerClient;
use crate::{ApiError, FEATURE_LEVELS, LedPartition, MetadataSeen, NodeRole, Reason};

/// Largest registration in bytes: it names every replica.
const REGISTRATION_BYTES_MAX: usize = 32 << 20;
/// Beats on their way to the controller.
const BEATS_MAX: usize = 4;

/// A node that wants to take part in the cluster.
#[derive(Debug, Clone)]
pub struct NodeStart {
    pub node: NodeId,
    /// What tells this process from earlier ones of the same id.
    pub incarnation: String,
    /// What the process does.
    pub roles: Vec<NodeRole>,
    /// Where other services of the cluster reach it, HOST:PORT; empty: in this process.
    pub internal_address: String,
    /// Where clients reach it, HOST:PORT; empty: they do not.
    pub public_address: String,
    /// Version of the program that runs.
    pub version: String,
    /// What its data directory has seen of the metadata.
    pub seen: MetadataSeen,
    /// Id of its data directory.
    pub directory: [u8; 16],
    /// Replicas that the node holds.
    pub replicas: Vec<ReplicaHeld>,
    /// What was only in the page cache may be lost, and no registration has recorded it.
    pub unclean_stop: bool,
    /// The latest node epoch that the logs have seen; 0: none. `None`: not known.
    pub logs_node_epoch: Option<i64>,
}

/// A replica on the disk of a node.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaHeld {
    pub partition: TopicPartition,
    /// End of the log; exclusive.
    pub log_end: Offset,
    /// The latest one in the log.
    pub leader_epoch: LeaderEpoch,
    /// Records of it are damaged, or its log cannot be opened.
    pub damaged: bool,
}

/// A node that is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Registered {
    /// This incarnation of the node, as the controller knows it.
    pub node_epoch: i64,
    /// Cluster of the controller.
    pub cluster: ClusterId,
    /// Time between beats; `None`: the controller does not say.
    pub beat_interval: Option<Duration>,
    /// The session ends without a beat for so long; `None`: the controller does not say.
    pub session: Option<Duration>,
}

/// A sign of life, and what the node reports with it.
#[derive(Debug, Clone)]
pub struct NodeBeat {
    /// Of the process, as at its registration.
    pub incarnation: String,
    /// As it was registered.
    pub node_epoch: i64,
    /// The metadata that the node has applied.
    pub applied: MetadataSeen,
    /// Deleted topics of which no data is left on the node.
    pub removed: Vec<TopicId>,
    /// What it has of partitions that nobody leads.
    pub candidates: Vec<LeadOffer>,
    /// The node wants to stop.
    pub stopping: bool,
    pub figures: NodeFigures,
}

/// What a replica would lead with, if nobody who is known to have everything can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadOffer {
    pub partition: TopicPartition,
    /// The latest one of its log, or that it has begun to lead.
    pub last_epoch: LeaderEpoch,
    /// The latest one of its records.
    pub record_epoch: LeaderEpoch,
    /// End of the log, or where its damage begins; exclusive.
    pub log_end: Offset,
    /// Records of it are damaged.
    pub damaged: bool,
    /// The version of the partition that it knows.
    pub partition_epoch: i64,
}

/// Numbers of a storage node.
#[derive(Debug, Clone, Default)]
pub struct NodeFigures {
    /// Number of replicas held.
    pub replicas: usize,
    /// Number of partitions led.
    pub leaders: usize,
    pub disks: Vec<DiskUse>,
    /// Partitions that are out of service.
    pub problems: Vec<PartitionOut>,
    /// Replicas held aside because the metadata did not know them.
    pub set_aside: usize,
    /// Size of those in bytes.
    pub set_aside_bytes: u64,
    /// Whether that is all that it holds aside.
    pub set_aside_complete: bool,
    /// Since the process began.
    pub appended_records: i64,
    /// Bytes of record batches, since the process began.
    pub appended_bytes: i64,
    /// Bytes of record batches, since the process began.
    pub read_bytes: i64,
}

/// A data directory and its disk.
#[derive(Debug, Clone, Default)]
pub struct DiskUse {
    pub path: String,
    /// Bytes used by Walser.
    pub used: u64,
    /// Free space in bytes.
    pub free: u64,
    /// Size of the disk in bytes.
    pub total: u64,
    /// Nothing more can be written to it.
    pub full: bool,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// A partition that is out of service on a node.
#[derive(Debug, Clone)]
pub struct PartitionOut {
    pub partition: TopicPartition,
    /// Why it is out of service.
    pub problem: String,
    /// What helps is giving up what is damaged: `walser partition repair`.
    pub damaged: bool,
    /// A replica that has records which the leader's log does not have any more.
    pub node_with_more: Option<NodeId>,
    /// In which that was found, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
}

/// What the controller answers to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeatAnswer {
    GoOn {
        /// Of the metadata that the controller decides on.
        metadata_version: i64,
        /// It does not lead at present, or is not sure.
        standby: bool,
    },
    /// The session is over for good, and why.
    Over(String),
    /// The node wants to stop, and nobody waits for it.
    MayStop,
    /// The metadata has this node under another epoch: it is to register again.
    RegisterAgain,
}

/// An open session of a node with the controller.
#[derive(Debug)]
pub struct NodeSession {
    beats: mpsc::Sender<pbi::NodeSessionRequest>,
    answers: Streaming<pbi::NodeSessionResponse>,
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn topic_bytes(topic: TopicId) -> Bytes {
    Bytes::copy_from_slice(&topic.to_bytes())
}

impl From<ReplicaHeld> for pbi::ReplicaReport {
    fn from(held: ReplicaHeld) -> Self {
        Self {
            topic_id: topic_bytes(held.partition.topic),
            partition: held.partition.partition.0,
            log_end: held.log_end.0,
            leader_epoch: held.leader_epoch.0,
            damaged: held.damaged,
        }
    }
}

impl From<LeadOffer> for pbi::LeaderCandidate {
    fn from(candidate: LeadOffer) -> Self {
        Self {
            topic_id: topic_bytes(candidate.partition.topic),
            partition: candidate.partition.partition.0,
            last_epoch: candidate.last_epoch.0,
            record_epoch: Some(candidate.record_epoch.0),
            log_end: candidate.log_end.0,
            partition_epoch: candidate.partition_epoch,
            damaged: candidate.damaged,
        }
    }
}

fn figures_message(figures: NodeFigures) -> pb::StorageStats {
    let disk = |disk: DiskUse| pb::DiskStats {
        path: disk.path,
        used_bytes: bytes(disk.used),
        free_bytes: bytes(disk.free),
        total_bytes: bytes(disk.total),
        failed: disk.problem.is_some(),
        full: disk.full,
        problem: disk.problem.unwrap_or_default(),
    };
    let problem = |PartitionOut { partition, problem, damaged, node_with_more, leader_epoch }| pb::PartitionProblem {
        topic_id: partition.topic.to_string(),
        partition: partition.partition.0,
        problem,
        damaged,
        node_with_more: node_with_more.map(|node| node.0),
        leader_epoch: leader_epoch.0,
    };
    pb::StorageStats {
        replica_count: count(figures.replicas),
        leader_count: count(figures.leaders),
        disks: figures.disks.into_iter().map(disk).collect(),
        problems: figures.problems.into_iter().map(problem).collect(),
        set_aside_count: count(figures.set_aside),
        set_aside_bytes: bytes(figures.set_aside_bytes),
        set_aside_complete: figures.set_aside_complete,
        appended_records: figures.appended_records,
        appended_bytes: figures.appended_bytes,
        read_bytes: figures.read_bytes,
    }
}

impl ControllerClient {
    /// Registers a node.
    ///
    /// # Errors
    /// `NODE_ID_IN_USE`, `CLUSTER_ID_MISMATCH`, `METADATA_ROLLBACK` and `FEATURE_DISABLED`; when the controller cannot be reached, or cannot
    /// decide now.
    pub async fn register_node(&self, node: NodeStart) -> Result<Registered, ApiError> {
        let request = pbi::RegisterNodeRequest {
            node_id: node.node.0,
            incarnation: node.incarnation,
            roles: node.roles.into_iter().map(i32::from).collect(),
            internal_address: node.internal_address,
            public_address: node.public_address,
            rack: String::new(),
            version: node.version,
            cluster_id: node.seen.cluster_id,
            metadata_version: node.seen.version,
            replicas: node.replicas.into_iter().map(pbi::ReplicaReport::from).collect(),
            lineage: node.seen.lineage,
            directory_id: Bytes::copy_from_slice(&node.directory),
            features: Some(FEATURE_LEVELS.into()),
            unclean_stop: node.unclean_stop,
            logs_node_epoch: node.logs_node_epoch,
        };
        let mut calls = self.calls().max_encoding_message_size(REGISTRATION_BYTES_MAX);
        let answer = calls.register_node(request).await?.into_inner();
        let broken = |_| ApiError::internal("the controller names no cluster");
        Ok(Registered {
            node_epoch: answer.node_epoch,
            cluster: answer.cluster_id.parse().map_err(broken)?,
            beat_interval: answer.heartbeat_interval.and_then(|every| every.try_into().ok()),
            session: answer.lease.and_then(|session| session.try_into().ok()),
        })
    }

    /// Opens a session for beats.
    ///
    /// # Errors
    /// When the controller refuses, or cannot be reached.
    pub async fn node_session(&self) -> Result<NodeSession, ApiError> {
        let (beats, stream) = mpsc::channel(BEATS_MAX);
        let answers = self.calls().node_session(ReceiverStream::new(stream)).await?.into_inner();
        Ok(NodeSession { beats, answers })
    }

    /// Asks for in-sync sets, and to be taken out of partitions. The answer is of the proposals, in their order.
    ///
    /// # Errors
    /// When the controller cannot be reached, or cannot decide now.
    pub async fn alter_isr(&self, request: pbi::AlterIsrRequest) -> Result<Vec<pbi::IsrOutcome>, ApiError> {
        let mut calls = self.calls().max_encoding_message_size(REGISTRATION_BYTES_MAX);
        Ok(calls.alter_isr(request).await?.into_inner().outcomes)
    }

    /// Begins a leader epoch of a partition above `above` and above the one that is named; returns it.
    ///
    /// # Errors
    /// When another epoch has begun, or the node is not the leader; when the controller cannot be reached, or cannot
    /// decide now.
    pub async fn renew_leader_epoch(
        &self,
        node_epoch: i64,
        led: LedPartition,
        above: LeaderEpoch,
    ) -> Result<LeaderEpoch, ApiError> {
        let (above, records_lost) = (above.0, false);
        let request = pbi::RenewLeaderEpochRequest { node_epoch, r#ref: Some(led.into()), above, records_lost };
        Ok(LeaderEpoch(self.calls().renew_leader_epoch(request).await?.into_inner().leader_epoch))
    }

    /// Has a new leader epoch begin in which only this node counts, before it gives up records; returns it.
    ///
    /// # Errors
    /// `STALE_EPOCH` when the node does not lead in that epoch; `FIELD_INVALID` when another node has the records and is
    /// in service; when the controller cannot be reached, or cannot decide now.
    pub async fn give_up_records(&self, node_epoch: i64, led: LedPartition) -> Result<LeaderEpoch, ApiError> {
        let (above, records_lost) = (0, true);
        let request = pbi::RenewLeaderEpochRequest { node_epoch, r#ref: Some(led.into()), above, records_lost };
        Ok(LeaderEpoch(self.calls().renew_leader_epoch(request).await?.into_inner().leader_epoch))
    }
}

// === impl NodeSession ===

impl NodeSession {
    /// Sends a beat and waits for its answer.
    ///
    /// # Errors
    /// When the session has broken, or the controller's metadata is not that of the node.
    pub async fn beat(&mut self, beat: NodeBeat) -> Result<BeatAnswer, ApiError> {
        let closed = || ApiError::new(Reason::ControllerNotAvailable, "the controller closed the session");
        let request = pbi::NodeSessionRequest {
            node_epoch: beat.node_epoch,
            metadata_version: beat.applied.version,
            stats: Some(figures_message(beat.figures)),
            removed_topic_ids: beat.removed.into_iter().map(topic_bytes).collect(),
            cluster_id: beat.applied.cluster_id,
            lineage: beat.applied.lineage,
            candidates: beat.candidates.into_iter().map(pbi::LeaderCandidate::from).collect(),
            stopping: beat.stopping,
            incarnation: beat.incarnation,
        };
        self.beats.send(request).await.map_err(|_| closed())?;
        let answer = self.answers.message().await?.ok_or_else(closed)?;
        Ok(match answer.action {
            None => BeatAnswer::GoOn { metadata_version: answer.metadata_version, standby: answer.standby },
            Some(pbi::node_session_response::Action::Fenced(fenced)) => BeatAnswer::Over(fenced.reason),
            Some(pbi::node_session_response::Action::MayStop(_)) => BeatAnswer::MayStop,
            Some(pbi::node_session_response::Action::RegisterAgain(_)) => BeatAnswer::RegisterAgain,
        })
    }
}
