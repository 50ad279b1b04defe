//! Partitions that come and go.

use walser_model::{LeaderEpoch, NodeId};

use super::{Comparison, Decision, DecisionContext, PartitionRecord, Write};
use crate::PartitionState;

/// Creates a partition: in `leader_epoch` or a later one, led by the first of its replicas that is in service on a directory that
/// has not failed, with all that are in sync; the others follow when they are back. `None`: there is none.
///
/// The registration and the live key of every replica are compared. A node that is fenced meanwhile would otherwise
/// register again while a partition that its sweep has not seen counts on it (invariant I14).
pub fn create<P: Clone>(
    context: &DecisionContext,
    key: P,
    replicas: &[NodeId],
    min_isr: usize,
    leader_epoch: LeaderEpoch,
) -> Option<Decision<P>> {
    let usable = |node: &NodeId| context.usable(*node) && !context.failed.contains(*node);
    let leader = replicas.iter().copied().find(usable)?;
    let isr = replicas.iter().copied().filter(usable).collect();
    let mut decision = Decision::new(context);
    decision.comparisons.push(Comparison::Missing(key.clone()));
    for node in replicas {
        decision.compare_node(context, *node);
    }
    let fresh = PartitionState::new(replicas.to_vec(), min_isr);
    let leader_epoch = LeaderEpoch(leader_epoch.0.saturating_add(context.start.epochs_skipped));
    let state = PartitionState { leader: Some(leader), leader_epoch, isr, start: context.start.number, ..fresh };
    decision.writes.push(Write::Partition(key, state));
    Some(decision)
}

/// Deletes a partition as it was read. Its topic MUST be gone for good before: nothing stops a node from acting on what
/// it has seen of the partition until it has seen that.
pub fn delete<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Decision<P> {
    let mut decision = Decision::new(context);
    decision.comparisons.push(Comparison::Partition(record.key.clone(), record.epoch));
    decision.writes.push(Write::Delete(record.key.clone()));
    decision
}
