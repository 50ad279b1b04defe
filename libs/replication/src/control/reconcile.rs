//! What a partition needs, whatever happened to it.

use walser_model::NodeId;

use super::elect::elect;
use super::{Decision, DecisionContext, PartitionRecord, ReplicaIntegrity};
use super::{advance_reassignment, change_min_isr, elect_again, leave_lead, sweep};
use crate::NodeSet;

/// The next decision that a partition needs for itself: a fenced node leaves it (R17), and so does one whose data
/// directory has failed where another one has everything (A5): one that is heard, or one that is fenced and is waited for. A leader is elected where there is
/// none, a drained node gives the lead to another one, `min.insync.replicas` of the topic is applied (A3), a move of
/// replicas that is complete ends (R24). `None`: nothing is due. After a decision is written, the next one is asked for on the context of then.
///
/// A controller that takes over calls it for every partition, and so finishes what its predecessor had begun.
pub fn reconcile<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    min_isr: usize,
) -> Option<Decision<P>> {
    let state = &record.state;
    let counted = || {
        let counts =
            |node: &NodeId| state.isr.contains(*node) || state.leader == Some(*node) || state.is_compared(*node);
        state.replicas.iter().copied().filter(counts)
    };
    if let Some(node) = counted().find(|node| context.is_lost_to(state, *node)) {
        // What was written to a directory that is gone need not be in the one that comes back.
        return sweep(context, record, node, ReplicaIntegrity::Unclean);
    }
    if let Some(decision) = all_eligible(context, record) {
        return Some(decision);
    }
    if let Some(node) = counted().find(|node| !context.alive(*node)) {
        return sweep(context, record, node, ReplicaIntegrity::Intact);
    }
    elect_again(context, record)
        .or_else(|| leave_lead(context, record))
        .or_else(|| change_min_isr(context, record, min_isr))
        .or_else(|| advance_reassignment(context, record, min_isr))
}

/// Where the data directories of all in sync that are in service have failed, and others that are fenced are in sync, too:
/// all of them have everything, and all are eligible. Whoever can leads: one that is fenced and comes back, or one whose
/// directory is well again. A process that was started anew on such a directory does not count as that. `None`: it is not so.
pub(super) fn all_eligible<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Option<Decision<P>> {
    let isr = &record.state.isr;
    let alive = || isr.iter().filter(|node| context.alive(*node));
    let none_can = alive().next().is_some() && alive().all(|node| context.failed.contains(node));
    let lost = isr.iter().any(|node| context.is_lost_to(&record.state, node));
    if !none_can || lost || alive().count() == isr.len() {
        return None;
    }
    let mut state = record.state.clone();
    state.set_isr(NodeSet::EMPTY);
    let chosen = elect(context, &mut state);
    Some(Decision::of_partition(context, record, state, isr.iter().chain(chosen)))
}
