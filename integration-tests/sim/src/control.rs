//! The controllers: two of them, each with what it read some time ago, and sure that it is the one.

use std::fmt::Display;

use walser_model::{Durability, NodeId};
use walser_replication::AlterIsr;
use walser_replication::control::{
    self, Candidate, Decision, Held, Put, advance_reassignment, alter_isr, can_register, can_stop, can_unfence,
    change_min_isr, drain, elect_again, elect_preferred, elect_unclean, fence, reassign, register, shut_down, sweep,
    unfence,
};

use crate::controller::Controller;
use crate::network::{Body, CONTROLLERS};
use crate::replica::offset;
use crate::store::Changed;
use crate::store::{id, number};
use crate::world::World;

/// Most transactions that are under way for long.
const LATE_MAX: usize = 10;

impl World {
    /// A controller reads everything anew; when nobody holds the lease, it takes it.
    pub(crate) fn reload(&mut self) -> bool {
        let at = self.random.below(self.controllers.len());
        let fresh = self.controllers[at].view.revision != self.store.revision;
        self.controllers[at].reload(&self.store);
        if self.controllers.iter().all(|controller| controller.view.controller_epoch != self.store.controller) {
            self.controllers[at].view.controller_epoch = self.store.elect();
        }
        if fresh {
            self.say(|| format!("controller {at} reads everything"));
        }
        fresh
    }

    /// The other one becomes the controller; the first one does not know.
    pub(crate) fn lose_lease(&mut self) -> bool {
        let at = self.random.below(self.controllers.len());
        self.controllers[at].reload(&self.store);
        self.controllers[at].view.controller_epoch = self.store.elect();
        self.fault();
        self.say(|| format!("controller {at} takes the lease"));
        true
    }

    /// Where a node believes the controller to be: mostly right.
    pub(crate) fn guess_controller(&mut self) -> usize {
        let holds = |controller: &Controller| controller.view.controller_epoch == self.store.controller;
        let holder = self.controllers.iter().position(holds);
        let known = self.healing || self.random.chance(700);
        CONTROLLERS + holder.filter(|_| known).unwrap_or_else(|| self.random.below(self.controllers.len()))
    }

    /// A controller that believes to be the one, and is not in doubt.
    fn acting(&mut self) -> Option<usize> {
        let at = self.random.below(self.controllers.len());
        self.acts(at).then_some(at)
    }

    /// Whether a controller believes to be the one; when it is in doubt, it reads first.
    fn acts(&mut self, at: usize) -> bool {
        let controller = &mut self.controllers[at];
        if controller.in_doubt {
            controller.reload(&self.store);
        }
        controller.view.controller_epoch != 0
    }

    /// Writes a decision. `None`: nothing was written, or nobody knows.
    fn transact(&mut self, at: usize, decision: &Decision<usize>) -> Option<Changed> {
        // A transaction of which nobody hears may also be written later, after everything was read again.
        if self.random.chance(self.weights.unknown / 4) && self.late.len() < LATE_MAX {
            self.late.push(decision.clone());
            self.controllers[at].in_doubt = true;
            return None;
        }
        self.write(at, decision)
    }

    /// A transaction arrives that was under way for long.
    pub(crate) fn write_late(&mut self) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let late = self.random.below(self.late.len());
        let decision = self.late.swap_remove(late);
        self.put("late, a controller", &decision);
        true
    }

    /// The store takes a decision, or not.
    fn put(&mut self, who: impl Display, decision: &Decision<usize>) -> Option<Changed> {
        let changed = self.store.transact(decision).unwrap_or_else(|violation| {
            self.fail(violation);
            None
        })?;
        self.say(|| format!("{who} writes {:?}", decision.puts));
        self.note_change(decision, &changed);
        Some(changed)
    }

    fn write(&mut self, at: usize, decision: &Decision<usize>) -> Option<Changed> {
        let changed = self.put(format_args!("controller {at}"), decision);
        if self.random.chance(self.weights.unknown) {
            self.controllers[at].in_doubt = true;
            return None;
        }
        // Whoever loses its guard steps down; both read what is there now.
        if changed.is_none() && self.controllers[at].view.controller_epoch != self.store.controller {
            self.controllers[at].view.controller_epoch = 0;
        }
        self.controllers[at].reload(&self.store);
        changed
    }

    fn note_change(&mut self, decision: &Decision<usize>, changed: &Changed) {
        self.counts.moves += u64::from(changed.moved);
        self.counts.elections += u64::from(changed.elected);
        for partition in changed.partitions.iter().copied() {
            self.touch(partition);
            let state = &self.store.partitions[partition].state;
            let truth = &mut self.truths[partition];
            truth.least_min_isr = truth.least_min_isr.min(state.min_isr);
            if state.unclean_epoch > truth.unclean_epoch {
                self.declare_loss(partition);
            }
        }
        if changed.nodes || decision.puts.iter().any(|put| matches!(put, Put::Registration(_))) {
            self.touched = u32::MAX;
        }
    }

    fn decide(&mut self, at: usize, decision: Option<Decision<usize>>) -> bool {
        decision.is_some_and(|decision| {
            self.transact(at, &decision);
            true
        })
    }

    /// Does one of the duties of a controller, if it is needed for this node or this partition.
    pub(crate) fn duty(&mut self, node: usize, partition: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let (view, known) = (&self.controllers[at].view, &self.controllers[at].partitions[partition]);
        let decision = match self.random.below(8) {
            0 if !self.nodes[node].registered => fence(view, id(node)),
            0 | 1 => sweep(view, known, id(node), Held::Intact),
            2 | 3 => return self.hear(at, node),
            4 => elect_again(view, known).or_else(|| advance_reassignment(view, known, 2)),
            5 => {
                let stopping = view.nodes.iter().find(|(_, found)| found.shutting_down).map(|(node, _)| *node);
                match stopping {
                    Some(stopping) => return self.see_off(at, number(stopping), partition),
                    None if self.weights.policies => elect_preferred(view, known),
                    None => None,
                }
            }
            6 if self.weights.policies && self.random.chance(50) => shut_down(view, id(node)),
            // An operator says that it never comes back.
            6 if let Some(dead) = self.dead.filter(|_| known.state.leader.is_none())
                && let Some(gone) = sweep(view, known, id(dead), Held::Gone) =>
            {
                Some(gone)
            }
            6 => self.unclean(at, partition),
            _ => advance_reassignment(view, known, 2),
        };
        self.decide(at, decision)
    }

    /// A node wants to stop: its partitions go elsewhere, and then it may go.
    fn see_off(&mut self, at: usize, node: usize, partition: usize) -> bool {
        let Controller { view, partitions, .. } = &self.controllers[at];
        if let Some(decision) = drain(view, &partitions[partition], id(node)) {
            self.transact(at, &decision);
            return true;
        }
        let others = self.nodes.iter().enumerate().filter(|(other, here)| *other != node && here.up && here.registered);
        let may_go = can_stop(id(node), partitions.iter(), others.map(|(_, here)| here.seen));
        may_go && self.stop(node)
    }

    /// A controller hears a node: it unfences it, or tells it that its registration is over.
    fn hear(&mut self, at: usize, node: usize) -> bool {
        let here = &self.nodes[node];
        if !here.up || !here.registered {
            return false;
        }
        let (epoch, seen) = (here.epoch, here.seen);
        let Controller { view, partitions, .. } = &self.controllers[at];
        let Some(found) = view.nodes.get(&id(node)) else { return false };
        if found.epoch > epoch {
            // Another registration of the same process was recorded, and its answer was lost.
            let here = &mut self.nodes[node];
            here.registered = false;
            here.replicas.iter_mut().for_each(crate::replica::Replica::rest);
            self.touched = u32::MAX;
            return true;
        }
        let same = found.epoch == epoch && found.fenced;
        let decision = (same && can_unfence(view, id(node), seen, partitions.iter())).then(|| unfence(view, id(node)));
        self.decide(at, decision)
    }

    /// Asks every replica what it has, once all that may have everything can answer.
    fn unclean(&mut self, at: usize, partition: usize) -> Option<Decision<usize>> {
        let controller = &self.controllers[at];
        let (view, known) = (&controller.view, &controller.partitions[partition]);
        let answers = |node: &&NodeId| {
            let here = &self.nodes[number(**node)];
            here.up && here.registered
        };
        let candidate = |node: &NodeId| {
            let here = &self.nodes[number(*node)];
            let replica = &here.replicas[partition];
            let (last_epoch, log_end) = (replica.epochs().latest(), offset(replica.log.len()));
            let partition_epoch = here.known[partition].1;
            Candidate { last_epoch, log_end, node: *node, node_epoch: here.epoch, partition_epoch }
        };
        let candidates: Vec<Candidate> = known.state.replicas.iter().filter(answers).map(candidate).collect();
        elect_unclean(view, known, &candidates, self.weights.recovery)
    }

    pub(crate) fn fence_needlessly(&mut self, node: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let decision = fence(&self.controllers[at].view, id(node));
        if decision.is_some() {
            self.fault();
        }
        self.decide(at, decision)
    }

    pub(crate) fn configure(&mut self, partition: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let min_isr = 1 + self.random.below(3);
        let controller = &self.controllers[at];
        let decision = change_min_isr(&controller.view, &controller.partitions[partition], min_isr);
        self.truths[partition].changed = true;
        self.decide(at, decision)
    }

    pub(crate) fn switch_durability(&mut self, partition: usize) -> bool {
        let durability = match self.store.durability[partition] {
            Durability::Fsync => Durability::PageCache,
            Durability::PageCache => Durability::Fsync,
        };
        self.store.durability[partition] = durability;
        self.store.revision += 1;
        self.say(|| format!("partition {partition} is to be {durability:?}"));
        true
    }

    pub(crate) fn move_replicas(&mut self, partition: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let mut target: Vec<NodeId> = (0..self.setup.nodes).map(id).collect();
        let count = if self.setup.nodes == 3 { 2 + self.random.below(2) } else { 3 };
        for place in 0..count {
            let other = place + self.random.below(target.len() - place);
            target.swap(place, other);
        }
        target.truncate(count);
        let controller = &self.controllers[at];
        let decision = reassign(&controller.view, &controller.partitions[partition], &target).ok().flatten();
        self.truths[partition].changed = true;
        self.decide(at, decision)
    }

    /// A leader proposes another in-sync set.
    pub(crate) fn alter(&mut self, at: usize, partition: usize, proposal: &AlterIsr) {
        if !self.acts(at) {
            return;
        }
        let controller = &self.controllers[at];
        let decided = alter_isr(&controller.view, &controller.partitions[partition], proposal);
        let mut ineligible = None;
        let answer = match &decided {
            Ok(decision) => {
                let changed = self.transact(at, decision);
                if changed.is_none() && self.controllers[at].in_doubt {
                    return;
                }
                changed.map(|_| &self.store.partitions[partition])
            }
            Err(control::Refusal::StalePartition) => Some(&controller.partitions[partition]),
            Err(control::Refusal::Ineligible(node)) => {
                ineligible = Some(*node);
                None
            }
            Err(control::Refusal::Behind) => {
                self.controllers[at].reload(&self.store);
                None
            }
            Err(_) => None,
        };
        let written = answer.map(|known| (known.state.clone(), known.epoch));
        let AlterIsr { leader, leader_epoch, node_epoch, .. } = *proposal;
        self.say(|| format!("controller {at} answers a proposal of {leader} for partition {partition}: {decided:?}"));
        let body = Body::Altered { leader_epoch, node_epoch, written, ineligible };
        self.network.send(CONTROLLERS + at, number(leader), partition, body);
    }

    /// A node asks to be registered: it is fenced, then swept out of everything, then registered.
    pub(crate) fn register(&mut self, at: usize, node: usize, process: u32, (unclean, gone): (u32, u32)) {
        if !self.acts(at) {
            return;
        }
        let controller = &self.controllers[at];
        let held = |partition: usize| match gone >> partition & 1 == 1 {
            true => Held::Gone,
            false if unclean >> partition & 1 == 1 => Held::Unclean,
            false => Held::Intact,
        };
        let all = controller.partitions.iter().map(|known| (known, held(known.key)));
        if can_register(&controller.view, id(node), all) {
            let decision = register(&controller.view, id(node));
            if let Some((_, epoch)) = self.transact(at, &decision).and_then(|changed| changed.registered) {
                self.network.send(CONTROLLERS + at, node, 0, Body::Registered { process, epoch });
            }
            return;
        }
        let fenced = fence(&controller.view, id(node));
        if fenced.is_some() {
            self.decide(at, fenced);
            return;
        }
        for partition in 0..self.setup.partitions {
            let controller = &self.controllers[at];
            let known = &controller.partitions[partition];
            let decision = sweep(&controller.view, known, id(node), held(partition));
            self.decide(at, decision);
        }
    }
}
