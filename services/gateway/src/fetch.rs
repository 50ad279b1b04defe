//! Bounded reads: one partition's next chunk, and the `Fetch` call over several.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use walser_model::Offset;
use walser_proto::internal::v1::{FetchStreamRequest, FetchStreamResponse};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use crate::Gateway;
use crate::decode::{Amount, Decoded, Shape, Undecoded, decode};
use crate::retry::{PATIENCE, while_moved};
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
    /// A limit of the call was reached.
    full: bool,
    failure: Option<Failure>,
}

impl Pass {
    fn note(&mut self, partition: pb::TopicPartition, failure: Failure) {
        let error = Some(failure.clone().into());
        self.response.errors.push(pb::PartitionError { topic_partition: Some(partition), error });
        self.failure.get_or_insert(failure);
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

    /// Reads the next chunk; waits up to `wait` for one. Moves of the leader are waited out.
    pub(crate) async fn next_chunk(
        &self,
        cursor: &Cursor,
        shape: Shape,
        amount: Amount,
        wait: Duration,
    ) -> Result<Chunk, Undecoded> {
        let read = while_moved(wait + PATIENCE, || self.read_batches(cursor, amount.bytes, wait)).await?;
        let decoded = decode(read.record_batches, cursor.offset, cursor.end, shape, amount)?;
        self.metrics.consumed(decoded.size_bytes);
        Ok(Chunk {
            decoded,
            high_watermark: read.high_watermark,
            log_start: read.log_start_offset,
            leader_epoch: read.leader_epoch,
        })
    }

    /// Asks the leader once for batches from the cursor on; waits up to `wait` for some.
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
    pub(crate) async fn fetch(
        &self,
        request: &pb::FetchRequest,
        limit: Option<Duration>,
    ) -> Result<pb::FetchResponse, Failure> {
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
        loop {
            let mut looked = pass.clone();
            self.look_at_all(&mut looked, options, amount).await;
            let enough = looked.bytes >= min_bytes || looked.full || looked.failure.is_some();
            if enough || looked.cursors.is_empty() || !self.something_comes(&looked, options, until).await {
                return looked.answer();
            }
        }
    }

    /// Reads what is there, partition by partition, within the limits of the call.
    async fn look_at_all(&self, pass: &mut Pass, options: Options, mut left: Amount) {
        let mut cursors = std::mem::take(&mut pass.cursors);
        for cursor in &mut cursors {
            if left.is_spent() {
                pass.full = true;
                break;
            }
            let room = options.within(pass.bytes);
            match self.fetch_part(cursor, room, left, Duration::ZERO, &mut pass.response).await {
                Ok(Some(chunk)) => pass.bytes += take(&mut pass.response, cursor, chunk, &mut left),
                Ok(None) => {}
                // It fits a message of its own: the next call gets it.
                Err(Undecoded::NoRoom) => pass.full = true,
                Err(Undecoded::Failed(failure))
                    if pass.bytes > 0 && failure.reason() == Reason::RecordExceedsClientLimit =>
                {
                    pass.full = true;
                }
                Err(Undecoded::Failed(failure)) => pass.note(cursor.topic_partition(), failure),
            }
        }
        pass.cursors = cursors;
    }

    /// Waits for anything new behind what was read. False: nothing came in time.
    async fn something_comes(&self, pass: &Pass, options: Options, until: tokio::time::Instant) -> bool {
        let one = Amount::whole(1, 1);
        let wait = until.saturating_duration_since(tokio::time::Instant::now());
        if wait.is_zero() {
            return false;
        }
        let waiting = pass.cursors.iter().map(|cursor| self.next_chunk(cursor, options.shape, one, wait));
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        let news = async {
            while let Some(outcome) = waiting.next().await {
                if outcome.is_ok_and(|chunk| chunk.decoded.record_count > 0) {
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
        wait: Duration,
        response: &mut pb::FetchResponse,
    ) -> Result<Option<Chunk>, Undecoded> {
        let first = self.next_chunk(cursor, options.shape, amount, wait).await;
        let chunk = match first {
            Err(Undecoded::NoRoom) => return Err(Undecoded::NoRoom),
            Err(Undecoded::Failed(failure)) => match self.reset(cursor, &failure, options.out_of_range).await {
                Some(reset) => {
                    response.resets.push(reset);
                    self.next_chunk(cursor, options.shape, amount, wait).await?
                }
                None => return Err(failure.into()),
            },
            Ok(chunk) => chunk,
        };
        let something = chunk.decoded.record_count > 0 || chunk.decoded.ended;
        Ok(something.then_some(chunk))
    }
}

/// Adds a chunk to the answer; gives back its bytes.
fn take(response: &mut pb::FetchResponse, cursor: &mut Cursor, chunk: Chunk, left: &mut Amount) -> usize {
    let size = chunk.decoded.size_bytes;
    left.take(&chunk.decoded);
    response.chunks.push(cursor.advance(chunk));
    size
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
