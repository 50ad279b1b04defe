//! What a partition needs, whatever happened to it.

use walser_model::NodeId;

use super::{Decision, DecisionContext, PartitionRecord, ReplicaIntegrity};
use super::{advance_reassignment, change_min_isr, elect_again, leave_lead, sweep};
use crate::PartitionState;

/// The next decision that a partition needs for itself: a fenced node leaves it (R17), and so does one whose data
/// directory has failed where another one has everything (A5), a leader is elected where there is
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
    if let Some(node) =
        counted().find(|node| context.is_lost_to(state, *node)).or_else(|| last_but_failed(context, state))
    {
        // What was written to a directory that is gone need not be in the one that comes back.
        return sweep(context, record, node, ReplicaIntegrity::Unclean);
    }
    if let Some(node) = counted().find(|node| !context.alive(*node)) {
        return sweep(context, record, node, ReplicaIntegrity::Intact);
    }
    elect_again(context, record)
        .or_else(|| leave_lead(context, record))
        .or_else(|| change_min_isr(context, record, min_isr))
        .or_else(|| advance_reassignment(context, record, min_isr))
}

/// One in sync that is in service, where the data directories of all such have failed, and another one that is fenced is in
/// sync, too: that one has everything, and its return is waited for.
pub(super) fn last_but_failed(context: &DecisionContext, state: &PartitionState) -> Option<NodeId> {
    let alive = || state.isr.iter().filter(|node| context.alive(*node));
    let waits = alive().count() < state.isr.len() && alive().all(|node| context.failed.contains(node));
    alive().next().filter(|_| waits)
}
