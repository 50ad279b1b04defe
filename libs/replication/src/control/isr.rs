//! Changes of in-sync sets (rules R10, R19; amendment A3).

use walser_model::{LeaderEpoch, NodeId};

use super::elect::lead_without_proof;
use super::{Decision, DecisionContext, PartitionRecord};
use crate::NodeSet;
use crate::wire::AlterIsr;

/// Why a leader's proposal is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The sender knows of something newer: ask the controller that wrote it.
    #[error("the sender has newer metadata than this controller")]
    Behind,
    /// Another node leads, or the same one in a later epoch.
    #[error("the sender does not lead the partition any more")]
    NotLeader,
    /// The sender's incarnation is over.
    #[error("the sender has registered again since")]
    StaleNode,
    /// The set was proposed against an older one.
    #[error("the partition has changed since")]
    StalePartition,
    /// A member is no replica, is fenced or stopping, has no data directory at present, or is not the incarnation that
    /// caught up.
    #[error("node {0} cannot be in sync")]
    Ineligible(NodeId),
    /// The leader must be in its own set.
    #[error("the leader is not in the proposed set")]
    WithoutLeader,
    /// Another node has everything, and takes the lead.
    #[error("node {0} has everything and is in service")]
    Needless(NodeId),
}

/// Writes a leader's proposal, or says why not.
///
/// # Errors
/// [`Refusal`].
pub fn alter_isr<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    proposal: &AlterIsr,
) -> Result<Decision<P>, Refusal> {
    let state = &record.state;
    if proposal.leader_epoch > state.leader_epoch || proposal.partition_epoch > record.epoch {
        return Err(Refusal::Behind);
    }
    if proposal.leader_epoch < state.leader_epoch || state.leader != Some(proposal.leader) {
        return Err(Refusal::NotLeader);
    }
    if context.node(proposal.leader).is_none_or(|node| node.epoch != proposal.node_epoch) {
        return Err(Refusal::StaleNode);
    }
    if proposal.partition_epoch < record.epoch {
        return Err(Refusal::StalePartition);
    }
    let isr: NodeSet = proposal.isr.iter().map(|(node, _)| *node).collect();
    if !isr.contains(proposal.leader) {
        return Err(Refusal::WithoutLeader);
    }
    if !context.alive(proposal.leader) {
        return Err(Refusal::Ineligible(proposal.leader));
    }
    let mut added = vec![proposal.leader];
    for (node, epoch) in &proposal.isr {
        if !state.replicas.contains(node) {
            return Err(Refusal::Ineligible(*node));
        }
        if state.isr.contains(*node) {
            continue;
        }
        let same = context.node(*node).is_some_and(|found| found.epoch == *epoch);
        let unfit = context.is_lost_to(state, *node) || context.would_hold_up(state, *node);
        if !context.usable(*node) || !same || unfit {
            return Err(Refusal::Ineligible(*node));
        }
        added.push(*node);
    }
    let mut state = state.clone();
    state.set_isr(isr);
    Ok(Decision::of_partition(context, record, state, added))
}

/// Begins a new leader epoch for the node that leads in `leader_epoch`, above that one and `above`: offsets that the node
/// is about to use were used before, in a log that was set aside.
///
/// # Errors
/// [`Refusal::NotLeader`] and [`Refusal::StaleNode`].
pub fn renew_epoch<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node_epoch: i64,
    leader_epoch: LeaderEpoch,
    above: LeaderEpoch,
) -> Result<Decision<P>, Refusal> {
    let leader = leader_in(context, record, node_epoch, leader_epoch)?;
    let mut state = record.state.clone();
    state.leader_epoch = leader_epoch.max(above);
    state.begin_epoch(context.start);
    Ok(Decision::of_partition(context, record, state, [leader]))
}

/// Begins a new leader epoch for the node that leads in `leader_epoch`, and is about to give up records of its log. Nobody
/// else counts any more, and whoever has the records cuts them off when it comes back, although it took them for
/// committed.
///
/// # Errors
/// As for [`renew_epoch`]; [`Refusal::Needless`] where another node in service has what would be given up.
pub fn give_up_records<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node_epoch: i64,
    leader_epoch: LeaderEpoch,
) -> Result<Decision<P>, Refusal> {
    let leader = leader_in(context, record, node_epoch, leader_epoch)?;
    if let Some(other) = context.whole_besides(&record.state, leader) {
        return Err(Refusal::Needless(other));
    }
    let mut state = record.state.clone();
    (state.elr, state.last_known_elr) = (NodeSet::EMPTY, NodeSet::EMPTY);
    lead_without_proof(context, &mut state, leader);
    Ok(Decision::of_partition(context, record, state, [leader]))
}

/// The node that leads in an epoch, if it is the caller's incarnation.
fn leader_in<P>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node_epoch: i64,
    leader_epoch: LeaderEpoch,
) -> Result<NodeId, Refusal> {
    let state = &record.state;
    let leader = state.leader.filter(|_| state.leader_epoch == leader_epoch).ok_or(Refusal::NotLeader)?;
    match context.node(leader) {
        Some(node) if node.epoch == node_epoch && !node.fenced => Ok(leader),
        _ => Err(Refusal::StaleNode),
    }
}

/// Rewrites a partition for another `min.insync.replicas`. The eligible go together with it: with fewer wanted, records
/// are committed that they do not have.
pub fn change_min_isr<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    min_isr: usize,
) -> Option<Decision<P>> {
    let effective = min_isr.min(record.state.target().len()).max(1);
    if effective == record.state.min_isr {
        return None;
    }
    let mut state = record.state.clone();
    state.min_isr = effective;
    state.set_isr(state.isr.clone());
    Some(Decision::of_partition(context, record, state, []))
}
