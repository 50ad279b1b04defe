//! What operators want of a controller.

use walser_model::{Durability, LeaderEpoch, NodeId};
use walser_replication::control::{create, delete, fence};

use crate::controller::Controller;
use crate::key::{Key, TopicSettings};
use crate::store::id;
use crate::world::World;

/// Of a thousand times that a partition could be deleted, how many it is.
const DELETED: usize = 300;

impl World {
    /// A topic is to have another `min.insync.replicas`; controllers apply it to the partition.
    pub(crate) fn configure(&mut self, partition: usize) -> bool {
        let min_isr = 1 + self.random.below(3);
        if self.store.partition(partition).is_none() {
            return false;
        }
        self.truths[partition].changed = true;
        self.store.configure(partition, TopicSettings { min_isr, ..self.store.settings[partition] });
        self.say(|| format!("partition {partition} is to have {min_isr} in sync"));
        true
    }

    pub(crate) fn switch_durability(&mut self, partition: usize) -> bool {
        let settings = self.store.settings[partition];
        let durability = match settings.durability {
            Durability::Fsync => Durability::PageCache,
            Durability::PageCache => Durability::Fsync,
        };
        self.store.configure(partition, TopicSettings { durability, ..settings });
        self.say(|| format!("partition {partition} is to be {durability:?}"));
        true
    }

    pub(crate) fn move_replicas(&mut self, partition: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let count = if self.setup.nodes == 3 { 2 + self.random.below(2) } else { 3 };
        let target = self.draw_nodes(count);
        let controller = &self.controllers[at];
        let Some(known) = &controller.partitions[partition] else { return false };
        let decision = controller.decider.reassign(&controller.view, known, &target);
        self.truths[partition].changed = true;
        self.decide(at, decision)
    }

    fn draw_nodes(&mut self, count: usize) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = (0..self.setup.nodes).map(id).collect();
        for place in 0..count {
            let other = place + self.random.below(nodes.len() - place);
            nodes.swap(place, other);
        }
        nodes.truncate(count);
        nodes
    }

    /// A partition is deleted, or another one is created where none is.
    pub(crate) fn come_and_go(&mut self, slot: usize) -> bool {
        if self.store.partition(slot).is_some() && !self.random.chance(DELETED) {
            return false;
        }
        let Some(at) = self.acting() else { return false };
        let copies = self.random.one_of(&[1, 2, 3, 3, 3]);
        let (replicas, min_isr) = (self.draw_nodes(copies), 1 + self.random.below(3));
        let Controller { view, partitions, .. } = &self.controllers[at];
        let decision = match &partitions[slot] {
            Some(known) => Some(delete(view, known)),
            None => {
                self.generation += 1;
                let key = Key { slot, generation: self.generation };
                create(view, key, &replicas, min_isr, LeaderEpoch(0))
            }
        };
        self.decide(at, decision)
    }

    pub(crate) fn fence_needlessly(&mut self, node: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let decision = fence(&self.controllers[at].view, id(node));
        if decision.is_some() {
            self.fault();
        }
        self.decide(at, decision)
    }

    /// A controller hears no node any more, or only one, although all of them live.
    pub(crate) fn fence_nearly_all(&mut self) -> bool {
        let Some(at) = self.acting() else { return false };
        let heard = self.random.below(2 * self.setup.nodes);
        let Controller { view, decider, .. } = &self.controllers[at];
        let silent = (0..self.setup.nodes).filter(|node| *node != heard);
        let fences = silent.filter_map(|node| fence(view, id(node))).collect();
        let transactions = decider.merge(fences, self.weights.partitions_max);
        let any = !transactions.is_empty();
        self.say(|| format!("controller {at} hears no node but, at most, {heard}"));
        for transaction in transactions {
            self.fault();
            self.transact(at, transaction);
        }
        any
    }
}
