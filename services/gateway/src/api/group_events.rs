//! What the client of a member is told, as messages.

use walser_proto::v1 as pb;
use walser_proto::v1::consume_response::Event;
use walser_rpc::wire_time;

use super::read_answers::{all, chunk, failure, partition, reset};
use crate::groups::{Assigned, GroupEvent, RevocationCause};

/// An event as a message.
pub(super) fn event(event: GroupEvent) -> pb::ConsumeResponse {
    let event = match event {
        GroupEvent::Joined { member_id, token, session_timeout, processing_timeout } => {
            Event::Joined(pb::ConsumeJoined {
                member_id,
                resume_token: token,
                session_timeout: Some(session_timeout.into()),
                processing_timeout: Some(processing_timeout.into()),
            })
        }
        GroupEvent::Assigned(partitions) => {
            Event::Assigned(pb::PartitionsAssigned { partitions: partitions.into_iter().map(assigned).collect() })
        }
        GroupEvent::Revoking { id, partitions, timeout } => Event::Revoking(pb::PartitionsRevoking {
            revocation_id: id,
            partitions: partitions.iter().map(partition).collect(),
            timeout: Some(timeout.into()),
        }),
        GroupEvent::Revoked { partitions, cause } => Event::Revoked(pb::PartitionsRevoked {
            partitions: partitions.iter().map(partition).collect(),
            cause: revocation_cause(cause).into(),
        }),
        GroupEvent::Chunk(records) => Event::Records(chunk(records)),
        GroupEvent::Committed { id, refused } => {
            let errors = refused.into_iter().map(failure).collect();
            Event::CommitResult(pb::CommitResult { commit_id: id, errors })
        }
        GroupEvent::Heartbeat { server_time, progress } => {
            Event::Heartbeat(pb::StreamHeartbeat { server_time: Some(wire_time(server_time)), progress: all(progress) })
        }
        GroupEvent::CaughtUp(progress) => Event::CaughtUp(pb::CaughtUp { progress: all(progress) }),
        GroupEvent::Reset(moved) => Event::OffsetReset(reset(moved)),
        GroupEvent::Problem(problem) => Event::PartitionError(failure(problem)),
        GroupEvent::Drain(grace) => Event::Drain(pb::Drain { grace: Some(grace.into()) }),
    };
    pb::ConsumeResponse { event: Some(event) }
}

fn assigned(assigned: Assigned) -> pb::AssignedPartition {
    let Assigned { of, topic, start_offset, committed } = assigned;
    pb::AssignedPartition {
        topic_partition: Some(partition(&of)),
        start_offset,
        committed_offset: committed.as_ref().map(|committed| committed.offset.0),
        metadata: committed.map(|committed| committed.metadata).unwrap_or_default(),
        topic_id: topic.to_string(),
    }
}

pub(super) fn revocation_cause(cause: RevocationCause) -> pb::RevocationCause {
    match cause {
        RevocationCause::Rebalance => pb::RevocationCause::Rebalance,
        RevocationCause::Fenced => pb::RevocationCause::Fenced,
        RevocationCause::SessionExpired => pb::RevocationCause::SessionExpired,
        RevocationCause::ProcessingTimeout => pb::RevocationCause::ProcessingTimeout,
        RevocationCause::TopicDeleted => pb::RevocationCause::TopicDeleted,
    }
}
