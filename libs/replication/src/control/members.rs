//! Nodes that come, go, and stop (rules R17, R18, R20, R23; amendments A5, A10).

use walser_model::{LeaderEpoch, NodeId};

use super::elect::{elect, lead};
use super::reconcile::all_eligible;
use super::{Decision, DecisionContext, PartitionRecord, Write};
use crate::{NodeSet, PartitionState};

/// Fences a node: from then on it joins no in-sync set and is elected nowhere. Its partitions are swept after that.
pub fn fence<P: Clone>(context: &DecisionContext, node: NodeId) -> Option<Decision<P>> {
    let found = context.node(node).filter(|found| !found.fenced)?;
    let mut decision = Decision::new(context);
    decision.compare_node(context, node);
    decision.writes.push(Write::Live { node, fenced: true, shutting_down: found.shutting_down });
    Some(decision)
}

/// What a node has of its replica of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIntegrity {
    /// What it had, as far as anybody knows.
    Intact,
    /// Perhaps not all of it: it stopped without flushing what it had acknowledged (rule R20).
    Unclean,
    /// Not all of it: records on its disk are damaged, and stay so until somebody gives them up.
    Damaged,
    /// Nothing, or an older copy: its directory is lost or replaced (amendment A5).
    Gone,
}

/// What counts of a replica of which its node says `held` at its registration. Where nobody else who has everything is in
/// service, what is left of a damaged one leads: people give it up, or somebody comes back. A replica of a partition that
/// has no other is all there is, also after a loss of power (`Unclean`) and on an older copy of the disk (`Gone`).
pub fn counted(
    context: &DecisionContext,
    state: &PartitionState,
    node: NodeId,
    held: ReplicaIntegrity,
) -> ReplicaIntegrity {
    let only = match held {
        ReplicaIntegrity::Intact => false,
        ReplicaIntegrity::Damaged => state.whole().contains(node) && context.whole_besides(state, node).is_none(),
        ReplicaIntegrity::Unclean | ReplicaIntegrity::Gone => state.replicas == [node],
    };
    if only { ReplicaIntegrity::Intact } else { held }
}

/// Whether a node is the only one that is known to have everything that was committed.
pub fn is_only_eligible(state: &PartitionState, node: NodeId) -> bool {
    state.whole() == NodeSet::from_iter([node])
}

/// Takes a node out of one partition: out of the in-sync set, and out of the lead. It is fenced, or it says itself that
/// it cannot be relied on there. `None`: there is nothing to do.
pub fn sweep<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
    held: ReplicaIntegrity,
) -> Option<Decision<P>> {
    if context.alive(node) && held == ReplicaIntegrity::Intact {
        return None;
    }
    let mut state = record.state.clone();
    state.leave_comparison(node);
    if state.isr.contains(node) {
        let mut isr = state.isr.clone();
        isr.remove(node);
        state.set_isr(isr);
    }
    match held {
        ReplicaIntegrity::Intact => {}
        ReplicaIntegrity::Unclean => {
            if state.elr.remove(node) {
                state.last_known_elr.insert(node);
            }
        }
        // Of what it has any other replica may have more.
        ReplicaIntegrity::Damaged | ReplicaIntegrity::Gone => {
            state.elr.remove(node);
            state.last_known_elr.remove(node);
            if let Some(stepped_down) = &mut state.stepped_down {
                stepped_down.last_known.remove(node);
            }
        }
    }
    let mut on = vec![node];
    if state.leader == Some(node) {
        // Elected anew from whoever is left; nobody is better than somebody without proof.
        state.leader = None;
        on.extend(elect(context, &mut state));
        if state.leader.is_none() {
            state.begin_epoch(context.start);
        }
    } else {
        on.extend(elect(context, &mut state));
    }
    (state != record.state).then(|| Decision::of_partition(context, record, state, on))
}

/// A living node says that it cannot be relied on for a partition, in the leader epoch that it knew then: said in an
/// earlier one, it is over. Where nobody else who has everything is in service it goes on to lead, in another leader epoch:
/// it may have led in this one before. `None`: there is nothing to do.
pub fn give_up<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
    leader_epoch: LeaderEpoch,
) -> Option<Decision<P>> {
    if record.state.leader_epoch != leader_epoch {
        return None;
    }
    if context.whole_besides(&record.state, node).is_some() {
        let swept = sweep(context, record, node, ReplicaIntegrity::Unclean);
        // Where it does not count, its log is replaced in the next leader epoch.
        let waits = record.state.leader.is_some() && record.state.replicas.contains(&node) && context.alive(node);
        let unchanged = || waits.then(|| Decision::of_partition(context, record, record.state.clone(), [node]));
        let mut swept = swept.or_else(unchanged)?;
        if let Some(Write::Partition(_, state)) = swept.writes.first_mut()
            && state.leader.is_some()
            && state.leader_epoch == leader_epoch
        {
            // The leader knows what it has acknowledged, and would propose it again.
            state.begin_epoch(context.start);
        }
        return Some(swept);
    }
    let mut state = record.state.clone();
    // It would lead as soon as it can, and whoever else is eligible would count no more.
    if state.leader.is_none() && state.elr.contains(node) && state.whole().len() > 1 {
        return sweep(context, record, node, ReplicaIntegrity::Unclean);
    }
    if state.leader != Some(node) || !context.alive(node) {
        return None;
    }
    lead(context, &mut state, Some(node));
    Some(Decision::of_partition(context, record, state, [node]))
}

/// Registers a node: the revision of this transaction is its new epoch. It stays fenced until it has caught up with the
/// metadata. `None`: its old incarnation is not fenced, or is in an in-sync set or leads somewhere (rule R18, I14).
/// `partitions`: all of them, each with what the node has of it: where that is not intact, it must not be eligible
/// either.
///
/// The partitions are too many to compare in one transaction. They need not be: they were read at or after the revision
/// that fenced the node, and a fenced node joins nothing.
pub fn register<'a, P: Clone + 'a>(
    context: &DecisionContext,
    node: NodeId,
    mut partitions: impl Iterator<Item = (&'a PartitionRecord<P>, ReplicaIntegrity)>,
) -> Option<Decision<P>> {
    let fenced = context.node(node).is_none_or(|found| found.fenced && found.live_revision <= context.revision);
    if !fenced || partitions.any(|(record, integrity)| counts_on(record, node, integrity)) {
        return None;
    }
    let mut decision = Decision::new(context);
    decision.compare_node(context, node);
    decision.writes.push(Write::Registration(node));
    decision.writes.push(Write::Live { node, fenced: true, shutting_down: false });
    Some(decision)
}

/// Whether a partition counts on a node in a way that its registration has to end.
fn counts_on<P>(record: &PartitionRecord<P>, node: NodeId, integrity: ReplicaIntegrity) -> bool {
    let state = &record.state;
    let eligible = match integrity {
        ReplicaIntegrity::Intact => false,
        ReplicaIntegrity::Unclean => state.elr.contains(node),
        ReplicaIntegrity::Damaged | ReplicaIntegrity::Gone => state.counted().contains(node),
    };
    eligible || state.is_compared(node) || state.isr.contains(node) || state.leader == Some(node)
}

/// What is to be written next, so that a node can register: its fence, then its sweeps, then the registration itself.
/// After they are written, the next ones are asked for on the context of then. Empty: nothing helps at present.
pub fn admit<'a, P: Clone + 'a>(
    context: &DecisionContext,
    node: NodeId,
    partitions: impl Iterator<Item = (&'a PartitionRecord<P>, ReplicaIntegrity)> + Clone,
) -> Vec<Decision<P>> {
    if let Some(registered) = register(context, node, partitions.clone()) {
        return vec![registered];
    }
    match fence(context, node) {
        Some(fenced) => vec![fenced],
        None => {
            let of_node = partitions.filter(|(record, _)| record.state.replicas.contains(&node));
            let swept = |(record, integrity): (&'a PartitionRecord<P>, _)| {
                let whole = integrity == ReplicaIntegrity::Intact;
                let eligible = whole.then(|| all_eligible(context, record)).flatten();
                eligible.or_else(|| sweep(context, record, node, integrity))
            };
            of_node.filter_map(swept).collect()
        }
    }
}

/// Lets a fenced node lead and count again (amendment A10); one that was about to stop still is. `None`: it is not
/// fenced, has not seen the metadata that fenced it (`metadata_version`: what it has seen), or is not swept everywhere.
pub fn unfence<'a, P: Clone + 'a>(
    context: &DecisionContext,
    node: NodeId,
    metadata_version: i64,
    mut partitions: impl Iterator<Item = &'a PartitionRecord<P>>,
) -> Option<Decision<P>> {
    let found = context.node(node).filter(|found| found.fenced && found.epoch > 0)?;
    let swept = !partitions.any(|record| counts_on(record, node, ReplicaIntegrity::Intact));
    if metadata_version < found.live_revision.max(found.epoch) || !swept {
        return None;
    }
    let mut decision = Decision::new(context);
    decision.compare_node(context, node);
    decision.writes.push(Write::Live { node, fenced: false, shutting_down: found.shutting_down });
    Some(decision)
}

/// Elects a leader where there is none and a node that may lead has come back. `None`: there is a leader, or none has.
pub fn elect_again<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>) -> Option<Decision<P>> {
    if record.state.leader.is_some() {
        return None;
    }
    let mut state = record.state.clone();
    let chosen = elect(context, &mut state)?;
    Some(Decision::of_partition(context, record, state, [chosen]))
}

/// Marks a node that wants to stop: it joins and leads nothing new (rule R23).
pub fn shut_down<P: Clone>(context: &DecisionContext, node: NodeId) -> Option<Decision<P>> {
    context.node(node).filter(|found| !found.fenced && !found.shutting_down)?;
    let mut decision = Decision::new(context);
    decision.compare_node(context, node);
    decision.writes.push(Write::Live { node, fenced: false, shutting_down: true });
    Some(decision)
}

/// Who leads in place of a node that wants to stop, or cannot write: one in sync that was heard of late. A silent one may be
/// gone, and nobody would lead then.
fn successor(context: &DecisionContext, state: &PartitionState, node: NodeId) -> Option<NodeId> {
    let able = |other: NodeId| context.usable(other) && context.heard(other);
    let can = |other: &NodeId| *other != node && state.isr.contains(*other) && able(*other);
    let others = || state.replicas.iter().copied().filter(can);
    others().find(|other| context.leads(*other)).or_else(|| others().next())
}

/// Whether enough of an in-sync set stay without a node: those that are silent may be gone.
fn spares(context: &DecisionContext, state: &PartitionState, node: NodeId, counts: impl Fn(NodeId) -> bool) -> bool {
    let stays = |other: &NodeId| *other != node && context.heard(*other) && counts(*other);
    state.isr.contains(node) && state.isr.iter().filter(stays).count() >= state.min_isr
}

/// Takes a node out of the in-sync set.
fn leave_isr<P: Clone>(context: &DecisionContext, record: &PartitionRecord<P>, node: NodeId) -> Decision<P> {
    let mut state = record.state.clone();
    let mut isr = state.isr.clone();
    isr.remove(node);
    state.set_isr(isr);
    Decision::of_partition(context, record, state, [node])
}

/// Moves the lead away from a node that wants to stop; and once enough of the others have seen who leads (`seen`: the
/// metadata revision of each), takes the node out of the in-sync set: whoever leads then was there after it had the lead.
/// `None`: there is nothing to do in this partition.
pub fn drain<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
    seen: impl Fn(NodeId) -> i64,
) -> Option<Decision<P>> {
    if record.state.leader == Some(node) {
        let next = successor(context, &record.state, node)?;
        let mut state = record.state.clone();
        lead(context, &mut state, Some(next));
        return Some(Decision::of_partition(context, record, state, [node, next]));
    }
    let spared = spares(context, &record.state, node, |other| seen(other) >= record.epoch);
    spared.then(|| leave_isr(context, record, node))
}

/// Takes a node that cannot write out of the in-sync set of a partition that another one leads, once enough who can have
/// seen who leads (`seen`, as for [`drain`]): the high watermark would wait for its disk. `None`: there is nothing to do.
pub fn relieve<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
    seen: impl Fn(NodeId) -> i64,
) -> Option<Decision<P>> {
    let follows = context.unwritable.contains(node) && record.state.leader != Some(node);
    let writes_on = |other| !context.unwritable.contains(other) && seen(other) >= record.epoch;
    let spared = follows && spares(context, &record.state, node, writes_on);
    spared.then(|| leave_isr(context, record, node))
}

/// A living leader says that it cannot write at present, in the leader epoch that it knew then: another one leads, where one
/// in sync can. Where none can, it goes on: leads would only go round. It stays in the in-sync set until [`relieve`]: who
/// leads then may just have gone. `None`: there is nothing to do.
pub fn hand_over<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    node: NodeId,
    leader_epoch: LeaderEpoch,
) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    if state.leader != Some(node) || state.leader_epoch != leader_epoch {
        return None;
    }
    let next = successor(context, &state, node).filter(|next| context.leads(*next))?;
    lead(context, &mut state, Some(next));
    Some(Decision::of_partition(context, record, state, [node, next]))
}

/// Whether a node that wants to stop may go: it leads nothing that another one could lead, is in sync nowhere where it can
/// be spared, and every other live node has seen that (`seen`: the metadata revision of each).
pub fn can_stop<'a, P: 'a>(
    context: &DecisionContext,
    node: NodeId,
    partitions: impl Iterator<Item = &'a PartitionRecord<P>>,
    mut seen: impl Iterator<Item = i64>,
) -> bool {
    let mut latest = 0;
    for record in partitions.filter(|record| record.state.replicas.contains(&node)) {
        let led = record.state.leader == Some(node) && successor(context, &record.state, node).is_some();
        if led || spares(context, &record.state, node, |_| true) {
            return false;
        }
        latest = latest.max(record.epoch);
    }
    seen.all(|revision| revision >= latest)
}
