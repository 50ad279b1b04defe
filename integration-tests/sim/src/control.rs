//! The controllers: two of them, each with what it read some time ago, and sure that it is the one.

use std::fmt::Display;

use walser_model::{Durability, NodeId};
use walser_replication::AlterIsr;
use walser_replication::control::{
    self, Candidate, Decision, ReplicaIntegrity, Write, can_stop, drain, elect_preferred, fence, merge, shut_down,
    unfence,
};

use crate::controller::Controller;
use crate::network::{Body, CONTROLLERS};
use crate::replica::offset;
use crate::store::{Changed, TopicSettings, id, number};
use crate::world::World;

/// Most transactions that are under way for long.
const LATE_MAX: usize = 10;
/// Of a thousand duties, how many write what is left of a set of decisions first.
const OUTBOX_FIRST: usize = 700;

impl World {
    /// A controller sees more of the store's history; when nobody holds the lease, it takes it.
    pub(crate) fn follow_store(&mut self) -> bool {
        let at = self.random.below(self.controllers.len());
        let before = self.controllers[at].seen;
        let behind = self.store.history.after(before).len();
        let changes = if self.healing { behind } else { 1 + self.random.below(behind) };
        self.controllers[at].follow(&self.store, changes);
        if self.controllers.iter().all(|controller| controller.view.controller_epoch != self.store.controller) {
            self.controllers[at].view.controller_epoch = self.store.elect();
        }
        let seen = self.controllers[at].seen;
        if seen != before {
            self.say(|| format!("controller {at} has seen revision {seen}"));
        }
        seen != before
    }

    /// The other one becomes the controller, whatever it has seen; the first one does not know.
    pub(crate) fn lose_lease(&mut self) -> bool {
        let at = self.random.below(self.controllers.len());
        self.controllers[at].view.controller_epoch = self.store.elect();
        self.fault();
        self.say(|| format!("controller {at} takes the lease"));
        true
    }

    /// A controller dies; what it was about to write is left to a successor.
    pub(crate) fn crash_controller(&mut self) -> bool {
        let at = self.random.below(self.controllers.len());
        self.controllers[at].crash(&self.store);
        self.fault();
        self.say(|| format!("controller {at} dies"));
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

    /// Whether a controller believes to be the one; when it is in doubt, it sees everything first.
    fn acts(&mut self, at: usize) -> bool {
        let controller = &mut self.controllers[at];
        if controller.in_doubt {
            controller.catch_up(&self.store);
        }
        controller.see_nodes(&self.store);
        controller.view.controller_epoch != 0
    }

    /// Writes a decision. `None`: nothing was written, or nobody knows.
    fn transact(&mut self, at: usize, decision: Decision<usize>) -> Option<Changed> {
        let decision = self.controllers[at].decider.comparisons(decision);
        // A transaction of which nobody hears may also be written later, after everything was read again.
        if self.random.chance(self.weights.unknown / 4) && self.late.len() < LATE_MAX {
            self.late.push(decision);
            self.controllers[at].in_doubt = true;
            return None;
        }
        self.write(at, &decision)
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
        self.say(|| format!("{who} writes {:?}", decision.writes));
        self.note_change(decision, &changed);
        Some(changed)
    }

    fn write(&mut self, at: usize, decision: &Decision<usize>) -> Option<Changed> {
        let changed = self.put(format_args!("controller {at}"), decision);
        if self.random.chance(self.weights.unknown) {
            self.controllers[at].in_doubt = true;
            return None;
        }
        // Whoever loses its guard steps down.
        if changed.is_none() && self.controllers[at].view.controller_epoch != self.store.controller {
            self.controllers[at].view.controller_epoch = 0;
        }
        // Who has written waits until it sees that, or what stood against it; what else it does need not.
        if self.healing || !self.random.chance(self.weights.view_lags) {
            self.controllers[at].catch_up(&self.store);
        }
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
        if changed.nodes || decision.writes.iter().any(|put| matches!(put, Write::Registration(_))) {
            self.touched = u32::MAX;
        }
    }

    fn decide(&mut self, at: usize, decision: Option<Decision<usize>>) -> bool {
        decision.is_some_and(|decision| {
            self.transact(at, decision);
            true
        })
    }

    /// Merges a set of decisions into transactions, which are written one by one, whatever happens in between. While
    /// some of an earlier set are left, nothing of this one is.
    fn submit(&mut self, at: usize, decisions: Vec<Decision<usize>>) -> bool {
        let controller = &mut self.controllers[at];
        if decisions.is_empty() || !controller.outbox.is_empty() {
            return false;
        }
        controller.outbox.extend(merge(decisions, self.weights.partitions_max));
        true
    }

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
        let known = &partitions[partition];
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
                    None if self.weights.policies => elect_preferred(view, known),
                    None => None,
                }
            }
            6 if self.weights.policies && self.random.chance(50) => shut_down(view, id(node)),
            // An operator says that it never comes back.
            6 if let Some(dead) = self.dead.filter(|_| known.state.leader.is_none())
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
        if let Some(decision) = drain(view, &partitions[partition], id(node)) {
            self.transact(at, decision);
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
        let same = found.epoch == epoch;
        let decision = same.then(|| unfence(view, id(node), seen, partitions.iter())).flatten();
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
        controller.decider.elect_unclean(view, known, &candidates, self.weights.recovery)
    }

    pub(crate) fn fence_needlessly(&mut self, node: usize) -> bool {
        let Some(at) = self.acting() else { return false };
        let decision = fence(&self.controllers[at].view, id(node));
        if decision.is_some() {
            self.fault();
        }
        self.decide(at, decision)
    }

    /// A topic is to have another `min.insync.replicas`; controllers apply it to the partition.
    pub(crate) fn configure(&mut self, partition: usize) -> bool {
        let min_isr = 1 + self.random.below(3);
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
        let mut target: Vec<NodeId> = (0..self.setup.nodes).map(id).collect();
        let count = if self.setup.nodes == 3 { 2 + self.random.below(2) } else { 3 };
        for place in 0..count {
            let other = place + self.random.below(target.len() - place);
            target.swap(place, other);
        }
        target.truncate(count);
        let controller = &self.controllers[at];
        let decision = controller.decider.reassign(&controller.view, &controller.partitions[partition], &target);
        self.truths[partition].changed = true;
        self.decide(at, decision)
    }

    /// A leader proposes another in-sync set.
    pub(crate) fn alter(&mut self, at: usize, partition: usize, proposal: &AlterIsr) {
        if !self.acts(at) {
            return;
        }
        let controller = &self.controllers[at];
        let decided = controller.decider.alter_isr(&controller.view, &controller.partitions[partition], proposal);
        let mut ineligible = None;
        let answer = match &decided {
            Ok(decision) => {
                let changed = self.transact(at, decision.clone());
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
                self.controllers[at].catch_up(&self.store);
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
            true => ReplicaIntegrity::Gone,
            false if unclean >> partition & 1 == 1 => ReplicaIntegrity::Unclean,
            false => ReplicaIntegrity::Intact,
        };
        let all = controller.partitions.iter().map(|known| (known, held(known.key)));
        let decisions = controller.decider.admit(&controller.view, id(node), all);
        let of_node =
            |decision: &Decision<usize>| decision.writes.iter().any(|write| matches!(write, Write::Live { .. }));
        if !decisions.first().is_some_and(of_node) {
            self.submit(at, decisions);
            return;
        }
        for decision in decisions {
            if let Some((_, epoch)) = self.transact(at, decision).and_then(|changed| changed.registered) {
                self.network.send(CONTROLLERS + at, node, 0, Body::Registered { process, epoch });
            }
        }
    }
}
