//! What leaders, followers and the controller say to each other about one partition.

use walser_model::{LeaderEpoch, NodeId, Offset};

/// A follower opens the partition at its leader (amendment A1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Who.
    pub follower: NodeId,
    /// Its incarnation.
    pub node_epoch: i64,
    /// The epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// Larger than in every earlier open of this incarnation.
    pub open_seq: u64,
    /// End of its log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on its stable storage. Exclusive.
    pub durable: Offset,
    /// Epoch of its last record, or [`LeaderEpoch::NONE`].
    pub last_epoch: LeaderEpoch,
}

/// The leader's answer to an open whose log is not a part of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverging {
    /// Of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Of the open that it answers.
    pub open_seq: u64,
    /// The largest epoch of the leader's log that is not above the follower's last one.
    pub epoch: LeaderEpoch,
    /// Where the leader's log of that epoch ends. Exclusive.
    pub end: Offset,
}

/// Records pushed by the leader; the shell carries the records themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Of the open that it belongs to.
    pub open_seq: u64,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record; `base` when it only carries the high watermark.
    pub end: Offset,
    /// The leader's. Exclusive.
    pub high_watermark: Offset,
}

/// A follower's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Who.
    pub follower: NodeId,
    /// Its incarnation.
    pub node_epoch: i64,
    /// Of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Of the open that it belongs to.
    pub open_seq: u64,
    /// End of its log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on its stable storage. Exclusive.
    pub durable: Offset,
}

/// A leader asks the controller for another in-sync set (KIP-497).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterIsr {
    /// Who asks.
    pub leader: NodeId,
    /// Its incarnation.
    pub node_epoch: i64,
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// What it knows of the partition.
    pub partition_epoch: i64,
    /// The set, with the incarnation of each member that the leader has heard of, else -1.
    pub isr: Vec<(NodeId, i64)>,
}
