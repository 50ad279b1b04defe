//! `Read`: a stream of everything from a position on, to an end or for ever.
//!
//! Each partition is read by a task of its own ([`follow`]) into one bounded queue, so that a client that stops reading
//! stops the tasks, and a partition without a leader holds up no other. The driver merges: it counts records, says when
//! everything is caught up, and sends heartbeats. Whatever is decoded and not sent yet holds budget.
//!
//! The stream ends with OK only when everything was sent that was asked for.

mod follow;
mod outlet;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_rpc::{Failure, Reason, SendGate, catch_panic, wire_time};

use crate::error::draining;

use super::Reading;
use super::budget::StreamBudget;
use super::target::{Options, Place, Target};

use self::follow::{Said, Voice, follow};
use self::outlet::{Item, Outlet, outlet};

/// Bytes of a message beside the progress that it carries.
const MESSAGE_OVERHEAD: usize = 64;
/// Chunks between the readers of partitions and the client.
const QUEUE: usize = 1;

/// Where a partition stands, as the driver knows it.
struct Standing {
    name: pb::TopicPartition,
    /// `None` until its place is found.
    next_offset: Option<i64>,
    end_offset: i64,
    caught_up: bool,
    over: bool,
}

/// The merging end of a read.
struct Driver {
    reading: Reading,
    outlet: Outlet,
    standings: Vec<Standing>,
    records_left: i64,
    all_caught_up: bool,
    /// Topics whose later partitions are read, too, with the number of those that are known.
    growing: Vec<(Arc<str>, i32)>,
    options: Options,
    said: mpsc::Sender<(usize, Said)>,
    readers: JoinSet<()>,
    budget: StreamBudget,
    failure: Option<Failure>,
}

impl Reading {
    /// Starts a read; errors of the request itself are answered at once.
    pub(crate) async fn read(
        &self,
        request: pb::ReadRequest,
    ) -> Result<(impl Stream<Item = Item> + use<>, SendGate), Failure> {
        let options = super::target::options(request.options.as_ref())?;
        if request.max_records < 0 {
            return Err(Failure::field("max_records", "must not be negative"));
        }
        let targets = self.positions.targets(&request.targets).await?;
        let mut growing = Vec::new();
        for asked in request.targets.iter().filter(|asked| asked.partition.is_none() && asked.end.is_none()) {
            let known = targets.iter().filter(|target| *target.topic.name == *asked.topic);
            let count = known.map(|target| target.partition + 1).max().unwrap_or(0);
            growing.push((Arc::from(asked.topic.as_str()), count));
        }
        let budget = self.budget.stream();
        let (outlet, stream, gate) = outlet(budget.clone());
        let (said, heard) = mpsc::channel(QUEUE);
        let mut driver = Driver {
            reading: self.clone(),
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
        for target in targets {
            driver.open(target);
        }
        let failing = driver.outlet.failing();
        tokio::spawn(async move {
            if let Err(failure) = catch_panic(driver.run(heard)).await {
                failing.send(failure).await;
            }
        });
        Ok((stream, gate))
    }
}

impl Driver {
    fn open(&mut self, target: Target) {
        let number = self.standings.len();
        let name = target.topic_partition();
        self.standings.push(Standing { name, next_offset: None, end_offset: 0, caught_up: false, over: false });
        // A partition that is opened later has not been caught up with.
        self.all_caught_up = false;
        let records = usize::try_from(self.records_left).unwrap_or(usize::MAX);
        let voice = Voice { said: self.said.clone(), number, budget: self.budget.clone() };
        let reader = follow(self.reading.partitions.clone(), target, self.options, records, voice);
        self.readers.spawn(reader);
    }

    async fn run(mut self, mut heard: mpsc::Receiver<(usize, Said)>) {
        let mut metadata = self.reading.metadata.changes();
        // What was added since the targets were looked up.
        self.follow_new_partitions();
        let mut heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
        loop {
            let shutdown = self.reading.shutdown.clone();
            let event = tokio::select! {
                biased;
                () = self.outlet.closed() => return,
                () = shutdown.wait() => {
                    let grace = Some(shutdown.grace().into());
                    let drain = pb::ReadResponse { event: Some(Event::Drain(pb::Drain { grace })) };
                    if self.outlet.send(Ok(drain), None).await {
                        self.outlet.send(Err(draining().into()), None).await;
                    }
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
                    self.follow_new_partitions();
                    continue;
                }
                () = tokio::time::sleep_until(heartbeat_at) => {
                    heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
                    for progress in self.progress() {
                        let server_time = Some(wire_time(self.reading.heartbeats.server_time()));
                        if !self.send(Event::Heartbeat(pb::StreamHeartbeat { server_time, progress })).await {
                            return;
                        }
                    }
                    continue;
                }
            };
            let Some((number, said)) = event else { return };
            heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
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
                standing.next_offset = Some(chunk.next_offset);
                standing.end_offset = chunk.high_watermark;
                standing.caught_up = chunk.next_offset >= chunk.high_watermark;
                let chunk = pb::ReadResponse { event: Some(Event::Chunk(chunk)) };
                let sent = self.outlet.send(Ok(chunk), Some(permit)).await;
                sent && self.records_left > 0 && self.tell_caught_up().await
            }
            Said::Opened(offset) => {
                let standing = &mut self.standings[number];
                (standing.next_offset, standing.end_offset) = (Some(offset), offset);
                true
            }
            Said::CaughtUp(end_offset) => {
                let standing = &mut self.standings[number];
                (standing.caught_up, standing.end_offset) = (true, end_offset);
                self.tell_caught_up().await
            }
            Said::Reset(reset) => {
                self.standings[number].next_offset = Some(reset.actual_offset);
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
        if news {
            for progress in self.progress() {
                if !self.send(Event::CaughtUp(pb::CaughtUp { progress })).await {
                    return false;
                }
            }
        }
        true
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

    /// Where the reader stands in every partition, in parts that fit the client's messages; at least one.
    fn progress(&self) -> Vec<Vec<pb::PartitionProgress>> {
        let progress = |standing: &Standing| {
            let (topic_partition, end_offset) = (Some(standing.name.clone()), standing.end_offset);
            standing.next_offset.map(|next_offset| pb::PartitionProgress { topic_partition, next_offset, end_offset })
        };
        let room = self.options.shape.message_bytes_max.saturating_sub(MESSAGE_OVERHEAD);
        let (mut parts, mut bytes) = (vec![Vec::new()], 0);
        for progress in self.standings.iter().filter(|standing| !standing.over).filter_map(progress) {
            let size = prost::Message::encoded_len(&progress) + 8;
            if bytes + size > room {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            parts.last_mut().expect("there is one").push(progress);
        }
        parts
    }

    /// Reads partitions that were added to a topic, from their start.
    fn follow_new_partitions(&mut self) {
        let mut new = Vec::new();
        for (name, known) in &mut self.growing {
            let Some(topic) = self.reading.metadata.topic(name) else { continue };
            let count = topic.value.partition_count;
            for partition in *known..count {
                let topic = Arc::clone(&topic);
                new.push(Target { topic, partition, start: Place::Earliest, end: None, last_epoch: -1 });
            }
            *known = count.max(*known);
        }
        new.into_iter().for_each(|target| self.open(target));
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
