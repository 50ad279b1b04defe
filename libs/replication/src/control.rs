//! What the controller writes about nodes and partitions: each decision as one transaction of the metadata store.
//!
//! A decision is taken on values of one revision, and its transaction compares all of them: when one has changed,
//! nothing is written, and the decision is taken again. So it does not matter how many controllers there are, nor how
//! late they are; being *the* controller is for liveness, and its guard a second line of defence.
//!
//! A function returns the decision that is due, or `None` when nothing is. Which one is due first for a node that
//! registers is [`admit`]; what a partition needs, whatever happened to it, is [`reconcile`]. Many decisions become few
//! transactions in [`merge`]. The simulator in `integration-tests/sim` and the controller call exactly these.

mod create;
mod elect;
mod isr;
mod members;
mod merge;
mod moves;
mod reconcile;
mod restore;

use std::collections::BTreeMap;

use walser_model::NodeId;

use crate::{NodeSet, PartitionState};

pub use create::{create, delete};
pub use elect::{
    Candidate, Lack, Recovery, elect_declared_lost, elect_eligible, elect_named, elect_preferred, elect_unclean,
    eligible_leader, lead_again, leave_lead, recovery_candidates, step_down,
};
pub use isr::{Refusal, alter_isr, change_min_isr, give_up_records, renew_epoch};
pub use members::{
    ReplicaIntegrity, admit, can_stop, counted, drain, elect_again, fence, give_up, hand_over, is_only_eligible,
    register, relieve, shut_down, sweep, unfence,
};
pub use merge::{MERGED_PARTITIONS_MAX, OPERATIONS_MAX, merge};
pub use moves::{BadTarget, advance_reassignment, reassign};
pub use reconcile::reconcile;
pub use restore::restore;

/// A node as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its incarnation: mod revision of its registration. 0: never registered.
    pub epoch: i64,
    /// Mod revision of its live key. 0: never written.
    pub live_revision: i64,
    /// It neither leads nor counts.
    pub fenced: bool,
    /// It is about to stop.
    pub shutting_down: bool,
    /// An operator wants it to lead nothing that another one can lead.
    pub drained: bool,
}

/// What a decision is taken on beside the partition itself. Nodes and partitions MUST be of one revision: a partition
/// that is older than the nodes beside it may be led by a node that looks swept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionContext {
    /// Create revision of the controller key under which the decisions are taken.
    pub controller_epoch: i64,
    /// The revision at which everything was read.
    pub revision: i64,
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Nodes that cannot write at present, as they have said: nobody hands a lead to them that another node can have. Not
    /// compared when a decision is written: it is advice.
    pub unwritable: NodeSet,
    /// Those of them whose data directory has failed: it is gone, or the disk refuses everything. They do not count where
    /// another node in service has everything. Advice, too.
    pub failed: NodeSet,
    /// Nodes that have not been heard for a moment, though they are not fenced yet: nobody hands a lead to them that another
    /// node can have. Advice, too.
    pub silent: NodeSet,
    /// The start of the controller that decides.
    pub start: ControllerStart,
}

/// A start of a controller. A copy of the metadata that is used again goes on with leader epochs that were begun already, by
/// other leaders. So the first one that begins in a partition under each start is a random number of epochs further on, and
/// those that two histories begin after one copy are hardly ever the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControllerStart {
    /// Higher with every start on the same metadata, from 1 on; 0: not known.
    pub number: i64,
    /// Leader epochs that are skipped where the first one begins in a partition.
    pub epochs_skipped: i32,
}

/// A partition with the revision under which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRecord<P> {
    pub key: P,
    pub state: PartitionState,
    /// Mod revision of the key.
    pub epoch: i64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison<P> {
    /// The controller key was created at this revision.
    Controller(i64),
    /// The partition does not exist.
    Missing(P),
    /// The partition was last changed at this revision.
    Partition(P, i64),
    /// The node registered at this revision. 0: it never has.
    Registration(NodeId, i64),
    /// The node's live key was last changed at this revision. 0: it never was.
    Live(NodeId, i64),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write<P> {
    Partition(P, PartitionState),
    /// The partition is gone.
    Delete(P),
    /// A registration: its revision is the node's new epoch.
    Registration(NodeId),
    Live {
        /// The node.
        node: NodeId,
        /// It neither leads nor counts.
        fenced: bool,
        /// It is about to stop.
        shutting_down: bool,
    },
}

/// A transaction: all of `writes` when all of `comparisons` hold, else nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<P> {
    /// All of them must hold.
    pub comparisons: Vec<Comparison<P>>,
    /// All of them happen.
    pub writes: Vec<Write<P>>,
}

impl DecisionContext {
    /// A node, if there ever was one of this id.
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node)
    }

    /// Whether a node may lead and join in-sync sets.
    fn usable(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|found| !found.fenced && !found.shutting_down)
    }

    /// Whether a node is one to lead, where others could, too.
    fn leads(&self, node: NodeId) -> bool {
        let able = self.usable(node) && !self.unwritable.contains(node) && !self.silent.contains(node);
        able && self.node(node).is_some_and(|found| !found.drained)
    }

    /// Another node in service that is known to have everything of a partition.
    fn whole_besides(&self, state: &PartitionState, node: NodeId) -> Option<NodeId> {
        state.whole().iter().find(|other| *other != node && self.alive(*other))
    }

    /// Whether a node's data directory has failed while another node that is heard, and whose directory has not, has
    /// everything of a partition.
    fn is_lost_to(&self, state: &PartitionState, node: NodeId) -> bool {
        // A silent one may be gone, and it counts until that is known.
        let able = |other: NodeId| other != node && self.heard(other) && !self.failed.contains(other);
        self.failed.contains(node) && state.whole().iter().any(able)
    }

    /// Whether a node cannot write, and enough who can are in sync without it: the high watermark would wait for its disk.
    fn would_hold_up(&self, state: &PartitionState, node: NodeId) -> bool {
        let writes = |other: &NodeId| *other != node && !self.unwritable.contains(*other);
        self.unwritable.contains(node) && state.isr.iter().filter(writes).count() >= state.min_isr
    }

    /// Whether a node is in service, and not silent: one that is may be gone, and is heard again, or fenced, in a moment.
    fn heard(&self, node: NodeId) -> bool {
        self.alive(node) && !self.silent.contains(node)
    }

    /// Whether a node may lead although it is about to stop: better than no leader.
    pub fn alive(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|found| !found.fenced)
    }
}

impl<P: Clone> Decision<P> {
    /// What is wrong with a partition that it would write (invariant I8). Callers check it before they commit.
    pub fn problem(&self) -> Option<&'static str> {
        self.partition_states().find_map(PartitionState::problem)
    }

    /// The states that it would give to partitions.
    pub fn partition_states(&self) -> impl Iterator<Item = &PartitionState> {
        self.writes.iter().filter_map(|write| match write {
            Write::Partition(_, state) => Some(state),
            Write::Delete(_) | Write::Registration(_) | Write::Live { .. } => None,
        })
    }

    /// Nothing yet, under the guard of the controller key: a start for what a controller writes beside partitions.
    pub fn new(context: &DecisionContext) -> Self {
        Self { comparisons: vec![Comparison::Controller(context.controller_epoch)], writes: Vec::new() }
    }

    /// Another value of a partition that was read. `on`: nodes whose records decided.
    fn of_partition(
        context: &DecisionContext,
        record: &PartitionRecord<P>,
        state: PartitionState,
        on: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let mut decision = Self::new(context);
        decision.comparisons.push(Comparison::Partition(record.key.clone(), record.epoch));
        for node in on {
            decision.compare_node(context, node);
        }
        decision.writes.push(Write::Partition(record.key.clone(), state));
        decision
    }

    fn compare_node(&mut self, context: &DecisionContext, node: NodeId) {
        let (epoch, live) = context.node(node).map_or((0, 0), |found| (found.epoch, found.live_revision));
        self.comparisons.push(Comparison::Registration(node, epoch));
        self.comparisons.push(Comparison::Live(node, live));
    }
}

#[cfg(test)]
mod tests;
