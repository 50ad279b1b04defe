//! Bounded reads: one partition's next chunk, and the `Fetch` call over several.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use walser_model::Offset;
use walser_proto::internal::v1::{FetchStreamRequest, FetchStreamResponse};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use crate::Gateway;
use crate::budget::{ReadPermit, StreamBudget};
use crate::decode::{Amount, Decoded, Shape, Undecoded, decode};
use crate::retry::{Backoff, PATIENCE, moved, while_moved};
use crate::target::{Options, Place, Target};

const WAIT_DEFAULT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
const BYTES_DEFAULT: i32 = 1 << 20;
const BYTES_MAX: i32 = 16 << 20;

/// A chunk with the marks of its partition.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) decoded: Decoded,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) leader_epoch: i32,
}

/// The answer of a `Fetch`, and the budget that it holds until it is sent.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) response: pb::FetchResponse,
    pub(crate) permit: ReadPermit,
}

/// A partition being read.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(crate) target: Target,
    pub(crate) offset: Offset,
    pub(crate) end: Option<Offset>,
    pub(crate) last_epoch: i32,
}

/// One look at all partitions of a call.
#[derive(Debug, Clone, Default)]
struct Pass {
    cursors: Vec<Cursor>,
    response: pb::FetchResponse,
    bytes: usize,
    /// Memory that the chunks hold, in bytes.
    cost: usize,
    /// A limit of the call was reached.
    full: bool,
    /// Nothing fits the budget that was taken, or a leader moves: the round is made again.
    again: Option<Again>,
    failure: Option<Failure>,
}

/// How one round over the partitions is made.
#[derive(Debug, Clone, Copy)]
struct Round {
    within: Amount,
    /// There is no more to be had.
    whole: bool,
    /// A leader that moves is a reason for another round.
    patient: bool,
}

/// Why a round is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The first record needs more budget.
    NoRoom,
    /// A leader moves, or was lost.
    Moved,
}

impl Pass {
    fn note(&mut self, partition: pb::TopicPartition, failure: Failure) {
        let error = Some(failure.clone().into());
        self.response.errors.push(pb::PartitionError { topic_partition: Some(partition), error });
        self.failure.get_or_insert(failure);
    }

    /// Adds a chunk to the answer.
    fn take(&mut self, cursor: &mut Cursor, chunk: Chunk, left: &mut Amount) {
        left.take(&chunk.decoded);
        self.bytes += chunk.decoded.size_bytes;
        self.cost += chunk.decoded.cost;
        self.response.chunks.push(cursor.advance(chunk));
    }

    fn answer(self) -> Result<pb::FetchResponse, Failure> {
        match self.failure {
            // Nothing worked: a client that looks only at the status must not take this for an empty answer.
            Some(failure) if self.response.chunks.is_empty() && self.response.resets.is_empty() => Err(failure),
            _ => Ok(self.response),
        }
    }
}

impl Cursor {
    pub(crate) fn topic_partition(&self) -> pb::TopicPartition {
        pb::TopicPartition { topic: self.target.topic.name.to_string(), partition: self.target.partition }
    }

    /// The chunk as it travels; the cursor goes on behind it.
    pub(crate) fn advance(&mut self, chunk: Chunk) -> pb::RecordChunk {
        self.offset = Offset(chunk.decoded.next_offset);
        self.last_epoch = -1;
        pb::RecordChunk {
            topic: self.target.topic.name.to_string(),
            partition: self.target.partition,
            records: chunk.decoded.records,
            record_batches: chunk.decoded.batches,
            next_offset: chunk.decoded.next_offset,
            high_watermark: chunk.high_watermark,
            last_stable_offset: chunk.high_watermark,
            log_start_offset: chunk.log_start,
            leader_epoch: chunk.leader_epoch,
            size_bytes: i64::try_from(chunk.decoded.size_bytes).unwrap_or(i64::MAX),
        }
    }
}

impl Gateway {
    /// Opens a cursor at the start of a target.
    pub(crate) async fn cursor(&self, target: Target) -> Result<Cursor, Failure> {
        let offset = self.boundary(&target, target.start).await?;
        let end = match target.end {
            Some(place) => Some(self.boundary(&target, place).await?),
            None => None,
        };
        let last_epoch = target.last_epoch;
        Ok(Cursor { target, offset, end, last_epoch })
    }

    /// Reads what is there next, within the budget of a stream. Moves of the leader are waited out, without budget.
    pub(crate) async fn next_chunk(
        &self,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
        budget: &StreamBudget,
    ) -> Result<(Chunk, ReadPermit), Undecoded> {
        let ordinary = amount.ordinary(cursor.target.topic.config.message_bytes_max);
        match self.chunk_within(cursor, shape, ordinary, budget).await {
            Err(Undecoded::NoRoom) => self.chunk_within(cursor, shape, amount, budget).await,
            outcome => outcome,
        }
    }

    async fn chunk_within(
        &self,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
        budget: &StreamBudget,
    ) -> Result<(Chunk, ReadPermit), Undecoded> {
        let attempt = || async {
            let permit = budget.take(amount.cost).await;
            Ok((self.read_batches(cursor, amount.bytes, Duration::ZERO).await?, permit))
        };
        let (read, mut permit) = while_moved(PATIENCE, attempt).await?;
        let chunk = self.chunk(read, cursor, shape, amount)?;
        permit.keep(chunk.decoded.cost);
        self.metrics.consumed(chunk.decoded.size_bytes);
        Ok((chunk, permit))
    }

    fn chunk(
        &self,
        read: FetchStreamResponse,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
    ) -> Result<Chunk, Undecoded> {
        let decoded = decode(read.record_batches, cursor.offset, cursor.end, shape, amount)?;
        Ok(Chunk {
            decoded,
            high_watermark: read.high_watermark,
            log_start: read.log_start_offset,
            leader_epoch: read.leader_epoch,
        })
    }

    /// Waits up to `wait` until there is something behind the cursor, without reading it: who waits holds no memory.
    /// Moves of the leader are waited out. False: nothing came in time.
    ///
    /// # Errors
    /// As for reading.
    pub(crate) async fn wait_for_records(&self, cursor: &Cursor, wait: Duration) -> Result<bool, Failure> {
        let read = while_moved(wait + PATIENCE, || self.read_batches(cursor, 0, wait)).await?;
        Ok(read.high_watermark > cursor.offset.0)
    }

    /// Asks the leader once for batches from the cursor on; waits up to `wait` for some. With an aim of 0 bytes the
    /// leader answers without batches once there are some.
    async fn read_batches(&self, cursor: &Cursor, bytes: i32, wait: Duration) -> Result<FetchStreamResponse, Failure> {
        let route = self.route(&cursor.target.topic, cursor.target.partition)?;
        let request = FetchStreamRequest {
            correlation_id: 0,
            r#ref: Some(route.reference),
            offset: cursor.offset.0,
            last_epoch: cursor.last_epoch,
            max_bytes: bytes,
            max_wait: Some(wait.into()),
            committed_only: true,
            cancel: false,
        };
        let answer = route.link.fetch(request).await;
        if let Some(error) = answer.error {
            let failure = Failure::from(error).with("topic", &cursor.target.topic.name);
            return Err(failure.with("partition", cursor.target.partition));
        }
        if let Some(diverging) = answer.diverging_offset {
            let lost = cursor.offset.since(Offset(diverging));
            let text = format!("{lost} records before offset {} are not the ones you read any more", cursor.offset);
            let failure = Failure::new(Reason::LogDiverged, text).with("topic", &cursor.target.topic.name);
            let failure = failure.with("partition", cursor.target.partition);
            return Err(failure.with("divergingOffset", diverging).with("lostCount", lost));
        }
        Ok(answer)
    }

    /// Moves a cursor that is out of range, as the reader wants. `None`: the reader wants the error.
    pub(crate) async fn reset(
        &self,
        cursor: &mut Cursor,
        failure: &Failure,
        policy: pb::OutOfRangePolicy,
    ) -> Option<pb::OffsetReset> {
        if failure.reason() != Reason::OffsetOutOfRange {
            return None;
        }
        let place = match policy {
            pb::OutOfRangePolicy::Earliest => Place::Earliest,
            pb::OutOfRangePolicy::Latest => Place::Latest,
            pb::OutOfRangePolicy::Unspecified | pb::OutOfRangePolicy::Fail => return None,
        };
        let actual = self.boundary(&cursor.target, place).await.ok()?;
        let requested = std::mem::replace(&mut cursor.offset, actual);
        Some(pb::OffsetReset {
            topic_partition: Some(cursor.topic_partition()),
            requested_offset: requested.0,
            actual_offset: actual.0,
            skipped_count: actual.since(requested).max(0),
        })
    }

    /// Carries out `Fetch`: looks at every partition, and again whenever something has come, until there is enough.
    pub(crate) async fn fetch(&self, request: &pb::FetchRequest, limit: Option<Duration>) -> Result<Fetched, Failure> {
        let options = crate::target::options(request.options.as_ref())?;
        let (wait, amount) = amounts(request, limit)?;
        let targets = self.targets(&request.targets, None).await?;
        let min_bytes = usize::try_from(request.min_bytes.max(1)).unwrap_or(1);
        let until = tokio::time::Instant::now() + wait;
        let mut pass = Pass::default();
        for target in targets {
            let name = pb::TopicPartition { topic: target.topic.name.to_string(), partition: target.partition };
            match self.cursor(target).await {
                Ok(cursor) => pass.cursors.push(cursor),
                Err(failure) => pass.note(name, failure),
            }
        }
        let (mut came, mut last, mut backoff) = (false, false, Backoff::default());
        loop {
            let (looked, permit) = self.look_at_all(&pass, options, amount).await;
            let enough = looked.bytes >= min_bytes || looked.full || looked.failure.is_some();
            last |= tokio::time::Instant::now() >= until;
            if last || enough || looked.cursors.is_empty() {
                self.metrics.consumed(looked.bytes);
                return Ok(Fetched { response: looked.answer()?, permit });
            }
            // What was read is dropped for the wait, and read again with what comes.
            let Pass { cursors, bytes, response, .. } = looked;
            drop((response, permit));
            if came && bytes == 0 {
                // The high watermark is ahead of what can be read, for a moment.
                backoff.pause().await;
            }
            came = self.something_comes(&cursors, until).await;
            last = !came;
        }
    }

    /// Reads what is there, partition by partition, within the limits of the call and the budget of the process.
    /// Budget is taken once for everything: who holds some never waits for more.
    async fn look_at_all(&self, pass: &Pass, options: Options, amount: Amount) -> (Pass, ReadPermit) {
        let batch_bytes = pass.cursors.iter().map(|cursor| cursor.target.topic.config.message_bytes_max).max();
        let mut within = amount.ordinary(batch_bytes.unwrap_or(0));
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let mut permit = self.read_budget.take(within.cost).await;
            let round =
                Round { within, whole: within.cost == amount.cost, patient: tokio::time::Instant::now() < until };
            let looked = self.look_within(pass.clone(), options, round).await;
            match looked.again {
                None => {
                    permit.keep(looked.cost);
                    return (looked, permit);
                }
                Some(Again::NoRoom) => within = amount,
                Some(Again::Moved) => {
                    drop((looked, permit));
                    backoff.pause().await;
                }
            }
        }
    }

    /// One round over the partitions.
    async fn look_within(&self, mut pass: Pass, options: Options, round: Round) -> Pass {
        let mut cursors = std::mem::take(&mut pass.cursors);
        let mut left = round.within;
        for cursor in &mut cursors {
            if left.is_spent() {
                pass.full = true;
                break;
            }
            let room = options.within(pass.bytes);
            match self.fetch_part(cursor, room, left, &mut pass.response).await {
                Ok(Some(chunk)) => pass.take(cursor, chunk, &mut left),
                Ok(None) => {}
                Err(Undecoded::NoRoom) if pass.bytes == 0 && !round.whole => {
                    pass.again = Some(Again::NoRoom);
                    break;
                }
                // It fits a message of its own: the next call gets it.
                Err(Undecoded::NoRoom) => pass.full = true,
                Err(Undecoded::Failed(failure))
                    if pass.bytes > 0 && failure.reason() == Reason::RecordExceedsClientLimit =>
                {
                    pass.full = true;
                }
                Err(Undecoded::Failed(failure)) if round.patient && moved(&failure) => {
                    pass.again = Some(Again::Moved);
                    break;
                }
                Err(Undecoded::Failed(failure)) => pass.note(cursor.topic_partition(), failure),
            }
        }
        pass.cursors = cursors;
        pass
    }

    /// Waits for anything new behind what was read. False: nothing came in time.
    async fn something_comes(&self, cursors: &[Cursor], until: tokio::time::Instant) -> bool {
        let wait = until.saturating_duration_since(tokio::time::Instant::now());
        if wait.is_zero() {
            return false;
        }
        let waiting = cursors.iter().map(|cursor| self.wait_for_records(cursor, wait));
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        let news = async {
            while let Some(outcome) = waiting.next().await {
                if outcome.is_ok_and(|came| came) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout_at(until, news).await.unwrap_or(false)
    }

    /// One look at a partition. `None`: nothing there yet.
    async fn fetch_part(
        &self,
        cursor: &mut Cursor,
        options: Options,
        amount: Amount,
        response: &mut pb::FetchResponse,
    ) -> Result<Option<Chunk>, Undecoded> {
        let mut read = self.read_batches(cursor, amount.bytes, Duration::ZERO).await;
        if let Err(failure) = &read
            && let Some(reset) = self.reset(cursor, failure, options.out_of_range).await
        {
            response.resets.push(reset);
            read = self.read_batches(cursor, amount.bytes, Duration::ZERO).await;
        }
        let chunk = self.chunk(read?, cursor, options.shape, amount)?;
        if chunk.decoded.record_count > 0 || chunk.decoded.ended {
            return Ok(Some(chunk));
        }
        // What is waited for lies behind batches that have no records for clients.
        cursor.offset = cursor.offset.max(Offset(chunk.decoded.next_offset));
        Ok(None)
    }
}

fn amounts(request: &pb::FetchRequest, limit: Option<Duration>) -> Result<(Duration, Amount), Failure> {
    let wait = match request.max_wait {
        None => WAIT_DEFAULT,
        Some(wait) => {
            Duration::try_from(wait).map_err(|_| Failure::field("max_wait", "must not be negative"))?.min(WAIT_MAX)
        }
    };
    // The caller's deadline leaves time for the answer to travel.
    let wait = limit.map_or(wait, |limit| wait.min(limit.saturating_sub(limit / 10)));
    for (field, value) in
        [("min_bytes", request.min_bytes), ("max_bytes", request.max_bytes), ("max_records", request.max_records)]
    {
        if value < 0 {
            return Err(Failure::field(field, "must not be negative"));
        }
    }
    let bytes = if request.max_bytes == 0 { BYTES_DEFAULT } else { request.max_bytes.min(BYTES_MAX) };
    let records = if request.max_records == 0 { usize::MAX } else { usize::try_from(request.max_records).unwrap_or(1) };
    Ok((wait, Amount::whole(bytes, records)))
}
