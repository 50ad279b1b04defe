//! What a leader knows of its followers.

use std::time::Duration;

use walser_model::{LeaderEpoch, NodeId, Offset};

use crate::wire::{Ack, ReplicationSession, ReplicationSessionId};
use crate::{PartitionState, Rule, Rules};

/// A node that the controller has refused is proposed again after this long: it may be fenced, or about to stop.
const PROPOSE_AGAIN: Duration = Duration::from_millis(500);
/// Refusals in a row after which that time doubles no more: 4 s.
const REFUSALS_MAX: u32 = 3;

/// One follower.
#[derive(Debug, Clone)]
pub(super) struct FollowerProgress {
    pub(super) node: NodeId,
    /// The latest open; none yet: of incarnation -1.
    open: ReplicationSessionId,
    /// It follows in this epoch, on the latest open.
    pub(super) connected: bool,
    /// Where its log begins, as it has told on this open. Inclusive.
    pub(super) log_start: Offset,
    /// Of the latest open: counts only while it is connected.
    pub(super) log_end: Offset,
    /// The latest epoch of its log at that open.
    last_epoch: LeaderEpoch,
    /// Its log has parted from this one, and it has not opened again since it was told.
    pub(super) parted: bool,
    pub(super) durable: Offset,
    /// Its log end may count.
    pub(super) lazy: bool,
    /// End of what was sent. Exclusive.
    sent: Offset,
    /// When it last had everything.
    pub(super) caught_up: Duration,
    /// When it was last heard.
    heard: Duration,
    /// When the controller last refused it as a member of the in-sync set.
    refused: Option<Duration>,
    /// How often it was refused again after a first time, since it opened or was in sync; at most [`REFUSALS_MAX`].
    refusals: u32,
}

/// All replicas but the leader.
#[derive(Debug, Clone)]
pub(super) struct Followers {
    known: Vec<FollowerProgress>,
}

impl FollowerProgress {
    /// What it has, in the order in which candidates are compared ([`crate::control::Candidate`]).
    pub(super) fn reach(&self) -> (LeaderEpoch, Offset) {
        (self.last_epoch, self.log_end)
    }

    /// Whether it has opened in this epoch, and so said what it has.
    pub(super) fn has_opened(&self) -> bool {
        self.open.node_epoch >= 0
    }

    /// Whether there is no reason to think that the controller would refuse it: it was never refused, or is heard again
    /// since, and some time has passed.
    pub(super) fn may_be_proposed(&self, now: Duration, rules: Rules) -> bool {
        let again = PROPOSE_AGAIN * 2_u32.pow(self.refusals);
        let heard = |refused| self.heard > refused && now >= refused.saturating_add(again);
        self.refused.is_none_or(heard) || !rules.hold(Rule::RefusedIsHeardFirst)
    }
}

impl Followers {
    /// Nobody has opened yet; everybody gets the full time to catch up.
    pub(super) fn new(leader: NodeId, partition: &PartitionState, now: Duration) -> Self {
        let mut followers = Self { known: Vec::with_capacity(partition.replicas.len()) };
        followers.keep(leader, partition, now);
        followers
    }

    /// Follows the replicas of new metadata: whoever is not one any more is forgotten (rule R24).
    pub(super) fn keep(&mut self, leader: NodeId, partition: &PartitionState, now: Duration) {
        self.known.retain(|known| partition.replicas.contains(&known.node));
        for joined in self.known.iter_mut().filter(|known| partition.isr.contains(known.node)) {
            (joined.refused, joined.refusals) = (None, 0);
        }
        for node in partition.replicas.iter().copied().filter(|node| *node != leader) {
            if self.get(node).is_none() {
                self.known.push(FollowerProgress {
                    node,
                    open: ReplicationSessionId { node_epoch: -1, sequence: 0 },
                    connected: false,
                    log_start: Offset::ZERO,
                    log_end: Offset::ZERO,
                    last_epoch: LeaderEpoch::NONE,
                    parted: false,
                    durable: Offset::ZERO,
                    lazy: false,
                    sent: Offset::ZERO,
                    caught_up: now,
                    heard: now,
                    refused: None,
                    refusals: 0,
                });
            }
        }
    }

    fn get(&self, node: NodeId) -> Option<&FollowerProgress> {
        self.known.iter().find(|known| known.node == node)
    }

    fn get_mut(&mut self, node: NodeId) -> Option<&mut FollowerProgress> {
        self.known.iter_mut().find(|known| known.node == node)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut FollowerProgress> {
        self.known.iter_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FollowerProgress> {
        self.known.iter()
    }

    /// A follower that follows in this epoch.
    pub(super) fn following(&self, node: NodeId) -> Option<&FollowerProgress> {
        self.get(node).filter(|known| known.connected)
    }

    /// The incarnation that was heard of last, or -1.
    pub(super) fn node_epoch(&self, node: NodeId) -> i64 {
        self.get(node).map_or(-1, |known| known.open.node_epoch)
    }

    /// Whether a node is a replica.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.get(node).is_some()
    }

    /// A newer open ends the one before; what it was acknowledged on counts no more. False: it is not newer.
    pub(super) fn begin(&mut self, open: &ReplicationSession, now: Duration, rules: Rules) -> bool {
        let Some(known) = self.get_mut(open.follower) else { return false };
        if open.id <= known.open && rules.hold(Rule::OpenSequence) {
            return false;
        }
        (known.open, known.connected, known.parted) = (open.id, false, false);
        (known.log_end, known.last_epoch) = (open.log_end, open.last_epoch);
        (known.heard, known.refused, known.refusals) = (now, None, 0);
        true
    }

    /// Whoever opened last is there.
    pub(super) fn heard(&mut self, follower: NodeId, node_epoch: i64, now: Duration) {
        if let Some(known) = self.get_mut(follower).filter(|known| known.open.node_epoch == node_epoch) {
            known.heard = known.heard.max(now);
        }
    }

    /// The latest open is over.
    pub(super) fn closed(&mut self, follower: NodeId, open: ReplicationSessionId) {
        if let Some(known) = self.get_mut(follower).filter(|known| known.open == open) {
            known.connected = false;
        }
    }

    /// The controller does not take a node into the in-sync set now.
    pub(super) fn refused(&mut self, node: NodeId, now: Duration) {
        if let Some(known) = self.get_mut(node) {
            // The first time is the shortest.
            known.refusals = if known.refused.is_none() { 0 } else { (known.refusals + 1).min(REFUSALS_MAX) };
            known.refused = Some(now);
        }
    }

    /// A follower is told that its log has parted from the leader's.
    pub(super) fn part(&mut self, follower: NodeId) {
        if let Some(known) = self.get_mut(follower) {
            known.parted = true;
        }
    }

    /// The open's log is a part of the leader's.
    pub(super) fn connect(&mut self, open: &ReplicationSession) {
        if let Some(known) = self.get_mut(open.follower) {
            known.connected = true;
            known.log_start = Offset::ZERO;
            known.durable = open.durable.min(open.log_end);
            known.lazy = open.lazy;
            known.sent = open.log_end;
        }
    }

    pub(super) fn sent(&mut self, follower: NodeId, open: ReplicationSessionId, end: Offset) {
        if let Some(known) = self.get_mut(follower).filter(|known| known.open == open) {
            known.sent = known.sent.max(end);
        }
    }

    /// Positions never go back on one open, and never beyond what was sent. False: it does not count.
    pub(super) fn acked(&mut self, ack: &Ack, now: Duration, rules: Rules) -> bool {
        let Some(known) = self.get_mut(ack.follower).filter(|known| known.connected) else { return false };
        if !known.open.names(ack.open, rules) {
            return false;
        }
        known.heard = now;
        known.lazy |= ack.lazy;
        known.log_start = known.log_start.max(ack.log_start);
        known.log_end = known.log_end.max(ack.log_end.min(known.sent));
        known.durable = known.durable.max(ack.durable.min(known.log_end));
        true
    }
}
