//! The messages of a member session, and what they mean: both ends of the connection read and write them here.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use walser_group::{
    AssignedPartitions, Attach, Attached, AttachmentNumber, Commit, CommitAuthor, CommittedOffset, CurrentAssignment,
    DetachGrace, GatewayId, GroupEpoch, GroupId, Join, MemberId, MemberRef, NameError, Notice, NoticeContent,
    OffsetToCommit, RemovalCause, Subscription, TokenKey,
};
use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicName, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::member_notice::Content;
use walser_proto::internal::v1::member_session_request::Request;
use walser_proto::internal::v1::member_session_response::Response;

use super::{MemberAnswer, MemberRequest};
use crate::{ApiError, Reason};

/// Reads the name of a group, a member, an instance or a gateway.
///
/// # Errors
/// `FIELD_INVALID`: it is none.
pub fn name_of_message<T: FromStr<Err = NameError>>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: NameError| ApiError::field(field, error.to_string()))
}

/// The same, where an empty text is no name.
pub(super) fn some_name<T: FromStr<Err = NameError>>(field: &str, text: &str) -> Result<Option<T>, ApiError> {
    if text.is_empty() { Ok(None) } else { name_of_message(field, text).map(Some) }
}

pub(super) fn member_name(of: &MemberRef) -> pbi::MemberName {
    pbi::MemberName {
        group: of.group.to_string(),
        member_id: of.member.to_string(),
        instance_id: of.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        attachment: of.attachment.0,
    }
}

pub(super) fn member_ref(name: Option<pbi::MemberName>) -> Result<MemberRef, ApiError> {
    let name = name.ok_or_else(|| ApiError::field("member", "is missing"))?;
    Ok(MemberRef {
        group: name_of_message("group", &name.group)?,
        member: name_of_message("member_id", &name.member_id)?,
        instance: some_name("instance_id", &name.instance_id)?,
        attachment: AttachmentNumber(name.attachment),
    })
}

pub(super) fn topic_id(raw: &Bytes) -> Result<TopicId, ApiError> {
    let bytes = raw.as_ref().try_into().map_err(|_| ApiError::field("topic_id", "is not a UUID"))?;
    Ok(TopicId::from_bytes(bytes))
}

pub(super) fn topic_id_message(topic: TopicId) -> Bytes {
    Bytes::copy_from_slice(&topic.to_bytes())
}

fn topic_partition(topic: &Bytes, partition: i32) -> Result<TopicPartition, ApiError> {
    if partition < 0 {
        return Err(ApiError::field("partition", "must be at least 0"));
    }
    Ok(TopicPartition::new(topic_id(topic)?, PartitionIndex(partition)))
}

/// Partitions by topic, with the epochs that they have.
pub(super) fn by_topic(
    partitions: impl IntoIterator<Item = (TopicPartition, Option<GroupEpoch>)>,
) -> Vec<pbi::TopicPartitions> {
    let mut topics: Vec<(TopicId, pbi::TopicPartitions)> = Vec::new();
    for (partition, epoch) in partitions {
        if topics.last().is_none_or(|(topic, _)| *topic != partition.topic) {
            let topic_id = topic_id_message(partition.topic);
            topics.push((partition.topic, pbi::TopicPartitions { topic_id, ..Default::default() }));
        }
        if let Some((_, message)) = topics.last_mut() {
            message.partitions.push(partition.partition.0);
            message.epochs.extend(epoch.map(|epoch| epoch.0));
        }
    }
    topics.into_iter().map(|(_, message)| message).collect()
}

fn assigned(partitions: &AssignedPartitions) -> Vec<pbi::TopicPartitions> {
    by_topic(partitions.iter().map(|(partition, epoch)| (*partition, Some(*epoch))))
}

fn assigned_of_message(topics: &[pbi::TopicPartitions]) -> Result<AssignedPartitions, ApiError> {
    let mut found = AssignedPartitions::new();
    for topic in topics {
        if topic.partitions.len() != topic.epochs.len() {
            return Err(ApiError::field("epochs", "must be one for each partition"));
        }
        for (partition, epoch) in topic.partitions.iter().zip(&topic.epochs) {
            found.insert(topic_partition(&topic.topic_id, *partition)?, GroupEpoch(*epoch));
        }
    }
    Ok(found)
}

pub(super) fn partitions_of_message(topics: &[pbi::TopicPartitions]) -> Result<Vec<TopicPartition>, ApiError> {
    let of_topic = |topic: &pbi::TopicPartitions| {
        let partitions = topic.partitions.iter().map(|partition| topic_partition(&topic.topic_id, *partition));
        partitions.collect::<Result<Vec<_>, ApiError>>()
    };
    Ok(topics.iter().map(of_topic).collect::<Result<Vec<_>, ApiError>>()?.into_iter().flatten().collect())
}

pub(super) fn assignment_message(current: &CurrentAssignment) -> pbi::MemberAssignment {
    pbi::MemberAssignment {
        member_epoch: current.epoch.0,
        assigned: assigned(&current.assigned),
        revoking: assigned(&current.revoking),
    }
}

pub(super) fn assignment_of_message(message: &pbi::MemberAssignment) -> Result<CurrentAssignment, ApiError> {
    Ok(CurrentAssignment {
        epoch: GroupEpoch(message.member_epoch),
        assigned: assigned_of_message(&message.assigned)?,
        revoking: assigned_of_message(&message.revoking)?,
    })
}

pub(super) fn subscription_message(subscription: &Subscription) -> pbi::MemberSubscription {
    pbi::MemberSubscription {
        topics: subscription.topics.iter().map(ToString::to_string).collect(),
        pattern: subscription.pattern.clone().unwrap_or_default(),
        assignor: subscription.assignor.map(|assignor| assignor.as_str().to_owned()).unwrap_or_default(),
    }
}

pub(super) fn subscription_of_message(message: pbi::MemberSubscription) -> Result<Subscription, ApiError> {
    let topic = |text: &String| {
        let invalid = |error| ApiError::new(Reason::TopicNameInvalid, format!("topic name {text:?}: {error}"));
        text.parse::<TopicName>().map_err(invalid)
    };
    let assignor = Some(message.assignor.as_str()).filter(|assignor| !assignor.is_empty());
    let unsupported = |error: walser_group::GroupError| ApiError::new(Reason::AssignorUnsupported, error.to_string());
    Ok(Subscription {
        topics: message.topics.iter().map(topic).collect::<Result<_, _>>()?,
        pattern: Some(message.pattern).filter(|pattern| !pattern.is_empty()),
        assignor: assignor.map(|assignor| assignor.parse().map_err(unsupported)).transpose()?,
    })
}

/// A time span; absent or negative: none.
pub(super) fn span(message: Option<pbjson_types::Duration>) -> Duration {
    message.and_then(|span| Duration::try_from(span).ok()).unwrap_or_default()
}

pub(super) fn offset_to_commit_message(offset: &OffsetToCommit) -> pbi::StoredOffset {
    pbi::StoredOffset {
        topic_id: topic_id_message(offset.partition.topic),
        partition: offset.partition.partition.0,
        offset: Some(offset.offset.0),
        leader_epoch: offset.leader_epoch.map(|epoch| epoch.0),
        metadata: offset.metadata.clone(),
        committed_millis: 0,
    }
}

/// Reads offsets that are to be committed.
///
/// # Errors
/// `FIELD_INVALID`: one names no partition, or no offset.
pub fn offsets_to_commit_of_message(messages: Vec<pbi::StoredOffset>) -> Result<Vec<OffsetToCommit>, ApiError> {
    let read = |message: pbi::StoredOffset| {
        Ok(OffsetToCommit {
            partition: topic_partition(&message.topic_id, message.partition)?,
            offset: Offset(message.offset.ok_or_else(|| ApiError::field("offset", "is missing"))?),
            leader_epoch: message.leader_epoch.map(LeaderEpoch),
            metadata: message.metadata,
        })
    };
    messages.into_iter().map(read).collect()
}

/// What is committed of a partition.
pub fn offset_found_message(partition: TopicPartition, committed: Option<&CommittedOffset>) -> pbi::StoredOffset {
    pbi::StoredOffset {
        topic_id: topic_id_message(partition.topic),
        partition: partition.partition.0,
        offset: committed.map(|committed| committed.offset.0),
        leader_epoch: committed.and_then(|committed| committed.leader_epoch).map(|epoch| epoch.0),
        metadata: committed.map(|committed| committed.metadata.clone()).unwrap_or_default(),
        committed_millis: committed.map_or(0, |committed| committed.committed_at),
    }
}

pub(super) fn offsets_found_of_message(
    messages: Vec<pbi::StoredOffset>,
) -> Result<Vec<(TopicPartition, Option<CommittedOffset>)>, ApiError> {
    let read = |message: pbi::StoredOffset| {
        let committed = message.offset.map(|offset| CommittedOffset {
            offset: Offset(offset),
            leader_epoch: message.leader_epoch.map(LeaderEpoch),
            metadata: message.metadata,
            committed_at: message.committed_millis,
        });
        Ok((topic_partition(&message.topic_id, message.partition)?, committed))
    };
    messages.into_iter().map(read).collect()
}

/// An offset that was not committed.
pub fn refused_offset_message((partition, failure): (TopicPartition, ApiError)) -> pbi::RefusedOffset {
    let (topic_id, partition) = (topic_id_message(partition.topic), partition.partition.0);
    pbi::RefusedOffset { topic_id, partition, error: Some(failure.into()) }
}

pub(super) fn refused_of_message(
    messages: Vec<pbi::RefusedOffset>,
) -> Result<Vec<(TopicPartition, ApiError)>, ApiError> {
    let read = |message: pbi::RefusedOffset| {
        let failure = message.error.map_or_else(|| ApiError::internal("refused without an error"), ApiError::from);
        Ok((topic_partition(&message.topic_id, message.partition)?, failure))
    };
    messages.into_iter().map(read).collect()
}

fn reason_message(cause: RemovalCause) -> pbi::RemovalReason {
    match cause {
        RemovalCause::Left => pbi::RemovalReason::Left,
        RemovalCause::SessionExpired => pbi::RemovalReason::SessionExpired,
        RemovalCause::ProcessingTimeout => pbi::RemovalReason::ProcessingTimeout,
        RemovalCause::Fenced => pbi::RemovalReason::Fenced,
    }
}

fn cause_of_message(reason: pbi::RemovalReason) -> RemovalCause {
    match reason {
        pbi::RemovalReason::Unspecified | pbi::RemovalReason::Left | pbi::RemovalReason::Superseded => {
            RemovalCause::Left
        }
        pbi::RemovalReason::SessionExpired => RemovalCause::SessionExpired,
        pbi::RemovalReason::ProcessingTimeout => RemovalCause::ProcessingTimeout,
        pbi::RemovalReason::Fenced => RemovalCause::Fenced,
    }
}

pub(super) fn open_message(shard: i32, gateway: &GatewayId, correlation_id: i64) -> pbi::MemberSessionRequest {
    let open = pbi::SessionOpen { shard, gateway: gateway.to_string() };
    pbi::MemberSessionRequest { epoch: 0, correlation_id, request: Some(Request::Open(open)) }
}

/// Reads the first message of a session: the shard and the gateway.
///
/// # Errors
/// `STREAM_PROTOCOL_VIOLATION`: it is another message.
pub fn session_open_of_message(message: &pbi::MemberSessionRequest) -> Result<(i32, GatewayId), ApiError> {
    let Some(Request::Open(open)) = &message.request else {
        return Err(ApiError::new(Reason::StreamProtocolViolation, "the first message must be `open`"));
    };
    Ok((open.shard, name_of_message("gateway", &open.gateway)?))
}

/// The answer to the first message of a session.
pub fn session_opened_message(epoch: i64, correlation_id: i64, key: &TokenKey) -> pbi::MemberSessionResponse {
    let opened = Response::Opened(pbi::SessionOpened { token_key: key.0.to_vec().into() });
    pbi::MemberSessionResponse { epoch, correlation_id, error: None, response: Some(opened) }
}

fn commit_message(commit: Commit) -> Request {
    let author = commit.author.as_ref();
    Request::Commit(pbi::MemberCommit {
        member: author.map(|author| member_name(&author.member)),
        member_epoch: author.map_or(0, |author| author.epoch.0),
        sequence: author.map_or(0, |author| author.sequence),
        offsets: commit.offsets.iter().map(offset_to_commit_message).collect(),
    })
}

fn join_message(join: Join) -> pbi::MemberJoin {
    let Join { group, member, instance, .. } = join;
    let of = MemberRef { group, member, instance, attachment: AttachmentNumber(0) };
    pbi::MemberJoin {
        member: Some(member_name(&of)),
        client_id: join.client_id,
        client_address: join.client_address,
        subscription: Some(subscription_message(&join.subscription)),
        session_timeout: Some(join.session_timeout.into()),
        revocation_timeout: Some(join.revocation_timeout.into()),
        polls: join.gateway.is_none(),
    }
}

fn report_message(hosted: BTreeSet<(GroupId, MemberId)>) -> pbi::GatewayReport {
    let name = |(group, member): (GroupId, MemberId)| pbi::MemberName {
        group: group.to_string(),
        member_id: member.to_string(),
        ..Default::default()
    };
    pbi::GatewayReport { members: hosted.into_iter().map(name).collect() }
}

pub(super) fn request_message(epoch: i64, correlation_id: i64, request: MemberRequest) -> pbi::MemberSessionRequest {
    let request = match request {
        MemberRequest::Join(join) => Request::Join(join_message(*join)),
        MemberRequest::Attach(attach) => Request::Attach(pbi::MemberAttach {
            member: Some(member_name(&attach.member)),
            subscription: attach.subscription.as_ref().map(subscription_message),
            polls: attach.gateway.is_none(),
            revocation_timeout: attach.revocation_timeout.map(Into::into),
        }),
        MemberRequest::Release { member, released } => {
            Request::Release(pbi::MemberRelease { member: Some(member_name(&member)), released: assigned(&released) })
        }
        MemberRequest::Commit(commit) => commit_message(commit),
        MemberRequest::Heartbeat(member) => {
            Request::Heartbeat(pbi::MemberHeartbeat { member: Some(member_name(&member)) })
        }
        MemberRequest::Detach { member, grace } => {
            let for_session = grace == DetachGrace::Session;
            Request::Detach(pbi::MemberDetach { member: Some(member_name(&member)), for_session })
        }
        MemberRequest::Leave { member, cause, keep_static_assignment } => Request::Leave(pbi::MemberLeave {
            member: Some(member_name(&member)),
            reason: reason_message(cause).into(),
            keep_static_assignment,
        }),
        MemberRequest::Report(hosted) => Request::Report(report_message(hosted)),
        MemberRequest::Alive => Request::Alive(pbi::GatewayHeartbeat {}),
        MemberRequest::Offsets { group, partitions } => {
            let partitions = by_topic(partitions.into_iter().map(|partition| (partition, None)));
            Request::Offsets(pbi::MemberOffsets { group: group.to_string(), partitions })
        }
    };
    pbi::MemberSessionRequest { epoch, correlation_id, request: Some(request) }
}

fn join_of_message(message: pbi::MemberJoin, gateway: &GatewayId) -> Result<MemberRequest, ApiError> {
    let MemberRef { group, member, instance, .. } = member_ref(message.member)?;
    Ok(MemberRequest::Join(Box::new(Join {
        group,
        member,
        instance,
        client_id: message.client_id,
        client_address: message.client_address,
        subscription: subscription_of_message(message.subscription.unwrap_or_default())?,
        session_timeout: span(message.session_timeout),
        revocation_timeout: span(message.revocation_timeout),
        gateway: (!message.polls).then(|| gateway.clone()),
    })))
}

fn commit_of_message(message: pbi::MemberCommit) -> Result<MemberRequest, ApiError> {
    let member = member_ref(message.member)?;
    let group = member.group.clone();
    let author = Some(CommitAuthor { member, epoch: GroupEpoch(message.member_epoch), sequence: message.sequence });
    Ok(MemberRequest::Commit(Commit { author, group, offsets: offsets_to_commit_of_message(message.offsets)? }))
}

fn report_of_message(message: pbi::GatewayReport) -> Result<MemberRequest, ApiError> {
    let read = |name| member_ref(Some(name)).map(|of| (of.group, of.member));
    Ok(MemberRequest::Report(message.members.into_iter().map(read).collect::<Result<_, _>>()?))
}

/// Reads a request of a session of `gateway`.
///
/// # Errors
/// `STREAM_PROTOCOL_VIOLATION`: it is empty, or opens the session again; `FIELD_INVALID` and the like.
pub fn member_request_of_message(
    message: pbi::MemberSessionRequest,
    gateway: &GatewayId,
) -> Result<MemberRequest, ApiError> {
    let violation = |text: &str| ApiError::new(Reason::StreamProtocolViolation, text);
    match message.request.ok_or_else(|| violation("a message without a request"))? {
        Request::Open(_) => Err(violation("`open` was sent twice")),
        Request::Join(join) => join_of_message(join, gateway),
        Request::Attach(attach) => Ok(MemberRequest::Attach(Box::new(Attach {
            member: member_ref(attach.member)?,
            subscription: attach.subscription.map(subscription_of_message).transpose()?,
            revocation_timeout: attach.revocation_timeout.map(|timeout| span(Some(timeout))),
            gateway: (!attach.polls).then(|| gateway.clone()),
        }))),
        Request::Release(release) => {
            let released = assigned_of_message(&release.released)?;
            Ok(MemberRequest::Release { member: member_ref(release.member)?, released })
        }
        Request::Commit(commit) => commit_of_message(commit),
        Request::Heartbeat(heartbeat) => Ok(MemberRequest::Heartbeat(member_ref(heartbeat.member)?)),
        Request::Detach(detach) => {
            let grace = if detach.for_session { DetachGrace::Session } else { DetachGrace::Brief };
            Ok(MemberRequest::Detach { member: member_ref(detach.member)?, grace })
        }
        Request::Leave(leave) => {
            let (cause, keep_static_assignment) = (cause_of_message(leave.reason()), leave.keep_static_assignment);
            Ok(MemberRequest::Leave { member: member_ref(leave.member)?, cause, keep_static_assignment })
        }
        Request::Offsets(offsets) => Ok(MemberRequest::Offsets {
            group: name_of_message("group", &offsets.group)?,
            partitions: partitions_of_message(&offsets.partitions)?,
        }),
        Request::Report(report) => report_of_message(report),
        Request::Alive(_) => Ok(MemberRequest::Alive),
    }
}

/// The answer to a request of a session.
pub fn member_answer_message(
    epoch: i64,
    correlation_id: i64,
    answer: Result<MemberAnswer, ApiError>,
) -> pbi::MemberSessionResponse {
    let (error, response) = match answer {
        Ok(answer) => (None, Some(response(answer))),
        Err(failure) => (Some(failure.into()), None),
    };
    pbi::MemberSessionResponse { epoch, correlation_id, error, response }
}

fn response(answer: MemberAnswer) -> Response {
    match answer {
        MemberAnswer::Attached(attached) => Response::Attached(pbi::MemberAttached {
            attachment: attached.attachment.0,
            assignment: Some(assignment_message(&attached.current)),
            session_timeout: Some(attached.session_timeout.into()),
        }),
        MemberAnswer::Assignment(current) => Response::Assignment(assignment_message(&current)),
        MemberAnswer::Committed(refused) => Response::Committed(pbi::OffsetsCommitted {
            refused: refused.into_iter().map(refused_offset_message).collect(),
        }),
        MemberAnswer::Offsets(found) => {
            let found = found.iter().map(|(partition, committed)| offset_found_message(*partition, committed.as_ref()));
            Response::Offsets(pbi::OffsetsFound { offsets: found.collect() })
        }
        MemberAnswer::Done => Response::Done(pbi::RequestDone {}),
    }
}

/// A notice to a session.
pub fn member_notice_message(epoch: i64, notice: &Notice) -> pbi::MemberSessionResponse {
    let Notice { group, member, attachment, .. } = notice;
    let of = MemberRef { group: group.clone(), member: member.clone(), instance: None, attachment: *attachment };
    let content = match &notice.content {
        NoticeContent::Assignment(current) => Content::Assignment(assignment_message(current)),
        NoticeContent::Removed(cause) => Content::Removed(reason_message(*cause).into()),
        // To a gateway of before, the member is gone.
        NoticeContent::Superseded => Content::Removed(pbi::RemovalReason::Superseded.into()),
    };
    let notice = pbi::MemberNotice { member: Some(member_name(&of)), content: Some(content) };
    pbi::MemberSessionResponse { epoch, correlation_id: 0, error: None, response: Some(Response::Notice(notice)) }
}

/// What came in a session: a notice to its gateway, or an answer.
pub(super) fn notice_of_message(message: pbi::MemberNotice, gateway: &GatewayId) -> Result<Notice, ApiError> {
    let MemberRef { group, member, attachment, .. } = member_ref(message.member)?;
    let content = match message.content {
        Some(Content::Assignment(current)) => NoticeContent::Assignment(assignment_of_message(&current)?),
        Some(Content::Removed(reason)) => {
            let reason = pbi::RemovalReason::try_from(reason).unwrap_or(pbi::RemovalReason::Unspecified);
            match reason {
                pbi::RemovalReason::Superseded => NoticeContent::Superseded,
                reason => NoticeContent::Removed(cause_of_message(reason)),
            }
        }
        None => return Err(ApiError::internal("a notice says nothing")),
    };
    Ok(Notice { gateway: gateway.clone(), group, member, attachment, content })
}

pub(super) fn answer_of_response(response: Response) -> Result<MemberAnswer, ApiError> {
    match response {
        Response::Attached(attached) => Ok(MemberAnswer::Attached(Attached {
            attachment: AttachmentNumber(attached.attachment),
            current: assignment_of_message(&attached.assignment.unwrap_or_default())?,
            session_timeout: span(attached.session_timeout),
        })),
        Response::Assignment(current) => assignment_of_message(&current).map(MemberAnswer::Assignment),
        Response::Committed(committed) => refused_of_message(committed.refused).map(MemberAnswer::Committed),
        Response::Offsets(found) => offsets_found_of_message(found.offsets).map(MemberAnswer::Offsets),
        Response::Done(_) => Ok(MemberAnswer::Done),
        Response::Opened(_) | Response::Notice(_) => Err(ApiError::internal("an answer that is none")),
    }
}

#[cfg(test)]
mod tests;
