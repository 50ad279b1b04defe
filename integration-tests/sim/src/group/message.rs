//! What gateways and coordinators say to each other.

use std::collections::BTreeSet;

use walser_group::{
    AssignedPartitions, Attach, Attached, Commit, CurrentAssignment, DetachGrace, GroupEpoch, GroupError, GroupId,
    Join, MemberId, MemberRef, OffsetToCommit,
};
use walser_model::TopicPartition;

/// From a gateway, or an operator, to a coordinator.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Join(Join),
    Attach(Attach),
    Heartbeat(MemberRef),
    /// A gateway is alive.
    Beat,
    /// A gateway says which members it has.
    Report(Hosted),
    Detach(MemberRef, DetachGrace),
    /// With whether a static member keeps its place.
    Leave(MemberRef, bool),
    Release(MemberRef, AssignedPartitions),
    Commit(Commit),
    /// Committed offsets of partitions, each with its assignment epoch and the least offset that may come.
    Fetch(MemberRef, Vec<(TopicPartition, GroupEpoch, i64)>),
    /// A forced reset by an operator.
    Reset(GroupId, OffsetToCommit),
    /// An operator removes a member.
    Remove(GroupId, MemberId),
    /// An operator deletes a group.
    Delete(GroupId),
}

/// The members of a gateway.
#[derive(Debug, Clone)]
pub(super) struct Hosted {
    pub(super) named: BTreeSet<(GroupId, MemberId)>,
    /// Those that it has, or that ask to attach there.
    pub(super) open: BTreeSet<(GroupId, MemberId)>,
}

/// From a coordinator to a session.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Attached(Result<Attached, GroupError>),
    Current(Result<CurrentAssignment, GroupError>),
    Committed(i64, Result<Vec<(TopicPartition, GroupError)>, GroupError>),
    /// Partitions with their assignment epoch, the least offset that may come, and the offset.
    Offsets(Vec<(TopicPartition, GroupEpoch, i64, i64)>),
    Removed,
}
