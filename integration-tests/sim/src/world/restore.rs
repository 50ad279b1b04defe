//! A metadata store that is restored from an older copy, and accepted: revisions and leader epochs go on above all that
//! were handed out, and every node registers again.

use walser_model::LeaderEpoch;
use walser_replication::ReplicaEvent;
use walser_replication::control::DecisionContext;

use crate::key::Key;
use crate::store::Record;
use crate::world::{Truth, World};

/// Of a thousand events, how many take a copy although there is one.
const COPIED: usize = 300;

/// Leader epochs that a start of a controller skips. Exclusive.
const EPOCHS_SKIPPED_MAX: i64 = 7;

/// More sequences than a producer uses between two restores.
const SEQUENCES: u32 = 100_000;

impl World {
    /// Takes a copy of the store's content, or goes back to the one that was taken.
    pub(crate) fn copy_or_restore(&mut self) -> bool {
        let again = self.random.chance(COPIED);
        match self.copy.take() {
            Some(copy) if !again => {
                let before = self.store.restore(copy);
                self.accept_restored(&before);
            }
            _ => {
                self.copy = Some(self.store.copy());
                self.say(|| "the store is copied".to_owned());
            }
        }
        true
    }

    /// Takes every partition of the restored store into use, before anybody acts on it. `before`: those that there were.
    fn accept_restored(&mut self, before: &[Option<Record>]) {
        self.fault();
        self.counts.restored += 1;
        self.say(|| "the store is restored from the copy".to_owned());
        let skipped = self.epochs_skipped();
        for controller in &mut self.controllers {
            controller.crash(&self.store, skipped);
        }
        let nodes = self.store.nodes.iter().copied().collect();
        let decider = self.controllers[0].decider;
        let controller_epoch = self.store.elect();
        let context =
            DecisionContext { controller_epoch, revision: self.store.revision, nodes, ..DecisionContext::default() };
        for (slot, before) in before.iter().enumerate() {
            let Some(known) = self.store.partition(slot).cloned() else {
                self.truths[slot] = Truth::default();
                self.replace_producers(slot, 0, 0);
                continue;
            };
            self.begin_again(&known, before.as_ref());
            if let Some(decision) = decider.restore(&context, &known, self.highest_epoch(known.key)) {
                self.put("an operator", &decision);
            }
            if let Some(restored) = self.store.partition(slot).filter(|_| deleted(&known, before.as_ref())) {
                // Whoever has not heard yet that it was deleted commits for nobody.
                self.truths[slot].unclean_epoch = restored.state.leader_epoch;
            }
        }
        self.touched = u32::MAX;
    }

    /// What is true of a partition once the store has an older value of it, or the only one.
    fn begin_again(&mut self, known: &Record, before: Option<&Record>) {
        let Key { slot, generation } = known.key;
        if deleted(known, before) {
            // Nodes have what they have not dropped yet, and it is not told from before.
            self.truths[slot] = Truth::of(generation, &known.state);
            // Logs may have records of the producers before, to whom other sequences belong.
            let first = u32::try_from(self.counts.restored).unwrap_or(0).saturating_mul(SEQUENCES);
            self.replace_producers(slot, generation, first);
            for replica in self.nodes.iter_mut().map(|node| &mut node.replicas[slot]) {
                replica.good = 0;
            }
        }
        let truth = &mut self.truths[slot];
        (truth.changed, truth.restored) = (true, true);
        truth.least_min_isr = truth.least_min_isr.min(known.state.min_isr);
        // With the same replicas, an election that asks all of them finds everything: as R21 is checked.
        truth.settled &= before.is_some_and(|before| same_replicas(before, known));
    }

    /// How many leader epochs a start of a controller skips now.
    pub(crate) fn epochs_skipped(&self) -> i32 {
        i32::try_from(self.store.revision % EPOCHS_SKIPPED_MAX).unwrap_or(0)
    }

    /// The highest leader epoch that a node has seen of a partition.
    fn highest_epoch(&self, key: Key) -> LeaderEpoch {
        let of_node = |node: &crate::node::Node| {
            let known = node.known[key.slot].as_ref().filter(|known| known.key == key)?;
            Some(known.state.leader_epoch.max(node.replicas[key.slot].epochs.latest()))
        };
        self.nodes.iter().filter_map(of_node).max().unwrap_or(LeaderEpoch::NONE)
    }

    /// Whether a node has not registered since the store was restored: it refuses what the store has, and is refused.
    pub(crate) fn refuses(&self, node: usize) -> bool {
        self.nodes[node].epoch < self.store.restored
    }

    /// A node gives up what it has seen, to register again.
    pub(crate) fn give_up(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        here.registered = false;
        for slot in 0..self.setup.partitions {
            self.drive(node, slot, ReplicaEvent::Unregistered);
        }
        self.touched = u32::MAX;
        self.say(|| format!("node {node} gives up what it has seen"));
    }
}

/// Whether a partition that is back had been deleted.
fn deleted(known: &Record, before: Option<&Record>) -> bool {
    before.is_none_or(|before| before.key != known.key)
}

/// Whether a partition has the same replicas in two values, none of which are moving.
fn same_replicas(one: &Record, other: &Record) -> bool {
    let settled = |record: &Record| record.state.adding.is_empty() && record.state.removing.is_empty();
    one.key == other.key && settled(one) && settled(other) && one.state.target() == other.state.target()
}
