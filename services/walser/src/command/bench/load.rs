//! The load: producers that write as fast as they can, or by a schedule.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use walser_client::{ApiError, Client, Delivery, Producer, ProducerConfig};
use walser_model::{Clock as _, SystemClock};
use walser_record_batch::{BatchBuilder, RecordFields};

use super::{Measured, Seen, Span};
use crate::cli::BenchArgs;

/// Different values of a producer, sent in turn: they do not compress, and do not all lie in the cache.
const VALUES: usize = 1024;
/// Bytes of all values of all producers together, as long as each has two.
const VALUES_BYTES: usize = 256 << 20;
const BUFFER_BYTES: usize = 32 << 20;
/// A batch that is not acknowledged for so long ends the run.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for a time in the value, for `e2e`.
pub(crate) const STAMP_BYTES: usize = 8;

/// A batch on its way, with the times that its records count from.
struct Flight {
    since: Vec<Duration>,
    delivery: Delivery,
    _permits: Option<OwnedSemaphorePermit>,
}

/// One producer's own state.
struct Sender {
    producer: Producer,
    flights: mpsc::Sender<Flight>,
    clock: Arc<SystemClock>,
    arguments: BenchArgs,
    values: Vec<Vec<u8>>,
    in_flight: Option<Arc<Semaphore>>,
    span: Span,
    /// Records that nobody has taken yet, over all producers.
    left: Arc<AtomicU64>,
    partition: i32,
    stamp: bool,
    next_value: usize,
    key: Key,
}

/// The keys of one producer's records, in turn.
struct Key {
    /// Of how many; none where that is not said.
    count: Option<u64>,
    next: u64,
    step: u64,
    text: String,
}

impl Key {
    fn next(&mut self) -> Option<&[u8]> {
        let count = self.count?.max(1);
        self.text.clear();
        let _ = write!(self.text, "{:016}", self.next % count);
        self.next = self.next.wrapping_add(self.step);
        Some(self.text.as_bytes())
    }
}

/// Records being gathered.
struct Open {
    builder: BatchBuilder,
    since: Vec<Duration>,
    permits: Option<OwnedSemaphorePermit>,
}

/// Writes with every producer of the arguments. `stamp`: put the time into each value, for the reader.
pub(crate) async fn produce(
    client: &Client,
    topic: &str,
    arguments: &BenchArgs,
    clock: &Arc<SystemClock>,
    span: Span,
    stamp: Option<()>,
    seen: &Arc<Seen>,
) -> Result<Measured, ApiError> {
    let left = Arc::new(AtomicU64::new(span.records));
    let count = arguments.producers.max(1);
    let mut senders = Vec::new();
    let mut collectors = Vec::new();
    for number in 0..count {
        let config = ProducerConfig {
            topic: topic.to_owned(),
            acks: arguments.acks,
            delivery_timeout: DELIVERY_TIMEOUT,
            buffer_bytes: BUFFER_BYTES,
        };
        let (flights, landed) = mpsc::channel(4096);
        let sender = Sender {
            producer: Producer::start(client, config).await?,
            flights,
            clock: Arc::clone(clock),
            values: values(number, count, usize::try_from(arguments.size).unwrap_or(usize::MAX), stamp.is_some()),
            in_flight: arguments.in_flight.map(|limit| Arc::new(Semaphore::new(limit.div_ceil(count).max(1)))),
            span,
            left: Arc::clone(&left),
            partition: i32::try_from(number).unwrap_or(0) % arguments.partitions.max(1),
            stamp: stamp.is_some(),
            next_value: number,
            key: Key { count: arguments.keys, next: number as u64, step: count as u64, text: String::new() },
            arguments: arguments.clone(),
        };
        senders.push(tokio::spawn(sender.run(number, count)));
        collectors.push(tokio::spawn(collect(landed, Arc::clone(clock), span, arguments.size, Arc::clone(seen))));
    }
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(sender.await.map_err(|error| ApiError::internal(error.to_string()))?);
    }
    let mut all = Measured::empty();
    for collector in collectors {
        let one = collector.await.map_err(|error| ApiError::internal(error.to_string()))??;
        all.records += one.records;
        all.bytes += one.bytes;
        all.elapsed = all.elapsed.max(one.elapsed);
        let _ = all.latency.add(&one.latency);
    }
    // Where a delivery has failed, its sender knows only that nobody counts any more.
    sent.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(all)
}

/// Values of random bytes (`SplitMix64`).
fn values(seed: usize, producers: usize, size: usize, stamped: bool) -> Vec<Vec<u8>> {
    let size = if stamped { size.max(STAMP_BYTES) } else { size };
    let mut state = 7 + seed as u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let count = (VALUES_BYTES / producers / size.max(1)).clamp(2, VALUES);
    let mut value = || {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            bytes.extend_from_slice(&next().to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    };
    (0..count).map(|_| value()).collect()
}

impl Sender {
    async fn run(mut self, number: usize, count: usize) -> Result<(), ApiError> {
        match self.arguments.rate {
            None => self.at_full_speed().await,
            Some(rate) => self.by_schedule(rate.max(1), number, count).await,
        }
    }

    fn over(&self) -> bool {
        self.span.end.is_some_and(|end| self.clock.monotonic() >= end)
    }

    /// Takes up to `wanted` records of those that are left.
    fn take(&self, wanted: u64) -> u64 {
        let take = |left: u64| Some(left.saturating_sub(wanted));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or(0).min(wanted)
    }

    async fn at_full_speed(&mut self) -> Result<(), ApiError> {
        let per_batch = (self.arguments.batch_bytes / (self.arguments.size + 16)).max(1);
        while !self.over() {
            let wanted = if self.in_flight.is_some() { 1 } else { per_batch };
            let count = self.take(wanted);
            if count == 0 {
                break;
            }
            let mut open = self.open(usize::try_from(count).unwrap_or(1)).await;
            let now = self.clock.monotonic();
            for _ in 0..count {
                self.append(&mut open, now);
            }
            self.send(open).await?;
        }
        Ok(())
    }

    /// Record i is due at start + i / rate, whatever happens to those before it.
    async fn by_schedule(&mut self, rate: u64, number: usize, count: usize) -> Result<(), ApiError> {
        let start = self.clock.monotonic();
        let linger = Duration::from_millis(self.arguments.linger);
        let step = Duration::from_secs_f64(1.0 / precise(rate)) * u32::try_from(count).unwrap_or(1);
        let offset = Duration::from_secs_f64(precise(number as u64) / precise(rate));
        let mut index = 0_u64;
        let mut open: Option<Open> = None;
        loop {
            let since = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).saturating_mul(index);
            let due = start + offset + Duration::from_nanos(since);
            let now = self.clock.monotonic();
            let waited = open.as_ref().and_then(|open| open.since.first().copied());
            if let Some(since) = waited
                && (due > now || self.full(open.as_ref()))
                && (now.saturating_sub(since) >= linger || self.full(open.as_ref()))
                && let Some(ready) = open.take()
            {
                self.send(ready).await?;
                continue;
            }
            if self.over() {
                break;
            }
            if due > now {
                let until = waited.map_or(due, |since| due.min(since + linger));
                tokio::time::sleep(until.saturating_sub(now)).await;
                continue;
            }
            if self.take(1) == 0 {
                break;
            }
            let mut gathering = match open.take() {
                Some(open) => open,
                None => self.open(1).await,
            };
            self.append(&mut gathering, due);
            open = Some(gathering);
            index += 1;
        }
        match open {
            Some(open) => self.send(open).await,
            None => Ok(()),
        }
    }

    fn full(&self, open: Option<&Open>) -> bool {
        let limit = usize::try_from(self.arguments.batch_bytes).unwrap_or(usize::MAX);
        open.is_some_and(|open| open.builder.uncompressed_len() >= limit)
    }

    async fn open(&self, records: usize) -> Open {
        let permits = match &self.in_flight {
            Some(limit) => Arc::clone(limit).acquire_owned().await.ok(),
            None => None,
        };
        let size = usize::try_from(self.arguments.size).unwrap_or(0) + 24;
        let builder = BatchBuilder::new(self.arguments.compression, 64 + size * records);
        Open { builder, since: Vec::with_capacity(records), permits }
    }

    fn append(&mut self, open: &mut Open, since: Duration) {
        let index = self.next_value % self.values.len();
        self.next_value += 1;
        if self.stamp {
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            self.values[index][..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
        }
        let timestamp = self.clock.now_millis();
        let (key, value) = (self.key.next(), Some(&*self.values[index]));
        open.builder.append(&RecordFields { timestamp, key, value, headers: &[] });
        open.since.push(since);
    }

    async fn send(&mut self, open: Open) -> Result<(), ApiError> {
        let Open { builder, since, permits } = open;
        let delivery = self.producer.send(self.partition, builder).await?;
        self.partition = (self.partition + 1) % self.arguments.partitions.max(1);
        let flight = Flight { since, delivery, _permits: permits };
        self.flights.send(flight).await.map_err(|_| ApiError::internal("a delivery failed"))
    }
}

/// Awaits deliveries and counts what falls into the measured time.
async fn collect(
    mut landed: mpsc::Receiver<Flight>,
    clock: Arc<SystemClock>,
    span: Span,
    size: u64,
    seen: Arc<Seen>,
) -> Result<Measured, ApiError> {
    let mut measured = Measured::empty();
    let mut last = span.warm_until;
    while let Some(flight) = landed.recv().await {
        flight.delivery.await?;
        let count = flight.since.len() as u64;
        seen.add(count, count * size);
        let now = clock.monotonic();
        if now < span.warm_until || span.end.is_some_and(|end| now > end) {
            continue;
        }
        last = now;
        measured.records += count;
        measured.bytes += count * size;
        for since in flight.since {
            let micros = u64::try_from(now.saturating_sub(since).as_micros()).unwrap_or(u64::MAX);
            measured.latency.saturating_record(micros.max(1));
        }
    }
    let from = if span.warm_until.is_zero() { Duration::ZERO } else { span.warm_until };
    measured.elapsed = last.saturating_sub(from);
    Ok(measured)
}

#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
fn precise(value: u64) -> f64 {
    value as f64
}
