//! The world of the shard's simulation: clients, disk, clock, and the jobs of the flush threads.

mod checks;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use walser_log::{Condition, Disk as _, MemoryDisk, PowerLoss};
use walser_model::{
    Acks, Clock, Compression, Durability, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    Timestamp, TopicConfig, TopicId, TopicPartition,
};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};
use walser_rpc::{AppendOutcome, AppendPermit, AppendReply};
use walser_service::Metrics;

use self::roles::Awaited;
use super::faults::Fault;
use super::random::Random;
use crate::disk_threads::DiskThreads;
use crate::replication::Outbox;
use crate::shard::watched_disk::as_shard;
use crate::shard::{AppendJob, Command, Shard, ShardContext, Wait};
use crate::topic_names::TopicNames;

const ROOT: &str = "/data";
const NODE: NodeId = NodeId(1);
const PARTITIONS: i32 = 3;
const START_MILLIS: Timestamp = 1_700_000_000_000;
const DISK_BYTES: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 64 << 10;
/// Sizes of values, the first ones more often: a few end far behind the space that is filled ahead.
const VALUE_BYTES: [usize; 7] = [1, 20, 100, 500, 2_000, 8_000, 25_000];
/// What the first partition keeps, and when its segments are closed.
const RETENTION: Duration = Duration::from_secs(10);
const SEGMENT_AGE: Duration = Duration::from_secs(5);
const RETENTION_CHECK: Duration = Duration::from_secs(1);
/// Partitions rest before the next record of the last phase comes.
const IDLE: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_secs(2);

/// How a run of the server ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Restart {
    /// Everything is flushed and closed.
    Stopped,
    /// The cache of the machine stays.
    Killed,
    /// What was not on the disk goes as this says.
    PowerLost(PowerLoss),
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub(super) struct ManualClock(pub(super) AtomicU64);

impl Clock for ManualClock {
    fn now_millis(&self) -> Timestamp {
        START_MILLIS + i64::try_from(self.0.load(Ordering::Relaxed)).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A request that is not answered yet, or was.
#[derive(Debug, Clone)]
struct Sent {
    partition: TopicPartition,
    value: Bytes,
    acks: Acks,
    batch: Bytes,
    timestamp: Timestamp,
}

/// An acknowledged record.
#[derive(Debug)]
struct Acknowledged {
    value: Bytes,
    acks: Acks,
    timestamp: Timestamp,
}

type Answers = Arc<Mutex<Vec<(usize, AppendOutcome)>>>;

pub(super) struct World {
    random: Random,
    fault: Option<Fault>,
    pub(super) disk: MemoryDisk,
    clock: Arc<ManualClock>,
    pub(super) surroundings: ShardContext,
    pub(super) shard: Shard,
    turns: u64,
    trace: DefaultHasher,
    /// Outcomes of jobs that the shard has not been told.
    held: Vec<Command>,
    answers: Answers,
    sent: Vec<Sent>,
    answered: Vec<u32>,
    /// The shard whose requests begin here still runs.
    alive_from: usize,
    acknowledged: BTreeMap<(TopicPartition, Offset), Acknowledged>,
    /// The highest high watermark that readers saw.
    seen: BTreeMap<TopicPartition, Offset>,
    /// Below, records were to be deleted.
    deleted_below: BTreeMap<TopicPartition, Offset>,
    sequences: BTreeMap<TopicPartition, i32>,
    /// The latest one of any partition.
    epoch: LeaderEpoch,
    /// The producer of the clients that live since the last start.
    producer: ProducerId,
    /// Replies that somebody waits for.
    awaited: Vec<Awaited>,
    /// Partitions of which damage was reported that is none.
    blamed: BTreeSet<TopicPartition>,
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(number))
}

/// The last partition is flushed by time, the others before they are answered. The first one does not keep everything.
fn config(partition: TopicPartition) -> TopicConfig {
    let lazy = partition.partition.0 == PARTITIONS - 1;
    TopicConfig {
        durability: if lazy { Durability::PageCache } else { Durability::Fsync },
        segment_bytes: SEGMENT_BYTES,
        segment_age: SEGMENT_AGE,
        retention: (partition.partition.0 == 0).then_some(RETENTION),
        flush_interval: Duration::from_millis(100),
        ..TopicConfig::default()
    }
}

/// `blamed`: partitions of which damage was reported that is none; an operator repairs those that remember it.
fn open(disk: &MemoryDisk, clock: &Arc<ManualClock>, blamed: &BTreeSet<TopicPartition>) -> (ShardContext, Shard) {
    let (clock, peers) = (Arc::clone(clock) as Arc<dyn Clock>, Arc::new(Outbox::default()));
    let surroundings = ShardContext {
        retention_check: RETENTION_CHECK,
        idle: IDLE,
        recovery_bytes_max: SEGMENT_BYTES,
        ..ShardContext::of_test(NODE, disk, clock, peers, &Metrics::default())
    };
    let (mut logs, mut recovered) =
        crate::recovery::recover(&surroundings.directory, surroundings.clock.now_millis(), 1).unwrap();
    recovered.report(&TopicNames::default());
    for log in logs.iter_mut().filter(|log| matches!(log.condition(), Condition::Corrupt { .. })) {
        assert!(blamed.contains(&log.partition()), "durable records are damaged: {:?}", recovered.damaged);
        log.repair().unwrap();
    }
    let shard = Shard::new(surroundings.clone(), DiskThreads::default(), 1 << 20, logs);
    (surroundings, shard)
}

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let disk = MemoryDisk::simulated(DISK_BYTES);
        let clock = Arc::new(ManualClock::default());
        let (surroundings, shard) = open(&disk, &clock, &BTreeSet::new());
        let mut world = Self {
            random: Random::new(seed),
            fault,
            disk,
            clock,
            surroundings,
            shard,
            turns: 0,
            trace: DefaultHasher::new(),
            held: Vec::new(),
            answers: Answers::default(),
            sent: Vec::new(),
            answered: Vec::new(),
            alive_from: 0,
            acknowledged: BTreeMap::new(),
            seen: BTreeMap::new(),
            deleted_below: BTreeMap::new(),
            sequences: BTreeMap::new(),
            epoch: LeaderEpoch(0),
            producer: ProducerId(0),
            awaited: Vec::new(),
            blamed: BTreeSet::new(),
        };
        world.lead();
        world
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    fn lead(&mut self) {
        (0..PARTITIONS).for_each(|number| self.install(partition(number)));
        self.producer = ProducerId(i64::from(self.epoch.0));
        self.turn();
        self.open_logs();
    }

    pub(super) fn step(&mut self) {
        match self.below(1000) {
            0..30 => (0..=self.below(4)).for_each(|_| self.change_role()),
            30..250 => self.write(),
            250..600 => self.turn(),
            600..780 => self.run_job(),
            780..960 => self.tell_outcome(),
            960..975 => self.pass(Duration::from_millis(70)),
            975..980 => self.pass(Duration::from_millis(1500)),
            980..985 => self.delete_records(),
            985..988 => {
                let syncs = self.below(20) as u64;
                self.disk.fail_sync_after(syncs);
            }
            988..992 => {
                let spare = self.below(8);
                let limit = self.disk.open_files().open + spare;
                self.disk.set_file_limit((spare < 6).then_some(limit));
            }
            995 => self.stop_in_the_middle(),
            992..995 => {
                let spare = self.below(16) as u64;
                let space = self.disk.space(Path::new(ROOT)).unwrap();
                self.disk.set_capacity(if spare < 8 { space.total - space.free + (spare << 10) } else { DISK_BYTES });
                let _ = self.surroundings.space.check(&self.surroundings.directory);
            }
            _ => {
                let random = self.below(1 << 30) as u64;
                let how = match self.below(4) {
                    0 => Restart::PowerLost(PowerLoss::Everything),
                    1 => Restart::PowerLost(PowerLoss::Random(random)),
                    2 if self.below(3) == 0 => Restart::Stopped,
                    _ => Restart::Killed,
                };
                self.restart(how);
            }
        }
    }

    /// Sends a batch, which may be one that was sent before, or one that the log refuses.
    fn write(&mut self) {
        let partition = self.any_partition();
        let kind = self.below(10);
        if kind == 0 && !self.sent.is_empty() {
            let latest = self.sent.len().min(50);
            let number = self.sent.len() - latest + self.below(latest);
            let again = self.sent[number].clone();
            return self.send(again, None);
        }
        let choice = self.below(VALUE_BYTES.len());
        let size = VALUE_BYTES[choice.min(self.below(VALUE_BYTES.len()))];
        self.write_to(partition, size, kind);
    }

    fn write_to(&mut self, partition: TopicPartition, size: usize, kind: usize) {
        let number = self.sent.len();
        let mut value = format!("{number}/").into_bytes();
        value.resize(size.max(value.len()), b'.');
        let sequence = self.sequences.entry(partition).or_insert(0);
        let producer = Producer { id: self.producer, epoch: ProducerEpoch(0), base_sequence: *sequence };
        let producer = if kind < 4 { producer } else { Producer::NONE };
        *sequence += i32::from(kind < 4);
        let mut builder = BatchBuilder::new(Compression::None, size + 100);
        let timestamp = self.clock.now_millis();
        builder.append(&RecordFields { timestamp, key: None, value: Some(&value), headers: &[] });
        let acks = if self.below(4) == 0 { Acks::Leader } else { Acks::All };
        let expected_offset = (kind == 9).then_some(Offset(0));
        let (value, batch) = (value.into(), builder.build(producer));
        self.send(Sent { partition, value, acks, batch, timestamp }, expected_offset);
    }

    fn any_partition(&mut self) -> TopicPartition {
        partition(i32::try_from(self.below(3)).unwrap())
    }

    fn delete_records(&mut self) {
        let partition = self.any_partition();
        let Ok(handle) = self.surroundings.registry.led(partition) else { return };
        let end = usize::try_from(handle.high_watermark().0).unwrap();
        let before = Offset(i64::try_from(self.below(end + 1)).unwrap());
        let (reply, told) = oneshot::channel();
        self.shard.queue.push(Command::DeleteRecords { partition, before, reply });
        self.await_reply(format!("deletion in {partition}"), told);
        let deleted = self.deleted_below.entry(partition).or_insert(Offset::ZERO);
        *deleted = before.max(*deleted);
    }

    fn send(&mut self, sent: Sent, expected_offset: Option<Offset>) {
        let (answers, registry) = (Arc::clone(&self.answers), self.surroundings.registry.clone());
        let header = BatchHeader::parse(&sent.batch).unwrap();
        let number = self.sent.len();
        let Sent { partition, acks, ref batch, .. } = sent;
        self.shard.queue.push(Command::Append(AppendJob {
            partition,
            epoch: LeaderEpoch::NONE,
            batch: batch.clone(),
            header,
            acks,
            expected_offset,
            trace: None,
            permit: AppendPermit::uncounted(),
            reply: AppendReply::new(move |answer| {
                let handle = || registry.led(partition).map(|handle| handle.high_watermark());
                // A node that stops answers, and shows nothing any more.
                let readable = |offset| handle().map_or(true, |end| end > offset);
                let kept = answer.as_ref().map_or(true, |told| readable(told.base_offset));
                assert!(kept, "request {number} is acknowledged and cannot be read");
                answers.lock().push((number, answer));
            }),
        }));
        self.sent.push(sent);
        self.answered.push(0);
    }

    fn turn(&mut self) {
        if let Some(fault) = self.fault {
            fault.before_turn(&mut self.shard);
        }
        as_shard(|| self.shard.turn());
        self.turns += 1;
        self.take_answers();
        for number in 0..PARTITIONS {
            if let Ok(handle) = self.surroundings.registry.led(partition(number)) {
                let seen = self.seen.entry(partition(number)).or_insert(Offset::ZERO);
                *seen = handle.high_watermark().max(*seen);
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now_millis()
    }

    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns
    }

    /// A hash of what was answered and found so far.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    fn take_answers(&mut self) {
        for (number, answer) in std::mem::take(&mut *self.answers.lock()) {
            self.answered[number] += 1;
            assert_eq!(self.answered[number], 1, "request {number} was answered twice");
            let base_offset = answer.as_ref().ok().map(|told| told.base_offset);
            (number, base_offset).hash(&mut self.trace);
            if let Some(base_offset) = base_offset {
                let Sent { partition, value, acks, timestamp, .. } = self.sent[number].clone();
                let acknowledged = Acknowledged { value, acks, timestamp };
                let before = self.acknowledged.insert((partition, base_offset), acknowledged);
                let now = self.sent[number].value.clone();
                assert!(before.is_none_or(|before| before.value == now), "an offset is acknowledged for two records");
            }
        }
    }

    /// A flush thread takes a job; its outcome is held back.
    fn run_job(&mut self) {
        let waiting = self.shard.disk_threads.waiting();
        if waiting > 0 {
            let number = self.below(waiting);
            let ShardContext { clock, metrics, .. } = &self.surroundings;
            self.held.extend(self.shard.disk_threads.run_one(number, &**clock, metrics));
        }
    }

    /// Partitions that had nothing before have logs now.
    fn open_logs(&mut self) {
        let ShardContext { clock, metrics, .. } = self.surroundings.clone();
        while let Some(opened) = self.shard.disk_threads.maintain_one(&*clock, &metrics) {
            self.shard.queue.push(opened);
            self.turn();
        }
    }

    fn tell_outcome(&mut self) {
        if !self.held.is_empty() {
            let number = self.below(self.held.len());
            self.shard.queue.push(self.held.swap_remove(number));
        }
    }

    /// The process ends without a word and starts again; then everything acknowledged is looked for.
    pub(super) fn restart(&mut self, how: Restart) {
        if matches!(how, Restart::Stopped) {
            self.stop();
        }
        self.awaited.clear();
        self.disk = match how {
            Restart::Stopped => self.disk.restart_process(),
            Restart::Killed => self.disk.restart_process(),
            Restart::PowerLost(loss) => self.disk.lose_power(loss),
        };
        self.held.clear();
        self.sequences.clear();
        if matches!(how, Restart::PowerLost(_)) {
            let lazy = partition(PARTITIONS - 1);
            self.acknowledged.retain(|(partition, _), _| *partition != lazy);
            self.seen.remove(&lazy);
        }
        self.disk.set_capacity(DISK_BYTES);
        if let Some(fault) = self.fault {
            fault.before_start(&self.disk);
        }
        (self.surroundings, self.shard) = open(&self.disk, &self.clock, &self.blamed);
        self.alive_from = self.sent.len();
        self.lead();
        self.check();
    }

    /// The process dies at some change of the disk, in the middle of whatever it does, and maybe the machine soon after.
    fn stop_in_the_middle(&mut self) {
        let changes = self.below(30) as u64;
        self.disk.stop_after(changes);
        for _ in 0..8 {
            match self.below(4) {
                0 => self.write(),
                1 => self.delete_records(),
                2 => self.run_job(),
                _ => self.tell_outcome(),
            }
            self.turn();
        }
        self.restart(Restart::Killed);
        if self.below(2) == 0 {
            let random = self.below(1 << 30) as u64;
            self.restart(Restart::PowerLost(PowerLoss::Random(random)));
        }
    }

    fn something(&mut self) {
        match self.below(3) {
            0 => self.write(),
            1 => self.delete_records(),
            _ => self.change_role(),
        }
    }

    /// Every job is done, the shard stops, and nothing is left unanswered.
    fn stop(&mut self) {
        for _ in 0..self.below(4) {
            self.something();
        }
        self.shard.queue.push(Command::Stop(oneshot::channel().0));
        while as_shard(|| self.shard.turn()) != Wait::Stopped {
            self.run_job();
            self.tell_outcome();
            if self.below(10) == 0 {
                self.something();
            }
        }
        self.take_answers();
        self.check_every_reply_was_given();
        assert!(!self.answered[self.alive_from..].contains(&0), "a request was not answered at the stop");
    }
}
