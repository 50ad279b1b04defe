//! The queue of a log shard. Its length is bounded by the byte permits that senders hold.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use walser_log::{CompactionStep, Extension, FlushOutcome, Generation};
use walser_model::{Acks, LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_record_batch::BatchHeader;
use walser_rpc::{ApiError, AppendPermit, AppendReply, Reason};

use super::compaction::Compacting;
use super::maintenance::Returned;
use super::partition::{PartitionMetadata, Repaired};
use super::settled::Settled;
use crate::metrics::StorageMetrics;
use crate::replication::FromPeer;

/// One batch to append.
pub(crate) struct AppendJob {
    pub(crate) partition: TopicPartition,
    /// What the sender believes; [`LeaderEpoch::NONE`]: any.
    pub(crate) epoch: LeaderEpoch,
    pub(crate) batch: Bytes,
    pub(crate) header: BatchHeader,
    pub(crate) acks: Acks,
    pub(crate) expected_offset: Option<Offset>,
    /// W3C trace context of the append, for followers.
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) permit: AppendPermit,
    pub(crate) reply: AppendReply,
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum Command {
    Append(AppendJob),
    /// What the metadata says of a partition and its topic.
    Install(Box<PartitionMetadata>),
    /// The metadata of a partition makes no sense: be nothing to it.
    Resign(TopicPartition),
    /// Remove a partition with its data.
    Remove {
        partition: TopicPartition,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Move a partition aside that metadata does not know.
    SetAside {
        partition: TopicPartition,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// No controller takes this node: serve reads of everything that is here.
    ServeReads,
    ServeReadsOf(TopicPartition),
    DeleteRecords {
        partition: TopicPartition,
        before: Offset,
        reply: oneshot::Sender<Result<Offset, ApiError>>,
    },
    /// A read has met damage in what the log had in it then.
    Damaged {
        partition: TopicPartition,
        from: Offset,
        generation: Generation,
    },
    /// A read has not found a file.
    FileMissing(TopicPartition),
    /// The disk has failed in a read of what the log had in it then.
    ReadFailed {
        partition: TopicPartition,
        problem: String,
        generation: Generation,
    },
    /// Whether a part of the log may be given up.
    CheckRepair {
        partition: TopicPartition,
        reply: oneshot::Sender<Result<(), ApiError>>,
    },
    Repair {
        partition: TopicPartition,
        /// That began for it.
        epoch: LeaderEpoch,
        reply: oneshot::Sender<Result<Repaired, ApiError>>,
    },
    Flushed {
        partition: TopicPartition,
        outcome: FlushOutcome,
    },
    Extended {
        partition: TopicPartition,
        extension: Extension,
        outcome: io::Result<()>,
    },
    /// A compaction has something to be put in place; `None`: it has ended.
    CompactionAdvanced {
        partition: TopicPartition,
        compacting: Box<Compacting>,
        step: io::Result<Option<CompactionStep>>,
    },
    /// Another node says something about a partition.
    FromPeer {
        partition: TopicPartition,
        said: FromPeer,
    },
    /// Another node is heard.
    Heard {
        node: NodeId,
        /// Its incarnation.
        node_epoch: i64,
    },
    /// A partition was with a thread that waits for the disk.
    Returned(Returned),
    /// Too many files are open: close those of partitions that have nothing in flight.
    CloseFiles,
    /// Tell the sender that all metadata it pushed before has been carried out.
    Barrier(oneshot::Sender<()>),
    /// The same for one partition that was away.
    Settled {
        partition: TopicPartition,
        settled: Settled,
    },
    /// Flush everything and end.
    Stop(oneshot::Sender<()>),
}

/// Commands for one shard, in order.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    commands: Vec<Command>,
    /// The shard has stopped: nothing is carried out any more.
    closed: bool,
}

impl std::fmt::Debug for AppendJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("AppendJob");
        out.field("partition", &self.partition).field("bytes", &self.batch.len()).finish_non_exhaustive()
    }
}

impl Command {
    /// Whether metadata orders it.
    pub(super) fn is_of_metadata(&self) -> bool {
        matches!(self, Self::Install(_) | Self::Resign(_) | Self::Remove { .. } | Self::SetAside { .. })
    }

    /// The partition that it is for, unless it brings it back.
    pub(super) fn partition(&self) -> Option<TopicPartition> {
        match self {
            Self::Append(job) => Some(job.partition),
            Self::Install(metadata) => Some(metadata.partition),
            Self::Resign(partition)
            | Self::ServeReadsOf(partition)
            | Self::CompactionAdvanced { partition, .. }
            | Self::Remove { partition, .. }
            | Self::SetAside { partition, .. }
            | Self::DeleteRecords { partition, .. }
            | Self::Damaged { partition, .. }
            | Self::FileMissing(partition)
            | Self::ReadFailed { partition, .. }
            | Self::CheckRepair { partition, .. }
            | Self::Repair { partition, .. }
            | Self::FromPeer { partition, .. }
            | Self::Flushed { partition, .. }
            | Self::Extended { partition, .. }
            | Self::Settled { partition, .. } => Some(*partition),
            Self::ServeReads
            | Self::Heard { .. }
            | Self::Returned(_)
            | Self::CloseFiles
            | Self::Barrier(_)
            | Self::Stop(_) => None,
        }
    }
}

impl AppendJob {
    /// Gives up room and memory of a batch that is in the log; only its answer is left. Returns the bytes of the batch.
    pub(crate) fn release(&mut self) -> usize {
        self.permit = AppendPermit::uncounted();
        std::mem::take(&mut self.batch).len()
    }

    /// Answers that the shard has stopped.
    fn refuse_stopped(self) {
        let failure = ApiError::new(Reason::NotLeader, "the storage node has stopped").with("leader", -1);
        self.reply.answer(Err(failure));
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, failure: ApiError, metrics: &StorageMetrics) {
        metrics.append_refused(&failure);
        self.reply.answer(Err(failure));
    }
}

impl Queue {
    /// Adds a command. After the stop an append is answered as by a node that does not lead, and the others are dropped:
    /// whoever waits for them hears that there is no answer.
    pub(crate) fn push(&self, command: Command) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            drop(waiting);
            if let Command::Append(job) = command {
                job.refuse_stopped();
            }
            return;
        }
        let again = matches!((&command, waiting.commands.last()), (Command::CloseFiles, Some(Command::CloseFiles)));
        if again {
            return;
        }
        waiting.commands.push(command);
        if waiting.commands.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// Takes all commands.
    pub(crate) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.waiting.lock().commands)
    }

    /// Takes all commands; from then on there are no more.
    pub(crate) fn close(&self) -> Vec<Command> {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        std::mem::take(&mut waiting.commands)
    }

    /// Waits for a command, at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut waiting = self.waiting.lock();
        if waiting.commands.is_empty() && !limit.is_zero() {
            self.wake.wait_for(&mut waiting, limit);
        }
    }
}
