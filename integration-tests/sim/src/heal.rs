//! After the faults: everything must come back, and every request must get its answer (I22).

use crate::events::Weights;
use crate::world::{World, id, number};

impl World {
    /// Ends all faults.
    pub(crate) fn begin_to_heal(&mut self) {
        self.healing = true;
        self.weights = Weights::heal();
        self.network.heal();
        for node in 0..self.setup.nodes {
            self.nodes[node].disk_hangs = false;
            if self.store.node(id(node)).shutting_down {
                self.stop(node);
            }
        }
        self.say(|| "no more faults from here on".to_owned());
    }

    /// What is not well yet. `None`: everything is.
    pub(crate) fn ailment(&self) -> Option<String> {
        for (at, node) in self.nodes.iter().enumerate() {
            if !node.registered || self.store.node(id(at)).fenced {
                return Some(format!("node {at} is not back"));
            }
        }
        for (partition, known) in self.store.partitions.iter().enumerate() {
            let state = &known.state;
            let Some(leader) = state.leader.map(number) else {
                return Some(format!("partition {partition} has no leader: {state:?}"));
            };
            if state.isr.len() < state.replicas.len() || !state.adding.is_empty() || !state.removing.is_empty() {
                return Some(format!("partition {partition} is not whole: {state:?}"));
            }
            let Some(machine) = self.nodes[leader].replicas[partition].leader() else {
                return Some(format!("node {leader} does not lead partition {partition}"));
            };
            let committed = self.truths[partition].committed.len();
            let complete = |node: &walser_model::NodeId| {
                let replica = &self.nodes[number(*node)].replicas[partition];
                replica.good == committed && replica.log.len() == committed
            };
            if machine.epoch() != state.leader_epoch || !state.replicas.iter().all(complete) {
                return Some(format!("the replicas of partition {partition} are not alike"));
            }
        }
        let waits = self.producers.iter().position(|producer| producer.on_its_way);
        waits.map(|producer| format!("producer {producer} has no answer"))
    }
}
