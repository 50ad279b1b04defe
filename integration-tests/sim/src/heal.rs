//! After the faults: everything must come back, and every request must get its answer (I22).

use walser_replication::control::Recovery;

use crate::events::Weights;
use crate::node::Node;
use crate::store::{Record, id, number};
use crate::world::World;

impl World {
    /// Ends all faults.
    pub(crate) fn begin_to_heal(&mut self) {
        self.healing = true;
        self.weights = Weights::heal();
        self.network.heal();
        self.network.forget_the_late();
        self.late.clear();
        let unlucky = self.random.below(self.setup.nodes);
        if self.random.chance(300) && self.can_do_without(unlucky) {
            self.die(unlucky);
            self.dead = Some(unlucky);
            self.weights.recovery = Recovery::Proactive;
        }
        for node in 0..self.setup.nodes {
            self.nodes[node].disk_hangs = false;
            if self.store.node(id(node)).shutting_down {
                self.stop(node);
            }
        }
        self.say(|| "no more faults from here on".to_owned());
    }

    /// Whether every partition can be healed although a node never comes back.
    fn can_do_without(&self, node: usize) -> bool {
        let slots = self.store.partitions.iter().zip(&self.store.settings);
        slots.filter_map(|(known, settings)| Some((&known.as_ref()?.state, settings))).all(|(state, settings)| {
            let settled = state.adding.is_empty() && state.removing.is_empty();
            let others = state.whole().iter().any(|other| other != id(node));
            let enough = state.replicas.len() > state.min_isr.max(settings.min_isr);
            !state.replicas.contains(&id(node)) || settled && others && enough
        })
    }

    /// Every producer writes once more: after an idle time, too, everything must go on.
    pub(crate) fn wake_producers(&mut self) {
        for producer in
            self.producers.iter_mut().filter(|producer| producer.idempotent && producer.partition.generation != 0)
        {
            producer.on_its_way = true;
        }
    }

    /// What is not well yet. `None`: everything is.
    pub(crate) fn ailment(&self) -> Option<String> {
        for (at, node) in self.nodes.iter().enumerate() {
            let known = self.store.node(id(at));
            if self.dead != Some(at) && (!node.registered || known.fenced || known.epoch != node.epoch) {
                return Some(format!("node {at} is not back"));
            }
        }
        for (partition, known) in self.store.partitions.iter().enumerate() {
            let Some(Record { key, state, .. }) = known else {
                let forgotten = |node: &Node| node.known[partition].is_none() || !node.registered;
                match self.nodes.iter().position(|node| !forgotten(node)) {
                    Some(node) => return Some(format!("node {node} has a replica of a deleted partition {partition}")),
                    None => continue,
                }
            };
            let Some(leader) = state.leader.map(number) else {
                return Some(format!("partition {partition} has no leader: {state:?}"));
            };
            let living = || state.replicas.iter().filter(|node| self.dead != Some(number(**node)));
            if state.isr.len() != living().count() || !state.adding.is_empty() || !state.removing.is_empty() {
                return Some(format!("partition {partition} is not whole: {state:?}"));
            }
            let Some(machine) = self.nodes[leader].replicas[partition].leader() else {
                return Some(format!("node {leader} does not lead partition {partition}"));
            };
            let committed = self.truths[partition].committed.len();
            let complete = |node: &walser_model::NodeId| {
                let replica = &self.nodes[number(*node)].replicas[partition];
                replica.generation == key.generation && replica.good == committed && replica.log.len() == committed
            };
            if machine.epoch() != state.leader_epoch || !living().all(complete) {
                return Some(format!("the replicas of partition {partition} are not alike"));
            }
        }
        let waits = self.producers.iter().position(|producer| producer.on_its_way);
        waits.map(|producer| format!("producer {producer} has no answer"))
    }
}
