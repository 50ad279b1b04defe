//! What operators ask of groups, and the door to sessions.

use std::pin::Pin;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use walser_group::{Commit, GroupError, GroupShard, MemberId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::coordinator_service_server::CoordinatorService;
use walser_rpc::{
    ApiError, described_group_message, moved_offset_message, name_of_message, offset_found_message,
    offsets_to_commit_of_message, refused_offset_message, shard_group_message, topic_ids_of_message,
};

use super::{Api, Asked, session};
use crate::error::refused;
use crate::requests::check_group;

/// Groups on one page.
const PAGE_MAX: usize = 10_000;
/// Messages of a session that its connection has not taken.
const MESSAGES_MAX: usize = 16;

type Answer<T> = Result<Response<T>, Status>;

/// The member that is named by its id or by its instance id.
fn member_named(
    shard: &GroupShard,
    group: &walser_group::GroupId,
    member_id: &str,
    instance_id: &str,
) -> Result<MemberId, ApiError> {
    if !member_id.is_empty() {
        return name_of_message("member_id", member_id);
    }
    let instance = name_of_message("instance_id", instance_id)?;
    shard.describe(group).map_err(refused)?;
    let found = shard.member_of_instance(group, &instance).cloned();
    found.ok_or_else(|| {
        let member = instance.as_str().parse().expect("an instance id is as a member id");
        refused(GroupError::SessionExpired { group: group.clone(), member })
    })
}

#[async_trait]
impl CoordinatorService for Api {
    type MemberSessionStream = Pin<Box<dyn Stream<Item = Result<pbi::MemberSessionResponse, Status>> + Send>>;

    async fn member_session(
        &self,
        request: Request<Streaming<pbi::MemberSessionRequest>>,
    ) -> Answer<Self::MemberSessionStream> {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        tokio::spawn(session::serve(self.clone(), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn list_shard_groups(
        &self,
        request: Request<pbi::ListShardGroupsRequest>,
    ) -> Answer<pbi::ListShardGroupsResponse> {
        let pbi::ListShardGroupsRequest { shard, after, groups_max } = request.into_inner();
        let Asked { shard, term, .. } = self.asked(shard)?;
        let limit = usize::try_from(groups_max).ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        let invalid = || ApiError::field("groups_max", format!("must be from 1 to {PAGE_MAX}"));
        let limit = limit.ok_or_else(invalid)?;
        let after = if after.is_empty() { None } else { Some(name_of_message("after", &after)?) };
        if !self.topic.exists()? {
            return Ok(Response::new(pbi::ListShardGroupsResponse::default()));
        }
        let list = move |shard: &mut GroupShard, _, _: &mut _| {
            Ok(shard.groups(after.as_ref()).take(limit).map(|group| shard_group_message(&group)).collect())
        };
        Ok(Response::new(pbi::ListShardGroupsResponse { groups: shard.ask(term, list).await? }))
    }

    async fn describe_group(&self, request: Request<pbi::DescribeGroupRequest>) -> Answer<pbi::DescribeGroupResponse> {
        let pbi::DescribeGroupRequest { shard, group } = request.into_inner();
        let (Asked { shard, term, .. }, group) = self.asked_of(shard, &group)?;
        let describe = move |shard: &mut GroupShard, _, _: &mut _| shard.describe(&group).map_err(refused);
        Ok(Response::new(described_group_message(&shard.ask(term, describe).await?)))
    }

    async fn list_committed_offsets(
        &self,
        request: Request<pbi::ListCommittedOffsetsRequest>,
    ) -> Answer<pbi::ListCommittedOffsetsResponse> {
        let pbi::ListCommittedOffsetsRequest { shard, group } = request.into_inner();
        let Asked { shard, term, number } = self.asked(shard)?;
        let group = name_of_message("group", &group)?;
        check_group(number, &group)?;
        if !self.topic.exists()? {
            return Ok(Response::new(pbi::ListCommittedOffsetsResponse::default()));
        }
        let list = move |shard: &mut GroupShard, _, _: &mut _| {
            let found = shard.all_committed(&group);
            Ok(found.map(|(partition, committed)| offset_found_message(*partition, Some(committed))).collect())
        };
        Ok(Response::new(pbi::ListCommittedOffsetsResponse { offsets: shard.ask(term, list).await? }))
    }

    async fn commit_shard_offsets(
        &self,
        request: Request<pbi::CommitShardOffsetsRequest>,
    ) -> Answer<pbi::CommitShardOffsetsResponse> {
        let pbi::CommitShardOffsetsRequest { shard, group, offsets } = request.into_inner();
        let Asked { shard, term, number } = self.asked(shard)?;
        let group = name_of_message("group", &group)?;
        check_group(number, &group)?;
        let commit = Commit { author: None, group, offsets: offsets_to_commit_of_message(offsets)? };
        self.topic.ensure().await?;
        let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
        let failed = shard.ask(term, handle).await?.into_iter();
        let failed = failed.map(|(partition, error)| refused_offset_message((partition, refused(error))));
        Ok(Response::new(pbi::CommitShardOffsetsResponse { refused: failed.collect() }))
    }

    async fn reset_shard_offsets(
        &self,
        request: Request<pbi::ResetShardOffsetsRequest>,
    ) -> Answer<pbi::ResetShardOffsetsResponse> {
        let pbi::ResetShardOffsetsRequest { shard, group, offsets, force, validate_only } = request.into_inner();
        let (Asked { shard, term, .. }, group) = self.asked_of(shard, &group)?;
        let offsets = offsets_to_commit_of_message(offsets)?;
        let handle = move |shard: &mut GroupShard, now, out: &mut _| match validate_only {
            true => shard.plan_reset(&group, &offsets).map_err(refused),
            false => shard.reset_offsets(now, &group, offsets, force, out).map_err(refused),
        };
        let moved = shard.ask(term, handle).await?.iter().map(moved_offset_message).collect();
        Ok(Response::new(pbi::ResetShardOffsetsResponse { moved }))
    }

    async fn delete_shard_offsets(
        &self,
        request: Request<pbi::DeleteShardOffsetsRequest>,
    ) -> Answer<pbi::DeleteShardOffsetsResponse> {
        let pbi::DeleteShardOffsetsRequest { shard, group, topic_ids } = request.into_inner();
        let (Asked { shard, term, .. }, group) = self.asked_of(shard, &group)?;
        let topics = topic_ids_of_message(&topic_ids)?;
        let handle = move |shard: &mut GroupShard, now, out: &mut _| {
            shard.delete_offsets(now, &group, &topics, out).map_err(refused)
        };
        shard.ask(term, handle).await?;
        Ok(Response::new(pbi::DeleteShardOffsetsResponse {}))
    }

    async fn delete_shard_group(
        &self,
        request: Request<pbi::DeleteShardGroupRequest>,
    ) -> Answer<pbi::DeleteShardGroupResponse> {
        let pbi::DeleteShardGroupRequest { shard, group } = request.into_inner();
        let (Asked { shard, term, .. }, group) = self.asked_of(shard, &group)?;
        let handle = move |shard: &mut GroupShard, _, out: &mut _| shard.delete_group(&group, out).map_err(refused);
        shard.ask(term, handle).await?;
        Ok(Response::new(pbi::DeleteShardGroupResponse {}))
    }

    async fn remove_shard_member(
        &self,
        request: Request<pbi::RemoveShardMemberRequest>,
    ) -> Answer<pbi::RemoveShardMemberResponse> {
        let pbi::RemoveShardMemberRequest { shard, group, member_id, instance_id } = request.into_inner();
        let (Asked { shard, term, .. }, group) = self.asked_of(shard, &group)?;
        let handle = move |shard: &mut GroupShard, now, out: &mut _| {
            let member = member_named(shard, &group, &member_id, &instance_id)?;
            shard.remove_member(now, &group, &member, out).map_err(refused)
        };
        shard.ask(term, handle).await?;
        Ok(Response::new(pbi::RemoveShardMemberResponse {}))
    }
}
