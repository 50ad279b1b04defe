//! The messages of what operators ask of groups, and what they mean.

use std::collections::BTreeSet;

use bytes::Bytes;
use walser_group::{
    Assignor, AttachmentNumber, GroupDescription, GroupEpoch, GroupPhase, GroupSummary, MemberDescription,
    MemberRecord, MemberRef, OffsetMove,
};
use walser_model::{Offset, PartitionIndex, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;

use super::messages::{
    assignment_message, assignment_of_message, by_topic, member_name, name_of_message, partitions_of_message,
    some_name, span, subscription_message, subscription_of_message, topic_id, topic_id_message,
};
use crate::{ApiError, Reason};

/// A group, without its members.
pub fn shard_group_message(summary: &GroupSummary) -> pbi::ShardGroup {
    let phase = match summary.phase {
        GroupPhase::Empty => pbi::ShardGroupPhase::Empty,
        GroupPhase::Assigning => pbi::ShardGroupPhase::Assigning,
        GroupPhase::Reconciling => pbi::ShardGroupPhase::Reconciling,
        GroupPhase::Stable => pbi::ShardGroupPhase::Stable,
    };
    pbi::ShardGroup {
        group: summary.group.to_string(),
        phase: phase.into(),
        epoch: summary.epoch.0,
        assignor: summary.assignor.to_string(),
        member_count: i32::try_from(summary.member_count).unwrap_or(i32::MAX),
        had_members: summary.had_members,
        created_millis: summary.created_at,
    }
}

pub(super) fn summary_of_message(message: pbi::ShardGroup) -> Result<GroupSummary, ApiError> {
    let phase = match message.phase() {
        pbi::ShardGroupPhase::Empty | pbi::ShardGroupPhase::Unspecified => GroupPhase::Empty,
        pbi::ShardGroupPhase::Assigning => GroupPhase::Assigning,
        pbi::ShardGroupPhase::Reconciling => GroupPhase::Reconciling,
        pbi::ShardGroupPhase::Stable => GroupPhase::Stable,
    };
    let unsupported = |error: walser_group::GroupError| ApiError::new(Reason::AssignorUnsupported, error.to_string());
    Ok(GroupSummary {
        group: name_of_message("group", &message.group)?,
        phase,
        epoch: GroupEpoch(message.epoch),
        assignor: message.assignor.parse::<Assignor>().map_err(unsupported)?,
        member_count: usize::try_from(message.member_count).unwrap_or(0),
        had_members: message.had_members,
        created_at: message.created_millis,
    })
}

/// A group with its members.
pub fn described_group_message(description: &GroupDescription) -> pbi::DescribeGroupResponse {
    let group = &description.summary.group;
    let member = |member: &MemberDescription| {
        let record = &member.record;
        let of = MemberRef {
            group: group.clone(),
            member: member.member.clone(),
            instance: record.instance.clone(),
            attachment: AttachmentNumber(0),
        };
        pbi::ShardMember {
            member: Some(member_name(&of)),
            client_id: record.client_id.clone(),
            client_address: record.client_address.clone(),
            subscription: Some(subscription_message(&record.subscription)),
            session_timeout: Some(record.session_timeout.into()),
            revocation_timeout: Some(record.revocation_timeout.into()),
            joined_millis: record.joined_at,
            gateway: member.gateway.as_ref().map(ToString::to_string).unwrap_or_default(),
            assignment: Some(assignment_message(&member.current)),
            target: by_topic(member.target.iter().map(|partition| (*partition, None))),
        }
    };
    pbi::DescribeGroupResponse {
        group: Some(shard_group_message(&description.summary)),
        members: description.members.iter().map(member).collect(),
    }
}

fn member_of_message(message: pbi::ShardMember) -> Result<MemberDescription, ApiError> {
    let name = message.member.unwrap_or_default();
    Ok(MemberDescription {
        member: name_of_message("member_id", &name.member_id)?,
        record: MemberRecord {
            instance: some_name("instance_id", &name.instance_id)?,
            client_id: message.client_id,
            client_address: message.client_address,
            subscription: subscription_of_message(message.subscription.unwrap_or_default())?,
            session_timeout: span(message.session_timeout),
            revocation_timeout: span(message.revocation_timeout),
            joined_at: message.joined_millis,
        },
        gateway: some_name("gateway", &message.gateway)?,
        current: assignment_of_message(&message.assignment.unwrap_or_default())?,
        target: partitions_of_message(&message.target)?,
    })
}

pub(super) fn description_of_message(message: pbi::DescribeGroupResponse) -> Result<GroupDescription, ApiError> {
    let group = message.group.ok_or_else(|| ApiError::internal("a description without a group"))?;
    let members = message.members.into_iter().map(member_of_message).collect::<Result<_, _>>()?;
    Ok(GroupDescription { summary: summary_of_message(group)?, members })
}

/// An offset that has moved.
pub fn moved_offset_message(moved: &OffsetMove) -> pbi::MovedOffset {
    pbi::MovedOffset {
        topic_id: topic_id_message(moved.partition.topic),
        partition: moved.partition.partition.0,
        before: moved.before.map(|before| before.0),
        after: moved.after.0,
    }
}

pub(super) fn moved_of_message(messages: &[pbi::MovedOffset]) -> Result<Vec<OffsetMove>, ApiError> {
    let read = |message: &pbi::MovedOffset| {
        Ok(OffsetMove {
            partition: TopicPartition::new(topic_id(&message.topic_id)?, PartitionIndex(message.partition)),
            before: message.before.map(Offset),
            after: Offset(message.after),
        })
    };
    messages.iter().map(read).collect()
}

/// Reads the ids of topics.
///
/// # Errors
/// `FIELD_INVALID`: one of them is none.
pub fn topic_ids_of_message(messages: &[Bytes]) -> Result<BTreeSet<TopicId>, ApiError> {
    messages.iter().map(topic_id).collect()
}
