//! Work on a partition that waits for the disk, and is neither a flush nor an extension.
//!
//! A shard lends the whole partition to a thread for it, and has it back when the work is done ([`super::lending`]).
//! The thread is its one owner meanwhile; readers go on as they were.

use std::io;

use tokio::sync::oneshot;
use walser_log::{CompactionStep, CompleteCopy, Condition, Log, LogConfig, LogError, out_of_files};
use walser_model::{LeaderEpoch, Offset, TopicPartition};
use walser_replication::WorkId;
use walser_rpc::ApiError;

use super::compaction::{Compacting, Dirtiness};
use super::{Partition, PartitionMetadata, Repaired, ShardContext};
use crate::compactor::CompactionTurn;
use crate::disk_threads::DiskLane;
use crate::error::{cannot_open_text, deleted, moved_aside, not_leader};

/// Tries to flush a partition at the stop.
const STOP_FLUSHES: usize = 8;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Open the log of a partition that this node is to lead, or begin one. It could not be opened this often before.
    Open { metadata: Box<PartitionMetadata>, tries: u32 },
    /// Make the log ready for the first write that waits.
    Prepare,
    /// Remove some of what is too old or too much, and maybe close a segment for its age; is the wall clock believed?
    Retain { trusted: bool, close_old: bool },
    /// Remove some of the segments below the log start.
    RemoveDeleted,
    /// Close the files of a partition that nobody writes.
    ReleaseIdle,
    /// Begin a compaction.
    BeginCompaction { turn: CompactionTurn, due: Dirtiness },
    /// Put in place what a compaction has written.
    TakeStep { compacting: Box<Compacting>, step: CompactionStep },
    /// Write down that the log is damaged.
    KeepDamage,
    /// Write down that the log has failed.
    KeepFailure,
    /// Look for files that were not found.
    LookForFiles,
    /// Raise the log start.
    DeleteRecords { before: Offset, reply: oneshot::Sender<Result<Offset, ApiError>> },
    /// Delete what the leader has deleted. Exclusive.
    Trim { before: Offset },
    /// Cut the log for the leader's.
    Truncate { work: WorkId, to: Offset },
    /// Put a copy of the leader's log in the place of this one.
    Replace { work: WorkId, copy: CompleteCopy },
    /// Give up the damaged part of a log.
    Repair { epoch: LeaderEpoch, reply: oneshot::Sender<Result<Repaired, ApiError>> },
    /// Remove a partition with its data, wherever it lies.
    Remove { done: oneshot::Sender<io::Result<()>> },
    /// Move a partition aside that the metadata does not know.
    SetAside { done: oneshot::Sender<io::Result<()>> },
    /// Make everything durable, and write down where it ends.
    Close,
}

/// A task, with the partition that was lent for it.
#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(super) id: TopicPartition,
    /// `None`: the shard has none.
    pub(super) lent: Option<Box<Partition>>,
    pub(super) task: Task,
    pub(super) context: ShardContext,
}

/// A partition that comes back.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(super) id: TopicPartition,
    pub(super) outcome: Outcome,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Kept(Box<Partition>),
    Opened {
        log: Box<Log>,
        metadata: Box<PartitionMetadata>,
    },
    /// It is tried again, soon if only files were short.
    Unopened {
        metadata: Box<PartitionMetadata>,
        tries: u32,
        soon: bool,
    },
    Gone,
}

// === impl Task ===

impl Task {
    /// Whether no flush and no extension of the partition may be under way meanwhile.
    pub(super) fn needs_idle(&self) -> bool {
        match self {
            Self::Truncate { .. }
            | Self::Replace { .. }
            | Self::Repair { .. }
            | Self::Remove { .. }
            | Self::SetAside { .. }
            | Self::Close => true,
            Self::Open { .. }
            | Self::Prepare
            | Self::Retain { .. }
            | Self::RemoveDeleted
            | Self::ReleaseIdle
            | Self::BeginCompaction { .. }
            | Self::TakeStep { .. }
            | Self::KeepDamage
            | Self::KeepFailure
            | Self::LookForFiles
            | Self::Trim { .. }
            | Self::DeleteRecords { .. } => false,
        }
    }

    /// Whether nobody waits for it: then only a few are lent at once.
    pub(super) fn is_upkeep(&self) -> bool {
        self.lane() == DiskLane::Upkeep
    }

    /// Whether it is what following a leader takes, whatever the metadata says meanwhile.
    pub(super) fn is_of_replica(&self) -> bool {
        matches!(self, Self::Trim { .. } | Self::Truncate { .. } | Self::Replace { .. })
    }

    fn lane(&self) -> DiskLane {
        match self {
            Self::Prepare => DiskLane::Prepare,
            Self::Retain { .. }
            | Self::RemoveDeleted
            | Self::ReleaseIdle
            | Self::BeginCompaction { .. }
            | Self::TakeStep { .. } => DiskLane::Upkeep,
            Self::Open { .. }
            | Self::KeepDamage
            | Self::KeepFailure
            | Self::LookForFiles
            | Self::Trim { .. }
            | Self::Truncate { .. }
            | Self::Replace { .. }
            | Self::DeleteRecords { .. }
            | Self::Repair { .. }
            | Self::Remove { .. }
            | Self::SetAside { .. }
            | Self::Close => DiskLane::Awaited,
        }
    }
}

// === impl Maintenance ===

impl Maintenance {
    /// The threads that it is for.
    pub(crate) fn lane(&self) -> DiskLane {
        self.task.lane()
    }

    /// Does the work. Blocks as long as the disk takes.
    pub(crate) fn run(self) -> Returned {
        let Self { id, lent, task, context } = self;
        let outcome = match task {
            Task::Open { metadata, tries } => open(id, metadata, tries, &context),
            Task::Remove { done } => remove(id, lent, done, &context),
            Task::SetAside { done } => set_aside(id, lent, done, &context),
            task => match (lent, task) {
                (Some(partition), task) => maintain(partition, task, &context),
                (None, Task::Replace { .. }) => {
                    drop(context.directory.discard_copy(id));
                    Outcome::Gone
                }
                (None, _) => Outcome::Gone,
            },
        };
        Returned { id, outcome }
    }
}

fn maintain(mut partition: Box<Partition>, task: Task, context: &ShardContext) -> Outcome {
    match task {
        Task::Prepare => partition.prepare(context),
        Task::Retain { trusted, close_old } => partition.retain(context, trusted, close_old),
        Task::RemoveDeleted => partition.remove_deleted(context),
        Task::ReleaseIdle => partition.release_idle(context),
        Task::BeginCompaction { turn, due } => partition.begin_compaction(turn, due, context),
        Task::TakeStep { compacting, step } => partition.take_step(compacting, step, context),
        Task::KeepDamage => partition.keep_damage(context),
        Task::KeepFailure => partition.keep_failure(context),
        Task::LookForFiles => partition.look_for_files(context),
        Task::DeleteRecords { before, reply } => partition.delete_records(before, reply, context),
        Task::Trim { before } => partition.trim(before, context),
        Task::Truncate { work, to } => {
            partition = match partition.truncate(work, to, context) {
                Ok(partition) => partition,
                Err(metadata) => return Outcome::Unopened { metadata, tries: 0, soon: true },
            };
        }
        Task::Repair { epoch, reply } => drop(reply.send(partition.repair(epoch, context))),
        Task::Replace { work, copy } => {
            return match partition.replace(work, &copy, context) {
                Ok(partition) => Outcome::Kept(partition),
                Err(metadata) => Outcome::Unopened { metadata, tries: 0, soon: false },
            };
        }
        Task::Close => {
            close(&mut partition, context);
            return Outcome::Gone;
        }
        Task::Open { .. } | Task::Remove { .. } | Task::SetAside { .. } => {}
    }
    partition.show_failure(context);
    Outcome::Kept(partition)
}

impl ShardContext {
    /// Opens the log of a partition. Blocks as long as the disk takes.
    pub(super) fn open_log(&self, id: TopicPartition, metadata: &PartitionMetadata) -> Result<Log, LogError> {
        let (directory, now) = (&self.directory, self.clock.now_millis());
        let config = LogConfig::from(&metadata.settings.config);
        let opened = Log::open(directory.disk(), directory.partition_dir(id), id, config, directory.checkpoint(), now);
        opened.map(|(log, _)| log)
    }
}

fn open(id: TopicPartition, metadata: Box<PartitionMetadata>, tries: u32, context: &ShardContext) -> Outcome {
    let directory = &context.directory;
    if let Err(error) = directory.take_back(id) {
        tracing::error!(partition = %context.named(id), %error, "partition cannot be taken back");
        context.registry.set_unusable(id, error.to_string());
        return Outcome::Unopened { metadata, tries, soon: out_of_files(&error) };
    }
    let finished = directory.finish_copy(id).map_err(LogError::from);
    match finished.and_then(|_| context.open_log(id, &metadata)) {
        Ok(log) => Outcome::Opened { log: Box::new(log), metadata },
        Err(error) => {
            tracing::error!(partition = %context.named(id), %error, "partition cannot be opened");
            context.registry.set_unusable(id, cannot_open_text(&error));
            let soon = matches!(&error, LogError::Io(error) if out_of_files(error));
            Outcome::Unopened { metadata, tries, soon }
        }
    }
}

fn remove(
    id: TopicPartition,
    lent: Option<Box<Partition>>,
    done: oneshot::Sender<io::Result<()>>,
    context: &ShardContext,
) -> Outcome {
    if let Err(error) = context.directory.delete_set_aside(id) {
        let _ = done.send(Err(error));
        return lent.map_or(Outcome::Gone, Outcome::Kept);
    }
    context.registry.remove(id);
    let removed = match lent {
        Some(mut partition) => {
            partition.resign(&deleted(id), context);
            partition.log.remove()
        }
        None => context.directory.remove_partition(id),
    };
    let _ = done.send(removed);
    Outcome::Gone
}

fn set_aside(
    id: TopicPartition,
    lent: Option<Box<Partition>>,
    done: oneshot::Sender<io::Result<()>>,
    context: &ShardContext,
) -> Outcome {
    let now = context.clock.now_millis();
    let Some(mut partition) = lent else {
        context.registry.remove(id);
        let _ = done.send(context.directory.set_aside_closed(id, now));
        return Outcome::Gone;
    };
    partition.resign(&moved_aside(id), context);
    if let Ok(Some(job)) = partition.log.begin_flush() {
        partition.flushed(&job.run(), context);
    }
    if partition.log.dirty() && *partition.log.condition() == Condition::Healthy {
        let _ = done.send(Err(io::ErrorKind::ResourceBusy.into()));
        return Outcome::Kept(partition);
    }
    context.registry.remove(id);
    let _ = done.send(context.directory.set_aside(partition.log, now));
    Outcome::Gone
}

/// Flushes a partition that has nothing in flight, closes its log, and answers whoever still waits.
fn close(partition: &mut Partition, context: &ShardContext) {
    let id = context.named(partition.log.partition());
    partition.handle.stop_serving();
    for _ in 0..STOP_FLUSHES {
        match partition.log.begin_flush() {
            Ok(Some(job)) => partition.flushed(&job.run(), context),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(partition = %id, %error, "partition could not be flushed at the stop");
                break;
            }
        }
    }
    if let Err(error) = partition.log.release_idle() {
        tracing::warn!(partition = %id, %error, "partition was not closed cleanly");
    }
    if partition.log.durable() < partition.log.log_end() {
        context.directory.leave_unflushed();
    }
    // The task that would have written it down is not begun any more.
    if partition.failure_unkept() {
        partition.keep_failure(context);
    }
    partition.resign(&not_leader(context.node), context);
}
