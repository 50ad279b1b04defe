//! Replicas that move (rule R24): first more of them, then, once the new ones are in sync, fewer.

use walser_model::NodeId;

use super::elect::elect;
use super::{Decision, DecisionContext, PartitionRecord};
use crate::{NodeSet, PartitionState};

/// Why replicas cannot move there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// A partition has at least one replica.
    #[error("no replica is named")]
    Empty,
    /// A node has one replica of a partition.
    #[error("node {0} is named twice")]
    Twice(NodeId),
    /// Nobody knows the node.
    #[error("node {0} is not registered")]
    Unknown(NodeId),
}

/// Begins a move to `target`, or changes the target of one that is under way; the first replica is the one that leads
/// when it can. `None`: the replicas are there already, in this order.
///
/// # Errors
/// [`BadTarget`].
pub fn reassign<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    target: &[NodeId],
) -> Result<Option<Decision<P>>, BadTarget> {
    let wanted: NodeSet = target.iter().copied().collect();
    if wanted.is_empty() {
        return Err(BadTarget::Empty);
    }
    for (at, node) in target.iter().enumerate() {
        if target[..at].contains(node) {
            return Err(BadTarget::Twice(*node));
        }
        if context.node(*node).is_none() {
            return Err(BadTarget::Unknown(*node));
        }
    }
    let mut state = record.state.clone();
    let settled: NodeSet = state.replicas.iter().copied().filter(|node| !state.adding.contains(*node)).collect();
    // Of a move that is given up, a replica that has joined may have what no other has: it stays until the end of this
    // one. Whoever counts nowhere goes at once.
    let counted = state.counted();
    let given_up = state.adding.without(&wanted);
    let gone = given_up.without(&counted);
    state.adding = wanted.without(&settled);
    state.removing = settled.without(&wanted).union(&given_up.intersection(&counted));
    let rest = state.replicas.iter().copied().filter(|node| !wanted.contains(*node) && !gone.contains(*node));
    state.replicas = target.iter().copied().chain(rest).collect();
    let on = if gone.is_empty() { Vec::new() } else { drop_members(context, &mut state, &gone) };
    Ok((state != record.state).then(|| Decision::of_partition(context, record, state, on)))
}

/// Ends a move whose new replicas are all in sync. `min_isr`: what the topic wants; a partition that had fewer replicas
/// had less of it. `None`: it is not that far.
pub fn advance_reassignment<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    min_isr: usize,
) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    if state.adding.is_empty() && state.removing.is_empty() {
        return None;
    }
    let target = state.target();
    let enough = target.intersection(&state.isr).len() >= state.min_isr.min(target.len());
    if !state.adding.is_subset(&state.isr) || !enough {
        return None;
    }
    let gone = std::mem::take(&mut state.removing);
    state.adding = NodeSet::EMPTY;
    state.replicas.retain(|node| target.contains(*node));
    state.min_isr = min_isr.clamp(1, state.replicas.len());
    let on = drop_members(context, &mut state, &gone);
    Some(Decision::of_partition(context, record, state, on))
}

/// Takes nodes that are no replicas any more out of everything; elects when the leader is one of them. The leader epoch
/// begins anew also when the leader stays: a node that becomes a replica again later has deleted what it had, and
/// nothing that the leader heard of it before may count.
fn drop_members(context: &DecisionContext, state: &mut PartitionState, gone: &NodeSet) -> Vec<NodeId> {
    let led_before = state.leader;
    let isr = state.isr.without(gone);
    // More than there are replicas could never be in sync (amendment A3).
    state.min_isr = state.min_isr.min(state.replicas.len());
    state.elr = state.elr.without(gone);
    state.last_known_elr = state.last_known_elr.without(gone);
    if let Some(stepped_down) = &mut state.stepped_down {
        stepped_down.whole = stepped_down.whole.without(gone);
        stepped_down.last_known = stepped_down.last_known.without(gone);
    }
    state.set_isr(isr);
    state.elr = state.elr.without(gone);
    let mut on: Vec<NodeId> = elect(context, state).into_iter().collect();
    if state.leader == led_before {
        state.begin_epoch(context.start);
        on.extend(state.leader);
    }
    on
}
