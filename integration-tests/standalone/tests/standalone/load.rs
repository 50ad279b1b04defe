//! A steady load of small records with acks=all, and the pauses in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use walser_client::{Client, Producer, ProducerConfig};
use walser_history::Event;
use walser_model::{Acks, Clock as _, Compression, SystemClock};
use walser_record_batch::{BatchBuilder, RecordFields};

use crate::faults::until;
use crate::replicated::Seen;

/// Partitions that are written to.
pub(crate) const PARTITIONS: i32 = 10;
/// Time between two records of a partition: 1,000 a second of all.
const EVERY: Duration = Duration::from_millis(10);

/// Times at which records of each partition were acknowledged.
type Acknowledged = Arc<Vec<Mutex<Vec<Instant>>>>;

/// Writers of topic `t`, one for each partition, that share a producer which writes exactly once.
pub(crate) struct Load {
    seen: Seen,
    acknowledged: Acknowledged,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    pub(crate) async fn start(client: &Client) -> Self {
        let config = ProducerConfig {
            topic: "t".to_owned(),
            acks: Acks::All,
            delivery_timeout: Duration::from_secs(120),
            buffer_bytes: 16 << 20,
        };
        let producer = Producer::start(client, config).await.unwrap();
        let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let acknowledged: Acknowledged = Arc::new((0..PARTITIONS).map(|_| Mutex::default()).collect());
        let mut writers = JoinSet::new();
        for partition in 0..PARTITIONS {
            let (producer, seen, stop) = (producer.clone(), seen.clone(), Arc::clone(&stop));
            writers.spawn(write(producer, partition, seen, Arc::clone(&acknowledged), stop));
        }
        Self { seen, acknowledged, stop, writers }
    }

    /// Waits until each of these partitions has had so many acknowledgements since a moment.
    pub(crate) async fn go_on(&self, partitions: &[i32], since: Instant, count: usize) {
        let after = |partition: &i32| {
            let times = self.acknowledged[index(*partition)].lock().unwrap();
            times.iter().rev().take_while(|time| **time > since).count() >= count
        };
        until(async || partitions.iter().all(after), "writes go on").await;
    }

    /// The longest time between two acknowledgements of one of these partitions, from just before a moment on.
    pub(crate) fn gap(&self, partitions: &[i32], since: Instant) -> Duration {
        let of = |partition: &i32| {
            let times = self.acknowledged[index(*partition)].lock().unwrap();
            let begin = times.partition_point(|time| *time <= since).saturating_sub(1);
            times[begin..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        };
        partitions.iter().map(of).max().unwrap_or_default()
    }

    /// What was written, for a judge.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Ends the load. Returns how many records each partition has.
    pub(crate) async fn stop(&mut self) -> BTreeMap<i32, i64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
        let count = |partition: i32| self.acknowledged[index(partition)].lock().unwrap().len();
        (0..PARTITIONS).map(|partition| (partition, i64::try_from(count(partition)).unwrap())).collect()
    }

    /// Ends the load, reads everything, and judges it. Returns how many records were acknowledged.
    pub(crate) async fn judge(mut self, client: &Client) -> u64 {
        self.stop().await;
        for partition in 0..PARTITIONS {
            self.seen.read(client, partition, true).await;
        }
        self.seen.assert_valid()
    }
}

fn index(partition: i32) -> usize {
    usize::try_from(partition).unwrap()
}

async fn write(producer: Producer, partition: i32, seen: Seen, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
    let (clock, mut ticks) = (SystemClock::start(), tokio::time::interval(EVERY));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0.. {
        ticks.tick().await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let value = format!("{partition}/{number}");
        let send = Event::send(format!("writer {partition}"), "t", partition.unsigned_abs(), value.as_str());
        seen.note(send.clone());
        let mut builder = BatchBuilder::new(Compression::None, 200);
        let timestamp = clock.now_millis();
        builder.append(&RecordFields { timestamp, key: None, value: Some(value.as_bytes()), headers: &[] });
        let delivered = producer.send(partition, builder).await.unwrap().await.unwrap();
        seen.note(send.ok().at(delivered.base_offset.unsigned_abs()));
        acknowledged[index(partition)].lock().unwrap().push(Instant::now());
    }
}

/// Pauses of several faults, for people: `median 0.78 s, 90 % 0.83 s, worst 0.83 s`.
pub(crate) fn summary(mut gaps: Vec<Duration>) -> String {
    gaps.sort();
    let at = |share: usize| gaps[(gaps.len() * share / 100).min(gaps.len() - 1)].as_secs_f64();
    format!("median {:.2} s, 90 % {:.2} s, worst {:.2} s", at(50), at(90), at(100))
}
