//! What is written: events with a key each, of which the newest value counts.
//!
//! Applying events is the only way in which durable state changes, live and in a replay. The log is compacted: an event
//! without a value removes what its key names.

mod bytes;
mod codec;

use std::collections::BTreeMap;
use std::time::Duration;

use walser_model::{LeaderEpoch, Offset, Timestamp, TopicPartition};

use crate::id::{AttachmentNumber, CoordinatorEpoch, GatewayId, GroupEpoch, GroupId, InstanceId, MemberId, TokenKey};
use crate::subscription::Subscription;

pub use codec::{EncodedEvent, EventCodecError};

/// Partitions, each with the epoch in which it was assigned.
pub type AssignedPartitions = BTreeMap<TopicPartition, GroupEpoch>;

/// A change of durable state: a key and its newest value. `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A coordinator has begun to write. One with a lower epoch that reads it writes nothing any more.
    Coordinator(CoordinatorEpoch),
    /// The key of the shard.
    TokenKey(TokenKey),
    /// Every attachment number up to this one, inclusive, may have been handed out.
    AttachmentsReserved(AttachmentNumber),
    /// A group.
    Group(GroupId, Option<GroupRecord>),
    /// The epoch in which the targets of the members of a group were computed. Written behind them.
    AssignmentEpoch(GroupId, Option<GroupEpoch>),
    /// A member.
    Member(GroupId, MemberId, Option<MemberRecord>),
    /// The partitions that a member is to have, sorted.
    Target(GroupId, MemberId, Option<Vec<TopicPartition>>),
    /// The partitions that a member has.
    Current(GroupId, MemberId, Option<CurrentAssignment>),
    /// The newest attachment of a member.
    Attachment(GroupId, MemberId, Option<AttachmentRecord>),
    /// A committed offset. It belongs to the id of a topic: a topic created again under the same name has none.
    Offset(GroupId, TopicPartition, Option<CommittedOffset>),
}

/// What is written of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// Grows with changes of members, subscriptions and topics. Above the assignment epoch, an assignment is due.
    pub epoch: GroupEpoch,
    /// When the group was created, in milliseconds since the Unix epoch.
    pub created_at: Timestamp,
    /// Since when the group has no members, in milliseconds since the Unix epoch; `None` while it has some.
    pub empty_since: Option<Timestamp>,
    /// Whether the group has ever had members.
    pub had_members: bool,
}

/// What is written of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its static id.
    pub instance: Option<InstanceId>,
    /// The name of the client, for tools.
    pub client_id: String,
    /// The peer address of the client as its gateway saw it, for tools.
    pub client_address: String,
    /// What it wants to read.
    pub subscription: Subscription,
    /// A member that is not heard of for longer is removed.
    pub session_timeout: Duration,
    /// A partition that is not released for longer is taken.
    pub revocation_timeout: Duration,
    /// When it joined, in milliseconds since the Unix epoch.
    pub joined_at: Timestamp,
}

/// What a member has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// The member epoch: that of the target that the member has reached.
    pub epoch: GroupEpoch,
    /// What the member reads.
    pub assigned: AssignedPartitions,
    /// What the member has been asked to release, and still holds.
    pub revoking: AssignedPartitions,
}

/// Where a member is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentRecord {
    /// Fences lower ones.
    pub number: AttachmentNumber,
    /// The one before, with which the attachment may be asked for again if its answer was lost.
    pub previous: AttachmentNumber,
    /// Where; `None`: the member polls, or is static and was let go.
    pub gateway: Option<GatewayId>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the last processed record, when known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever the application stores with it.
    pub metadata: String,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub committed_at: Timestamp,
}

// === impl CurrentAssignment ===

impl CurrentAssignment {
    /// The epoch in which a partition was assigned that the member holds, in use or on its way out.
    pub fn held_since(&self, partition: &TopicPartition) -> Option<GroupEpoch> {
        self.assigned.get(partition).or_else(|| self.revoking.get(partition)).copied()
    }

    /// Every partition that the member holds, in use or on its way out.
    pub fn held(&self) -> impl Iterator<Item = &TopicPartition> {
        self.assigned.keys().chain(self.revoking.keys())
    }
}
