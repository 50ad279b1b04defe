//! Who leads (rules R19, R21, R22).

use walser_model::{LeaderEpoch, NodeId, Offset};

use super::{Decision, DecisionContext, PartitionRecord};
use crate::{NodeSet, PartitionState, SteppedDown};

/// A replica asked what it has, for an election without proof (rule R21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The latest epoch of its log: of its last record, or, where all are deleted, of the last one that was; or a later
    /// one that it has begun to lead, for as long as its log reaches the start of that (rule R2). In such an epoch it may
    /// have had records of earlier ones committed, which a replica with records of an epoch in between need not have.
    pub last_epoch: LeaderEpoch,
    /// The latest epoch of its records alone.
    pub record_epoch: LeaderEpoch,
    /// End of its log. Exclusive.
    pub log_end: Offset,
    /// Its log is whole; of a damaged one the end is where the damage begins.
    pub intact: bool,
    /// The node that becomes the leader.
    pub node: NodeId,
    /// The incarnation that was asked.
    pub node_epoch: i64,
    /// What it knows of the partition: a node that has not seen yet that it was no replica for a while will delete its
    /// log when it does.
    pub partition_epoch: i64,
}

/// Whether a replica has said so in this incarnation, of the partition as it is, and can lead.
fn is_current<P>(context: &DecisionContext, record: &PartitionRecord<P>, candidate: &Candidate) -> bool {
    let same = context.node(candidate.node).is_some_and(|found| found.epoch == candidate.node_epoch);
    same && candidate.partition_epoch == record.epoch
        && record.state.replicas.contains(&candidate.node)
        && context.alive(candidate.node)
}

/// How much a replica has, to compare it with others. What it has begun by a copy of the metadata that was restored says
/// nothing: the same epochs were handed out before, with records that were committed.
fn has(state: &PartitionState, candidate: &Candidate) -> Candidate {
    let obeyed = state.restored.as_ref().is_some_and(|restored| restored.obeyed.contains(candidate.node));
    let last_epoch = if obeyed { candidate.record_epoch } else { candidate.last_epoch };
    Candidate { last_epoch, ..*candidate }
}

/// Makes a node the leader.
pub(super) fn lead(context: &DecisionContext, state: &mut PartitionState, leader: Option<NodeId>) {
    if leader.is_some() {
        state.stepped_down = None;
        state.restored = None;
    }
    state.leader = leader;
    state.begin_epoch(context.start);
}

/// Makes a node the leader, and the only one that counts, although it need not have everything that was committed.
pub(super) fn lead_without_proof(context: &DecisionContext, state: &mut PartitionState, leader: NodeId) {
    state.isr = NodeSet::from_iter([leader]);
    lead(context, state, Some(leader));
    state.unclean_epoch = state.leader_epoch;
    state.recovering = state.is_under_min_isr();
}

/// Makes an eligible node the leader, while nobody is in sync.
fn lead_of_eligible(context: &DecisionContext, state: &mut PartitionState, node: NodeId) {
    state.elr.remove(node);
    state.set_isr(NodeSet::from_iter([node]));
    lead(context, state, Some(node));
}

/// Gives a partition a leader whose leader cannot lead any more: from the in-sync set; when that is empty, from the
/// eligible; else none. Gives back the node that was chosen.
pub(super) fn elect(context: &DecisionContext, state: &mut PartitionState) -> Option<NodeId> {
    if let Some(leader) = state.leader
        && state.isr.contains(leader)
        && context.alive(leader)
    {
        return None;
    }
    let first = |set: &NodeSet, can: &dyn Fn(NodeId) -> bool| {
        state.replicas.iter().copied().find(|node| set.contains(*node) && can(*node))
    };
    let in_sync = first(&state.isr, &|node| context.leads(node))
        .or_else(|| first(&state.isr, &|node| context.usable(node)))
        .or_else(|| first(&state.isr, &|node| context.alive(node)));
    if let Some(node) = in_sync {
        lead(context, state, Some(node));
        return Some(node);
    }
    if let Some(node) = eligible_leader(context, state) {
        state.end_comparison();
        lead_of_eligible(context, state, node);
        return Some(node);
    }
    if state.leader.is_some() {
        lead(context, state, None);
    }
    None
}

/// Who of the eligible leads where nobody is in sync. One that is not heard does not: of that nothing is known. One whose
/// data directory has failed does where all of them are heard; otherwise another one that comes back is waited for, or its
/// directory.
pub fn eligible_leader(context: &DecisionContext, state: &PartitionState) -> Option<NodeId> {
    let eligible = || state.replicas.iter().copied().filter(|node| state.elr.contains(*node));
    let heard = || eligible().filter(|node| context.heard(*node));
    let able = heard().find(|node| !context.failed.contains(*node));
    let all_there = heard().count() == state.elr.len();
    able.or_else(|| heard().next().filter(|_| all_there)).filter(|_| state.isr.is_empty())
}

/// Gives leadership back to the first replica, when it can lead. `None`: nothing is to be done.
pub fn elect_preferred<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Option<Decision<P>> {
    elect_named(context, record, *record.state.replicas.first()?)
}

/// Takes the lead from a node that is drained, where another one can lead. `None`: there is nothing to do.
pub fn leave_lead<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Option<Decision<P>> {
    let leader = record.state.leader?;
    if context.node(leader).is_none_or(|found| !found.drained) {
        return None;
    }
    let can = |node: &NodeId| record.state.isr.contains(*node) && context.leads(*node);
    elect_named(context, record, record.state.replicas.iter().copied().find(can)?)
}

/// Has a node lead in place of another one, when it is in sync, in service and not drained. `None`: it is not, it leads
/// already, or nobody does.
pub fn elect_named<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
) -> Option<Decision<P>> {
    let led = record.state.leader.is_some_and(|leader| leader != node);
    if !led || !record.state.isr.contains(node) || !context.leads(node) {
        return None;
    }
    let mut state = record.state.clone();
    lead(context, &mut state, Some(node));
    Some(Decision::of_partition(context, record, state, [node]))
}

/// Has an eligible node lead although a leader is there: where that one reaches none of its followers, writes wait for
/// somebody who does. While nodes are eligible, nothing is committed without them (rule R19), so this loses no more than if
/// the leader had been fenced. `None`: it is not eligible, not in service, drained or cannot write, it leads already, or
/// nobody does.
pub fn elect_eligible<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
) -> Option<Decision<P>> {
    let led = record.state.leader.is_some_and(|leader| leader != node);
    if !led || !record.state.elr.contains(node) || !context.leads(node) {
        return None;
    }
    let mut state = record.state.clone();
    // Those in sync are eligible from then on.
    state.set_isr(NodeSet::EMPTY);
    lead_of_eligible(context, &mut state, node);
    Some(Decision::of_partition(context, record, state, [node]))
}

/// Elects without proof although somebody who is known to have everything may come back: an operator has declared all of
/// those lost. Of the others the one that has most leads, or a `named` one. `None`: one of them is in service and is about
/// to lead, the partition has a leader, no candidate can lead, or a replica in service has not said yet what it has.
pub fn elect_declared_lost<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    candidates: &[Candidate],
    named: Option<NodeId>,
) -> Option<Decision<P>> {
    let state = &record.state;
    let eligible = state.electable();
    let able = |node: NodeId| context.alive(node) && !context.failed.contains(node);
    if eligible.iter().any(able) || eligible_leader(context, state).is_some() {
        return None;
    }
    let said = |node: &NodeId| {
        candidates.iter().any(|candidate| candidate.node == *node && is_current(context, record, candidate))
    };
    let candidates: Vec<_> = match named {
        Some(node) => candidates.iter().filter(|candidate| candidate.node == node).copied().collect(),
        None if !state.replicas.iter().filter(|node| context.alive(**node)).all(said) => return None,
        None => candidates.to_vec(),
    };
    let (isr, elr, last_known_elr) = (NodeSet::EMPTY, NodeSet::EMPTY, state.last_known_elr.union(&eligible));
    let state = PartitionState { isr, elr, last_known_elr, ..state.clone() };
    let lost = PartitionRecord { key: record.key.clone(), state, epoch: record.epoch };
    let mut decision = elect_unclean(context, &lost, &candidates, Recovery::Proactive)?;
    eligible.iter().for_each(|node| decision.compare_node(context, node));
    Some(decision)
}

/// What a leader does not have that steps down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Its log is damaged: of all replicas, whoever has most can be told.
    Damaged,
    /// Records that this node has taken for committed, and has stopped therefore. The leader may have written others
    /// since: which of them are to stay is for people to say.
    Committed(NodeId),
}

/// Takes the lead from a node whose log lacks records, on an operator's word: all replicas say then what they have, and
/// [`elect_declared_lost`] compares them, all alike. Those who have everything and are away stay eligible: whoever of them
/// comes back before that leads. `named`: who is to lead. `None`: nobody leads; or its log is damaged and somebody else who
/// has everything is in service, and takes the lead. Where two logs contradict each other, that others are in sync with one
/// of them says nothing.
pub fn step_down<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    (lack, named): (Lack, Option<NodeId>),
) -> Option<Decision<P>> {
    let leader = record.state.leader?;
    if lack == Lack::Damaged && context.whole_besides(&record.state, leader).is_some() {
        return None;
    }
    let whole = record.state.whole();
    let mut state = record.state.clone();
    state.isr = NodeSet::EMPTY;
    state.elr = whole.iter().filter(|node| !context.alive(*node)).collect();
    let last_known = std::mem::replace(&mut state.last_known_elr, NodeSet::EMPTY);
    lead(context, &mut state, None);
    let (leader_epoch, compared) = (state.leader_epoch, whole.without(&state.elr));
    state.stepped_down = Some(Box::new(SteppedDown { leader, leader_epoch, named, whole: compared, last_known }));
    Some(Decision::of_partition(context, record, state, whole.iter()))
}

/// Ends an election for which a leader has stepped down ([`step_down`]), as nobody could be elected in its place: whoever
/// had everything has it again, and the former leader leads, or another one of them. `None`: no such election is under way.
pub fn lead_again<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    let before = state.end_comparison()?;
    let mut on: Vec<NodeId> = before.whole.union(&before.last_known).iter().collect();
    if before.whole.contains(before.leader) && context.alive(before.leader) {
        lead_of_eligible(context, &mut state, before.leader);
    } else {
        on.extend(elect(context, &mut state));
    }
    Some(Decision::of_partition(context, record, state, on))
}

/// How long an election without proof waits (rule R21). Without any of them the partition waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Until everybody who may have everything can be asked.
    Balanced,
    Proactive,
}

/// Whom an election without proof waits for: those who were the last ones eligible, or all replicas when nobody is
/// record to have been.
pub fn recovery_candidates(state: &PartitionState) -> NodeSet {
    let last = &state.last_known_elr;
    if last.is_empty() { state.replicas.iter().copied().collect() } else { last.clone() }
}

/// Elects without proof, because nobody who has everything can come back: of those who were eligible last and answered,
/// the one that has most; of the others only when there is none, for they may have more that was never committed, and
/// less that was. Records may be lost, and the partition says so until enough replicas are in sync. `None`: somebody can still be
/// waited for. An eligible node that never comes back has to be declared gone first (see [`super::sweep`]).
pub fn elect_unclean<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    candidates: &[Candidate],
    recovery: Recovery,
) -> Option<Decision<P>> {
    let state = &record.state;
    if state.leader.is_some() || !state.isr.is_empty() || !state.elr.is_empty() {
        return None;
    }
    // A damaged replica has to be repaired by people, and so it is for them to elect.
    let eligible = |candidate: &&Candidate| {
        is_current(context, record, candidate) && (candidate.intact || recovery != Recovery::Balanced)
    };
    let answered: NodeSet = candidates.iter().filter(eligible).map(|candidate| candidate.node).collect();
    if recovery == Recovery::Balanced && !recovery_candidates(state).is_subset(&answered) {
        return None;
    }
    let last = |candidate: &&Candidate| state.last_known_elr.contains(candidate.node);
    let most = |candidate: &&Candidate| has(state, candidate);
    let best = candidates.iter().filter(eligible).filter(last).max_by_key(most);
    let best = best.or_else(|| candidates.iter().filter(eligible).max_by_key(most))?.node;
    let mut state = state.clone();
    state.last_known_elr.remove(best);
    lead_without_proof(context, &mut state, best);
    if !state.recovering {
        state.last_known_elr = NodeSet::EMPTY;
    }
    Some(Decision::of_partition(context, record, state, [best]))
}
