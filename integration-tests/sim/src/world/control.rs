//! The controllers: two of them, each with what it has seen of the store, and sure that it is the one.

mod duties;
mod operators;
mod requests;

use std::fmt::Display;

use walser_replication::control::Decision;

use crate::controller::Controller;
use crate::key::Key;
use crate::network::CONTROLLERS;
use crate::producer::{PRODUCERS, Producer};
use crate::store::{Changed, number};
use crate::world::{Truth, World};

/// Most transactions that are under way for long.
const LATE_MAX: usize = 10;

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
        let skipped = self.epochs_skipped();
        self.controllers[at].crash(&self.store, skipped);
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
    fn transact(&mut self, at: usize, decision: Decision<Key>) -> Option<Changed> {
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
    pub(crate) fn put(&mut self, who: impl Display, decision: &Decision<Key>) -> Option<Changed> {
        let changed = self.store.transact(decision).unwrap_or_else(|violation| {
            self.fail(violation);
            None
        })?;
        self.say(|| format!("{who} writes {:?}", decision.writes));
        self.note_change(changed);
        Some(changed)
    }

    fn write(&mut self, at: usize, decision: &Decision<Key>) -> Option<Changed> {
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

    fn note_change(&mut self, changed: Changed) {
        self.counts.moves += u64::from(changed.moved);
        self.counts.elections += u64::from(changed.elected);
        if let Some((node, fence)) = changed.unfenced {
            let seen = self.nodes[number(node)].seen;
            if seen < fence {
                self.fail(format!("I14: node {node} comes back, fenced at {fence}, and has seen {seen}"));
            }
        }
        self.touched |= if changed.nodes { u32::MAX } else { changed.slots };
        for slot in (0..self.setup.partitions).filter(|slot| changed.slots >> slot & 1 == 1) {
            let known = self.store.partition(slot);
            let generation = known.map_or(0, |known| known.key.generation);
            if generation != self.truths[slot].generation {
                self.truths[slot] = known.map_or_else(Truth::default, |known| Truth::of(generation, &known.state));
                self.replace_producers(slot, generation, 0);
                self.counts.created += 1;
                continue;
            }
            let Some(known) = known else { continue };
            let truth = &mut self.truths[slot];
            truth.least_min_isr = truth.least_min_isr.min(known.state.min_isr);
            if known.state.unclean_epoch > truth.unclean_epoch {
                self.declare_loss(slot);
            }
        }
    }

    /// Those of another partition write to a slot, from a sequence on. Generation 0: there is none.
    pub(crate) fn replace_producers(&mut self, slot: usize, generation: u32, first: u32) {
        for at in slot * PRODUCERS..(slot + 1) * PRODUCERS {
            self.producers[at] = Producer::new(at, generation, first);
        }
    }

    fn decide(&mut self, at: usize, decision: Option<Decision<Key>>) -> bool {
        decision.is_some_and(|decision| {
            self.transact(at, decision);
            true
        })
    }

    /// Merges a set of decisions into transactions, which are written one by one, whatever happens in between. While
    /// some of an earlier set are left, nothing of this one is.
    fn submit(&mut self, at: usize, decisions: Vec<Decision<Key>>) -> bool {
        let controller = &mut self.controllers[at];
        if decisions.is_empty() || !controller.outbox.is_empty() {
            return false;
        }
        controller.outbox.extend(controller.decider.merge(decisions, self.weights.partitions_max));
        true
    }
}
