//! The world of the shard's simulation: clients, disk, clock, and the jobs of the flush threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use walser_log::{DataDirectory, Disk as _, MemoryDisk, PowerLoss};
use walser_metadata::TopicSettings;
use walser_model::{
    Acks, Clock, Compression, Durability, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    Timestamp, TopicConfig, TopicId, TopicPartition,
};
use walser_proto::internal::v1::AppendStreamResponse;
use walser_record_batch::{BatchBuilder, BatchHeader, Batches, Producer, RecordFields, Records};
use walser_replication::PartitionState;
use walser_rpc::{AppendPermit, AppendReply};
use walser_service::Metrics;

use crate::board::Board;
use crate::flush::Flusher;
use crate::metrics::StorageMetrics;
use crate::shard::{AppendJob, Command, PartitionMetadata, Shard, Surroundings};
use crate::space::SpaceGuard;

const ROOT: &str = "/data";
const NODE: NodeId = NodeId(1);
const PARTITIONS: i32 = 3;
const START_MILLIS: Timestamp = 1_700_000_000_000;
const DISK_BYTES: u64 = 1 << 30;
/// Sizes of values: most are small, some end far behind the space that is filled ahead.
const VALUE_BYTES: [usize; 6] = [1, 100, 5_000, 40_000, 120_000, 400_000];

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
struct ManualClock(AtomicU64);

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
}

type Answers = Arc<Mutex<Vec<AppendStreamResponse>>>;

pub(super) struct World {
    random: u64,
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    surroundings: Surroundings,
    shard: Shard,
    /// Outcomes of jobs that the shard has not been told.
    held: Vec<Command>,
    answers: Answers,
    sent: Vec<Sent>,
    answered: Vec<u32>,
    /// The shard whose requests begin here still runs.
    alive_from: usize,
    acknowledged: BTreeMap<(TopicPartition, Offset), (Bytes, Acks)>,
    sequences: BTreeMap<TopicPartition, i32>,
    epoch: LeaderEpoch,
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(number))
}

/// The last partition is flushed by time, the others before they are answered.
fn config(partition: TopicPartition) -> TopicConfig {
    let lazy = partition.partition.0 == PARTITIONS - 1;
    TopicConfig {
        durability: if lazy { Durability::PageCache } else { Durability::Fsync },
        segment_bytes: 1 << 20,
        flush_interval: Duration::from_millis(100),
        ..TopicConfig::default()
    }
}

fn open(disk: &MemoryDisk, clock: &Arc<ManualClock>) -> (Surroundings, Shard) {
    let directory = DataDirectory::open(Arc::new(disk.clone()), Path::new(ROOT), "simulation").unwrap();
    let directory = Arc::new(directory);
    let (logs, recovered) = crate::recovery::recover(&directory, clock.now_millis()).unwrap();
    assert_eq!(recovered.damaged, Vec::<String>::new(), "durable records are damaged");
    let surroundings = Surroundings {
        node: NODE,
        directory,
        board: Board::new(NODE),
        flusher: Flusher::default(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        metrics: StorageMetrics::new(&Metrics::default()),
        space: SpaceGuard::new(Some(0)),
        retention_check: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        recovery_bytes_max: 1 << 20,
    };
    let shard = Shard::new(surroundings.clone(), 1 << 20, logs);
    (surroundings, shard)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let disk = MemoryDisk::simulated(DISK_BYTES);
        let clock = Arc::new(ManualClock::default());
        let (surroundings, shard) = open(&disk, &clock);
        let mut world = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            disk,
            clock,
            surroundings,
            shard,
            held: Vec::new(),
            answers: Answers::default(),
            sent: Vec::new(),
            answered: Vec::new(),
            alive_from: 0,
            acknowledged: BTreeMap::new(),
            sequences: BTreeMap::new(),
            epoch: LeaderEpoch(0),
        };
        world.lead();
        world
    }

    /// A number below `bound` (xorshift64*).
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let number = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap() % bound
    }

    fn lead(&mut self) {
        self.epoch = self.epoch.next();
        for number in 0..PARTITIONS {
            let partition = partition(number);
            let mut state = PartitionState::new(vec![NODE], 1);
            state.leader_epoch = self.epoch;
            let settings = TopicSettings { config: config(partition), unreadable: None }.into();
            let (node_epoch, version, partition_epoch) = (1, 1, 1);
            let metadata = PartitionMetadata { partition, node_epoch, version, state, partition_epoch, settings };
            self.shard.queue.push(Command::Install(Box::new(metadata)));
        }
        self.turn();
    }

    pub(super) fn step(&mut self) {
        match self.below(100) {
            0..40 => self.write(),
            40..65 => self.turn(),
            65..80 => self.run_job(),
            80..94 => self.tell_outcome(),
            94..97 => drop(self.clock.0.fetch_add(70, Ordering::Relaxed)),
            97 if self.below(2) == 0 => {
                let syncs = self.below(20) as u64;
                self.disk.fail_sync_after(syncs);
            }
            97 => {
                let spare = self.below(8);
                let limit = self.disk.open_files().open + spare;
                self.disk.set_file_limit((spare < 6).then_some(limit));
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
        let partition = partition(i32::try_from(self.below(3)).unwrap());
        let kind = self.below(10);
        if kind == 0 && self.sent.len() > self.alive_from {
            let number = self.alive_from + self.below(self.sent.len() - self.alive_from);
            let again = self.sent[number].clone();
            return self.send(again, None);
        }
        let size = VALUE_BYTES[self.below(VALUE_BYTES.len())];
        let number = self.sent.len();
        let value: Vec<u8> = format!("{number}/").into_bytes().into_iter().cycle().take(size.max(8)).collect();
        let sequence = self.sequences.entry(partition).or_insert(0);
        let id = ProducerId(i64::from(self.epoch.0));
        let producer = Producer { id, epoch: ProducerEpoch(0), base_sequence: *sequence };
        let producer = if kind < 4 { producer } else { Producer::NONE };
        *sequence += i32::from(kind < 4);
        let mut builder = BatchBuilder::new(Compression::None, size + 100);
        let timestamp = self.clock.now_millis();
        builder.append(&RecordFields { timestamp, key: None, value: Some(&value), headers: &[] });
        let acks = if self.below(4) == 0 { Acks::Leader } else { Acks::All };
        let expected_offset = (kind == 9).then_some(Offset(0));
        let (value, batch) = (value.into(), builder.build(producer));
        self.send(Sent { partition, value, acks, batch }, expected_offset);
    }

    fn send(&mut self, sent: Sent, expected_offset: Option<Offset>) {
        let answers = Arc::clone(&self.answers);
        let header = BatchHeader::parse(&sent.batch).unwrap();
        let correlation_id = i64::try_from(self.sent.len()).unwrap();
        let Sent { partition, acks, ref batch, .. } = sent;
        self.shard.queue.push(Command::Append(AppendJob {
            partition,
            epoch: LeaderEpoch::NONE,
            batch: batch.clone(),
            header,
            acks,
            expected_offset,
            permit: AppendPermit::uncounted(),
            reply: AppendReply::new(correlation_id, move |answer| answers.lock().push(answer)),
        }));
        self.sent.push(sent);
        self.answered.push(0);
    }

    fn turn(&mut self) {
        self.shard.turn();
        self.take_answers();
    }

    fn take_answers(&mut self) {
        for answer in std::mem::take(&mut *self.answers.lock()) {
            let number = usize::try_from(answer.correlation_id).unwrap();
            self.answered[number] += 1;
            assert_eq!(self.answered[number], 1, "request {number} was answered twice");
            if answer.error.is_none() {
                let Sent { partition, value, acks, .. } = self.sent[number].clone();
                self.acknowledged.insert((partition, Offset(answer.base_offset)), (value, acks));
            }
        }
    }

    /// A flush thread takes a job; its outcome is held back.
    fn run_job(&mut self) {
        let waiting = self.surroundings.flusher.waiting();
        if waiting > 0 {
            let number = self.below(waiting);
            let Surroundings { flusher, clock, metrics, .. } = &self.surroundings;
            self.held.extend(flusher.run_one(number, &**clock, metrics));
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
        }
        (self.surroundings, self.shard) = open(&self.disk, &self.clock);
        self.alive_from = self.sent.len();
        self.lead();
        self.check();
    }

    /// Every job is done, the shard stops, and nothing is left unanswered.
    fn stop(&mut self) {
        while self.surroundings.flusher.waiting() > 0 {
            self.run_job();
        }
        self.held.drain(..).for_each(|outcome| self.shard.queue.push(outcome));
        self.shard.stop();
        self.take_answers();
        assert!(!self.answered[self.alive_from..].contains(&0), "a request was not answered at the stop");
    }

    fn check(&self) {
        for ((partition, offset), (value, acks)) in &self.acknowledged {
            let reader = self.surroundings.board.led(*partition).unwrap().reader.clone();
            let slice = reader.read(*offset, offset.plus(1), 1 << 20);
            let slice = slice.unwrap_or_else(|error| panic!("{partition} {offset} ({acks:?}): {error}"));
            let batch = Batches::of(slice.batches).next().and_then(Result::ok);
            let Some((header, batch)) = batch else { panic!("{partition} {offset} ({acks:?}) is gone") };
            let record = Records::open(header, &batch).unwrap().next().unwrap().unwrap();
            assert_eq!(record.offset, *offset, "{partition}");
            assert!(record.value.as_ref() == Some(value), "{partition} {offset} holds another record");
        }
    }

    pub(super) fn check_every_request_was_answered(&mut self) {
        self.disk.set_file_limit(None);
        let from = self.alive_from;
        for _ in 0..50 {
            self.write();
        }
        while self.surroundings.flusher.waiting() > 0 || !self.held.is_empty() || self.answered[from..].contains(&0) {
            self.clock.0.fetch_add(200, Ordering::Relaxed);
            self.turn();
            self.run_job();
            self.tell_outcome();
        }
    }
}
