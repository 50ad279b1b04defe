//! Reading one partition: where a reader stands in it, and its next chunk.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{LeaderEpoch, Offset};
use walser_rpc::{ApiError, BatchesRead, ReadBatches, Reason};

use crate::error::no_answer;
use crate::metrics::GatewayMetrics;
use crate::router::{LedBy, Router};

use super::answer::{Chunk, Reset};
use super::budget::{ReadPermit, StreamBudget};
use super::decode::{Amount, Undecoded, decode};
use super::request::{OutOfRange, ReadPosition, Shape};
use super::target::{Positions, Target};

/// A partition being read.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(crate) target: Target,
    pub(crate) offset: Offset,
    pub(crate) end: Option<Offset>,
    pub(crate) last_epoch: i32,
}

impl Cursor {
    /// Whether everything before the end has been read.
    pub(crate) fn ended(&self) -> bool {
        self.end.is_some_and(|end| self.offset >= end)
    }

    /// Goes on behind a chunk.
    pub(crate) fn advance(&mut self, chunk: &Chunk) {
        self.offset = Offset(chunk.content.next_offset);
        self.last_epoch = -1;
    }
}

/// Reads one partition. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct PartitionReader {
    positions: Positions,
    router: Router,
    metrics: GatewayMetrics,
}

impl PartitionReader {
    pub(crate) fn new(positions: Positions, router: Router, metrics: GatewayMetrics) -> Self {
        Self { positions, router, metrics }
    }

    /// Who leads the partition of a target, as far as is known.
    pub(crate) fn led_by(&self, target: &Target) -> LedBy {
        self.router.led_by(&target.topic, target.partition)
    }

    /// Waits until another than `known` leads the partition of a target.
    pub(crate) async fn leader_changes(&self, target: &Target, known: LedBy) {
        self.router.leader_changes(&target.topic, target.partition, known).await;
    }

    /// Opens a cursor at the start of a target.
    ///
    /// # Errors
    /// As for look-ups; leaders that move are waited for.
    pub(crate) async fn open(&self, target: Target) -> Result<Cursor, ApiError> {
        let offset = self.positions.boundary(&target, target.start).await?;
        let end = match target.end {
            Some(place) => Some(self.positions.boundary(&target, place).await?),
            None => None,
        };
        let last_epoch = target.last_epoch;
        Ok(Cursor { target, offset, end, last_epoch })
    }

    /// Checks the offset of a cursor that lies behind its end: nothing is to be read, but an offset that the log does
    /// not reach yet is one of another log.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` for such an offset; as for reading.
    pub(crate) async fn check_behind_end(&self, cursor: &Cursor) -> Result<(), ApiError> {
        if cursor.end.is_none_or(|end| cursor.offset <= end) {
            return Ok(());
        }
        match self.read_batches(cursor, 0, Duration::ZERO).await {
            Err(failure) if failure.reason() == Reason::OffsetOutOfRange => {
                let end = failure.value("logEndOffset").and_then(|end| end.parse::<i64>().ok());
                // Before the log start lie only records that nobody asked for.
                if end.is_some_and(|end| cursor.offset.0 <= end) { Ok(()) } else { Err(failure) }
            }
            outcome => outcome.map(drop),
        }
    }

    /// Reads what is there next, within the budget of a stream. A leader that does not answer within `answer_max` counts
    /// as lost, so that the budget is free for others.
    pub(crate) async fn next_chunk(
        &self,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
        budget: &StreamBudget,
        answer_max: Duration,
    ) -> Result<(Chunk, ReadPermit), Undecoded> {
        let ordinary = amount.ordinary(cursor.target.topic.settings.config.message_bytes_max);
        match self.chunk_within(cursor, shape, ordinary, budget, answer_max).await {
            Err(Undecoded::NoRoom) => self.chunk_within(cursor, shape, amount, budget, answer_max).await,
            outcome => outcome,
        }
    }

    async fn chunk_within(
        &self,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
        budget: &StreamBudget,
        answer_max: Duration,
    ) -> Result<(Chunk, ReadPermit), Undecoded> {
        let mut permit = budget.take(amount.cost).await;
        let read = self.read_batches_within(cursor, amount.bytes, answer_max).await?;
        let chunk = Self::chunk(read, cursor, shape, amount)?;
        permit.keep(chunk.content.cost);
        self.metrics.consumed(&cursor.target.topic, chunk.content.size_bytes);
        Ok((chunk, permit))
    }

    /// Decodes what the leader has answered.
    pub(crate) fn chunk(read: BatchesRead, cursor: &Cursor, shape: Shape, amount: Amount) -> Result<Chunk, Undecoded> {
        let content = decode(read.record_batches, cursor.offset, cursor.end, shape, amount)?;
        Ok(Chunk {
            topic: Arc::clone(&cursor.target.topic),
            partition: cursor.target.partition,
            content,
            high_watermark: read.high_watermark.0,
            log_start: read.log_start.0,
            leader_epoch: read.leader_epoch.0,
        })
    }

    /// Waits up to `wait` until there is something behind the cursor, without reading it: who waits holds no memory.
    /// False: nothing came in time.
    ///
    /// # Errors
    /// As for reading.
    pub(crate) async fn wait_for_records(&self, cursor: &Cursor, wait: Duration) -> Result<bool, ApiError> {
        let read = self.read_batches(cursor, 0, wait).await?;
        Ok(read.high_watermark > cursor.offset)
    }

    /// Asks the leader once for what is there, and waits for the answer at most `answer_max`.
    pub(crate) async fn read_batches_within(
        &self,
        cursor: &Cursor,
        bytes: usize,
        answer_max: Duration,
    ) -> Result<BatchesRead, ApiError> {
        let read = self.read_batches(cursor, bytes, Duration::ZERO);
        let answer = tokio::time::timeout(answer_max, read).await;
        answer.unwrap_or_else(|_elapsed| Err(no_answer(&cursor.target.topic, cursor.target.partition)))
    }

    /// Asks the leader once for batches from the cursor on; waits up to `wait` for some. With an aim of 0 bytes the
    /// leader answers without batches once there are some.
    async fn read_batches(&self, cursor: &Cursor, bytes: usize, wait: Duration) -> Result<BatchesRead, ApiError> {
        let route = self.router.route(&cursor.target.topic, cursor.target.partition)?;
        let read = ReadBatches {
            partition: route.partition,
            offset: cursor.offset,
            last_epoch: LeaderEpoch(cursor.last_epoch),
            bytes_max: bytes,
            wait,
        };
        let answer = route.storage.read(read).await.map_err(|failure| {
            failure.with("topic", &cursor.target.topic.name).with("partition", cursor.target.partition)
        })?;
        if let Some(diverging) = answer.diverging {
            let lost = cursor.offset.since(diverging);
            let text = format!("{lost} records before offset {} are not the ones you read any more", cursor.offset);
            let failure = ApiError::new(Reason::LogDiverged, text).with("topic", &cursor.target.topic.name);
            let failure = failure.with("partition", cursor.target.partition);
            return Err(failure.with("divergingOffset", diverging).with("lostCount", lost));
        }
        Ok(answer)
    }

    /// Moves a cursor that is out of range, as the reader wants. `None`: the reader wants the error.
    ///
    /// # Errors
    /// When the place to move to is not found.
    pub(crate) async fn reset(
        &self,
        cursor: &mut Cursor,
        failure: &ApiError,
        policy: OutOfRange,
    ) -> Result<Option<Reset>, ApiError> {
        if failure.reason() != Reason::OffsetOutOfRange {
            return Ok(None);
        }
        let place = match policy {
            OutOfRange::Earliest => ReadPosition::Earliest,
            OutOfRange::Latest => ReadPosition::Latest,
            OutOfRange::Fail => return Ok(None),
        };
        let actual = self.positions.boundary(&cursor.target, place).await?;
        let requested = std::mem::replace(&mut cursor.offset, actual);
        Ok(Some(Reset { of: cursor.target.name(), requested, actual }))
    }
}
