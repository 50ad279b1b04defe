//! The log of a shard, as its driver needs it: batches of events in, acknowledgements out, everything from the start.

mod partition;

#[cfg(test)]
pub(crate) mod memory;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use walser_model::Offset;
use walser_rpc::{ApiError, Reason};

pub(crate) use partition::PartitionLog;

/// One append.
#[derive(Debug)]
pub(crate) struct LogBatch {
    /// The offset that its first record must get: the writer has seen everything below. `None`: whichever it gets.
    pub(crate) expected_offset: Option<Offset>,
    /// One record batch.
    pub(crate) record_batch: Bytes,
}

/// Batches that were read.
#[derive(Debug)]
pub(crate) struct LogChunk {
    /// Whole batches, in order; the first may begin before the offset that was asked for.
    pub(crate) record_batches: Bytes,
}

/// What becomes of one append: told once it is replicated, or refused, or lost.
pub(crate) type AppendAck = oneshot::Receiver<Result<(), ApiError>>;

/// The log of one shard. Appends MUST take effect in the order of the calls. One whose `expected_offset` is not the end of
/// the log MUST be refused: so a batch behind one that was refused is refused, too, and so is that of a coordinator that has
/// not seen what another one wrote. An append that was acknowledged is read by every later [`ShardLog::read`].
#[async_trait]
pub(crate) trait ShardLog: Send + Sync + Debug {
    /// Waits until there is a log.
    async fn wait_until_there(&self);

    /// The end of what is committed, exclusive.
    async fn end(&self) -> Result<Offset, ApiError>;

    /// Reads committed batches from an offset on, at least one where there is one, and a few MiB at most.
    async fn read(&self, from: Offset) -> Result<LogChunk, ApiError>;

    /// Hands over a batch; waits only while there is no room for it.
    async fn append(&self, batch: LogBatch) -> AppendAck;
}

/// What is told when an acknowledgement was lost.
pub(crate) fn lost() -> ApiError {
    ApiError::new(Reason::LeaderLostAfterAppend, "the acknowledgement of an append was lost")
}
