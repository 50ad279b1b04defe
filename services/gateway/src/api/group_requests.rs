//! What the client of a member says, checked.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use walser_group::{Assignor, InstanceId, Subscription};
use walser_model::{LeaderEpoch, Offset};
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_rpc::{ApiError, Reason, SealedToken, name_of_message};
use walser_service::Caller;

use super::reads::{options, place};
use super::wire::known;
use crate::groups::{CommitMode, CommitRequest, Grant, GroupRequest, JoinRequest, OFFSETS_MAX, OffsetCommit, Place};
use crate::reading::{OutOfRange, PartitionName, ReadPosition};
use crate::topics;

const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
const SESSION_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(6)..=Duration::from_secs(60);
const PROCESSING_TIMEOUT: Duration = Duration::from_secs(300);
const PROCESSING_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(30);
const REVOCATION_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);

/// The first message of a stream. `now`: milliseconds since 1970.
pub(super) fn first(message: Option<pb::ConsumeRequest>, caller: &Caller, now: i64) -> Result<JoinRequest, ApiError> {
    match message.and_then(|message| message.message) {
        Some(Message::Join(asked)) => join(asked, caller, now),
        other => {
            let actual = other.as_ref().map_or("nothing", name_of);
            let failure = ApiError::new(Reason::StreamProtocolViolation, "the first message must be join");
            Err(failure.with("expected", "join").with("actual", actual))
        }
    }
}

/// A message behind the first. `now`: milliseconds since 1970.
pub(super) fn later(message: pb::ConsumeRequest, now: i64) -> Result<GroupRequest, ApiError> {
    let request = match message.message {
        Some(Message::Join(_)) => {
            let failure = ApiError::new(Reason::StreamProtocolViolation, "join was sent twice");
            return Err(failure.with("actual", "join"));
        }
        None => {
            let failure = ApiError::new(Reason::StreamProtocolViolation, "the message is empty");
            return Err(failure.with("actual", "nothing"));
        }
        Some(Message::Credit(asked)) => GroupRequest::Credit(grant("credit", asked)?),
        Some(Message::Commit(pb::ConsumeCommit { commit_id, offsets })) => {
            GroupRequest::Commit(CommitRequest { id: commit_id, offsets: commits("commit.offsets", offsets)? })
        }
        Some(Message::ConfirmRevocation(pb::ConfirmRevocation { revocation_id, offsets })) => {
            let offsets = commits("confirm_revocation.offsets", offsets)?;
            GroupRequest::Confirm { revocation: revocation_id, offsets }
        }
        Some(Message::ExtendProcessing(pb::ExtendProcessing { extension })) => {
            let extension = duration("extend_processing.extension", extension, None, &PROCESSING_TIMEOUTS)?;
            GroupRequest::Extend(extension)
        }
        Some(Message::Pause(of)) => GroupRequest::Pause(partition("pause", Some(of))?),
        Some(Message::Resume(of)) => GroupRequest::Resume(partition("resume", Some(of))?),
        Some(Message::Seek(asked)) => GroupRequest::Seek(seek(asked, now)?),
        Some(Message::Leave(pb::ConsumeLeave { keep_static_assignment })) => {
            GroupRequest::Leave { keep_static_assignment }
        }
        Some(Message::Heartbeat(_)) => GroupRequest::Heartbeat,
    };
    Ok(request)
}

fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Join(_) => "join",
        Message::Credit(_) => "credit",
        Message::Commit(_) => "commit",
        Message::ConfirmRevocation(_) => "confirm_revocation",
        Message::ExtendProcessing(_) => "extend_processing",
        Message::Pause(_) => "pause",
        Message::Resume(_) => "resume",
        Message::Seek(_) => "seek",
        Message::Leave(_) => "leave",
        Message::Heartbeat(_) => "heartbeat",
    }
}

pub(super) fn join(asked: pb::ConsumeJoin, caller: &Caller, now: i64) -> Result<JoinRequest, ApiError> {
    let group = name_of_message("join.group", &asked.group)?;
    let instance: Option<InstanceId> = match asked.instance_id.as_str() {
        "" => None,
        id => Some(name_of_message("join.instance_id", id)?),
    };
    let token = match asked.resume_token.as_str() {
        "" => None,
        text => Some(SealedToken::decode("join.resume_token", text)?),
    };
    let subscription = subscription(asked.topics, asked.topic_pattern, &asked.assignor)?;
    if subscription.topics.is_empty() && subscription.pattern.is_none() && token.is_none() {
        return Err(ApiError::field("join.topics", "names nothing to read; set topics or topic_pattern"));
    }
    let start = match asked.start {
        None => ReadPosition::Earliest,
        Some(position) => place(position, "join.start", now)?,
    };
    let mut read = options(asked.options)?;
    let unset = asked.options.is_none_or(|options| options.out_of_range == 0);
    if unset {
        read.out_of_range = out_of_range(asked.start);
    }
    let credit = match (asked.auto_credit.unwrap_or(true), asked.credit) {
        (true, None) => None,
        (true, Some(_)) => return Err(ApiError::field("join.credit", "is for streams with auto_credit off")),
        (false, None) => return Err(ApiError::field("join.credit", "is needed with auto_credit off")),
        (false, Some(first)) => Some(grant("join.credit", first)?),
    };
    let commit_mode = match known::<pb::CommitMode>("join.commit_mode", asked.commit_mode)? {
        pb::CommitMode::Unspecified | pb::CommitMode::Manual => CommitMode::Manual,
        pb::CommitMode::Auto => CommitMode::Auto,
        pb::CommitMode::BeforeDelivery => CommitMode::BeforeDelivery,
    };
    let confirms =
        duration("join.revocation_timeout", asked.revocation_timeout, Some(REVOCATION_TIMEOUT), &REVOCATION_TIMEOUTS)?;
    Ok(JoinRequest {
        group,
        instance,
        subscription,
        token,
        start,
        options: read,
        session_timeout: duration(
            "join.session_timeout",
            asked.session_timeout,
            Some(SESSION_TIMEOUT),
            &SESSION_TIMEOUTS,
        )?,
        processing_timeout: duration(
            "join.processing_timeout",
            asked.processing_timeout,
            Some(PROCESSING_TIMEOUT),
            &PROCESSING_TIMEOUTS,
        )?,
        confirm_within: asked.confirm_revocation.then_some(confirms),
        commit_mode,
        credit,
        client_id: caller.client_id().to_owned(),
        client_address: caller.address(),
    })
}

/// Where a reader goes whose offset is gone: to the end of the log that it starts at.
pub(super) fn out_of_range(start: Option<pb::Position>) -> OutOfRange {
    let latest = pb::position::At::Bound(pb::Bound::Latest.into());
    if start.and_then(|start| start.at) == Some(latest) { OutOfRange::Latest } else { OutOfRange::Earliest }
}

fn subscription(topics: Vec<String>, pattern: String, assignor: &str) -> Result<Subscription, ApiError> {
    let mut names = BTreeSet::new();
    for topic in topics {
        names.insert(topics::name(&topic)?);
    }
    let assignor = match assignor {
        "" => None,
        text => Some(text.parse::<Assignor>().map_err(|error| {
            ApiError::new(Reason::AssignorUnsupported, error.to_string()).with("assignor", text.escape_debug())
        })?),
    };
    Ok(Subscription { topics: names, pattern: (!pattern.is_empty()).then_some(pattern), assignor })
}

/// A duration within limits; `None` without a default is missing.
fn duration(
    field: &str,
    given: Option<pbjson_types::Duration>,
    default: Option<Duration>,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, ApiError> {
    let Some(given) = given else { return default.ok_or_else(|| ApiError::field(field, "is missing")) };
    let (min, max) = (range.start(), range.end());
    let wanted = Duration::try_from(given).ok().filter(|wanted| range.contains(wanted));
    wanted.ok_or_else(|| ApiError::field(field, format!("must be from {min:?} to {max:?}")))
}

fn grant(field: &str, credit: pb::Credit) -> Result<Grant, ApiError> {
    let number = |value: i64| u64::try_from(value).map_err(|_| ApiError::field(field, "must not be negative"));
    Ok(Grant { bytes: number(credit.bytes)?, records: number(credit.records)? })
}

fn partition(field: &str, of: Option<pb::TopicPartition>) -> Result<PartitionName, ApiError> {
    let of = of.filter(|of| !of.topic.is_empty());
    let of = of.ok_or_else(|| ApiError::field(field, "names no topic; set topic and partition"))?;
    let topic = topics::name(&of.topic)?;
    Ok(PartitionName { topic: topic.as_str().into(), partition: of.partition })
}

pub(super) fn commits(field: &str, offsets: Vec<pb::OffsetCommit>) -> Result<Vec<OffsetCommit>, ApiError> {
    if offsets.len() > OFFSETS_MAX {
        return Err(ApiError::field(field, format!("at most {OFFSETS_MAX} offsets in one message")));
    }
    offsets.into_iter().map(|offset| commit(field, offset)).collect()
}

fn commit(field: &str, commit: pb::OffsetCommit) -> Result<OffsetCommit, ApiError> {
    let pb::OffsetCommit { topic_partition, offset, leader_epoch, metadata, topic_id } = commit;
    let of = partition(field, topic_partition)?;
    if leader_epoch.is_some_and(|epoch| epoch < 0) {
        return Err(ApiError::field(field, "leader_epoch is at least 0; leave it out when unknown"));
    }
    let no_id = |_| ApiError::field(field, "topic_id is the UUID of a topic, or empty");
    let topic_id = (!topic_id.is_empty()).then(|| topic_id.parse().map_err(no_id)).transpose()?;
    let leader_epoch = leader_epoch.map(LeaderEpoch);
    Ok(OffsetCommit { of, offset: Offset(offset), leader_epoch, metadata, topic_id })
}

fn seek(asked: pb::ReadTarget, now: i64) -> Result<Place, ApiError> {
    let pb::ReadTarget { topic, partition: number, start, end, last_leader_epoch, resume, topic_id } = asked;
    if end.is_some() || last_leader_epoch.is_some() || !resume.is_empty() || !topic_id.is_empty() {
        return Err(ApiError::field("seek", "takes topic, partition and start, and nothing else"));
    }
    let number = number.ok_or_else(|| ApiError::field("seek.partition", "is missing"))?;
    let of = partition("seek.topic", Some(pb::TopicPartition { topic, partition: number }))?;
    let start = start.ok_or_else(|| ApiError::field("seek.start", "is missing"))?;
    Ok(Place { of, start: place(start, "seek.start", now)? })
}
