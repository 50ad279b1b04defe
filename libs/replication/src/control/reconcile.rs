//! What a partition needs, whatever happened to it.

use super::{Decision, DecisionContext, PartitionRecord, ReplicaIntegrity};
use super::{advance_reassignment, change_min_isr, elect_again, leave_lead, sweep};

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
    let counts = |node: &walser_model::NodeId| {
        state.isr.contains(*node) || state.leader == Some(*node) || state.is_compared(*node)
    };
    let fenced = record.state.replicas.iter().copied().filter(counts).find(|node| !context.alive(*node));
    if let Some(node) = fenced {
        return sweep(context, record, node, ReplicaIntegrity::Intact);
    }
    let lost = record.state.replicas.iter().copied().filter(counts).find(|node| context.is_lost_to(state, *node));
    if let Some(node) = lost {
        // What was written to a directory that is gone need not be in the one that comes back.
        return sweep(context, record, node, ReplicaIntegrity::Unclean);
    }
    elect_again(context, record)
        .or_else(|| leave_lead(context, record))
        .or_else(|| change_min_isr(context, record, min_isr))
        .or_else(|| advance_reassignment(context, record, min_isr))
}
