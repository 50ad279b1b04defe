//! Groups and members, as tools show them.

use std::ops::Bound;

use walser_model::{Timestamp, TopicPartition};

use super::GroupShard;
use super::assignments::assignor_of;
use crate::error::GroupError;
use crate::event::{CurrentAssignment, MemberRecord};
use crate::group::{Group, GroupPhase};
use crate::id::{GatewayId, GroupEpoch, GroupId, MemberId};
use crate::subscription::Assignor;

/// A group, without its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    pub group: GroupId,
    pub phase: GroupPhase,
    pub epoch: GroupEpoch,
    pub assignor: Assignor,
    pub member_count: usize,
    /// Whether it has ever had members; if not, it is a simple group, of offsets only.
    pub had_members: bool,
    /// In milliseconds since the Unix epoch.
    pub created_at: Timestamp,
}

/// A group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    pub summary: GroupSummary,
    /// In the order of their ids.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    pub member: MemberId,
    pub record: MemberRecord,
    /// `None`: it polls, or is static and away.
    pub gateway: Option<GatewayId>,
    pub current: CurrentAssignment,
    /// Sorted.
    pub target: Vec<TopicPartition>,
}

impl GroupShard {
    /// Groups in the order of their names, behind `after` if it is given: a page of a list.
    pub fn groups(&self, after: Option<&GroupId>) -> impl Iterator<Item = GroupSummary> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let groups = self.state.groups().range::<GroupId, _>((begin, Bound::Unbounded));
        groups.filter_map(|(id, group)| summary(id, group))
    }

    /// The partitions that members of a group hold.
    pub fn held(&self, id: &GroupId) -> impl Iterator<Item = &TopicPartition> {
        self.state.group(id).into_iter().flat_map(Group::held)
    }

    /// Describes a group.
    ///
    /// # Errors
    /// The group does not exist.
    pub fn describe(&self, id: &GroupId) -> Result<GroupDescription, GroupError> {
        let group = self.group(id)?;
        let summary = summary(id, group).ok_or_else(|| GroupError::GroupNotFound { group: id.clone() })?;
        let members = group.members.iter().filter_map(|(member, known)| {
            Some(MemberDescription {
                member: member.clone(),
                record: known.record.clone()?,
                gateway: known.attachment.as_ref().and_then(|record| record.gateway.clone()),
                current: known.current.clone(),
                target: known.target.clone(),
            })
        });
        Ok(GroupDescription { summary, members: members.collect() })
    }
}

fn summary(id: &GroupId, group: &Group) -> Option<GroupSummary> {
    let record = group.record.as_ref()?;
    Some(GroupSummary {
        group: id.clone(),
        phase: group.phase(),
        epoch: record.epoch,
        assignor: assignor_of(group),
        member_count: group.members.len(),
        had_members: record.had_members,
        created_at: record.created_at,
    })
}
