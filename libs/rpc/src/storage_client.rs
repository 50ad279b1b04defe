//! A storage node as gateways see it: appends, reads and look-ups of one partition.
//!
//! Inside a process a call is a function call, and batches share their memory; between processes the same calls travel
//! over gRPC (`grpc_storage`).

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use walser_model::{Acks, Durability, LeaderEpoch, NodeId, Offset, Timestamp, TopicPartition};

use crate::{ApiError, Reason};

/// A partition, and the epoch of the leader that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LedPartition {
    pub id: TopicPartition,
    /// [`LeaderEpoch::NONE`]: whichever it is.
    pub leader_epoch: LeaderEpoch,
}

/// A batch that is to be appended.
#[derive(Debug, Clone)]
pub struct AppendBatch {
    pub partition: LedPartition,
    /// Exactly one record batch.
    pub record_batch: Bytes,
    /// When it is answered.
    pub acks: Acks,
    /// The offset that its first record must get; `None`: whichever is next.
    pub expected_offset: Option<Offset>,
    /// W3C trace contexts of its records that are exported, each once.
    pub traces: Vec<Arc<str>>,
}

/// Where and how a batch was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchAppended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// With `message.timestamp.type` LogAppendTime: when, in milliseconds since 1970.
    pub log_append_time: Option<Timestamp>,
    /// First offset of the log.
    pub log_start: Offset,
    /// Epoch of the leader that has appended it.
    pub leader_epoch: LeaderEpoch,
    /// It was there before, from an earlier attempt.
    pub duplicate: bool,
    /// How durable it is on each copy that counts; `None` with acks NONE.
    pub durability: Option<Durability>,
    /// Replicas that have it for certain.
    pub copies: i32,
}

/// What became of an append.
pub type AppendOutcome = Result<BatchAppended, ApiError>;

/// A read of batches from an offset on.
#[derive(Debug, Clone, Copy)]
pub struct ReadBatches {
    pub partition: LedPartition,
    /// Offset of the first record that is wanted.
    pub offset: Offset,
    /// Epoch of the record before, so that a log that has diverged is noticed; [`LeaderEpoch::NONE`]: not known.
    pub last_epoch: LeaderEpoch,
    /// An aim: one batch may be larger. 0: no batches, only whether there are some.
    pub bytes_max: usize,
    /// How long to wait while there is nothing.
    pub wait: Duration,
}

/// Batches that were read.
#[derive(Debug, Clone)]
pub struct BatchesRead {
    /// Whole batches, in order; the first one may begin before the offset. Empty: there is nothing yet.
    pub record_batches: Bytes,
    /// Exclusive end of what is committed.
    pub high_watermark: Offset,
    /// First offset of the log.
    pub log_start: Offset,
    /// Epoch of the leader that has answered.
    pub leader_epoch: LeaderEpoch,
    /// The log is not the one that was read before: the records of the reader's last epoch end here.
    pub diverging: Option<Offset>,
}

/// What an offset is looked up by. Only committed records count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The first offset of the log.
    Earliest,
    /// The end of what is committed.
    Latest,
    /// The first record at or after a time, in milliseconds since 1970.
    Time(Timestamp),
    /// The first record at or after an offset: its time is wanted.
    Record(Offset),
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// `None`: there is no record at or after the time or the offset.
    pub offset: Option<Offset>,
    /// Of the record found, by time or by offset.
    pub timestamp: Option<Timestamp>,
    /// Of the record at the offset; `None` when it has none.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// What a storage node says of a partition.
#[derive(Debug, Clone)]
pub struct DescribedPartition {
    /// Live numbers; why there are none, when the node does not serve the partition.
    pub numbers: Result<PartitionNumbers, ApiError>,
    /// Why it is not in service, or not all of it.
    pub problem: Option<String>,
    /// What helps is giving up what is damaged.
    pub damaged: bool,
    /// Replicas that do not have everything that the leader has.
    pub lags: Vec<LaggingReplica>,
    /// How far it is compacted; `None`: it keeps all records.
    pub compaction: Option<CompactionFigures>,
}

/// How far a log is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionFigures {
    /// Bytes of closed segments below the high watermark that were compacted.
    pub clean_bytes: u64,
    /// Bytes of those that were not.
    pub dirty_bytes: u64,
    /// Everything below was compacted. Exclusive.
    pub compacted: Offset,
    pub running: bool,
    /// The latest that has ended since the node was started.
    pub last: Option<EndedCompaction>,
}

/// A compaction that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedCompaction {
    /// By the node's wall clock.
    pub ended: Timestamp,
    /// Bytes of the segments that were replaced.
    pub bytes_before: u64,
    /// Bytes of those in their place.
    pub bytes_after: u64,
    /// Records that it has left, without tombstones, and tombstones; `None`: nothing was new to it.
    pub left: Option<(u64, u64)>,
}

/// A replica that does not have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaggingReplica {
    pub node: NodeId,
    /// From its log end to the leader's; `None` while that is not known.
    pub offsets: Option<u64>,
    /// Since it last had everything.
    pub behind: Duration,
}

/// Offsets and size of a partition, as its leader has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionNumbers {
    /// First offset of the log.
    pub log_start: Offset,
    /// Exclusive end of what is committed.
    pub high_watermark: Offset,
    /// Size on the disk in bytes.
    pub bytes: u64,
}

/// Room for the bytes of one append at a storage node; freed when it is dropped.
#[derive(Debug, Default)]
pub struct AppendPermit {
    held: Option<Held>,
    /// Of other rooms, or of other partitions.
    others: Vec<Held>,
}

/// Of a partition's part, and of the whole room.
type Held = [OwnedSemaphorePermit; 2];

/// Tells the caller of an append what became of it, once, on any thread. One that is dropped before it has told says
/// that nothing is known: no caller is left waiting, whichever way a request is lost.
pub struct AppendReply {
    tell: Option<Box<dyn FnOnce(AppendOutcome) + Send>>,
}

/// A storage node as gateways see it. Appends to one partition MUST be carried out in the order of the calls.
#[async_trait]
pub trait StorageClient: Send + Sync + Debug {
    /// Waits until the node has room for `bytes` of one more append to a partition.
    async fn admit(&self, partition: TopicPartition, bytes: usize) -> AppendPermit;

    /// Hands over an append. The reply is told once, also when the node goes away.
    fn append(&self, permit: AppendPermit, batch: AppendBatch, reply: AppendReply);

    /// Reads; waits for up to `wait` while there is nothing. Dropping the future ends the wait.
    async fn read(&self, read: ReadBatches) -> Result<BatchesRead, ApiError>;

    /// Looks offsets up; the answers are in the order of the questions.
    async fn look_up_all(
        &self,
        lookups: &[(LedPartition, OffsetQuery)],
    ) -> Result<Vec<Result<OffsetAnswer, ApiError>>, ApiError>;

    /// Looks one offset up.
    async fn look_up(&self, partition: LedPartition, query: OffsetQuery) -> Result<OffsetAnswer, ApiError> {
        let found = self.look_up_all(&[(partition, query)]).await?.into_iter().next();
        found.unwrap_or_else(|| Err(ApiError::internal("a look-up has no answer")))
    }

    /// The node does not count any more: whoever waits for it is told now that no answer comes. Later calls reach it, if it
    /// is there.
    fn give_up(&self) {}

    /// What the node says of partitions that it leads, in their order.
    async fn describe(&self, partitions: &[TopicPartition]) -> Result<Vec<DescribedPartition>, ApiError>;
}

// === impl AppendReply ===

impl AppendReply {
    /// `tell` MUST NOT block.
    pub fn new(tell: impl FnOnce(AppendOutcome) + Send + 'static) -> Self {
        Self { tell: Some(Box::new(tell)) }
    }

    /// Tells the caller the outcome.
    pub fn answer(mut self, outcome: AppendOutcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: AppendOutcome) {
        if let Some(tell) = self.tell.take() {
            tell(outcome);
        }
    }
}

impl Drop for AppendReply {
    fn drop(&mut self) {
        if self.tell.is_some() {
            let failure = ApiError::new(Reason::LeaderLostAfterAppend, "the request was lost on its way");
            self.tell(Err(failure.with("appended", "unknown")));
        }
    }
}

impl Debug for AppendReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppendReply").finish_non_exhaustive()
    }
}

// === impl AppendPermit ===

impl AppendPermit {
    /// A permit that returns what it holds.
    pub(crate) fn holding(permits: Held) -> Self {
        Self { held: Some(permits), others: Vec::new() }
    }

    /// A permit that was never counted.
    pub fn uncounted() -> Self {
        Self::default()
    }

    /// Takes over what another permit holds: for appends that leave as one.
    pub fn join(&mut self, other: Self) {
        for more in other.held.into_iter().chain(other.others) {
            match &mut self.held {
                Some(held) if can_merge(held, &more) => {
                    held.iter_mut().zip(more).for_each(|(held, more)| held.merge(more));
                }
                Some(_) => self.others.push(more),
                held => *held = Some(more),
            }
        }
    }
}

/// Whether permits are of the same room and partition, and can be counted as one.
fn can_merge(held: &Held, more: &Held) -> bool {
    let counted = |permit: &OwnedSemaphorePermit| u32::try_from(permit.num_permits()).unwrap_or(u32::MAX);
    held.iter().zip(more).all(|(held, more)| {
        Arc::ptr_eq(held.semaphore(), more.semaphore()) && counted(held).checked_add(counted(more)).is_some()
    })
}
