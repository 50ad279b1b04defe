//! Nodes that come, go, and stop (rules R17, R18, R20, R23; amendments A5, A10).

use walser_model::NodeId;

use super::elect::{elect, lead};
use super::{Compare, Decision, Known, Put, View};
use crate::{NodeSet, Rule};

/// Fences a node: from then on it joins no in-sync set and is elected nowhere. Its partitions are swept after that.
pub fn fence<P: Clone>(view: &View, node: NodeId) -> Option<Decision<P>> {
    let found = view.node(node).filter(|found| !found.fenced)?;
    let mut decision = Decision::new(view);
    decision.compares.push(Compare::Registration(node, found.epoch));
    decision.compares.push(Compare::Live(node, found.live_revision));
    decision.puts.push(Put::Live { node, fenced: true, shutting_down: found.shutting_down });
    Some(decision)
}

/// What a node has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// What it had, as far as anybody knows.
    Intact,
    /// Perhaps not all of it: it stopped without flushing what it had acknowledged (rule R20).
    Unclean,
    /// Nothing: its directory is lost or replaced (amendment A5).
    Gone,
}

/// Takes a node out of one partition: out of the in-sync set, and out of the lead. It is fenced, or it says itself that
/// it cannot be relied on there. `None`: there is nothing to do.
pub fn sweep<P: Clone>(view: &View, known: &Known<P>, node: NodeId, held: Held) -> Option<Decision<P>> {
    if view.alive(node) && held == Held::Intact {
        return None;
    }
    let mut state = known.state.clone();
    if state.isr.contains(node) {
        let mut isr = state.isr.clone();
        isr.remove(node);
        // Without eligible leaders the last one in sync stays in the set, as in Kafka before KIP-966.
        if !isr.is_empty() || view.rules.hold(Rule::EligibleLeaders) {
            state.set_isr(isr);
        }
        if !view.rules.hold(Rule::EligibleLeaders) {
            state.elr = NodeSet::EMPTY;
        }
    }
    match held {
        Held::Intact => {}
        Held::Unclean => {
            if state.elr.remove(node) {
                state.last_known_elr.insert(node);
            }
        }
        Held::Gone => {
            state.elr.remove(node);
            state.last_known_elr.remove(node);
        }
    }
    let mut on = vec![node];
    if state.leader == Some(node) {
        // Elected anew from whoever is left; nobody is better than somebody without proof.
        state.leader = None;
        on.extend(elect(view, &mut state));
        if state.leader.is_none() {
            state.leader_epoch = state.leader_epoch.next();
        }
    } else {
        on.extend(elect(view, &mut state));
    }
    (state != known.state).then(|| Decision::of_partition(view, known, state, on))
}

/// Whether a node is in no in-sync set and leads nothing, so that its registration can be accepted (rule R18, I14).
/// `partitions`: all of them, each with what the node has of it: where that is not intact, it must not be eligible
/// either.
///
/// The partitions are too many to compare in one transaction. They need not be: they were read at or after the revision
/// that fenced the node, and a fenced node joins nothing.
pub fn can_register<'a, P: 'a>(
    view: &View,
    node: NodeId,
    mut partitions: impl Iterator<Item = (&'a Known<P>, Held)>,
) -> bool {
    let known = view.node(node);
    let fenced = known.is_none_or(|found| found.fenced && found.live_revision <= view.revision);
    if !fenced && view.rules.hold(Rule::FenceBeforeRegistration) {
        return false;
    }
    partitions.all(|(known, held)| {
        let state = &known.state;
        let swept = !state.isr.contains(node) && state.leader != Some(node);
        let forgotten = match held {
            Held::Intact => true,
            Held::Unclean => !state.elr.contains(node),
            Held::Gone => !state.elr.contains(node) && !state.last_known_elr.contains(node),
        };
        (swept || !view.rules.hold(Rule::SweepBeforeRegistration))
            && (forgotten || !view.rules.hold(Rule::UncleanIsNotEligible))
    })
}

/// Registers a node: the revision of this transaction is its new epoch. It stays fenced until it has caught up with the
/// metadata. The caller MUST have found [`can_register`] on the same view.
pub fn register<P: Clone>(view: &View, node: NodeId) -> Decision<P> {
    let mut decision = Decision::new(view);
    decision.compare_node(view, node);
    let fenced = view.node(node).is_none_or(|found| found.fenced) || view.rules.hold(Rule::FenceBeforeRegistration);
    decision.puts.push(Put::Registration(node));
    decision.puts.push(Put::Live { node, fenced, shutting_down: false });
    decision
}

/// Whether a fenced node may come back: it has seen the metadata that fenced it, and its partitions are swept (A10).
pub fn can_unfence<'a, P: 'a>(
    view: &View,
    node: NodeId,
    metadata_version: i64,
    mut partitions: impl Iterator<Item = &'a Known<P>>,
) -> bool {
    let Some(found) = view.node(node).filter(|found| found.fenced && found.epoch > 0) else { return false };
    let held = |known: &Known<P>| known.state.isr.contains(node) || known.state.leader == Some(node);
    metadata_version >= found.live_revision.max(found.epoch) && !partitions.any(held)
}

/// Lets a node lead and count again; one that was about to stop still is.
pub fn unfence<P: Clone>(view: &View, node: NodeId) -> Decision<P> {
    let mut decision = Decision::new(view);
    let (epoch, live) = view.node(node).map_or((0, 0), |found| (found.epoch, found.live_revision));
    decision.compares.push(Compare::Registration(node, epoch));
    decision.compares.push(Compare::Live(node, live));
    let shutting_down = view.node(node).is_some_and(|found| found.shutting_down);
    decision.puts.push(Put::Live { node, fenced: false, shutting_down });
    decision
}

/// Elects a leader where there is none and somebody has come back. `None`: nobody has.
pub fn elect_again<P: Clone>(view: &View, known: &Known<P>) -> Option<Decision<P>> {
    if known.state.leader.is_some() {
        return None;
    }
    let mut state = known.state.clone();
    let chosen = elect(view, &mut state)?;
    Some(Decision::of_partition(view, known, state, [chosen]))
}

/// Marks a node that wants to stop: it joins and leads nothing new (rule R23).
pub fn shut_down<P: Clone>(view: &View, node: NodeId) -> Option<Decision<P>> {
    let found = view.node(node).filter(|found| !found.fenced && !found.shutting_down)?;
    let mut decision = Decision::new(view);
    decision.compares.push(Compare::Registration(node, found.epoch));
    decision.compares.push(Compare::Live(node, found.live_revision));
    decision.puts.push(Put::Live { node, fenced: false, shutting_down: true });
    Some(decision)
}

/// Moves the lead away from a node that wants to stop, or whose disk hangs, and takes it out of the in-sync set where enough stay. `None`:
/// there is nothing more to do in this partition.
pub fn drain<P: Clone>(view: &View, known: &Known<P>, node: NodeId) -> Option<Decision<P>> {
    let mut state = known.state.clone();
    let mut on = vec![node];
    if state.leader == Some(node) {
        let isr = &state.isr;
        let can = |other: &NodeId| *other != node && isr.contains(*other) && view.usable(*other);
        let next = state.replicas.iter().copied().find(can)?;
        lead(&mut state, Some(next));
        on.push(next);
    }
    if state.isr.contains(node) && state.isr.len() > state.min_isr {
        let mut isr = state.isr.clone();
        isr.remove(node);
        state.set_isr(isr);
    }
    (state != known.state).then(|| Decision::of_partition(view, known, state, on))
}

/// Whether a node that wants to stop may go: it leads nothing, is in sync nowhere where it can be spared, and every other
/// live node has seen that (`seen`: the metadata revision of each).
pub fn can_stop<'a, P: 'a>(
    node: NodeId,
    partitions: impl Iterator<Item = &'a Known<P>>,
    mut seen: impl Iterator<Item = i64>,
) -> bool {
    let mut latest = 0;
    for known in partitions.filter(|known| known.state.replicas.contains(&node)) {
        let spared = known.state.isr.contains(node) && known.state.isr.len() > known.state.min_isr;
        let others = known.state.isr.iter().any(|other| other != node);
        if spared || known.state.leader == Some(node) && others {
            return false;
        }
        latest = latest.max(known.epoch);
    }
    seen.all(|revision| revision >= latest)
}
