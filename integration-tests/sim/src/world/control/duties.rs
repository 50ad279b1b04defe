//! What a controller does by itself.

use walser_model::NodeId;
use walser_replication::control::{
    Candidate, Decision, ReplicaIntegrity, can_stop, drain, elect_eligible, elect_preferred, fence, shut_down,
};

use walser_replication::ReplicaOffer;

use crate::controller::Controller;
use crate::key::Key;
use crate::store::{id, number};
use crate::world::World;

/// Of a thousand duties, how many write what is left of a set of decisions first.
const OUTBOX_FIRST: usize = 700;

impl World {
    /// Does one of the duties of a controller, if it is needed for this node or this partition.
    pub(crate) fn duty(&mut self, node: usize, partition: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        if self.random.chance(OUTBOX_FIRST)
            && let Some(next) = self.controllers[at].outbox.pop_front()
        {
            self.transact(at, next);
            return true;
        }
        let Controller { view, partitions, decider, .. } = &self.controllers[at];
        let known = partitions[partition].as_ref();
        let decision = match self.random.below(7) {
            0 if !self.nodes[node].registered => fence(view, id(node)),
            0 | 1 | 4 => {
                let due = self.controllers[at].due();
                return self.submit(at, due);
            }
            2 | 3 => return self.hear(at, node),
            5 => {
                let stopping = view.nodes.iter().find(|(_, found)| found.shutting_down).map(|(node, _)| *node);
                match stopping {
                    Some(stopping) => return self.see_off(at, number(stopping), partition),
                    None => known.filter(|_| self.weights.policies).and_then(|known| elect_preferred(view, known)),
                }
            }
            6 if self.weights.policies && self.random.chance(50) => shut_down(view, id(node)),
            6 if self.weights.operator_elects > 0
                && let Some(decision) = known.and_then(|known| elect_eligible(view, known, id(node)))
                && self.random.chance(self.weights.operator_elects) =>
            {
                Some(decision)
            }
            // An operator says that it never comes back.
            6 if let Some((dead, known)) = self.dead.zip(known)
                && known.state.leader.is_none()
                && let Some(gone) = decider.sweep(view, known, id(dead), ReplicaIntegrity::Gone) =>
            {
                Some(gone)
            }
            _ => self.unclean(at, partition),
        };
        self.decide(at, decision)
    }

    /// A node wants to stop: its partitions go elsewhere, and then it may go.
    fn see_off(&mut self, at: usize, node: usize, partition: usize) -> bool {
        let Controller { view, partitions, .. } = &self.controllers[at];
        let drained = partitions[partition].as_ref().and_then(|known| {
            let seen = |other: NodeId| self.nodes[number(other)].seen;
            drain(view, known, id(node), seen)
        });
        if let Some(decision) = drained {
            self.transact(at, decision);
            return true;
        }
        let others = self.nodes.iter().enumerate().filter(|(other, here)| *other != node && here.up && here.registered);
        let may_go = can_stop(view, id(node), partitions.iter().flatten(), others.map(|(_, here)| here.seen));
        may_go && self.stop(node)
    }

    /// A controller hears a node: it unfences it, or tells it that its registration is over.
    fn hear(&mut self, at: usize, node: usize) -> bool {
        let here = &self.nodes[node];
        if !here.up || !here.registered || self.refuses(node) {
            return false;
        }
        let (epoch, seen) = (here.epoch, here.seen);
        let Controller { view, partitions, decider, .. } = &self.controllers[at];
        let Some(found) = view.nodes.get(&id(node)) else { return false };
        if found.epoch > epoch {
            // Another registration of the same process was recorded, and its answer was lost.
            self.give_up(node);
            return true;
        }
        let same = found.epoch == epoch;
        let decision = same.then(|| decider.unfence(view, id(node), seen, partitions.iter().flatten())).flatten();
        self.decide(at, decision)
    }

    /// Asks every replica what it has, once all that may have everything can answer.
    fn unclean(&mut self, at: usize, partition: usize) -> Option<Decision<Key>> {
        let controller = &self.controllers[at];
        let (view, known) = (&controller.view, controller.partitions[partition].as_ref()?);
        let answers = |node: &&NodeId| {
            let here = &self.nodes[number(**node)];
            here.up && here.registered && here.key(partition) == known.key
        };
        let candidate = |node: &NodeId| {
            let here = &self.nodes[number(*node)];
            let replica = &here.replicas[partition];
            let ReplicaOffer { last_epoch, record_epoch, log_end } = replica.machine.candidate(&replica.view())?;
            let partition_epoch = here.known[partition].as_ref().map_or(0, |known| known.epoch);
            let (node, node_epoch) = (*node, here.epoch);
            Some(Candidate { last_epoch, record_epoch, log_end, intact: true, node, node_epoch, partition_epoch })
        };
        let candidates: Vec<Candidate> = known.state.replicas.iter().filter(answers).filter_map(candidate).collect();
        controller.decider.elect_unclean(view, known, &candidates, self.weights.recovery)
    }
}
