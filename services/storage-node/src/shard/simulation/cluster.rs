//! Several production shards, each over its own in-memory disk, that replicate to each other.
//!
//! Each seed is one run. Three nodes have every partition; a controller decides with `walser_replication::control`, and
//! nodes hear of it late. What shards say to each other waits in connections that break; flushes, extensions, cuts and
//! copies end at any later time. Processes are killed, machines lose power, syncs fail, disks are full for a while, and
//! records are deleted. In the end everything comes back.
//!
//! Invariant: a record that was acknowledged with acks=all is at its offset in the end, whoever leads.
//! Invariant: replicas have the same batches wherever both have some.
//! Invariant: of each key of the partition that is compacted every replica has the newest record that was acknowledged, or a
//! newer one, and no key that was deleted comes back.
//! Invariant: once nothing stands in the way, all replicas are in sync again.

mod checks;
mod compacted;
mod control;
mod network;
mod node;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use walser_log::{LogFaults, MemoryDisk, PowerLoss};
use walser_model::{
    Acks, CleanupPolicy, Compression, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TopicConfig, TopicId, TopicPartition,
};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};
use walser_rpc::{ApiError, AppendOutcome, AppendPermit, AppendReply};

use self::control::Control;
use self::network::Network;
use self::node::Node;
use super::random::Random;
use super::world::ManualClock;
use crate::shard::{AppendJob, Command};

const NODES: usize = 3;
const PARTITIONS: i32 = 2;
const DISK_BYTES: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 16 << 10;
const VALUE_BYTES: [usize; 5] = [1, 100, 500, 2_000, 8_000];

/// A deletion below an offset, and what it is answered.
type AskedDeletion = (TopicPartition, Offset, oneshot::Receiver<Result<Offset, ApiError>>);

/// What an earlier version might have done, or one without a rule would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterFault {
    /// A follower says that its whole log is durable.
    AcknowledgesBeforeFlushes,
    /// A leader pushes behind the end of a log that is not a part of its own.
    IgnoresDivergence,
    /// A compaction breaks a rule.
    Compaction(LogFaults),
}

impl ClusterFault {
    /// Those that random runs notice.
    pub(super) const RANDOM: [Self; 4] = [
        Self::AcknowledgesBeforeFlushes,
        Self::IgnoresDivergence,
        Self::Compaction(LogFaults { compacts_uncommitted: true, ..LogFaults::NONE }),
        Self::Compaction(LogFaults { swaps_unsynced: true, ..LogFaults::NONE }),
    ];
}

/// The partition that is compacted: its records have keys, of which some are written often and some are not, or delete one.
const COMPACTED: i32 = 1;
const KEYS: [usize; 2] = [6, 200];

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    key: Option<Bytes>,
    value: Option<Bytes>,
}

type Answers = Arc<Mutex<Vec<(usize, AppendOutcome)>>>;

pub(super) struct Cluster {
    random: Random,
    /// Little goes wrong: there is time for logs to grow, and to be compacted.
    calm: bool,
    fault: Option<ClusterFault>,
    clock: Arc<ManualClock>,
    nodes: Vec<Node>,
    control: Control,
    network: Network,
    answers: Answers,
    /// Partition and record of every request.
    sent: Vec<(TopicPartition, Written)>,
    answered: Vec<u32>,
    acknowledged: BTreeMap<(TopicPartition, Offset), Written>,
    deleted_below: BTreeMap<TopicPartition, Offset>,
    /// Deletions that were asked for since the last check.
    deletions: Vec<AskedDeletion>,
    producer: ProducerId,
    sequences: BTreeMap<TopicPartition, i32>,
    turns: u64,
    trace: DefaultHasher,
    pub(super) count: Count,
}

/// How many of what there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) cuts: usize,
    pub(super) copies: usize,
    /// How often damage was met.
    pub(super) damages: usize,
    /// Deletions that were answered, and that later leaders have kept.
    pub(super) deletions: usize,
    /// Replicas that were compacted.
    pub(super) compactions: usize,
    /// Runs in which the newest record of a key was a tombstone, and has gone.
    pub(super) tombstones_gone: usize,
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(number))
}

fn node_id(number: usize) -> NodeId {
    NodeId(i32::try_from(number).unwrap() + 1)
}

fn number_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap() - 1
}

fn config(id: TopicPartition) -> TopicConfig {
    let compacted = id == partition(COMPACTED);
    TopicConfig {
        segment_bytes: if compacted { SEGMENT_BYTES / 2 } else { SEGMENT_BYTES },
        retention: None,
        cleanup_policy: if compacted { CleanupPolicy::Compact } else { CleanupPolicy::Delete },
        dirty_ratio_min: 1,
        delete_retention: Duration::from_millis(30),
        ..TopicConfig::default()
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, fault: Option<ClusterFault>) -> Self {
        let clock = Arc::new(ManualClock::default());
        let disks = (0..NODES).map(|_| MemoryDisk::simulated(DISK_BYTES));
        let nodes = disks
            .enumerate()
            .map(|(number, disk)| Node::start(node_id(number), disk, BTreeSet::new(), &clock))
            .collect();
        Self {
            random: Random::new(seed),
            calm: seed % 2 == 1,
            fault,
            clock,
            nodes,
            control: Control::new((0..NODES).map(node_id).collect(), (0..PARTITIONS).map(partition)),
            network: Network::default(),
            answers: Answers::default(),
            sent: Vec::new(),
            answered: Vec::new(),
            acknowledged: BTreeMap::new(),
            deleted_below: BTreeMap::new(),
            deletions: Vec::new(),
            producer: ProducerId(0),
            sequences: BTreeMap::new(),
            turns: 0,
            trace: DefaultHasher::new(),
            count: Count::default(),
        }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    pub(super) fn step(&mut self) {
        let node = self.below(NODES);
        let mut choice = self.below(1000);
        let goes_wrong = (965..970).contains(&choice) || choice >= 984;
        if self.calm && goes_wrong && self.below(10) > 0 {
            choice = self.below(900);
        }
        match choice {
            0..100 => self.write(),
            100..330 => self.turn(node),
            330..440 => self.run_job(node),
            440..550 => self.tell_outcome(node),
            550..730 => self.deliver(),
            730..830 => self.push_somewhere(node),
            830..860 => self.copy_somewhere(node),
            860..870 => self.beat(node),
            870..890 => self.compact(node),
            890..910 => self.hear_of_metadata(node),
            910..965 => self.decide(),
            965..970 => self.damage(node),
            970..982 => self.pass(Duration::from_millis(70)),
            982..984 => self.pass(Duration::from_millis(1500)),
            984..988 => {
                let other = self.below(NODES);
                self.break_connection(node, other);
            }
            988..990 => self.delete_records(),
            990..992 if !self.nodes[node].up => {}
            990 if self.any_damaged() => {}
            990 => {
                let syncs = self.below(20) as u64;
                self.nodes[node].disk_fails = true;
                self.nodes[node].disk.fail_sync_after(syncs);
            }
            991 => {
                let full = self.below(2) == 0;
                self.nodes[node].fill_disk(full);
            }
            _ => self.crash_or_start(node),
        }
    }

    fn crash_or_start(&mut self, node: usize) {
        if self.nodes[node].up && self.below(3) == 0 {
            let random = self.below(1 << 30) as u64;
            let how = match self.below(4) {
                0 => Some(PowerLoss::Everything),
                1 => Some(PowerLoss::Random(random)),
                _ => None,
            };
            self.crash(node, how);
        }
        if self.below(3) > 0 {
            self.start(node);
        }
    }

    /// A process ends without a word; with it, maybe, its machine.
    fn crash(&mut self, node: usize, power: Option<PowerLoss>) {
        self.nodes[node].crash(power);
        for other in 0..NODES {
            self.break_connection(node, other);
        }
    }

    fn start(&mut self, node: usize) {
        if !self.nodes[node].up {
            let (disk, hurt) = (self.nodes[node].disk.clone(), self.nodes[node].hurt.clone());
            self.nodes[node] = Node::start(node_id(node), disk, hurt, &self.clock);
            // Another producer, whose sequences begin anew: it is not known what of the last ones is in the log.
            self.sequences.clear();
            self.producer = ProducerId(self.producer.0 + 1);
        }
    }

    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sends some batch to the node that leads, as far as the controller knows.
    fn write(&mut self) {
        let id = partition(i32::try_from(self.below(2)).unwrap());
        let choice = self.below(VALUE_BYTES.len());
        let mut value = format!("{}/", self.sent.len()).into_bytes();
        value.resize(VALUE_BYTES[choice].max(value.len()), b'.');
        let written = if id == partition(COMPACTED) {
            let often = self.below(2);
            let (key, deletes) = (self.below(KEYS[often]), self.below(3) == 0);
            Written { key: Some(format!("key {key}").into()), value: (!deletes).then(|| value.into()) }
        } else {
            Written { key: None, value: Some(value.into()) }
        };
        self.write_to(id, written);
    }

    fn write_to(&mut self, id: TopicPartition, written: Written) {
        let Some(leader) = self.control.leader(id).map(number_of).filter(|leader| self.nodes[*leader].up) else {
            return;
        };
        let sequence = self.sequences.entry(id).or_insert(0);
        let named = Producer { id: self.producer, epoch: ProducerEpoch(0), base_sequence: *sequence };
        *sequence += 1;
        let producer = if self.below(3) == 0 { named } else { Producer::NONE };
        let acks = if self.below(4) == 0 { Acks::Leader } else { Acks::All };
        self.send((id, leader), written, producer, acks);
    }

    fn send(&mut self, (id, leader): (TopicPartition, usize), written: Written, producer: Producer, acks: Acks) {
        let number = self.sent.len();
        let mut builder = BatchBuilder::new(Compression::None, VALUE_BYTES.iter().sum());
        let (key, content) = (written.key.as_deref(), written.value.as_deref());
        builder.append(&RecordFields { timestamp: 1, key, value: content, headers: &[] });
        let batch = builder.build(producer);
        let answers = Arc::clone(&self.answers);
        self.nodes[leader].shard.queue.push(Command::Append(AppendJob {
            partition: id,
            epoch: LeaderEpoch::NONE,
            header: BatchHeader::parse(&batch).unwrap(),
            batch,
            acks,
            expected_offset: None,
            trace: None,
            permit: AppendPermit::uncounted(),
            reply: AppendReply::new(move |answer| {
                if acks == Acks::All {
                    answers.lock().push((number, answer));
                }
            }),
        }));
        self.sent.push((id, written));
        self.answered.push(0);
    }

    /// Looks for something to compact, however short the last look is ago.
    fn compact(&mut self, node: usize) {
        if self.nodes[node].up {
            let now = self.nodes[node].surroundings.clock.monotonic();
            self.nodes[node].shard.compact(now + Duration::from_secs(1));
        }
    }

    fn delete_records(&mut self) {
        let id = partition(0);
        let Some(leader) = self.control.leader(id).map(number_of).filter(|leader| self.nodes[*leader].up) else {
            return;
        };
        let Ok(handle) = self.nodes[leader].surroundings.registry.led(id) else { return };
        let end = usize::try_from(handle.high_watermark().0).unwrap();
        let before = Offset(i64::try_from(self.below(end + 1)).unwrap());
        let (reply, told) = oneshot::channel();
        self.nodes[leader].shard.queue.push(Command::DeleteRecords { partition: id, before, reply });
        self.deletions.push((id, before, told));
        let deleted = self.deleted_below.entry(id).or_insert(Offset::ZERO);
        *deleted = before.max(*deleted);
    }

    fn any_damaged(&self) -> bool {
        self.nodes.iter().any(|node| node.to_be_hurt || !node.damaged().is_empty())
    }

    /// A read meets damage on a node, where another replica has everything.
    fn damage(&mut self, node: usize) {
        let id = partition(i32::try_from(self.below(2)).unwrap());
        let whole = self.control.partitions[&id].state.isr.len() == NODES;
        // A log that fails counts no more, and is not there to heal another one.
        if !whole || self.any_damaged() || self.nodes.iter().any(|node| !node.up || node.disk_fails) {
            return;
        }
        let all = self.nodes[node].surroundings.registry.all();
        let Some((_, handle)) = all.iter().find(|(found, _)| *found == id) else { return };
        let (start, end) = (handle.reader.log_start(), handle.reader.log_end());
        if end > start {
            let generation = handle.reader.generation();
            let from = start.plus(i64::try_from(self.below(usize::try_from(end.since(start)).unwrap())).unwrap());
            self.nodes[node].hurt.insert(id);
            self.nodes[node].to_be_hurt = true;
            self.nodes[node].shard.queue.push(Command::Damaged { partition: id, from, generation });
            self.count.damages += 1;
        }
    }

    fn turn(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        if let Some(ClusterFault::Compaction(faults)) = self.fault {
            self.nodes[node].shard.partitions.values_mut().for_each(|partition| partition.log.faults = faults);
        }
        self.nodes[node].turn();
        self.turns += 1;
        self.take_said(node);
        self.take_answers();
    }

    fn run_job(&mut self, node: usize) {
        let waiting = self.nodes[node].shard.disk_threads.waiting();
        if self.nodes[node].up && waiting > 0 {
            let number = self.below(waiting);
            self.nodes[node].run_job(number);
            self.take_said(node);
        }
    }

    fn tell_outcome(&mut self, node: usize) {
        let held = self.nodes[node].held.len();
        if held > 0 {
            let number = self.below(held);
            let outcome = self.nodes[node].held.swap_remove(number);
            self.nodes[node].shard.queue.push(outcome);
        }
    }

    fn take_answers(&mut self) {
        for (number, answer) in std::mem::take(&mut *self.answers.lock()) {
            self.answered[number] += 1;
            assert_eq!(self.answered[number], 1, "request {number} was answered twice");
            let Some(base_offset) = answer.ok().map(|told| told.base_offset) else { continue };
            (number, base_offset.0).hash(&mut self.trace);
            let (partition, written) = self.sent[number].clone();
            let before = self.acknowledged.insert((partition, base_offset), written.clone());
            assert!(before.is_none_or(|before| before == written), "an offset is acknowledged for two records");
        }
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns
    }

    /// A hash of what was answered and found so far.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }
}
