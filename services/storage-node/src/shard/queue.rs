//! The queue of a log shard. Its length is bounded by the byte permits that senders hold.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};
use walser_log::{Extension, Flushed};
use walser_model::{Acks, LeaderEpoch, Offset, TopicPartition};
use walser_proto::internal::v1::{AppendStreamResponse, RepairPartitionResponse};
use walser_record_batch::BatchHeader;
use walser_rpc::{AppendPermit, AppendReply, Failure};

use super::partition::LeadOrder;
use crate::metrics::StorageMetrics;

/// Permits count in units of this many bytes, so that a budget of terabytes fits.
pub(crate) const PERMIT_BYTES: usize = 1024;

/// One batch to append.
pub(crate) struct AppendJob {
    pub(crate) correlation_id: i64,
    pub(crate) partition: TopicPartition,
    /// What the sender believes; [`LeaderEpoch::NONE`]: any.
    pub(crate) epoch: LeaderEpoch,
    pub(crate) batch: Bytes,
    pub(crate) header: BatchHeader,
    pub(crate) acks: Acks,
    pub(crate) expected_offset: Option<Offset>,
    pub(crate) permit: AppendPermit,
    pub(crate) reply: AppendReply,
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum Command {
    Append(AppendJob),
    /// Lead a partition; settings may have changed.
    Lead(Box<LeadOrder>),
    /// Somebody else leads it.
    Resign(TopicPartition),
    /// Remove a partition with its data.
    Remove {
        partition: TopicPartition,
        done: oneshot::Sender<io::Result<()>>,
    },
    DeleteRecords {
        partition: TopicPartition,
        before: Offset,
        reply: oneshot::Sender<Result<Offset, Failure>>,
    },
    /// A read has met damage.
    Damaged {
        partition: TopicPartition,
        from: Offset,
    },
    Repair {
        partition: TopicPartition,
        reply: oneshot::Sender<Result<RepairPartitionResponse, Failure>>,
    },
    Flushed {
        partition: TopicPartition,
        outcome: io::Result<Flushed>,
    },
    Extended {
        partition: TopicPartition,
        extension: Extension,
        outcome: io::Result<()>,
    },
    /// Tell the sender that everything it pushed before has been carried out.
    Barrier(oneshot::Sender<()>),
    /// Flush everything and end.
    Stop(oneshot::Sender<()>),
}

/// Commands for one shard, in order.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Vec<Command>>,
    wake: Condvar,
}

/// Byte permits for the appends of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    permits: Arc<Semaphore>,
    total: usize,
}

impl std::fmt::Debug for AppendJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("AppendJob");
        out.field("partition", &self.partition).field("bytes", &self.batch.len()).finish_non_exhaustive()
    }
}

impl AppendJob {
    /// Answers with an error.
    pub(crate) fn refuse(self, failure: Failure, metrics: &StorageMetrics) {
        metrics.append_refused();
        let correlation_id = self.correlation_id;
        (self.reply)(AppendStreamResponse { correlation_id, error: Some(failure.into()), ..Default::default() });
    }
}

impl Queue {
    /// Adds a command.
    pub(crate) fn push(&self, command: Command) {
        let mut waiting = self.waiting.lock();
        waiting.push(command);
        if waiting.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// Takes all commands.
    pub(crate) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// Waits for a command, at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() && !limit.is_zero() {
            self.wake.wait_for(&mut waiting, limit);
        }
    }
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(total)), total }
    }

    /// Waits until there is room for a batch. One larger than everything takes everything.
    pub(crate) async fn admit(&self, bytes: usize) -> AppendPermit {
        let wanted = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.total);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        match Arc::clone(&self.permits).acquire_many_owned(wanted).await {
            Ok(permit) => AppendPermit::holding(permit),
            Err(_closed) => AppendPermit::uncounted(),
        }
    }
}
