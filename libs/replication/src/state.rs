//! A partition as the metadata store has it: where it is, who leads it, and who could.

use walser_model::{LeaderEpoch, NodeId};

use crate::NodeSet;
use crate::control::ControllerStart;

/// An election without proof that an operator has asked for: the leader has stepped down, so that all replicas say what they
/// have. It is kept with the partition until somebody leads: whoever is the controller then brings it to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteppedDown {
    /// Who led.
    pub leader: NodeId,
    /// The leader epoch of the partition since. In another one somebody has led, elected by a version that does not know
    /// of this.
    pub leader_epoch: LeaderEpoch,
    /// Whom the operator has named; the replica that has most, where nobody is.
    pub named: Option<NodeId>,
    /// Those in service that have everything: eligible again when nobody is elected, or as soon as they are fenced.
    pub whole: NodeSet,
    /// What [`PartitionState::last_known_elr`] was: in this election all are compared alike.
    pub last_known: NodeSet,
}

/// The partition is of a restored copy of the metadata. It is kept with the partition until somebody leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The leader epoch of the partition since. In another one somebody has led, elected by a version that does not know
    /// of this.
    pub leader_epoch: LeaderEpoch,
    /// Nodes that obeyed the copy before it was accepted: epochs that they have begun to lead may have been others'
    /// before, so that of those only records count.
    pub obeyed: NodeSet,
}

/// The value of a partition's key. Its mod revision in the store is the partition epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// In order of preference; the first one leads when it can. While replicas move, the new ones are at the end.
    pub replicas: Vec<NodeId>,
    /// Replicas that are being added.
    pub adding: NodeSet,
    /// Replicas that go once those that are added are in sync.
    pub removing: NodeSet,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// Higher with every change of the leader, every restart of it, and every completed move: by one, and by more where the
    /// controller was started since.
    pub leader_epoch: LeaderEpoch,
    /// Replicas that have everything committed, and without which nothing new is.
    pub isr: NodeSet,
    /// Replicas that left the in-sync set when it became too small: they have everything committed (KIP-966).
    pub elr: NodeSet,
    /// Replicas that were in `elr` and may have lost something since.
    pub last_known_elr: NodeSet,
    /// Records may have been lost: the leader was elected without proof that it has everything.
    pub recovering: bool,
    /// The latest leader epoch that began without proof, or [`LeaderEpoch::NONE`]: what was taken for committed before
    /// it need not be.
    pub unclean_epoch: LeaderEpoch,
    /// The start of a controller under which the leader epoch began ([`ControllerStart::number`]); 0: not known.
    pub start: i64,
    /// The leader epoch with which the partition was taken into use from a restored copy of the metadata last, or
    /// [`LeaderEpoch::NONE`].
    pub accepted_epoch: LeaderEpoch,
    /// Only while nobody leads. Storage nodes are not told.
    pub stepped_down: Option<Box<SteppedDown>>,
    /// The same holds for it.
    pub restored: Option<Box<Restored>>,
    /// Effective `min.insync.replicas`: at most the number of replicas (amendment A3).
    pub min_isr: usize,
}

impl PartitionState {
    /// A new partition: led by its first replica, all of them in sync, because there is nothing to have.
    pub fn new(replicas: Vec<NodeId>, min_isr: usize) -> Self {
        Self {
            leader: replicas.first().copied(),
            leader_epoch: LeaderEpoch(0),
            isr: replicas.iter().copied().collect(),
            min_isr: min_isr.min(replicas.len()).max(1),
            replicas,
            adding: NodeSet::EMPTY,
            removing: NodeSet::EMPTY,
            elr: NodeSet::EMPTY,
            last_known_elr: NodeSet::EMPTY,
            recovering: false,
            unclean_epoch: LeaderEpoch::NONE,
            start: 0,
            accepted_epoch: LeaderEpoch::NONE,
            stepped_down: None,
            restored: None,
        }
    }

    /// Replicas that are known to have everything that was committed: those in sync, the eligible ones, and those that are
    /// compared with others all the same, as an operator wishes.
    pub fn whole(&self) -> NodeSet {
        let compared = self.stepped_down.as_ref().map(|stepped_down| &stepped_down.whole);
        self.electable().union(compared.unwrap_or(&NodeSet::EMPTY))
    }

    /// Of them those that lead as soon as they are in service.
    pub fn electable(&self) -> NodeSet {
        self.isr.union(&self.elr)
    }

    /// Replicas that have everything, or had.
    pub fn counted(&self) -> NodeSet {
        let compared = self.stepped_down.as_ref().map(|stepped_down| &stepped_down.last_known);
        self.whole().union(&self.last_known_elr).union(compared.unwrap_or(&NodeSet::EMPTY))
    }

    /// Begins a leader epoch under a start of a controller.
    pub(crate) fn begin_epoch(&mut self, start: ControllerStart) {
        let skipped = if self.start == start.number { 0 } else { start.epochs_skipped };
        self.leader_epoch = LeaderEpoch(self.leader_epoch.next().0.saturating_add(skipped));
        self.start = start.number;
        if let Some(stepped_down) = &mut self.stepped_down {
            stepped_down.leader_epoch = self.leader_epoch;
        }
        if let Some(restored) = &mut self.restored {
            restored.leader_epoch = self.leader_epoch;
        }
    }

    /// Whether a node that has everything is being compared with others all the same, as an operator wishes.
    pub(crate) fn is_compared(&self, node: NodeId) -> bool {
        self.stepped_down.as_ref().is_some_and(|stepped_down| stepped_down.whole.contains(node))
    }

    /// Ends a comparison of replicas: whoever had everything is eligible again.
    pub(crate) fn end_comparison(&mut self) -> Option<Box<SteppedDown>> {
        let before = self.stepped_down.take()?;
        self.elr = self.elr.union(&before.whole);
        self.last_known_elr = self.last_known_elr.union(&before.last_known).without(&self.elr);
        Some(before)
    }

    /// Takes a node that is fenced, or cannot be relied on, out of those that are compared: it is eligible then as others
    /// are that leave.
    pub(crate) fn leave_comparison(&mut self, node: NodeId) {
        if self.stepped_down.as_mut().is_some_and(|stepped_down| stepped_down.whole.remove(node)) {
            self.elr.insert(node);
        }
    }

    /// Whether fewer replicas are in sync than there are.
    pub fn is_under_replicated(&self) -> bool {
        self.isr.len() < self.replicas.len()
    }

    /// Whether fewer replicas are in sync than writes with acks=all need.
    pub fn is_under_min_isr(&self) -> bool {
        self.isr.len() < self.min_isr
    }

    /// What is wrong with it (invariant I8).
    pub fn problem(&self) -> Option<&'static str> {
        let replicas: NodeSet = self.replicas.iter().copied().collect();
        let checks = [
            (replicas.len() == self.replicas.len(), "a replica is named twice"),
            (self.leader.is_none_or(|leader| self.isr.contains(leader)), "the leader is not in sync"),
            (self.isr.is_subset(&replicas), "a node in sync is not a replica"),
            (self.elr.is_subset(&replicas), "an eligible leader is not a replica"),
            (self.elr.intersection(&self.isr).is_empty(), "a node is in sync and eligible at once"),
            (self.is_under_min_isr() || self.elr.is_empty(), "there are eligible leaders beside enough in sync"),
            (self.min_isr >= 1, "none in sync are wanted"),
            (self.min_isr <= replicas.len(), "more in sync are wanted than there are replicas"),
            (self.last_known_elr.is_subset(&replicas), "a node that was eligible is not a replica"),
            (self.adding.is_subset(&replicas), "a node that is added is not a replica"),
            (self.removing.is_subset(&replicas), "a node that goes is not a replica"),
            (self.leader.is_none() || self.stepped_down.is_none(), "it is led, and a leader has stepped down"),
            (
                self.leader.is_none() || self.restored.is_none(),
                "it is led, and waits for replicas of restored metadata",
            ),
            (self.adding.intersection(&self.removing).is_empty(), "a node is added and goes at once"),
        ];
        checks.iter().find(|(holds, _)| !holds).map(|(_, problem)| *problem)
    }

    /// The replicas that the partition is to have once no move is under way.
    pub fn target(&self) -> NodeSet {
        self.replicas.iter().copied().filter(|node| !self.removing.contains(*node)).collect()
    }

    /// Replaces the in-sync set, and keeps account of those who left it (rule R19).
    pub(crate) fn set_isr(&mut self, isr: NodeSet) {
        let left = self.isr.without(&isr);
        if isr.len() >= self.min_isr {
            self.elr = NodeSet::EMPTY;
            self.last_known_elr = NodeSet::EMPTY;
            self.recovering = false;
        } else {
            self.elr = self.elr.union(&left).without(&isr);
            self.last_known_elr = self.last_known_elr.without(&isr).without(&self.elr);
        }
        self.isr = isr;
    }
}
