//! What must hold in the simulated cluster once everything has come back.

use std::hash::Hash as _;
use std::time::Duration;

use bytes::Bytes;
use walser_log::LogReader;
use walser_model::{Offset, TopicPartition};
use walser_record_batch::{BatchHeader, Batches, Records};

use super::{COMPACTED, Cluster, NODES, PARTITIONS, Written, node_id, number_of, partition};

/// Rounds after which everything has to be as it was.
const ROUNDS: usize = 5_000;

impl Cluster {
    /// Nothing fails any more: after a while every replica is in sync and has everything.
    pub(in super::super) fn heal(&mut self) {
        for node in 0..NODES {
            self.nodes[node].fill_disk(false);
            // What it was told of damage.
            self.turn(node);
            let stopped = self.nodes[node].has_failed() || !self.nodes[node].damaged().is_empty();
            if self.nodes[node].up && stopped {
                self.crash(node, None);
            }
            self.start(node);
        }
        for _ in 0..ROUNDS {
            self.round();
            if self.control.is_whole() && self.is_quiet() {
                return;
            }
        }
        let states: Vec<_> = self.control.partitions.values().map(|record| record.state.clone()).collect();
        let waiting = self.network.waiting();
        panic!(
            "it does not heal: {:?}, {waiting} connections with messages, {states:?}, {:?}",
            self.ends(),
            self.control.context.nodes
        );
    }

    fn round(&mut self) {
        self.pass(Duration::from_millis(100));
        for node in 0..NODES {
            if self.nodes[node].has_failed() {
                // A sync that was to fail.
                self.crash(node, None);
                self.start(node);
            }
            // As a node looks at its disk now and then.
            self.nodes[node].fill_disk(false);
            self.act(node);
        }
        self.deliver_and_decide();
    }

    /// A node does what there is to do.
    pub(super) fn act(&mut self, node: usize) {
        self.hear_of_metadata(node);
        self.beat(node);
        self.turn(node);
        for _ in 0..4 {
            self.run_job(node);
            self.tell_outcome(node);
        }
        self.turn(node);
    }

    /// Everything on its way arrives, and the controller decides.
    pub(super) fn deliver_and_decide(&mut self) {
        self.deliver_all();
        (0..4).for_each(|_| self.decide());
        while !self.control.asked.is_empty() {
            self.answer(0);
        }
    }

    /// Log start, log end and high watermark of every replica.
    fn ends(&self) -> Vec<(usize, TopicPartition, [i64; 3])> {
        let of_node = |node: usize| {
            let all = self.nodes[node].surroundings.registry.all();
            all.into_iter().map(move |(id, handle)| {
                let reader = &handle.reader;
                (node, id, [reader.log_start().0, reader.log_end().0, handle.high_watermark().0])
            })
        };
        let mut ends: Vec<_> = (0..NODES).flat_map(of_node).collect();
        ends.sort_unstable();
        ends
    }

    pub(super) fn is_quiet(&self) -> bool {
        let ends = self.ends();
        // Where logs begin may differ: what a leader has deleted before it died its successor need not have deleted.
        let of = |id| ends.iter().filter(move |(_, found, _)| *found == id).map(|(_, _, [_, end, seen])| (*end, *seen));
        let quiet = |id| {
            let same = of(id).all(|marks| marks.0 == marks.1 && Some(marks) == of(id).next());
            same && of(id).count() == NODES
        };
        self.network.waiting() == 0 && (0..PARTITIONS).map(partition).all(quiet)
    }

    /// A deletion that was answered is one for every later leader.
    fn check_deletions(&mut self) {
        for (id, before, mut told) in std::mem::take(&mut self.deletions) {
            if let Ok(Ok(_)) = told.try_recv() {
                let leader = number_of(self.control.leader(id).unwrap());
                let start = self.reader(leader, id).log_start();
                assert!(start >= before, "{id} begins at {start} on node {}, {before} was deleted", node_id(leader));
                self.count.deletions += 1;
            }
        }
    }

    /// Every acknowledged record is where it was said to be, and all replicas have the same.
    pub(in super::super) fn check(&mut self) {
        self.check_deletions();
        self.check_compacted(partition(COMPACTED));
        for id in (0..PARTITIONS).filter(|number| *number != COMPACTED).map(partition) {
            let leader = number_of(self.control.leader(id).unwrap());
            let batches = self.batches(leader, id);
            for other in (0..NODES).filter(|other| *other != leader) {
                let found = self.batches(other, id);
                let same =
                    |(at, bytes): &(Offset, Bytes)| found.iter().any(|(other, also)| (other, also) == (at, bytes));
                let start = self.reader(other, id).retained();
                let shared = batches.iter().filter(|(at, _)| *at >= start);
                for batch in shared {
                    assert!(
                        same(batch),
                        "nodes {} and {} differ in {id} at {}",
                        node_id(leader),
                        node_id(other),
                        batch.0
                    );
                }
            }
            for ((_, offset), Written { value, .. }) in self.acknowledged.iter().filter(|((found, _), _)| *found == id)
            {
                if self.deleted_below.get(&id).is_some_and(|before| offset < before) {
                    continue;
                }
                let found = batches.iter().find(|(base, _)| base == offset);
                let Some((_, batch)) = found else { panic!("{id} {offset} is gone") };
                let header = BatchHeader::parse(batch).unwrap();
                let record = Records::open(header, batch).unwrap().next().unwrap().unwrap();
                assert!(record.value == *value, "{id} {offset} holds another record");
                offset.0.hash(&mut self.trace);
            }
        }
    }

    /// The log of a replica.
    pub(super) fn reader(&self, node: usize, id: TopicPartition) -> LogReader {
        let all = self.nodes[node].surroundings.registry.all();
        all.iter().find(|(found, _)| *found == id).unwrap().1.reader.clone()
    }

    /// All batches of a replica, with their offsets.
    pub(super) fn batches(&self, node: usize, id: TopicPartition) -> Vec<(Offset, Bytes)> {
        let reader = self.reader(node, id);
        let (mut at, mut batches) = (reader.retained(), Vec::new());
        while at < reader.log_end() {
            let slice = reader.read_retained(at, reader.log_end(), 1 << 20).unwrap();
            assert!(slice.next_offset > at, "{id} has nothing at {at}");
            at = slice.next_offset;
            let found = Batches::of(slice.batches).map(|batch| batch.unwrap());
            batches.extend(found.map(|(header, bytes)| (header.base_offset, bytes)));
        }
        batches
    }
}
