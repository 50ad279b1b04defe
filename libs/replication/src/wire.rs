//! What leaders, followers and the controller say to each other about one partition.

use walser_model::{LeaderEpoch, NodeId, Offset};

use crate::{Rule, Rules};

/// One open of a partition by a follower. A later one is greater. Everything that is said on it carries it, so that
/// nothing that was on its way when it ended can count: not in a later open, and not in a later incarnation, whose
/// sequences begin at 1 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicationSessionId {
    /// Node epoch of the follower.
    pub node_epoch: i64,
    /// Counts the opens of that incarnation, from 1.
    pub sequence: u64,
}

impl ReplicationSessionId {
    /// Whether `other` is this very open.
    pub(crate) fn names(self, other: Self, rules: Rules) -> bool {
        let process = self.node_epoch == other.node_epoch || !rules.hold(Rule::OpenNamesProcess);
        let sequence = self.sequence == other.sequence || !rules.hold(Rule::OpenSequence);
        process && sequence
    }
}

/// A follower opens the partition at its leader (amendment A1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationSession {
    pub follower: NodeId,
    /// Greater than every earlier one.
    pub id: ReplicationSessionId,
    /// The epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// End of its log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on its stable storage. Exclusive.
    pub durable: Offset,
    /// It will say that it is unclean if it stops without flushing (rule R20): only then its log end may count.
    pub lazy: bool,
    /// Epoch of its last record, or [`LeaderEpoch::NONE`].
    pub last_epoch: LeaderEpoch,
    /// Its log is damaged, and ends where the damage begins: it asks for a copy, and says what it has.
    pub damaged: bool,
}

/// The leader's answer to an open whose log is not a part of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverging {
    /// Leader epoch of the session.
    pub leader_epoch: LeaderEpoch,
    /// The open that it answers.
    pub open: ReplicationSessionId,
    /// The largest epoch of the leader's log that is not above the follower's last one.
    pub epoch: LeaderEpoch,
    /// Where the leader's log of that epoch ends. Exclusive.
    pub end: Offset,
}

/// Records pushed by the leader; the shell carries the records themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Leader epoch of the session.
    pub leader_epoch: LeaderEpoch,
    /// The open that it belongs to.
    pub open: ReplicationSessionId,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record; `base` when it only carries the high watermark.
    pub end: Offset,
    /// High watermark of the leader; exclusive.
    pub high_watermark: Offset,
    /// Where the leader's log begins: what lies below is deleted. Inclusive.
    pub log_start: Offset,
    /// All replicas have everything below on stable storage: tombstones may go there. Exclusive.
    pub tombstone_floor: Offset,
}

/// Positions that a follower acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub follower: NodeId,
    /// Leader epoch of the session.
    pub leader_epoch: LeaderEpoch,
    /// The open that it belongs to.
    pub open: ReplicationSessionId,
    /// Where its log begins: it has deleted what lies below. Inclusive.
    pub log_start: Offset,
    /// End of its log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on its stable storage. Exclusive.
    pub durable: Offset,
    /// As in [`ReplicationSession`]; it does not end before the open does.
    pub lazy: bool,
}

/// A leader asks the controller for another in-sync set (KIP-497).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterIsr {
    pub leader: NodeId,
    /// Incarnation of the leader.
    pub node_epoch: i64,
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// What it knows of the partition.
    pub partition_epoch: i64,
    /// The set, with the incarnation of each member that the leader has heard of, else -1.
    pub isr: Vec<(NodeId, i64)>,
}
