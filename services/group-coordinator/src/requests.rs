//! What a shard does for each request of a session.

use walser_group::{GatewayId, GroupShard, Now, Output};
use walser_model::TopicPartition;
use walser_rpc::{ApiError, MemberAnswer, MemberRequest, shard_of_group};

use crate::error::refused;

/// Partitions whose offsets are asked for at once.
const OFFSETS_MAX: usize = 100_000;

/// Checks that a request is for a shard.
pub(crate) fn check_shard(shard: i32, request: &MemberRequest) -> Result<(), ApiError> {
    let group = match request {
        MemberRequest::Join(join) => &join.group,
        MemberRequest::Attach(attach) => &attach.member.group,
        MemberRequest::Commit(commit) => &commit.group,
        MemberRequest::Offsets { group, .. } => group,
        MemberRequest::Heartbeat(member)
        | MemberRequest::Release { member, .. }
        | MemberRequest::Detach { member, .. }
        | MemberRequest::Leave { member, .. } => &member.group,
        MemberRequest::Report(_) | MemberRequest::Alive => return Ok(()),
    };
    check_group(shard, group)
}

/// Checks that a group is of a shard.
pub(crate) fn check_group(shard: i32, group: &walser_group::GroupId) -> Result<(), ApiError> {
    match shard_of_group(group) {
        own if own == shard => Ok(()),
        own => Err(ApiError::field("shard", format!("group {group} is in shard {own}, not in {shard}"))),
    }
}

/// Has a shard handle a request of a gateway.
pub(crate) fn handle(
    shard: &mut GroupShard,
    now: Now,
    out: &mut Output,
    (gateway, request): (&GatewayId, MemberRequest),
) -> Result<MemberAnswer, ApiError> {
    // Whoever asks lives, and counts on that with the answer.
    shard.gateway_heartbeat(now, gateway);
    match request {
        MemberRequest::Join(join) => shard.join(now, *join, out).map(MemberAnswer::Attached),
        MemberRequest::Attach(attach) => shard.attach(now, *attach, out).map(MemberAnswer::Attached),
        MemberRequest::Release { member, released } => {
            shard.release(now, &member, &released, out).map(MemberAnswer::Assignment)
        }
        MemberRequest::Commit(commit) => shard.commit(now, commit, out).map(|failed| {
            MemberAnswer::Committed(failed.into_iter().map(|(partition, error)| (partition, refused(error))).collect())
        }),
        MemberRequest::Heartbeat(member) => shard.heartbeat(now, &member).map(MemberAnswer::Assignment),
        MemberRequest::Detach { member, grace } => shard.detach(now, &member, grace, out).map(|()| MemberAnswer::Done),
        MemberRequest::Leave { member, cause, keep_static_assignment } => {
            shard.leave(now, &member, cause, keep_static_assignment, out).map(|()| MemberAnswer::Done)
        }
        MemberRequest::Report(hosted) => {
            shard.gateway_report(now, gateway, &hosted, out);
            Ok(MemberAnswer::Done)
        }
        MemberRequest::Alive => {
            shard.gateway_heartbeat(now, gateway);
            Ok(MemberAnswer::Done)
        }
        MemberRequest::Offsets { group, partitions } => {
            if partitions.len() > OFFSETS_MAX {
                return Err(ApiError::field("partitions", format!("at most {OFFSETS_MAX} are allowed")));
            }
            let found = |partition: TopicPartition| (partition, shard.committed(&group, &partition).cloned());
            Ok(MemberAnswer::Offsets(partitions.into_iter().map(found).collect()))
        }
    }
    .map_err(refused)
}
