//! A stream of everything from a position on, to an end or for ever.
//!
//! The partitions are read side by side ([`OpenPartitions`]). The driver merges: it counts records, says when everything
//! is caught up, and sends heartbeats. Whatever is decoded and not sent yet holds budget.
//!
//! The stream ends with OK only when everything was sent that was asked for.

use std::sync::Arc;

use tokio_stream::Stream;
use walser_rpc::{ApiError, Reason, SendGate, catch_panic};
use walser_service::StreamEnd;

use crate::error::draining;

use super::Reading;
use super::answer::{PartitionFailure, PartitionName, Progress, ReadEvent, in_messages};
use super::decode::Decoded;
use super::follow::PartitionEvent;
use super::open_partitions::OpenPartitions;
use super::outlet::{Item, Outlet, outlet};
use super::request::{Options, ReadPosition, ReadRequest};
use super::target::Target;

/// Where a partition stands, as the driver knows it.
struct ReadProgress {
    name: PartitionName,
    /// `None` until its place is found.
    next_offset: Option<i64>,
    end_offset: i64,
    caught_up: bool,
    over: bool,
}

/// The merging end of a read.
struct Driver {
    reading: Reading,
    outlet: Outlet<ReadEvent>,
    open: OpenPartitions,
    partitions: Vec<ReadProgress>,
    records_left: i64,
    all_caught_up: bool,
    /// Topics whose later partitions are read, too, with the number of those that are known.
    growing: Vec<(Arc<str>, i32)>,
    options: Options,
    failure: Option<ApiError>,
    end: StreamEnd,
}

impl Reading {
    /// Starts a read; errors of the request itself are answered at once.
    pub(crate) async fn read(
        &self,
        request: ReadRequest,
        end: StreamEnd,
    ) -> Result<(impl Stream<Item = Item<ReadEvent>> + use<>, SendGate), ApiError> {
        let ReadRequest { targets: asked, options, records_max } = request;
        let targets = self.positions.targets(&asked).await?;
        let mut growing = Vec::new();
        for asked in asked.iter().filter(|asked| asked.partition.is_none() && asked.end.is_none()) {
            let known = targets.iter().filter(|target| *target.topic.name == *asked.topic);
            let count = known.map(|target| target.partition + 1).max().unwrap_or(0);
            growing.push((Arc::from(asked.topic.as_str()), count));
        }
        let budget = self.budget.stream();
        let (outlet, stream, gate) = outlet(budget.clone());
        let mut driver = Driver {
            reading: self.clone(),
            outlet,
            open: OpenPartitions::new(self, options, budget),
            partitions: Vec::new(),
            records_left: records_max,
            all_caught_up: false,
            growing,
            options,
            failure: None,
            end,
        };
        for target in targets {
            driver.open(target);
        }
        let failing = driver.outlet.failing();
        tokio::spawn(async move {
            if let Err(failure) = catch_panic(driver.run()).await {
                failing.send(failure).await;
            }
        });
        Ok((stream, gate))
    }
}

impl Driver {
    fn open(&mut self, target: Target) {
        let name = target.name();
        self.partitions.push(ReadProgress { name, next_offset: None, end_offset: 0, caught_up: false, over: false });
        // A partition that is opened later has not been caught up with.
        self.all_caught_up = false;
        let records = usize::try_from(self.records_left).unwrap_or(usize::MAX);
        self.open.open(target, records);
    }

    async fn run(mut self) {
        let mut metadata = self.reading.metadata.changes();
        // What was added since the targets were looked up.
        self.follow_new_partitions();
        let mut heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
        loop {
            let end = self.end.clone();
            let wakes = end.age_reached().map_or(heartbeat_at, |at| at.min(heartbeat_at));
            let event = tokio::select! {
                biased;
                () = self.outlet.closed() => return,
                () = end.stop() => return self.drain().await,
                told = self.open.next() => told,
                changed = metadata.changed(), if !self.growing.is_empty() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_new_partitions();
                    continue;
                }
                () = tokio::time::sleep_until(wakes) => {
                    if end.begun() {
                        return self.drain().await;
                    }
                    heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
                    for progress in self.progress() {
                        let server_time = self.reading.heartbeats.server_time();
                        if !self.send(ReadEvent::Heartbeat { server_time, progress }).await {
                            return;
                        }
                    }
                    continue;
                }
            };
            let (number, told) = match event {
                Ok(told) => told,
                Err(failure) => {
                    self.outlet.send(Err(failure), None).await;
                    return;
                }
            };
            heartbeat_at = tokio::time::Instant::now() + self.reading.heartbeats.delay();
            if !self.take(number, told).await || self.finished().await {
                return;
            }
        }
    }

    /// Has the client open the stream again.
    async fn drain(&mut self) {
        if self.send(ReadEvent::Drain(self.end.grace())).await {
            self.outlet.send(Err(draining()), None).await;
        }
    }

    async fn send(&mut self, event: ReadEvent) -> bool {
        self.outlet.send(Ok(event), None).await
    }

    /// Passes on what a reader said. False: the stream is over.
    async fn take(&mut self, number: usize, told: PartitionEvent) -> bool {
        match told {
            PartitionEvent::Chunk(mut chunk, permit) => {
                let partition = &mut self.partitions[number];
                let record_count = chunk.content.record_count;
                if record_count > self.records_left {
                    cut(&mut chunk.content, self.records_left);
                    self.records_left = 0;
                } else {
                    self.records_left -= record_count;
                }
                partition.next_offset = Some(chunk.content.next_offset);
                partition.end_offset = chunk.high_watermark;
                partition.caught_up = chunk.content.next_offset >= chunk.high_watermark;
                let sent = self.outlet.send(Ok(ReadEvent::Chunk(chunk)), Some(permit)).await;
                sent && self.records_left > 0 && self.tell_caught_up().await
            }
            PartitionEvent::Opened(offset) => {
                let partition = &mut self.partitions[number];
                (partition.next_offset, partition.end_offset) = (Some(offset), offset);
                true
            }
            PartitionEvent::CaughtUp(end_offset) => {
                let partition = &mut self.partitions[number];
                (partition.caught_up, partition.end_offset) = (true, end_offset);
                self.tell_caught_up().await
            }
            PartitionEvent::Reset(reset) => {
                self.partitions[number].next_offset = Some(reset.actual.0);
                self.send(ReadEvent::Reset(reset)).await
            }
            PartitionEvent::Problem(failure) => self.tell_problem(number, failure).await,
            PartitionEvent::Ended => {
                self.partitions[number].over = true;
                let name = self.partitions[number].name.clone();
                self.send(ReadEvent::EndReached(name)).await && self.tell_caught_up().await
            }
            PartitionEvent::Failed(failure) => {
                self.partitions[number].over = true;
                let fatal = matches!(failure.reason(), Reason::OffsetOutOfRange | Reason::LogDiverged)
                    || matches!(failure.reason(), Reason::RecordExceedsClientLimit | Reason::TopicRecreated);
                if fatal {
                    self.outlet.send(Err(failure), None).await;
                    return false;
                }
                self.failure.get_or_insert_with(|| failure.clone());
                self.tell_problem(number, failure).await
            }
        }
    }

    async fn tell_problem(&mut self, number: usize, failure: ApiError) -> bool {
        let of = self.partitions[number].name.clone();
        self.send(ReadEvent::Problem(PartitionFailure { of, failure })).await
    }

    /// Says once that every partition has reached its live end, and again after one fell behind.
    async fn tell_caught_up(&mut self) -> bool {
        let now = self.partitions.iter().all(|partition| partition.caught_up || partition.over);
        let open = self.partitions.iter().any(|partition| !partition.over);
        let news = now && open && !self.all_caught_up;
        self.all_caught_up = now;
        if news {
            for progress in self.progress() {
                if !self.send(ReadEvent::CaughtUp(progress)).await {
                    return false;
                }
            }
        }
        true
    }

    /// Whether every partition is done; a failure then ends the stream with its status.
    async fn finished(&mut self) -> bool {
        let over = self.growing.is_empty() || self.failure.is_some();
        if !over || self.partitions.iter().any(|partition| !partition.over) {
            return false;
        }
        if let Some(failure) = self.failure.take() {
            self.outlet.send(Err(failure), None).await;
        }
        true
    }

    /// Where the reader stands in every partition, in parts that fit the client's messages; at least one.
    fn progress(&self) -> Vec<Vec<Progress>> {
        let progress = |partition: &ReadProgress| {
            let (of, end_offset) = (partition.name.clone(), partition.end_offset);
            partition.next_offset.map(|next_offset| Progress { of, next_offset, end_offset })
        };
        let open = self.partitions.iter().filter(|partition| !partition.over);
        in_messages(open.filter_map(progress), self.options.shape.message_bytes_max)
    }

    /// Reads partitions that were added to a topic, from their start.
    fn follow_new_partitions(&mut self) {
        let mut new = Vec::new();
        for (name, known) in &mut self.growing {
            let Some(topic) = self.reading.metadata.topic(name) else { continue };
            let count = topic.value.partition_count;
            for partition in *known..count {
                let topic = Arc::clone(&topic);
                new.push(Target { topic, partition, start: ReadPosition::Earliest, end: None, last_epoch: -1 });
            }
            *known = count.max(*known);
        }
        new.into_iter().for_each(|target| self.open(target));
    }
}

/// Cuts plain records to a number of them; whole batches stay whole.
fn cut(content: &mut Decoded, count: i64) {
    let count = usize::try_from(count).unwrap_or(0);
    if content.records.len() > count {
        content.records.truncate(count);
        content.next_offset = content.records.last().map_or(content.next_offset, |last| last.record.offset.plus(1).0);
    }
}
