//! Errors of the storage node, and how they travel.

use walser_log::{DirectoryError, LogError, ReadError};
use walser_model::{LeaderEpoch, NodeId, Offset, REMEMBERED_BATCHES, SequenceCheck, TopicPartition};
use walser_record_batch::BatchHeader;
use walser_replication::{NotEnoughReplicas, Objection};
use walser_rpc::{ApiError, Effect, Reason};

use crate::released::Released;

/// Why a storage node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The controller does not accept this node.
    #[error("registration: {0}")]
    Registration(ApiError),
    /// A thread cannot be started, or the disk fails.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The partition is not led here, as far as this node knows.
pub(crate) fn not_leader(node: NodeId) -> ApiError {
    ApiError::new(Reason::NotLeader, format!("node {node} does not lead the partition")).with("leader", -1)
}

/// The same, where the metadata says who leads.
pub(crate) fn led_elsewhere(node: NodeId, leader: NodeId, epoch: LeaderEpoch) -> ApiError {
    let text = format!("node {node} does not lead the partition: node {leader} does, in leader epoch {epoch}");
    ApiError::new(Reason::NotLeader, text).with("leader", leader).with("leaderEpoch", epoch)
}

/// This node leads as far as it knows, and it would not know if it did not any more (rule R29).
pub(crate) fn may_be_replaced(partition: &impl std::fmt::Display, node: NodeId) -> ApiError {
    let text = format!(
        "node {node} has heard neither the controller nor every other replica in sync of partition {partition} for longer than \
         a session: another node may lead by now, so this one answers nothing by itself; try again, or look at the network \
         between node {node} and the controller"
    );
    ApiError::new(Reason::LeaderNotAvailable, text)
}

/// The partition's topic was deleted while somebody waited.
pub(crate) fn deleted(partition: TopicPartition) -> ApiError {
    let text = "the topic was deleted while the write was under way; its records are gone with it";
    ApiError::new(Reason::TopicNotFound, text).with("topicId", partition.topic)
}

/// The partition was moved out of service while somebody waited.
pub(crate) fn moved_aside(partition: TopicPartition) -> ApiError {
    let text = "the metadata does not know the partition any more: it is set aside, with its records";
    ApiError::new(Reason::TopicNotFound, text).with("topicId", partition.topic)
}

/// A repair of something that is whole.
pub(crate) fn not_damaged() -> ApiError {
    ApiError::field("partition", "names a partition that is not damaged: there is nothing to repair")
}

/// A part of a log is not given up that a replica has, or may have.
pub(crate) fn not_repaired(objection: Objection) -> ApiError {
    let (Objection::HasMore(node) | Objection::Parted(node) | Objection::NotHeard(node)) = objection;
    let text = match objection {
        Objection::HasMore(_) => format!(
            "node {node} has records of the partition that cannot be read at the leader: `walser partition elect TOPIC \
             PARTITION --unclean --accept-loss` has the replica lead that has most; if they are to be given up as well, \
             stop node {node}, remove the directory of the partition below its `logs`, and start it again"
        ),
        Objection::Parted(_) => format!(
            "node {node} has records of the partition in place of which the leader has others: `walser partition elect \
             TOPIC PARTITION --unclean --accept-loss --node ID` says whose stay"
        ),
        Objection::NotHeard(_) => format!(
            "node {node} has a replica of the partition and has not said what it has, which would be lost: where it \
             runs, try again in some seconds; else start it; if its disk is lost, start it with an empty directory under the \
             same id, which is taken unless it had the only copy of something else"
        ),
    };
    ApiError::new(Reason::EligibleLeadersNotAvailable, text).with("nodeId", node)
}

/// The topic has settings that this version does not know.
pub(crate) fn unreadable_settings(why: &str) -> ApiError {
    let text = format!(
        "the topic has a setting that this version cannot read ({why}): its records can be read, and it takes no writes \
         until the setting is reset or a version runs that knows it"
    );
    ApiError::new(Reason::FeatureDisabled, text).with("feature", "topic-setting")
}

/// The disk has no room for records.
pub(crate) fn disk_full(node: NodeId) -> ApiError {
    let text = "the disk is full: records are refused until space is free; reading and deleting still work";
    ApiError::new(Reason::DiskFull, text).with("nodeId", node)
}

/// No more files can be opened.
pub(crate) fn too_many_files(limit: Option<usize>, node: NodeId) -> ApiError {
    let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    let text = format!(
        "too many open files: the process has reached its limit{limit}; nothing was written; raise the limit (ulimit -n, \
         LimitNOFILE=), or close connections"
    );
    ApiError::new(Reason::StorageError, text).with("nodeId", node).with("rule", "open-files")
}

/// Why a log cannot be opened, and what helps.
pub(crate) fn cannot_open_text(error: &LogError) -> String {
    match error {
        LogError::Io(error) if walser_log::out_of_files(error) => {
            format!("{error}; raise the limit of open files of the process (ulimit -n, LimitNOFILE=)")
        }
        error => error.to_string(),
    }
}

/// The partition's files cannot be read.
pub(crate) fn cannot_open(why: &str, node: NodeId) -> ApiError {
    let text = format!("the partition's log cannot be opened: {why}; the server tries it again by itself");
    ApiError::new(Reason::StorageError, text).with("nodeId", node)
}

/// The directory cannot be used: it is gone, replaced, or its disk refuses everything.
pub(crate) fn directory_failed(problem: &str, node: NodeId) -> ApiError {
    let text = format!("the data directory cannot be used, and nothing was written: {problem}");
    ApiError::new(Reason::StorageError, text).with("nodeId", node).with("rule", "data-directory")
}

/// The log does not take writes.
pub(crate) fn log_failure(error: &LogError, node: NodeId) -> ApiError {
    match error {
        LogError::Corrupt { from } => corrupt(*from),
        LogError::OutOfRange { offset, start, end } => out_of_range(*offset, *start, *end),
        LogError::Busy => {
            let text = "a flush or an extension of the log is running; try again in a moment";
            ApiError::new(Reason::StorageError, text).with("nodeId", node)
        }
        // It says itself that it is out of service.
        LogError::Failed { .. } => ApiError::new(Reason::StorageError, error.to_string()).with("nodeId", node),
        LogError::Io(_) => {
            ApiError::new(Reason::StorageError, format!("the log is out of service: {error}")).with("nodeId", node)
        }
    }
}

/// The outcome of an append is not known: the disk failed after the write.
pub(crate) fn storage_error_after_append(error: &LogError, node: NodeId) -> ApiError {
    log_failure(error, node).after_append()
}

/// Records are damaged here, and others have them: one of those is about to lead.
pub(crate) fn replica_damaged(node: NodeId) -> ApiError {
    let text = format!("records of the partition are damaged on node {node}; another replica takes the lead");
    ApiError::new(Reason::NotLeader, text).with("leader", -1)
}

fn corrupt(from: Offset) -> ApiError {
    let text = format!(
        "stored records are damaged from offset {from} on, and no replica that has everything is in service; the partition \
         takes no writes until one is, or until an operator decides what is given up; `walser status` says what helps"
    );
    ApiError::new(Reason::LogCorrupt, text).with("offset", from)
}

/// The offset is not there.
pub(crate) fn out_of_range(offset: Offset, start: Offset, end: Offset) -> ApiError {
    let text = format!("offset {offset} is not within {start} (log start) and {end} (log end)");
    let failure = ApiError::new(Reason::OffsetOutOfRange, text).with("offset", offset);
    failure.with("logStartOffset", start).with("logEndOffset", end)
}

/// Nothing can be read.
pub(crate) fn read_failure(error: &ReadError, node: NodeId) -> ApiError {
    match error {
        ReadError::OutOfRange { offset, start, end } => out_of_range(*offset, *start, *end),
        ReadError::Corrupt { at } => corrupt(*at),
        ReadError::Unreadable { at, resume, .. } => {
            let text = format!("{error}; resume at offset {resume}");
            ApiError::new(Reason::BatchUnreadable, text).with("offset", at).with("resumeOffset", resume)
        }
        ReadError::Io(_) => {
            ApiError::new(Reason::StorageError, format!("reading failed: {error}")).with("nodeId", node)
        }
    }
}

/// The leader has just begun, and does not know yet where the partition ends (rule R4).
pub(crate) fn end_not_known() -> ApiError {
    ApiError::new(
        Reason::Starting,
        "the leader does not know yet what is committed: it does once min.insync.replicas are in sync",
    )
}

/// Too few replicas are in sync.
pub(crate) fn not_enough_replicas(error: NotEnoughReplicas) -> ApiError {
    let failure = ApiError::new(Reason::NotEnoughReplicas, format!("{error}"));
    failure.with("isr", error.isr).with("minIsr", error.min_isr)
}

/// Too few replicas are in sync since the batch was appended: it may count yet.
pub(crate) fn not_enough_replicas_after_append(error: NotEnoughReplicas) -> ApiError {
    let failure =
        ApiError::new(Reason::NotEnoughReplicas, format!("{error}; the batch is in the log, and may count yet"));
    let failure = failure.after_append();
    failure.with("isr", error.isr).with("minIsr", error.min_isr)
}

/// An appended batch was not confirmed in time, by other replicas or by the disk: it may count yet.
pub(crate) fn unanswered(by_others: bool) -> ApiError {
    let who = if by_others { "the other replicas" } else { "the disk" };
    let text = format!("the batch is in the log, and {who} did not confirm it in time");
    ApiError::new(Reason::RequestTimedOut, text)
        .with_effect(Effect::Maybe)
        .with("stage", "replicate")
        .with("appended", true)
}

/// Too many writes wait for other replicas. `repeated`: this one repeats a write that is among them, and may happen.
pub(crate) fn not_enough_answers(released: Released, repeated: bool) -> ApiError {
    let Released { writes, bytes } = released;
    let text = format!("{writes} writes of {bytes} bytes wait for other replicas; no more are taken until they answer");
    let effect = if repeated { Effect::Maybe } else { Effect::None };
    let failure = ApiError::new(Reason::NotEnoughReplicas, text).with_effect(effect);
    failure.with("waitingWrites", writes).with("waitingBytes", bytes)
}

/// A batch that its producer's past does not allow. `None`: it may be appended or answered.
pub(crate) fn producer_failure(check: SequenceCheck, header: &BatchHeader) -> Option<ApiError> {
    let id = header.producer_id;
    match check {
        SequenceCheck::Next | SequenceCheck::Duplicate { .. } => None,
        SequenceCheck::Fenced { current } => {
            let text = format!(
                "producer {id} wrote with epoch {}, a newer session of it has epoch {}",
                header.producer_epoch.0, current.0
            );
            let failure = ApiError::new(Reason::ProducerFenced, text).with("producerId", id);
            Some(failure.with("epoch", header.producer_epoch.0).with("currentEpoch", current.0))
        }
        SequenceCheck::Forgotten { expected } => {
            let sequence = header.base_sequence;
            let text = format!(
                "sequence {sequence} of producer {id} was written before its last {REMEMBERED_BATCHES} batches; its \
                 offset is no longer known; {expected} is next"
            );
            let failure = ApiError::new(Reason::DuplicateSequence, text).with("sequence", sequence);
            Some(failure.with("producerId", id).with("expectedSequence", expected))
        }
        SequenceCheck::OutOfOrder { expected } => {
            let sequence = header.base_sequence;
            let text = format!("sequence {sequence} of producer {id} leaves a gap; {expected} is next");
            let failure = ApiError::new(Reason::SequenceOutOfOrder, text).with("sequence", sequence);
            Some(failure.with("expectedSequence", expected))
        }
        SequenceCheck::Unknown => {
            let text = format!(
                "nothing is known of producer {id} here, and sequence {} is not its first; call InitProducer",
                header.base_sequence
            );
            Some(ApiError::new(Reason::UnknownProducer, text).with("producerId", id))
        }
    }
}
