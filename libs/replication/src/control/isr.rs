//! Changes of in-sync sets (rules R10, R19; amendment A3).

use walser_model::NodeId;

use super::{Decision, Known, View};
use crate::wire::AlterIsr;
use crate::{NodeSet, Rule};

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
    /// A member is no replica, is fenced or stopping, or is not the incarnation that caught up.
    #[error("node {0} cannot be in sync")]
    Ineligible(NodeId),
    /// The leader must be in its own set.
    #[error("the leader is not in the proposed set")]
    WithoutLeader,
}

/// Writes a leader's proposal, or says why not.
///
/// # Errors
/// [`Refusal`].
pub fn alter_isr<P: Clone>(view: &View, known: &Known<P>, proposal: &AlterIsr) -> Result<Decision<P>, Refusal> {
    let state = &known.state;
    if proposal.leader_epoch > state.leader_epoch || proposal.partition_epoch > known.epoch {
        return Err(Refusal::Behind);
    }
    if proposal.leader_epoch < state.leader_epoch || state.leader != Some(proposal.leader) {
        return Err(Refusal::NotLeader);
    }
    if view.node(proposal.leader).is_none_or(|node| node.epoch != proposal.node_epoch) {
        return Err(Refusal::StaleNode);
    }
    if proposal.partition_epoch < known.epoch && view.rules.hold(Rule::CompareAll) {
        return Err(Refusal::StalePartition);
    }
    let isr: NodeSet = proposal.isr.iter().map(|(node, _)| *node).collect();
    if !isr.contains(proposal.leader) {
        return Err(Refusal::WithoutLeader);
    }
    if !view.alive(proposal.leader) {
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
        let same = view.node(*node).is_some_and(|found| found.epoch == *epoch) || !view.rules.hold(Rule::NodeEpoch);
        if !view.usable(*node) || !same {
            return Err(Refusal::Ineligible(*node));
        }
        added.push(*node);
    }
    let mut state = state.clone();
    state.set_isr(isr);
    if !view.rules.hold(Rule::EligibleLeaders) {
        state.elr = NodeSet::EMPTY;
    }
    Ok(Decision::of_partition(view, known, state, added))
}

/// Rewrites a partition for another `min.insync.replicas`. The eligible go together with it: with fewer wanted, records
/// are committed that they do not have.
pub fn change_min_isr<P: Clone>(view: &View, known: &Known<P>, min_isr: usize) -> Option<Decision<P>> {
    let effective = min_isr.min(known.state.target().len()).max(1);
    if effective == known.state.min_isr {
        return None;
    }
    let mut state = known.state.clone();
    state.min_isr = effective;
    if view.rules.hold(Rule::MinIsrRecomputes) {
        state.set_isr(state.isr.clone());
    }
    Some(Decision::of_partition(view, known, state, []))
}
