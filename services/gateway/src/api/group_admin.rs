//! What operators ask of groups: decode, call, encode.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::Response;
use walser_group::{GroupDescription, GroupId, GroupPhase, GroupSummary, MemberDescription, OffsetMove};
use walser_model::{Clock, TopicPartition};
use walser_proto::v1 as pb;
use walser_proto::v1::reset_group_offsets_request::To;
use walser_rpc::{ApiError, Reason, after_token, name_of_message, page, page_size, wire_time};

use super::group_requests::commits;
use super::read_answers;
use super::reads::place;
use super::wire::known;
use crate::groups::{GroupAdmin, GroupQuery, PartitionLag, ResetGroup, ResetTo, total};
use crate::reading::PartitionName;

type Answer<T> = Result<Response<T>, ApiError>;

const GROUPS_DEFAULT: usize = 100;
const GROUPS_MAX: usize = 1_000;
const OFFSETS_DEFAULT: usize = 1_000;
const OFFSETS_MAX: usize = 10_000;

/// What operators ask of groups.
#[derive(Debug)]
pub(super) struct GroupAdminApi {
    pub(super) admin: GroupAdmin,
    pub(super) clock: Arc<dyn Clock>,
}

impl GroupAdminApi {
    pub(super) async fn commit_offsets(&self, request: pb::CommitOffsetsRequest) -> Answer<pb::CommitOffsetsResponse> {
        let group = name_of_message("group", &request.group)?;
        let refused = self.admin.commit(&group, commits("offsets", request.offsets)?).await?;
        let errors = refused.into_iter().map(read_answers::failure).collect();
        Ok(Response::new(pb::CommitOffsetsResponse { errors }))
    }

    pub(super) async fn list_groups(&self, request: pb::ListGroupsRequest) -> Answer<pb::ListGroupsResponse> {
        let size = page_size(request.page_size, GROUPS_DEFAULT, GROUPS_MAX)?;
        let named = format!("groups {:?} {:?} {:?}", request.name_contains, request.states, request.types);
        let after = match after_token(&request.page_token, &named)? {
            "" => None,
            name => Some(name_of_message::<GroupId>("page_token", name)?),
        };
        let query = query(&request)?;
        let groups = self.admin.list(&query, after.as_ref(), size + 1).await?;
        let (groups, next_page_token) = page(groups, size, &named, |group| group.group.to_string());
        let groups = groups.iter().map(|group| self.summary(group)).collect();
        Ok(Response::new(pb::ListGroupsResponse { groups, next_page_token }))
    }

    pub(super) async fn get_group(&self, request: pb::GetGroupRequest) -> Answer<pb::GetGroupResponse> {
        let described = self.admin.describe(&name_of_message("name", &request.name)?).await?;
        let mut lags = self.admin.partitions(&described).await?;
        self.admin.measure(&mut lags).await;
        let time_lag = lags.iter().map(|lag| lag.behind).collect::<Option<Vec<_>>>();
        let group = pb::Group {
            // Of a group that has committed nothing it is not known what it reads.
            total_lag: total(lags.iter()).filter(|_| !lags.is_empty()),
            time_lag: time_lag.and_then(|all| all.into_iter().max()).map(Into::into),
            members: self.members(&described, &lags),
            ..self.summary(&described.summary)
        };
        Ok(Response::new(pb::GetGroupResponse { group: Some(group) }))
    }

    pub(super) async fn delete_group(&self, request: pb::DeleteGroupRequest) -> Answer<pb::DeleteGroupResponse> {
        self.admin.delete(&name_of_message("name", &request.name)?).await?;
        Ok(Response::new(pb::DeleteGroupResponse {}))
    }

    pub(super) async fn list_group_offsets(
        &self,
        request: pb::ListGroupOffsetsRequest,
    ) -> Answer<pb::ListGroupOffsetsResponse> {
        let size = page_size(request.page_size, OFFSETS_DEFAULT, OFFSETS_MAX)?;
        let named = format!("offsets {:?} {:?}", request.group, request.topics);
        let after = last_of_page(after_token(&request.page_token, &named)?)?;
        let described = self.admin.describe(&name_of_message("group", &request.group)?).await?;
        let mut lags = self.admin.partitions(&described).await?;
        lags.retain(|lag| request.topics.is_empty() || request.topics.iter().any(|topic| **topic == *lag.of.topic));
        lags.retain(|lag| after.is_none_or(|after| lag.place() > after));
        let (mut lags, next_page_token) =
            page(lags, size, &named, |lag| format!("{}/{}", lag.of.topic, lag.of.partition));
        self.admin.measure(&mut lags).await;
        let offsets = lags.into_iter().map(offset).collect();
        Ok(Response::new(pb::ListGroupOffsetsResponse { offsets, next_page_token }))
    }

    pub(super) async fn reset_group_offsets(
        &self,
        request: pb::ResetGroupOffsetsRequest,
    ) -> Answer<pb::ResetGroupOffsetsResponse> {
        let changes = self.admin.reset(&reset(request, self.clock.now_millis())?).await?;
        let changes = changes.into_iter().map(change).collect();
        Ok(Response::new(pb::ResetGroupOffsetsResponse { changes }))
    }

    pub(super) async fn delete_group_offsets(
        &self,
        request: pb::DeleteGroupOffsetsRequest,
    ) -> Answer<pb::DeleteGroupOffsetsResponse> {
        let pb::DeleteGroupOffsetsRequest { group, topics } = request;
        if topics.is_empty() {
            return Err(ApiError::field("topics", "names no topic; delete the group to forget everything"));
        }
        self.admin.delete_offsets(&name_of_message("group", &group)?, &topics).await?;
        Ok(Response::new(pb::DeleteGroupOffsetsResponse {}))
    }

    pub(super) async fn remove_group_member(
        &self,
        request: pb::RemoveGroupMemberRequest,
    ) -> Answer<pb::RemoveGroupMemberResponse> {
        let pb::RemoveGroupMemberRequest { group, member_id, instance_id } = request;
        if member_id.is_empty() == instance_id.is_empty() {
            return Err(ApiError::field("member_id", "set exactly one of member_id and instance_id"));
        }
        self.admin.remove_member(&name_of_message("group", &group)?, &member_id, &instance_id).await?;
        Ok(Response::new(pb::RemoveGroupMemberResponse {}))
    }

    fn summary(&self, summary: &GroupSummary) -> pb::Group {
        let state = match summary.phase {
            GroupPhase::Empty => pb::GroupState::Empty,
            GroupPhase::Assigning => pb::GroupState::Assigning,
            GroupPhase::Reconciling => pb::GroupState::Reconciling,
            GroupPhase::Stable => pb::GroupState::Stable,
        };
        let kind = if summary.had_members { pb::GroupType::Consumer } else { pb::GroupType::Simple };
        pb::Group {
            name: summary.group.to_string(),
            r#type: kind.into(),
            state: state.into(),
            assignor: summary.assignor.to_string(),
            group_epoch: summary.epoch.0,
            coordinator: self.admin.coordinator(&summary.group),
            create_time: Some(wire_time(summary.created_at)),
            member_count: i32::try_from(summary.member_count).unwrap_or(i32::MAX),
            ..pb::Group::default()
        }
    }

    fn members(&self, described: &GroupDescription, lags: &[PartitionLag]) -> Vec<pb::GroupMember> {
        let mut by_member = HashMap::<_, Vec<&PartitionLag>>::new();
        for lag in lags {
            by_member.entry(lag.member.as_ref()).or_default().push(lag);
        }
        let member = |member: &MemberDescription| {
            let lags = by_member.get(&Some(&member.member)).map(Vec::as_slice).unwrap_or_default();
            pb::GroupMember {
                member_id: member.member.to_string(),
                instance_id: member.record.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
                client_id: member.record.client_id.clone(),
                client_address: member.record.client_address.clone(),
                gateway: member.gateway.as_ref().map(ToString::to_string).unwrap_or_default(),
                assigned: self.names(member.current.held()),
                target: self.names(member.target.iter()),
                join_time: Some(wire_time(member.record.joined_at)),
                lag: total(lags.iter().copied()),
            }
        };
        described.members.iter().map(member).collect()
    }

    /// The names of partitions, in order. Those of topics that are gone are left out.
    fn names<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Vec<pb::TopicPartition> {
        let mut names: Vec<_> =
            partitions.filter_map(|partition| Some(read_answers::partition(&self.admin.named(partition)?.1))).collect();
        names.sort_unstable_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        names
    }
}

fn query(request: &pb::ListGroupsRequest) -> Result<GroupQuery, ApiError> {
    let mut phases = Vec::new();
    for state in &request.states {
        phases.push(match known("states", *state)? {
            pb::GroupState::Empty => GroupPhase::Empty,
            pb::GroupState::Assigning => GroupPhase::Assigning,
            pb::GroupState::Reconciling => GroupPhase::Reconciling,
            pb::GroupState::Stable => GroupPhase::Stable,
            pb::GroupState::Unspecified => return Err(ApiError::field("states", "name a state that is not specified")),
        });
    }
    let (mut consumer, mut simple) = (false, false);
    for kind in &request.types {
        match known("types", *kind)? {
            pb::GroupType::Consumer => consumer = true,
            pb::GroupType::Simple => simple = true,
            pb::GroupType::Unspecified => return Err(ApiError::field("types", "name a kind that is not specified")),
        }
    }
    let had_members = (consumer != simple).then_some(consumer);
    Ok(GroupQuery { name_contains: request.name_contains.clone(), phases, had_members })
}

/// The partition that a page has ended with.
fn last_of_page(token: &str) -> Result<Option<(&str, i32)>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let last = token.rsplit_once('/').and_then(|(topic, partition)| Some((topic, partition.parse().ok()?)));
    let bad = || ApiError::new(Reason::PageTokenInvalid, "the page token is not one of Walser; start over");
    last.map(Some).ok_or_else(bad)
}

fn offset(lag: PartitionLag) -> pb::GroupOffset {
    let (lag_offsets, compacted) = (lag.offsets(), lag.is_compacted());
    let PartitionLag { of, committed, member, ends, problem, behind, .. } = lag;
    pb::GroupOffset {
        topic_partition: Some(read_answers::partition(&of)),
        committed_offset: committed.as_ref().map(|committed| committed.offset.0),
        log_start_offset: ends.map(|ends| ends.log_start.0),
        log_end_offset: ends.map(|ends| ends.end.0),
        lag: lag_offsets,
        time_lag: behind.map(Into::into),
        member_id: member.map(|member| member.to_string()).unwrap_or_default(),
        commit_time: committed.as_ref().map(|committed| wire_time(committed.committed_at)),
        metadata: committed.map(|committed| committed.metadata).unwrap_or_default(),
        problem,
        compacted,
    }
}

fn change((of, moved): (PartitionName, OffsetMove)) -> pb::OffsetChange {
    pb::OffsetChange {
        topic_partition: Some(read_answers::partition(&of)),
        old_offset: moved.before.map(|before| before.0),
        new_offset: moved.after.0,
    }
}

/// `now`: milliseconds since 1970.
fn reset(request: pb::ResetGroupOffsetsRequest, now: i64) -> Result<ResetGroup, ApiError> {
    let pb::ResetGroupOffsetsRequest { group, topics, partitions, to, force, validate_only } = request;
    let group = name_of_message("group", &group)?;
    if !partitions.is_empty() && topics.len() != 1 {
        return Err(ApiError::field("partitions", "are of one topic: name it, alone, in topics"));
    }
    let to = match to {
        None => return Err(ApiError::field("to", "is missing; set one of position, shift, from_group and offsets")),
        Some(To::Position(position)) => ResetTo::Position(place(position, "position", now)?),
        Some(To::Shift(by)) => ResetTo::Shift(by),
        Some(To::FromGroup(other)) => ResetTo::Group(name_of_message("from_group", &other)?),
        Some(To::Offsets(_)) if !topics.is_empty() => {
            return Err(ApiError::field(
                "topics",
                "goes with position, shift and from_group; offsets name their topics",
            ));
        }
        Some(To::Offsets(list)) => ResetTo::Offsets(commits("offsets", list.offsets)?),
    };
    Ok(ResetGroup { group, topics, partitions, to, force, validate_only })
}
