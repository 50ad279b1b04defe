//! `Read`: a stream of everything from a position on, to an end or for ever.
//!
//! Each partition is read by a task of its own into one bounded queue, so that a client that stops reading stops the
//! tasks. The driver merges: it counts records, says when everything is caught up, and sends heartbeats. Whatever is
//! decoded and not sent yet holds budget; a reader at the live end waits for records without any.

mod outlet;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use walser_model::Offset;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_rpc::{Failure, Reason, catch_panic};

use crate::Gateway;
use crate::budget::{ReadPermit, StreamBudget};
use crate::decode::{Amount, Undecoded};
use crate::fetch::Cursor;
use crate::retry::Backoff;
use crate::target::{Options, Place, Target};

use self::outlet::{Item, Outlet, outlet};

/// Aim of a chunk.
const CHUNK_BYTES: i32 = 1 << 20;
/// Chunks between the readers of partitions and the client.
const QUEUE: usize = 1;
/// How long one look at a partition waits; the stream itself has no limit.
const WAIT: Duration = Duration::from_secs(10);
const HEARTBEAT_MIN_MS: u64 = 5_000;
const HEARTBEAT_SPREAD_MS: u64 = 10_000;

/// What a partition's reader says.
enum Said {
    Chunk(pb::RecordChunk, i64, ReadPermit),
    Reset(pb::OffsetReset),
    CaughtUp(i64),
    Problem(Failure),
    /// Bounded and done.
    Ended,
    /// Never to be read again.
    Failed(Failure),
}

/// How a partition's reader speaks.
struct Voice {
    said: mpsc::Sender<(usize, Said)>,
    number: usize,
    budget: StreamBudget,
}

/// Where a partition stands, as the driver knows it.
struct Standing {
    name: pb::TopicPartition,
    next_offset: i64,
    end_offset: i64,
    caught_up: bool,
    over: bool,
}

/// The merging end of a read.
struct Driver {
    gateway: Gateway,
    outlet: Outlet,
    standings: Vec<Standing>,
    records_left: i64,
    all_caught_up: bool,
    /// Topics whose later partitions are read too, with what to do for them.
    growing: Vec<(Arc<str>, i32, Option<Place>)>,
    options: Options,
    said: mpsc::Sender<(usize, Said)>,
    readers: JoinSet<()>,
    budget: StreamBudget,
    failure: Option<Failure>,
}

impl Gateway {
    /// Starts a read; errors of the request itself are answered at once.
    pub(crate) async fn read(&self, request: pb::ReadRequest) -> Result<impl Stream<Item = Item> + use<>, Failure> {
        let options = crate::target::options(request.options.as_ref())?;
        if request.max_records < 0 {
            return Err(Failure::field("max_records", "must not be negative"));
        }
        let targets = self.targets(&request.targets, Some(Place::Latest)).await?;
        let mut growing = Vec::new();
        for asked in request.targets.iter().filter(|asked| asked.partition.is_none() && asked.end.is_none()) {
            let topic = self.topic(&asked.topic).await?;
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            growing.push((Arc::clone(&topic.name), count, None));
        }
        let mut cursors = Vec::new();
        for target in targets {
            cursors.push(self.cursor(target).await?);
        }
        let budget = self.read_budget.stream();
        let (outlet, stream) = outlet(budget.clone());
        let (said, heard) = mpsc::channel(QUEUE);
        let mut driver = Driver {
            gateway: self.clone(),
            outlet,
            standings: Vec::new(),
            records_left: if request.max_records == 0 { i64::MAX } else { request.max_records },
            all_caught_up: false,
            growing,
            options,
            said,
            readers: JoinSet::new(),
            budget,
            failure: None,
        };
        for cursor in cursors {
            driver.open(cursor);
        }
        let failing = driver.outlet.failing();
        tokio::spawn(async move {
            if let Err(failure) = catch_panic(driver.run(heard)).await {
                failing.send(failure).await;
            }
        });
        Ok(stream)
    }

    fn heartbeat_delay(&self) -> Duration {
        let random = u64::from_be_bytes(self.random.bytes()[..8].try_into().expect("eight bytes"));
        Duration::from_millis(HEARTBEAT_MIN_MS + random % HEARTBEAT_SPREAD_MS)
    }
}

impl Driver {
    fn open(&mut self, cursor: Cursor) {
        let number = self.standings.len();
        self.standings.push(Standing {
            name: cursor.topic_partition(),
            next_offset: cursor.offset.0,
            end_offset: cursor.offset.0,
            caught_up: false,
            over: false,
        });
        let records = usize::try_from(self.records_left).unwrap_or(usize::MAX);
        let voice = Voice { said: self.said.clone(), number, budget: self.budget.clone() };
        let reader = follow(self.gateway.clone(), cursor, self.options, records, voice);
        self.readers.spawn(reader);
    }

    async fn run(mut self, mut heard: mpsc::Receiver<(usize, Said)>) {
        let mut metadata = self.gateway.metadata.changes();
        let mut heartbeat_at = tokio::time::Instant::now() + self.gateway.heartbeat_delay();
        loop {
            let gateway = self.gateway.clone();
            let event = tokio::select! {
                biased;
                () = self.outlet.closed() => return,
                () = gateway.shutdown.wait() => {
                    let grace = Some(gateway.shutdown.grace().into());
                    let drain = pb::ReadResponse { event: Some(Event::Drain(pb::Drain { grace })) };
                    self.outlet.send(Ok(drain), None).await;
                    return;
                }
                Some(read) = self.readers.join_next() => {
                    // The partition would never be heard of again, and the stream would look complete.
                    if read.is_err_and(|error| error.is_panic()) {
                        let failure = Failure::internal("reading a partition met a bug of the server");
                        self.outlet.send(Err(failure.into()), None).await;
                        return;
                    }
                    continue;
                }
                said = heard.recv() => said,
                changed = metadata.changed(), if !self.growing.is_empty() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_new_partitions().await;
                    continue;
                }
                () = tokio::time::sleep_until(heartbeat_at) => {
                    heartbeat_at = tokio::time::Instant::now() + self.gateway.heartbeat_delay();
                    let heartbeat = self.heartbeat();
                    if !self.send(Event::Heartbeat(heartbeat)).await {
                        return;
                    }
                    continue;
                }
            };
            let Some((number, said)) = event else { return };
            heartbeat_at = tokio::time::Instant::now() + self.gateway.heartbeat_delay();
            if !self.take(number, said).await || self.finished().await {
                return;
            }
        }
    }

    async fn send(&mut self, event: Event) -> bool {
        self.outlet.send(Ok(pb::ReadResponse { event: Some(event) }), None).await
    }

    /// Passes on what a reader said. False: the stream is over.
    async fn take(&mut self, number: usize, said: Said) -> bool {
        match said {
            Said::Chunk(mut chunk, record_count, permit) => {
                let standing = &mut self.standings[number];
                if record_count > self.records_left {
                    cut(&mut chunk, self.records_left);
                    self.records_left = 0;
                } else {
                    self.records_left -= record_count;
                }
                standing.next_offset = chunk.next_offset;
                standing.end_offset = chunk.high_watermark;
                standing.caught_up = chunk.next_offset >= chunk.high_watermark;
                let chunk = pb::ReadResponse { event: Some(Event::Chunk(chunk)) };
                let sent = self.outlet.send(Ok(chunk), Some(permit)).await;
                sent && self.records_left > 0 && self.tell_caught_up().await
            }
            Said::CaughtUp(end_offset) => {
                let standing = &mut self.standings[number];
                (standing.caught_up, standing.end_offset) = (true, end_offset);
                self.tell_caught_up().await
            }
            Said::Reset(reset) => {
                self.standings[number].next_offset = reset.actual_offset;
                self.send(Event::OffsetReset(reset)).await
            }
            Said::Problem(failure) => self.tell_problem(number, failure).await,
            Said::Ended => {
                self.standings[number].over = true;
                let name = self.standings[number].name.clone();
                self.send(Event::EndReached(name)).await && self.tell_caught_up().await
            }
            Said::Failed(failure) => {
                self.standings[number].over = true;
                let fatal = matches!(failure.reason(), Reason::OffsetOutOfRange | Reason::LogDiverged)
                    || matches!(failure.reason(), Reason::RecordExceedsClientLimit | Reason::TopicRecreated);
                if fatal {
                    self.outlet.send(Err(failure.into()), None).await;
                    return false;
                }
                self.failure.get_or_insert_with(|| failure.clone());
                self.tell_problem(number, failure).await
            }
        }
    }

    async fn tell_problem(&mut self, number: usize, failure: Failure) -> bool {
        let topic_partition = Some(self.standings[number].name.clone());
        let error = pb::PartitionError { topic_partition, error: Some(failure.into()) };
        self.send(Event::PartitionError(error)).await
    }

    /// Says once that every partition has reached its live end, and again after one fell behind.
    async fn tell_caught_up(&mut self) -> bool {
        let now = self.standings.iter().all(|standing| standing.caught_up || standing.over);
        let open = self.standings.iter().any(|standing| !standing.over);
        let news = now && open && !self.all_caught_up;
        self.all_caught_up = now;
        !news || self.send(Event::CaughtUp(pb::CaughtUp { progress: self.progress() })).await
    }

    /// Whether every partition is done; a failure then ends the stream with its status.
    async fn finished(&mut self) -> bool {
        let over = self.growing.is_empty() || self.failure.is_some();
        if !over || self.standings.iter().any(|standing| !standing.over) {
            return false;
        }
        if let Some(failure) = self.failure.take() {
            self.outlet.send(Err(failure.into()), None).await;
        }
        true
    }

    fn progress(&self) -> Vec<pb::PartitionProgress> {
        let progress = |standing: &Standing| pb::PartitionProgress {
            topic_partition: Some(standing.name.clone()),
            next_offset: standing.next_offset,
            end_offset: standing.end_offset,
        };
        self.standings.iter().filter(|standing| !standing.over).map(progress).collect()
    }

    fn heartbeat(&self) -> pb::StreamHeartbeat {
        let now = self.gateway.clock.now_millis();
        let nanos = i32::try_from(now.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        let server_time = Some(pbjson_types::Timestamp { seconds: now.div_euclid(1000), nanos });
        pb::StreamHeartbeat { server_time, progress: self.progress() }
    }

    /// Reads partitions that were added to a topic, from their start.
    async fn follow_new_partitions(&mut self) {
        let mut new = Vec::new();
        for (number, (name, known, end)) in self.growing.iter().enumerate() {
            let Some(topic) = self.gateway.metadata.topic(name) else { continue };
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            for partition in *known..count {
                let topic = Arc::clone(&topic);
                let target = Target { topic, partition, start: Place::Earliest, end: *end, last_epoch: -1 };
                new.push((number, target));
            }
        }
        for (number, target) in new {
            let after = target.partition + 1;
            match self.gateway.cursor(target).await {
                Ok(cursor) => {
                    self.open(cursor);
                    self.growing[number].1 = after;
                }
                // Tried again with the next change of metadata, in order.
                Err(failure) => {
                    tracing::warn!(error = %failure, "a new partition is not read yet");
                    return;
                }
            }
        }
    }
}

/// Cuts a chunk of plain records to a number of them; whole batches stay whole.
fn cut(chunk: &mut pb::RecordChunk, count: i64) {
    let count = usize::try_from(count).unwrap_or(0);
    if chunk.records.len() > count {
        chunk.records.truncate(count);
        chunk.next_offset = chunk.records.last().map_or(chunk.next_offset, |record| record.offset + 1);
    }
}

/// Reads one partition until its end, or until nobody listens.
async fn follow(gateway: Gateway, mut cursor: Cursor, options: Options, records_max: usize, voice: Voice) {
    let Voice { said, number, budget } = voice;
    let mut standing = Follower { caught_up: false, told: false };
    let mut backoff = Backoff::default();
    loop {
        if cursor.end.is_some_and(|end| cursor.offset >= end) {
            let _ = said.send((number, Said::Ended)).await;
            return;
        }
        let word = match standing.look(&gateway, &mut cursor, options, records_max, &budget).await {
            Ok(Some(word)) => word,
            Ok(None) => {
                backoff.pause().await;
                continue;
            }
            Err(failure) => match gateway.reset(&mut cursor, &failure, options.out_of_range).await {
                Some(reset) => Said::Reset(reset),
                None if failure.retry() == pb::RetryAdvice::Backoff => Said::Problem(failure),
                None => {
                    let _ = said.send((number, Said::Failed(failure))).await;
                    return;
                }
            },
        };
        let pause = matches!(word, Said::Problem(_));
        if said.send((number, word)).await.is_err() {
            return;
        }
        if pause {
            backoff.pause().await;
        } else {
            backoff = Backoff::default();
        }
    }
}

/// Where the reader of a partition stands.
struct Follower {
    caught_up: bool,
    /// The driver knows that it is caught up.
    told: bool,
}

impl Follower {
    /// Waits for records when everything is read, then reads the next ones. `None`: nothing is there after all.
    async fn look(
        &mut self,
        gateway: &Gateway,
        cursor: &mut Cursor,
        options: Options,
        records_max: usize,
        budget: &StreamBudget,
    ) -> Result<Option<Said>, Failure> {
        // The first look does not wait, so that a reader at the live end is told at once.
        while self.caught_up && self.told {
            self.caught_up = !gateway.wait_for_records(cursor, WAIT).await?;
        }
        let amount = Amount::whole(CHUNK_BYTES, records_max);
        let (chunk, permit) = match gateway.next_chunk(cursor, options.shape, amount, budget).await {
            Ok(read) => read,
            Err(Undecoded::Failed(failure)) => return Err(failure),
            Err(Undecoded::NoRoom) => {
                let failure = Failure::new(Reason::BatchUnreadable, "the record does not fit any message");
                return Err(failure.with("offset", cursor.offset));
            }
        };
        if chunk.decoded.record_count == 0 && chunk.decoded.next_offset <= cursor.offset.0 {
            self.caught_up = true;
            let news = !std::mem::replace(&mut self.told, true);
            return Ok(news.then_some(Said::CaughtUp(chunk.high_watermark)));
        }
        let count = chunk.decoded.record_count;
        let chunk = cursor.advance(chunk);
        self.caught_up = cursor.offset >= Offset(chunk.high_watermark);
        self.told = self.caught_up;
        Ok(Some(Said::Chunk(chunk, count, permit)))
    }
}
