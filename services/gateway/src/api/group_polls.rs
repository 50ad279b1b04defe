//! Polls of members: decode and encode.

use prost::Message as _;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, SealedToken};
use walser_service::Caller;

use super::group_events::revocation_cause;
use super::group_requests::{commits, join};
use super::read_answers;
use super::reads::{fetch, place};
use crate::groups::{PollRequest, Polled};
use crate::reading::{Fetched, ReadPosition};

/// Records of an answer, where the client does not say.
const RECORDS_DEFAULT: i32 = 500;

/// `now`: milliseconds since 1970.
pub(super) fn poll(asked: pb::PollGroupRequest, caller: &Caller, now: i64) -> Result<PollRequest, ApiError> {
    let token = match asked.token.as_str() {
        "" => None,
        text => Some(SealedToken::decode("token", text)?),
    };
    let settings = match (&asked.join, &token) {
        (Some(join), _) => {
            check_join(join)?;
            let (start, options) = (join.start, join.options);
            pb::ConsumeJoin { start, options, ..pb::ConsumeJoin::default() }
        }
        (None, Some(token)) => {
            let of_a_stream = || ApiError::field("token", "is of a stream: poll with join beside it, once");
            let settings = token.settings().ok_or_else(of_a_stream)?;
            pb::ConsumeJoin::decode(settings).map_err(|_| ApiError::field("token", "is not a token of this cluster"))?
        }
        (None, None) => return Err(ApiError::field("join", "is missing: the first call joins with it")),
    };
    let records = if asked.max_records == 0 { RECORDS_DEFAULT } else { asked.max_records };
    let read = pb::FetchRequest {
        options: settings.options,
        max_wait: asked.max_wait,
        max_bytes: asked.max_bytes,
        max_records: records,
        ..pb::FetchRequest::default()
    };
    let mut read = fetch(read, now)?;
    if settings.options.is_none_or(|options| options.out_of_range == 0) {
        read.options.out_of_range = super::group_requests::out_of_range(settings.start);
    }
    let start = match settings.start {
        None => ReadPosition::Earliest,
        Some(position) => place(position, "join.start", now)?,
    };
    Ok(PollRequest {
        join: asked.join.map(|asked| join(asked, caller, now)).transpose()?,
        token,
        read,
        start,
        settings: settings.encode_to_vec(),
        commits: commits("commits", asked.commits)?,
        commit_previous: asked.commit_previous,
    })
}

/// What belongs to streams is refused: it would mean nothing here.
fn check_join(join: &pb::ConsumeJoin) -> Result<(), ApiError> {
    let of_streams = [
        ("join.commit_mode", !matches!(join.commit_mode(), pb::CommitMode::Unspecified | pb::CommitMode::Manual)),
        ("join.auto_credit", join.auto_credit.is_some()),
        ("join.credit", join.credit.is_some()),
        ("join.confirm_revocation", join.confirm_revocation),
        ("join.revocation_timeout", join.revocation_timeout.is_some()),
        ("join.processing_timeout", join.processing_timeout.is_some()),
        ("join.resume_token", !join.resume_token.is_empty()),
    ];
    match of_streams.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(ApiError::field(field, "is for Consume; leave it out of a poll")),
        None => Ok(()),
    }
}

/// The answer to a poll.
pub(super) fn polled(polled: Polled) -> pb::PollGroupResponse {
    let Polled {
        member_id,
        token,
        fetched,
        resets: moved,
        failures,
        failure_bytes_max,
        owned,
        revoked,
        cause,
        refused,
    } = polled;
    let errors = read_answers::failures_within(failures, failure_bytes_max);
    let pb::FetchResponse { chunks, mut resets, errors: _ } = fetched.map(read_answers::fetched).unwrap_or_default();
    resets.extend(moved.into_iter().map(read_answers::reset));
    let revoked: Vec<_> = revoked.iter().map(read_answers::partition).collect();
    let lost = || pb::PartitionsRevoked { partitions: revoked.clone(), cause: revocation_cause(cause).into() };
    pb::PollGroupResponse {
        token,
        chunks,
        owned: owned.iter().map(read_answers::partition).collect(),
        revoked: (!revoked.is_empty()).then(lost),
        commit_errors: refused.into_iter().map(read_answers::failure).collect(),
        resets,
        errors,
        member_id,
    }
}

/// The gate that keeps the memory of what was read until it is sent.
pub(super) fn gate_of(polled: &Polled) -> Option<walser_rpc::SendGate> {
    polled.fetched.as_ref().map(|fetched: &Fetched| fetched.gate.clone())
}
