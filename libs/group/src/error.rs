//! Why a request is refused.

use std::time::Duration;

use walser_model::{PartitionIndex, TopicId, TopicName};

use crate::id::{AttachmentNumber, GroupEpoch, GroupId, InstanceId, MemberId};

/// Why a request is refused. Nothing of it was applied.
///
/// [`GroupError::reason`] is its name in the contract, which fixes the status code and whether to retry, except where the
/// error has a value that decides it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A value is out of its bounds.
    #[error("{field} is {actual}; {rule}")]
    FieldInvalid {
        /// The name of the field in the contract.
        field: &'static str,
        actual: String,
        /// What is allowed.
        rule: String,
    },
    /// The group does not exist.
    #[error("group {group} does not exist; check the name, or join it to create it")]
    GroupNotFound { group: GroupId },
    /// The group does not have the member, or no longer has it.
    #[error("member {member} of group {group} is unknown or its session expired; join again without a token")]
    SessionExpired { group: GroupId, member: MemberId },
    /// A later attachment of the member exists.
    #[error("member {member} of group {group} moved from attachment {actual} to {current}; join again without a token")]
    AttachmentFenced { group: GroupId, member: MemberId, actual: AttachmentNumber, current: AttachmentNumber },
    /// The request names a member epoch that the member has never had.
    #[error("member {member} of group {group} is at epoch {current}, not at {actual}; join again")]
    MemberEpochFenced { group: GroupId, member: MemberId, actual: GroupEpoch, current: GroupEpoch },
    /// A later request of the same attachment has been applied.
    #[error("commit {actual} of member {member} arrived after commit {current} was applied; ignore it")]
    CommitSuperseded { member: MemberId, actual: i64, current: i64 },
    /// Another member holds the instance id and is connected, as far as is known.
    #[error(
        "instance id {instance} {}",
        if *certain {
            format!("is in use by a client at {client_address}; stop that client, or use another id")
        } else {
            format!("was in use by a client at {client_address}, and may still be; try again")
        }
    )]
    InstanceIdInUse {
        instance: InstanceId,
        client_address: String,
        /// The member or its gateway was heard of a moment ago. If not, it may be gone.
        certain: bool,
    },
    /// Another member has taken over the instance id.
    #[error("a newer member uses instance id {instance}; stop this client")]
    InstanceFenced { instance: InstanceId },
    /// The member does not hold the partition.
    #[error("partition {partition} of {} is not assigned to the member; drop the commit", named(topic.as_ref()))]
    PartitionNotOwned {
        /// `None`: it is gone.
        topic: Option<TopicName>,
        partition: PartitionIndex,
        /// The member that holds it.
        owner: Option<MemberId>,
    },
    /// The partition went away and came back after the member epoch of the commit.
    #[error(
        "partition {partition} of {} was assigned in epoch {assigned}, after epoch {actual} of the commit; drop the commit",
        named(topic.as_ref())
    )]
    AssignedLater {
        /// `None`: it is gone.
        topic: Option<TopicName>,
        partition: PartitionIndex,
        actual: GroupEpoch,
        assigned: GroupEpoch,
    },
    /// A topic of a commit does not exist.
    #[error("the topic does not exist any more; it may have been deleted or created again")]
    TopicNotFound { topic: TopicId },
    /// A partition of a commit does not exist.
    #[error("topic {topic} has {partition_count} partitions; there is no partition {partition}")]
    PartitionNotFound {
        topic: TopicName,
        partition: i32,
        /// Partitions of the topic; valid indexes are below.
        partition_count: i32,
    },
    /// The metadata of an offset is too large.
    #[error("offset metadata has {actual} bytes; at most {limit} are allowed")]
    OffsetMetadataTooLarge { actual: usize, limit: usize },
    /// There is no such assignor.
    #[error("assignor {assignor:?} does not exist; use \"uniform\" or \"range\"")]
    AssignorUnsupported { assignor: String },
    /// The group is at its limit of members.
    #[error("group {group} has its limit of {limit} members; use another group or fewer members")]
    GroupSizeLimitReached { group: GroupId, limit: usize },
    /// The shard or a group is at its limit of something.
    #[error("the limit of {limit} {what} is reached; delete some, or use fewer")]
    QuotaExceeded {
        /// What is counted, in the plural.
        what: &'static str,
        limit: usize,
    },
    /// The request needs a group without members.
    #[error("group {group} has {}; stop them first (a reset of offsets can be forced)", members(*member_count))]
    GroupNotEmpty { group: GroupId, member_count: usize },
}

/// A topic in a text.
fn named(topic: Option<&TopicName>) -> String {
    topic.map_or_else(|| "a topic that is gone".to_owned(), |topic| format!("topic \"{topic}\""))
}

impl GroupError {
    /// The reason in the contract, as it travels in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FieldInvalid { .. } => "FIELD_INVALID",
            Self::GroupNotFound { .. } => "GROUP_NOT_FOUND",
            Self::SessionExpired { .. } => "SESSION_EXPIRED",
            Self::AttachmentFenced { .. } | Self::MemberEpochFenced { .. } => "MEMBER_FENCED",
            Self::CommitSuperseded { .. } => "STALE_EPOCH",
            Self::InstanceIdInUse { .. } => "INSTANCE_ID_IN_USE",
            Self::InstanceFenced { .. } => "INSTANCE_FENCED",
            Self::PartitionNotOwned { .. } | Self::AssignedLater { .. } => "PARTITION_NOT_OWNED",
            Self::TopicNotFound { .. } => "TOPIC_NOT_FOUND",
            Self::PartitionNotFound { .. } => "PARTITION_NOT_FOUND",
            Self::OffsetMetadataTooLarge { .. } => "OFFSET_METADATA_TOO_LARGE",
            Self::AssignorUnsupported { .. } => "ASSIGNOR_UNSUPPORTED",
            Self::GroupSizeLimitReached { .. } => "GROUP_SIZE_LIMIT_REACHED",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::GroupNotEmpty { .. } => "GROUP_NOT_EMPTY",
        }
    }

    /// A time span that is out of its bounds.
    pub(crate) fn timeout(field: &'static str, actual: Duration, min: Duration, max: Duration) -> Self {
        let rule = format!("it must be from {min:?} to {max:?}, both inclusive");
        Self::FieldInvalid { field, actual: format!("{actual:?}"), rule }
    }

    /// A list or text that is longer than it may be.
    pub(crate) fn too_many(field: &'static str, actual: usize, limit: usize) -> Self {
        Self::FieldInvalid { field, actual: format!("{actual} long"), rule: format!("at most {limit} are allowed") }
    }
}

fn members(count: usize) -> String {
    if count == 1 { "1 member".to_owned() } else { format!("{count} members") }
}
