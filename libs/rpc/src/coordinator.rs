//! The group coordinator as gateways see it, in terms of `walser_group`.
//!
//! A gateway opens one [`CoordinatorSession`] for each shard in which it has members; what operators ask goes through
//! the [`CoordinatorClient`].

mod admin_messages;
mod messages;
mod session;
mod token;

use std::collections::BTreeSet;

use walser_group::{
    AssignedPartitions, Attach, Attached, Commit, CommittedOffset, CurrentAssignment, DetachGrace, GatewayId,
    GroupDescription, GroupId, GroupSummary, Join, MemberId, MemberRef, OffsetMove, OffsetToCommit, RemovalCause,
};
use walser_model::{TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use walser_record_batch::partition_for_key;

use crate::{ApiError, Connection};

pub use admin_messages::{described_group_message, moved_offset_message, shard_group_message, topic_ids_of_message};
pub use messages::{
    member_answer_message, member_notice_message, member_request_of_message, name_of_message, offset_found_message,
    offsets_to_commit_of_message, refused_offset_message, session_open_of_message, session_opened_message,
};
pub use session::{Answering, CoordinatorSession, Said, SessionNotices};
pub use token::{MemberToken, PollPlace, PollState, SealedToken};

/// The internal topic that has the logs of all shards of groups, one partition each.
pub const GROUPS_TOPIC: &str = "__walser_groups";
/// Shards of groups, which never change in number: partitions of [`GROUPS_TOPIC`].
pub const GROUP_SHARDS: i32 = 16;
/// Largest message in either direction, in bytes: all committed offsets of a group.
pub const COORDINATOR_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a gateway asks on behalf of its members.
#[derive(Debug, Clone)]
pub enum MemberRequest {
    /// Answered by [`MemberAnswer::Attached`]. The gateway is that of the session.
    Join(Box<Join>),
    /// Answered by [`MemberAnswer::Attached`]. The gateway is that of the session.
    Attach(Box<Attach>),
    /// Answered by [`MemberAnswer::Assignment`].
    Release {
        member: MemberRef,
        released: AssignedPartitions,
    },
    /// Answered by [`MemberAnswer::Committed`]. MUST have an author.
    Commit(Commit),
    /// Answered by [`MemberAnswer::Assignment`].
    Heartbeat(MemberRef),
    /// Answered by [`MemberAnswer::Done`], and so are those that follow but the offsets.
    Detach {
        member: MemberRef,
        grace: DetachGrace,
    },
    Leave {
        member: MemberRef,
        cause: RemovalCause,
        keep_static_assignment: bool,
    },
    /// Every member that the gateway has in the shard.
    Report(BTreeSet<(GroupId, MemberId)>),
    /// The gateway lives, and with it the sessions of its members.
    Alive,
    /// Answered by [`MemberAnswer::Offsets`].
    Offsets {
        group: GroupId,
        partitions: Vec<TopicPartition>,
    },
}

/// An answer to a [`MemberRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum MemberAnswer {
    Attached(Attached),
    Assignment(CurrentAssignment),
    /// The partitions whose offsets were refused; the others are committed.
    Committed(Vec<(TopicPartition, ApiError)>),
    /// In the order of the request; `None`: nothing is committed.
    Offsets(Vec<(TopicPartition, Option<CommittedOffset>)>),
    Done,
}

/// The shard of a group.
pub fn shard_of_group(group: &GroupId) -> i32 {
    partition_for_key(group.as_str().as_bytes(), GROUP_SHARDS)
}

/// Calls the coordinator. Clones share the connection.
#[derive(Debug, Clone)]
pub struct CoordinatorClient {
    connection: Connection,
}

// === impl CoordinatorClient ===

impl CoordinatorClient {
    /// A client on a connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    fn calls(&self) -> CoordinatorServiceClient<Connection> {
        CoordinatorServiceClient::new(self.connection.clone())
            .max_decoding_message_size(COORDINATOR_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(COORDINATOR_MESSAGE_BYTES_MAX)
    }

    /// Opens the session of a gateway with a shard, in place of the one before. The notices MUST be taken: answers come
    /// behind them.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE` while the shard is loaded; when the coordinator cannot be reached.
    pub async fn open_session(
        &self,
        shard: i32,
        gateway: &GatewayId,
    ) -> Result<(CoordinatorSession, SessionNotices), ApiError> {
        session::open(self.calls(), shard, gateway).await
    }

    /// Groups of a shard in the order of their names, behind `after`, at most `groups_max`.
    ///
    /// # Errors
    /// When the shard is not available.
    pub async fn groups(
        &self,
        shard: i32,
        after: Option<&GroupId>,
        groups_max: i32,
    ) -> Result<Vec<GroupSummary>, ApiError> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let request = pbi::ListShardGroupsRequest { shard: Some(any_of(shard)), after, groups_max };
        let answer = self.calls().list_shard_groups(request).await?.into_inner();
        answer.groups.into_iter().map(admin_messages::summary_of_message).collect()
    }

    /// A group with its members. The attachments of members are not told.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`; when the shard is not available.
    pub async fn describe_group(&self, group: &GroupId) -> Result<GroupDescription, ApiError> {
        let request = pbi::DescribeGroupRequest { shard: Some(shard_ref(group)), group: group.to_string() };
        admin_messages::description_of_message(self.calls().describe_group(request).await?.into_inner())
    }

    /// All committed offsets of a group, in the order of topic ids and partitions.
    ///
    /// # Errors
    /// When the shard is not available.
    pub async fn committed_offsets(&self, group: &GroupId) -> Result<Vec<(TopicPartition, CommittedOffset)>, ApiError> {
        let request = pbi::ListCommittedOffsetsRequest { shard: Some(shard_ref(group)), group: group.to_string() };
        let answer = self.calls().list_committed_offsets(request).await?.into_inner();
        let found = messages::offsets_found_of_message(answer.offsets)?;
        Ok(found.into_iter().filter_map(|(partition, committed)| Some((partition, committed?))).collect())
    }

    /// Commits without a member. Returns the partitions whose offsets were refused.
    ///
    /// # Errors
    /// `GROUP_NOT_EMPTY`; when the shard is not available.
    pub async fn commit(
        &self,
        group: &GroupId,
        offsets: &[OffsetToCommit],
    ) -> Result<Vec<(TopicPartition, ApiError)>, ApiError> {
        let offsets = offsets.iter().map(messages::offset_to_commit_message).collect();
        let (shard, group) = (Some(shard_ref(group)), group.to_string());
        let request = pbi::CommitShardOffsetsRequest { shard, group, offsets };
        messages::refused_of_message(self.calls().commit_shard_offsets(request).await?.into_inner().refused)
    }

    /// Moves committed offsets; with `validate_only` it only says what would move.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `GROUP_NOT_EMPTY`, or that an offset is invalid; when the shard is not available.
    pub async fn reset_offsets(
        &self,
        group: &GroupId,
        offsets: &[OffsetToCommit],
        (force, validate_only): (bool, bool),
    ) -> Result<Vec<OffsetMove>, ApiError> {
        let offsets = offsets.iter().map(messages::offset_to_commit_message).collect();
        let (shard, group) = (Some(shard_ref(group)), group.to_string());
        let request = pbi::ResetShardOffsetsRequest { shard, group, offsets, force, validate_only };
        admin_messages::moved_of_message(&self.calls().reset_shard_offsets(request).await?.into_inner().moved)
    }

    /// Forgets the committed offsets of topics.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `GROUP_NOT_EMPTY`; when the shard is not available.
    pub async fn delete_offsets(&self, group: &GroupId, topics: &BTreeSet<TopicId>) -> Result<(), ApiError> {
        let topic_ids = topics.iter().map(|topic| topic.to_bytes().to_vec().into()).collect();
        let (shard, group) = (Some(shard_ref(group)), group.to_string());
        let request = pbi::DeleteShardOffsetsRequest { shard, group, topic_ids };
        self.calls().delete_shard_offsets(request).await?;
        Ok(())
    }

    /// Deletes a group without members.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `GROUP_NOT_EMPTY`; when the shard is not available.
    pub async fn delete_group(&self, group: &GroupId) -> Result<(), ApiError> {
        let request = pbi::DeleteShardGroupRequest { shard: Some(shard_ref(group)), group: group.to_string() };
        self.calls().delete_shard_group(request).await?;
        Ok(())
    }

    /// Removes a member, by its id or, if that is empty, by its instance id.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `SESSION_EXPIRED` where there is no such member; when the shard is not available.
    pub async fn remove_member(&self, group: &GroupId, member_id: &str, instance_id: &str) -> Result<(), ApiError> {
        let request = pbi::RemoveShardMemberRequest {
            shard: Some(shard_ref(group)),
            group: group.to_string(),
            member_id: member_id.to_owned(),
            instance_id: instance_id.to_owned(),
        };
        self.calls().remove_shard_member(request).await?;
        Ok(())
    }
}

/// A shard, whoever coordinates it.
fn any_of(shard: i32) -> pbi::ShardRef {
    pbi::ShardRef { shard, epoch: 0 }
}

fn shard_ref(group: &GroupId) -> pbi::ShardRef {
    any_of(shard_of_group(group))
}
