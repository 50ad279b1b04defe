//! What the controller writes: each decision as one transaction of the metadata store.
//!
//! A decision is taken on values that were read, and its transaction compares all of them: when one has changed, nothing
//! is written, and the decision is taken again. So it does not matter how many controllers there are, nor how late they
//! are; being *the* controller is for liveness, and its guard a second line of defence.

mod elect;
mod isr;
mod members;
mod moves;

use std::collections::BTreeMap;

use walser_model::NodeId;

use crate::{PartitionState, Rule, Rules};

pub use elect::{Candidate, Recovery, elect_preferred, elect_unclean, to_ask};
pub use isr::{Refusal, alter_isr, change_min_isr};
pub use members::{
    Held, can_register, can_stop, can_unfence, drain, elect_again, fence, register, shut_down, sweep, unfence,
};
pub use moves::{BadTarget, advance_reassignment, reassign};

/// A node as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its incarnation: mod revision of its registration. 0: never registered.
    pub epoch: i64,
    /// Mod revision of its live key. 0: never written.
    pub live_revision: i64,
    /// It neither leads nor counts.
    pub fenced: bool,
    /// It is about to stop.
    pub shutting_down: bool,
}

/// What was read, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Create revision of the controller key under which the decisions are taken.
    pub controller_epoch: i64,
    /// Everything that was read was like this at one revision at or above this one.
    pub revision: i64,
    /// Every node.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Which rules hold.
    pub rules: Rules,
}

/// A partition with the revision under which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<P> {
    /// Its key.
    pub key: P,
    /// Its value.
    pub state: PartitionState,
    /// Mod revision of the key.
    pub epoch: i64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare<P> {
    /// The controller key was created at this revision.
    Controller(i64),
    /// The partition was last changed at this revision.
    Partition(P, i64),
    /// The node registered at this revision.
    Registration(NodeId, i64),
    /// The node's live key was last changed at this revision.
    Live(NodeId, i64),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put<P> {
    /// A partition.
    Partition(P, PartitionState),
    /// A registration: its revision is the node's new epoch.
    Registration(NodeId),
    /// A live key.
    Live {
        /// Whose.
        node: NodeId,
        /// It neither leads nor counts.
        fenced: bool,
        /// It is about to stop.
        shutting_down: bool,
    },
}

/// A transaction: all of `puts` when all of `compares` hold, else nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<P> {
    /// Conditions.
    pub compares: Vec<Compare<P>>,
    /// Writes.
    pub puts: Vec<Put<P>>,
}

impl View {
    fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// Whether a node may lead and join in-sync sets.
    fn usable(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|found| !found.fenced && !found.shutting_down)
    }

    /// Whether a node may lead although it is about to stop: better than nobody.
    fn alive(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|found| !found.fenced)
    }
}

impl<P: Clone> Decision<P> {
    /// What is wrong with a partition that it would write (invariant I8): whoever writes decisions looks before.
    pub fn problem(&self) -> Option<&'static str> {
        self.puts.iter().find_map(|put| match put {
            Put::Partition(_, state) => state.problem(),
            Put::Registration(_) | Put::Live { .. } => None,
        })
    }

    /// Nothing yet, under the guard of the controller key.
    fn new(view: &View) -> Self {
        let guard = view.rules.hold(Rule::ElectionGuard);
        let compares = if guard { vec![Compare::Controller(view.controller_epoch)] } else { Vec::new() };
        Self { compares, puts: Vec::new() }
    }

    /// Another value of a partition that was read. `on`: nodes whose state decided.
    fn of_partition(
        view: &View,
        known: &Known<P>,
        state: PartitionState,
        on: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let mut decision = Self::new(view);
        if view.rules.hold(Rule::CompareAll) {
            decision.compares.push(Compare::Partition(known.key.clone(), known.epoch));
            for node in on {
                decision.compare_node(view, node);
            }
        }
        decision.puts.push(Put::Partition(known.key.clone(), state));
        decision
    }

    fn compare_node(&mut self, view: &View, node: NodeId) {
        if !view.rules.hold(Rule::CompareNodes) {
            return;
        }
        let (epoch, live) = view.node(node).map_or((0, 0), |found| (found.epoch, found.live_revision));
        self.compares.push(Compare::Registration(node, epoch));
        self.compares.push(Compare::Live(node, live));
    }
}

#[cfg(test)]
mod tests;
