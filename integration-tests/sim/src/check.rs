//! What must be true after every step: the invariants of `docs/replication.md`, by their numbers.

use walser_model::{Durability, LeaderEpoch, Offset};
use walser_replication::control::Recovery;

use crate::records::Entry;
use crate::replica::index;
use crate::store::{Record, id, number};
use crate::world::World;

impl World {
    /// A leader says that everything below is committed (I1, I3, I12, I17).
    pub(crate) fn commit(&mut self, node: usize, partition: usize, high_watermark: Offset) {
        let replica = &mut self.nodes[node].replicas[partition];
        let truth = &mut self.truths[partition];
        let epoch = replica.leader().map_or(LeaderEpoch::NONE, walser_replication::Leader::epoch);
        let before = std::mem::replace(&mut replica.shown, high_watermark);
        if epoch < truth.unclean_epoch || replica.generation != truth.generation {
            return;
        }
        let end = index(high_watermark);
        replica.compare(&truth.committed);
        if high_watermark < before || end > replica.log.len() {
            return self.fail(format!("I12: node {node} commits {end} of partition {partition} after {before}"));
        }
        if replica.good < end.min(truth.committed.len()) {
            let at = replica.good;
            return self.fail(format!("I3: node {node} commits another record at {at} of partition {partition}"));
        }
        if end <= truth.committed.len() {
            return;
        }
        let fresh: Vec<Entry> = replica.log[truth.committed.len()..end].to_vec();
        for entry in fresh {
            self.committed(partition, entry);
        }
        let committed = &self.truths[partition].committed;
        let generation = self.truths[partition].generation;
        for replica in self.nodes.iter_mut().map(|node| &mut node.replicas[partition]) {
            if replica.generation == generation {
                replica.compare(committed);
            }
        }
        self.say(|| format!("node {node} commits partition {partition} up to {end}"));
    }

    fn committed(&mut self, partition: usize, entry: Entry) {
        let truth = &mut self.truths[partition];
        if self.producers[entry.producer].idempotent && truth.unclean_epoch == LeaderEpoch::NONE {
            let last = truth.committed.iter().rev().find(|other| other.producer == entry.producer);
            let expected = last.map_or(0, |last| last.sequence + 1);
            if entry.sequence != expected {
                self.violation.get_or_insert_with(|| {
                    format!(
                        "I17: {} of producer {} is committed in partition {partition} where {expected} is due",
                        entry.sequence, entry.producer
                    )
                });
            }
        }
        truth.committed.push(entry);
        self.counts.commits += 1;
    }

    /// Somebody begins to lead (I6).
    pub(crate) fn note_leader(&mut self, partition: usize, epoch: LeaderEpoch, node: usize, incarnation: i64) {
        if self.nodes[node].replicas[partition].generation != self.truths[partition].generation {
            return;
        }
        let led = &mut self.truths[partition].led;
        match led.iter().rev().find(|(other, _, _)| *other == epoch) {
            Some(other) if (other.1, other.2) != (node, incarnation) => {
                let other = other.1;
                self.fail(format!("I6: nodes {other} and {node} lead partition {partition} in epoch {epoch}"));
            }
            Some(_) => {}
            None => led.push((epoch, node, incarnation)),
        }
    }

    /// An election without proof: what its leader does not have is lost, and said to be.
    pub(crate) fn declare_loss(&mut self, partition: usize) {
        let Some(Record { state, .. }) = &self.store.partitions[partition] else { return };
        let truth = &mut self.truths[partition];
        truth.unclean_epoch = state.unclean_epoch;
        // Of a restored store, the only replica is the one whose past holds, also while it is away and nobody leads.
        let alone = (state.replicas.len() == 1).then(|| state.replicas[0]);
        if let Some(leader) = state.leader.or(alone) {
            // With fsync, what its leader has not flushed is not committed again before it has.
            let replica = &self.nodes[number(leader)].replicas[partition];
            let lazy = self.nodes[number(leader)].durability[partition] == Durability::PageCache;
            let flushed = if lazy { usize::MAX } else { replica.durable };
            let kept = replica.good.min(truth.committed.len()).min(flushed);
            let lost = truth.committed.len() - kept.max(replica.good.min(truth.committed.len()));
            self.counts.lost += lost as u64;
            // Also of what retention has deleted there, the leader's past is the one that holds from now on.
            truth.committed = self.nodes[number(leader)].replicas[partition].log[..kept].to_vec();
            // After a restore all replicas have to be intact: who was in sync last is not known.
            let losers = if truth.restored { 1 } else { truth.least_min_isr };
            let enough = truth.settled && (truth.lost.count_ones() as usize) < losers;
            truth.settled = false;
            if lost > 0 && enough && self.weights.recovery == Recovery::Balanced {
                // Fewer replicas than every commit needs have lost something, and all were asked.
                self.violation
                    .get_or_insert_with(|| format!("R21: an election of partition {partition} loses {lost} records"));
            }
            truth.read = truth.read.min(kept);
            for node in &mut self.nodes {
                let replica = &mut node.replicas[partition];
                replica.good = 0;
                replica.compare(&truth.committed);
            }
        }
        self.counts.unclean += 1;
    }

    /// Looks at every partition that the step has touched.
    pub(crate) fn check(&mut self) {
        let mut left = self.touched & (u32::MAX >> (32 - self.setup.partitions));
        while left != 0 && self.violation.is_none() {
            let partition = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(violation) = self.broken(partition) {
                self.fail(format!("{violation}, partition {partition}"));
            }
        }
    }

    /// Whether the process that the store knows is running.
    fn runs(&self, node: usize) -> bool {
        let here = &self.nodes[node];
        here.up && here.registered && here.epoch == self.store.node(id(node)).epoch
    }

    fn broken(&self, partition: usize) -> Option<String> {
        let truth = &self.truths[partition];
        let Record { key, state, .. } = self.store.partition(partition)?;
        let committed = truth.committed.len();
        for (at, node) in self.nodes.iter().enumerate() {
            let replica = &node.replicas[partition];
            let heard = replica.generation == key.generation;
            if !heard && committed == 0 {
                continue;
            }
            let counts = state.isr.contains(id(at)) || state.elr.contains(id(at));
            if counts && self.runs(at) {
                if !heard || replica.good < committed {
                    return Some(format!("I2: node {at} may lead and lacks committed offset {}", replica.good));
                }
                if !replica.machine.lazy() && replica.durable < committed {
                    return Some(format!("I2: node {at} may lead and has not flushed offset {}", replica.durable));
                }
            }
            let (high_watermark, seen_in) = replica.machine.high_watermark();
            let current = heard && seen_in >= truth.unclean_epoch;
            if current && replica.good < index(high_watermark).min(committed) {
                return Some(format!("I3: node {at} took another record for committed at {}", replica.good));
            }
        }
        if let Some(leader) = state.leader.map(number)
            && self.runs(leader)
            && let Some(machine) = self.nodes[leader].replicas[partition].leader()
            && self.nodes[leader].key(partition) == *key
            && machine.epoch() == state.leader_epoch
        {
            if self.nodes[leader].replicas[partition].good < committed {
                return Some(format!("I1: leader {leader} lacks a committed record"));
            }
            let known = machine.partition();
            let all = state.whole();
            if known.isr.len() >= known.min_isr && !all.is_subset(machine.maximal_isr()) {
                return Some(format!("I9: leader {leader} does not wait for all of {all:?}"));
            }
        }
        if state.isr.is_empty() && state.elr.is_empty() && !truth.changed && self.dead.is_none() {
            let last = state.last_known_elr.len();
            if last < state.min_isr {
                return Some(format!("I10: nobody is eligible, and {last} are known to have been"));
            }
        }
        None
    }

    /// Whether a node can lose these replicas, and fewer than are needed for every commit have lost something.
    pub(crate) fn may_lose(&mut self, node: usize, partitions: u32) -> bool {
        (0..self.setup.partitions).filter(|partition| partitions >> partition & 1 == 1).all(|partition| {
            let Some(Record { key, state, .. }) = &self.store.partitions[partition] else { return true };
            let truth = &mut self.truths[partition];
            let settled = state.adding.is_empty() && state.removing.is_empty();
            // What a process that died had told the leader may be committed yet: only one that is back counts.
            let has_all = |node: &walser_model::NodeId| {
                let here = &self.nodes[number(*node)];
                let runs = here.up && here.registered && here.epoch == self.store.node(*node).epoch;
                let complete = here.key(partition) == *key && here.replicas[partition].good >= truth.committed.len();
                runs && state.isr.contains(*node) && complete
            };
            if settled && state.replicas.iter().all(has_all) {
                truth.lost = 0;
                (truth.settled, truth.restored) = (true, false);
                truth.least_min_isr = state.min_isr;
            }
            let lost = (truth.lost | 1 << node).count_ones() as usize;
            lost < truth.least_min_isr
        })
    }

    /// Remembers that a node has lost something.
    pub(crate) fn lost(&mut self, node: usize, partitions: u32) {
        for (partition, truth) in self.truths.iter_mut().enumerate() {
            if partitions >> partition & 1 == 1 {
                truth.lost |= 1 << node;
            }
        }
    }
}
