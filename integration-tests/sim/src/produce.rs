//! Producers and readers, as clients see them through a gateway.
//!
//! An idempotent producer has one batch on its way and repeats it, at whatever node, until it is answered. A plain one
//! does not wait: what it gets is not promised to stay.

use walser_model::{Acks, LeaderEpoch, Offset, SequenceCheck};
use walser_replication::{Leader, ReplicaEvent, Write, WriteEffect, WriteOutcome};

use crate::key::Key;
use crate::network::{Body, GATEWAY};
use crate::producer::Producer;
use crate::records::Entry;
use crate::replica::{Waiting, index};
use crate::store::number;
use crate::world::World;

/// Most writes that wait in a leader.
const WAITING_MAX: usize = 30;

impl World {
    /// A producer writes, or tries again.
    pub(crate) fn produce(&mut self) -> bool {
        let at = self.random.below(self.producers.len());
        let Producer { partition, idempotent, on_its_way, .. } = self.producers[at];
        let Some(known) = self.store.partition(partition.slot).filter(|known| known.key == partition) else {
            return false;
        };
        if !on_its_way && (self.healing || !self.room(partition.slot)) {
            return false;
        }
        // Mostly the leader is known; sometimes the gateway is behind.
        let leader = known.state.leader.map(number);
        let to = match leader {
            Some(leader) if self.healing || self.random.chance(700) => leader,
            _ => self.random.below(self.setup.nodes),
        };
        let producer = &mut self.producers[at];
        if !idempotent && !on_its_way {
            producer.sequence += 1;
        }
        producer.on_its_way = idempotent;
        let sequence = producer.sequence;
        let acks = if idempotent { Acks::All } else { Acks::Leader };
        self.network.send(GATEWAY, to, partition, Body::Produce { producer: at, sequence, acks });
        self.say(|| format!("producer {at} writes {sequence} to partition {partition} at node {to}"));
        true
    }

    /// A leader gets a batch.
    pub(crate) fn append(&mut self, node: usize, partition: usize, producer: usize, sequence: u32, acks: Acks) {
        let replica = &mut self.nodes[node].replicas[partition];
        let Some(leader) = replica.leader() else { return };
        if leader.admit(acks).is_err() || replica.machine.failed() || replica.machine.waiting().0 >= WAITING_MAX {
            return;
        }
        let epoch = leader.epoch();
        // After an election without proof a producer may be ahead of the log; else nothing answered is missing.
        let truth = &self.truths[partition];
        let ahead_for_good = truth.unclean_epoch != LeaderEpoch::NONE || truth.generation != replica.generation;
        let numbered = self.producers[producer].idempotent;
        match if numbered { replica.check_sequence(producer, sequence) } else { SequenceCheck::Next } {
            SequenceCheck::Next => {}
            SequenceCheck::Duplicate { next_offset, .. } => {
                return self.wait(node, partition, (producer, sequence, acks), (Some(next_offset), true));
            }
            SequenceCheck::Unknown if ahead_for_good => {}
            SequenceCheck::OutOfOrder { expected } if ahead_for_good && i64::from(sequence) > i64::from(expected) => {}
            SequenceCheck::Unknown
            | SequenceCheck::OutOfOrder { .. }
            | SequenceCheck::Forgotten { .. }
            | SequenceCheck::Fenced { .. } => {
                return self.wait(node, partition, (producer, sequence, acks), (None, false));
            }
        }
        if replica.log[replica.start..].last().is_some_and(|last| last.epoch > epoch) {
            self.fail(format!("I7: node {node} appends in epoch {epoch} after a later one, partition {partition}"));
            return;
        }
        replica.push(Entry { epoch, producer, sequence });
        let next_offset = replica.end();
        self.wait(node, partition, (producer, sequence, acks), (Some(next_offset), false));
    }

    /// A write waits for its answer: it ends in the log at `end`, or is refused where there is none.
    fn wait(
        &mut self,
        node: usize,
        partition: usize,
        (producer, sequence, acks): (usize, u32, Acks),
        (end, repeated): (Option<Offset>, bool),
    ) {
        let here = &mut self.nodes[node];
        let replica = &mut here.replicas[partition];
        let line = usize::from(acks == Acks::All);
        let write = Waiting { number: replica.waited[line], producer, sequence, end, acks };
        replica.waited[line] += 1;
        let write = match end {
            Some(end) => Write::Appended { write, end, acks, repeated },
            None => Write::Refused { write, acks },
        };
        replica.machine.wait(here.now, write);
        self.drive(node, partition, ReplicaEvent::LogChanged);
    }

    /// A leader answers a write. Who gets no good answer tries again.
    pub(crate) fn answered(&mut self, node: usize, partition: usize, write: Waiting, outcome: WriteOutcome) {
        let Waiting { number, producer, sequence, end, acks } = write;
        let replica = &mut self.nodes[node].replicas[partition];
        let line = usize::from(acks == Acks::All);
        let expected = std::mem::replace(&mut replica.answered[line], number + 1);
        if number != expected || end.is_none() != (outcome.effect() == WriteEffect::None) {
            self.fail(format!(
                "R25: node {node} answers write {number} of partition {partition} where {expected} is due: {outcome:?}"
            ));
        }
        let Some(next_offset) = end.filter(|_| outcome == WriteOutcome::Acknowledged) else { return };
        self.counts.answers += 1;
        self.say(|| format!("node {node} answers {sequence} of producer {producer}, partition {partition}"));
        // A leader from before an election without proof has not heard of it: what it answers is declared lost.
        let replica = &self.nodes[node].replicas[partition];
        let epoch = replica.leader().map_or(LeaderEpoch::NONE, Leader::epoch);
        let truth = &self.truths[partition];
        if acks == Acks::All && replica.generation == truth.generation && epoch >= truth.unclean_epoch {
            let entry = truth.committed.get(index(next_offset) - 1);
            if entry.is_none_or(|entry| (entry.producer, entry.sequence) != (producer, sequence)) {
                self.fail(format!(
                    "I5: node {node} answers {sequence} of producer {producer} before offset {} of partition \
                     {partition} is committed so",
                    index(next_offset) - 1
                ));
            }
        }
        self.send(node, GATEWAY, partition, Body::Written { producer, sequence });
    }

    pub(crate) fn written(&mut self, partition: Key, producer: usize, sequence: u32) {
        let found = &mut self.producers[producer];
        if found.partition == partition && found.idempotent && found.on_its_way && found.sequence == sequence {
            found.on_its_way = false;
            found.sequence += 1;
        }
    }

    /// A consumer reads on at some node that believes it leads.
    pub(crate) fn read(&mut self, node: usize, partition: usize) -> bool {
        let truth = &self.truths[partition];
        let replica = &self.nodes[node].replicas[partition];
        let Some(leader) = replica.leader() else { return false };
        if leader.epoch() < truth.unclean_epoch || replica.generation != truth.generation {
            return false;
        }
        let end = index(leader.high_watermark()).min(replica.log.len());
        let from = truth.read.max(replica.start);
        if from >= end {
            return false;
        }
        if end > truth.committed.len() || replica.log[from..end] != truth.committed[from..end] {
            self.fail(format!("I4: a reader gets something else than was committed, partition {partition}"));
        }
        self.truths[partition].read = end;
        self.say(|| format!("a reader reads partition {partition} from {from} to {end} at node {node}"));
        true
    }
}
