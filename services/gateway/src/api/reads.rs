//! Reads as they come in: targets, positions and options, checked.

use std::collections::HashMap;
use std::time::Duration;

use walser_model::{Offset, whole_millis};
use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use super::read_answers::record_bytes;
use super::wire::known;
use crate::reading::{FetchRequest, Options, OutOfRange, ReadPosition, ReadRequest, ReadTarget, Resume, Shape};

/// What a client takes that says nothing: the default of most gRPC libraries.
const CLIENT_MESSAGE_BYTES: usize = 4 << 20;
const CLIENT_MESSAGE_BYTES_MIN: i32 = 8 << 10;
/// Largest message that is sent, whatever a client takes.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

const FETCH_WAIT: Duration = Duration::from_millis(500);
const FETCH_WAIT_MAX: Duration = Duration::from_secs(30);
const FETCH_BYTES: usize = 1 << 20;
const FETCH_BYTES_MAX: usize = 16 << 20;

/// `now`: milliseconds since 1970.
pub(super) fn fetch(request: pb::FetchRequest, now: i64) -> Result<FetchRequest, ApiError> {
    let options = options(request.options)?;
    let wait = match request.max_wait {
        None => FETCH_WAIT,
        Some(wait) => {
            let wait = Duration::try_from(wait).map_err(|_| ApiError::field("max_wait", "must not be negative"))?;
            wait.min(FETCH_WAIT_MAX)
        }
    };
    let bytes_max = given("max_bytes", request.max_bytes.into())?.unwrap_or(FETCH_BYTES).min(FETCH_BYTES_MAX);
    Ok(FetchRequest {
        targets: targets(request.targets, now)?,
        options,
        wait,
        bytes_min: given("min_bytes", request.min_bytes.into())?.unwrap_or(1),
        bytes_max,
        records_max: given("max_records", request.max_records.into())?.unwrap_or(usize::MAX),
    })
}

/// `now`: milliseconds since 1970.
pub(super) fn read(request: pb::ReadRequest, now: i64) -> Result<ReadRequest, ApiError> {
    let options = options(request.options)?;
    given("max_records", request.max_records)?;
    let records_max = if request.max_records == 0 { i64::MAX } else { request.max_records };
    Ok(ReadRequest { targets: targets(request.targets, now)?, options, records_max })
}

/// `now`: milliseconds since 1970.
pub(super) fn list_offsets(request: pb::ListOffsetsRequest, now: i64) -> Result<Vec<ReadTarget>, ApiError> {
    known::<pb::Isolation>("isolation", request.isolation)?;
    targets(request.targets, now)
}

/// A number that is not negative; 0 is none.
fn given(field: &str, value: i64) -> Result<Option<usize>, ApiError> {
    let value = usize::try_from(value).map_err(|_| ApiError::field(field, "must not be negative"))?;
    Ok((value > 0).then_some(value))
}

pub(super) fn options(options: Option<pb::ReadOptions>) -> Result<Options, ApiError> {
    let options = options.unwrap_or_default();
    known::<pb::Isolation>("options.isolation", options.isolation)?;
    let encoding: pb::Encoding = known("options.encoding", options.encoding)?;
    let out_of_range = match known("options.out_of_range", options.out_of_range)? {
        pb::OutOfRangePolicy::Unspecified | pb::OutOfRangePolicy::Fail => OutOfRange::Fail,
        pb::OutOfRangePolicy::Earliest => OutOfRange::Earliest,
        pb::OutOfRangePolicy::Latest => OutOfRange::Latest,
    };
    let message_bytes_max = match options.max_message_bytes {
        0 => CLIENT_MESSAGE_BYTES,
        bytes if bytes < CLIENT_MESSAGE_BYTES_MIN => {
            let text = format!("must be at least {CLIENT_MESSAGE_BYTES_MIN}, or 0 for 4 MiB");
            return Err(ApiError::field("options.max_message_bytes", text));
        }
        bytes => usize::try_from(bytes).unwrap_or(CLIENT_MESSAGE_BYTES).min(MESSAGE_BYTES_MAX),
    };
    let batches = encoding == pb::Encoding::RecordBatches;
    if batches && options.metadata_only {
        return Err(ApiError::field("options.metadata_only", "cannot be used with whole batches"));
    }
    let shape = Shape { batches, metadata_only: options.metadata_only, message_bytes_max, taken: 0, record_bytes };
    Ok(Options { shape, out_of_range })
}

fn targets(targets: Vec<pb::ReadTarget>, now: i64) -> Result<Vec<ReadTarget>, ApiError> {
    targets.into_iter().map(|asked| target(asked, now)).collect()
}

fn target(asked: pb::ReadTarget, now: i64) -> Result<ReadTarget, ApiError> {
    let resume = resume(&asked)?;
    let pb::ReadTarget { topic, partition, start, end, last_leader_epoch, resume: _, topic_id } = asked;
    let topic_id = match topic_id.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|_| ApiError::field("targets.topic_id", "is not a topic id"))?),
    };
    let start = start.map(|position| place(position, "targets.start", now)).transpose()?;
    let end = end.map(|position| place(position, "targets.end", now)).transpose()?;
    Ok(ReadTarget { topic, topic_id, partition, start, end, last_epoch: last_leader_epoch, resume })
}

/// Where the reader of a whole topic stands, by partition.
fn resume(target: &pb::ReadTarget) -> Result<HashMap<i32, Resume>, ApiError> {
    let bad = |field: &str, problem: &str| Err(ApiError::field(field, problem));
    if target.last_leader_epoch.is_some_and(|epoch| epoch < 0) {
        return bad("targets.last_leader_epoch", "is at least 0; leave it out when unknown");
    }
    if target.last_leader_epoch.is_some() && target.partition.is_none() {
        return bad("targets.last_leader_epoch", "belongs to one partition: set resume.leader_epoch instead");
    }
    if target.partition.is_some() && !target.resume.is_empty() {
        return bad("targets.resume", "is for whole topics: set start instead");
    }
    let mut resume = HashMap::new();
    for pb::PartitionResume { partition, next_offset, leader_epoch } in target.resume.iter().copied() {
        if partition < 0 || next_offset < 0 || leader_epoch.is_some_and(|epoch| epoch < 0) {
            return bad("targets.resume", "partition, next_offset and leader_epoch are at least 0");
        }
        let standing = Resume { next_offset: Offset(next_offset), leader_epoch };
        if resume.insert(partition, standing).is_some() {
            return bad("targets.resume", &format!("names partition {partition} twice"));
        }
    }
    Ok(resume)
}

/// A position of a request. `now`: milliseconds since 1970.
pub(super) fn place(position: pb::Position, field: &str, now: i64) -> Result<ReadPosition, ApiError> {
    use pb::position::At;
    let bad = |problem: &str| Err(ApiError::field(field, problem));
    match position.at {
        None => bad("is empty; set one of offset, timestamp, bound, tail_count or age"),
        Some(At::Offset(offset)) if offset < 0 => bad("an offset is at least 0"),
        Some(At::Offset(offset)) => Ok(ReadPosition::Offset(offset)),
        Some(At::Timestamp(time)) => {
            // Records are stamped in whole milliseconds: the first one at or after the instant.
            let fraction = i64::from(time.nanos).div_euclid(1_000_000);
            let fraction = fraction + i64::from(time.nanos.rem_euclid(1_000_000) > 0);
            let millis = time.seconds.checked_mul(1000).and_then(|millis| millis.checked_add(fraction));
            millis.map_or_else(|| bad("the timestamp is out of range"), |millis| Ok(ReadPosition::Time(millis)))
        }
        Some(At::Bound(bound)) => match pb::Bound::try_from(bound) {
            Ok(pb::Bound::Earliest) => Ok(ReadPosition::Earliest),
            Ok(pb::Bound::Latest) => Ok(ReadPosition::Latest),
            _ => bad("the bound is neither EARLIEST nor LATEST"),
        },
        Some(At::TailCount(count)) if count < 0 => bad("tail_count is at least 0"),
        Some(At::TailCount(count)) => Ok(ReadPosition::Last(count)),
        Some(At::Age(age)) => match Duration::try_from(age) {
            Ok(age) => Ok(ReadPosition::Time(now.saturating_sub(whole_millis(age)))),
            Err(_) => bad("an age is not negative"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_says_nothing_has_the_defaults_and_one_that_says_nonsense_is_refused() {
        let request = pb::FetchRequest { targets: vec![pb::ReadTarget::default()], ..Default::default() };
        let fetch_of = |change: fn(&mut pb::FetchRequest)| {
            let mut request = request.clone();
            change(&mut request);
            fetch(request, 1_000)
        };
        let usual = fetch_of(|_| ()).unwrap();
        assert_eq!((usual.wait, usual.bytes_min, usual.bytes_max), (FETCH_WAIT, 1, FETCH_BYTES));
        assert_eq!((usual.records_max, usual.options.shape.message_bytes_max), (usize::MAX, CLIENT_MESSAGE_BYTES));
        assert_eq!(fetch_of(|request| request.max_bytes = i32::MAX).unwrap().bytes_max, FETCH_BYTES_MAX);
        for wrong in [
            (|request| request.max_bytes = -1) as fn(&mut pb::FetchRequest),
            |request| request.min_bytes = -1,
            |request| request.max_records = -1,
            |request| request.targets[0].last_leader_epoch = Some(0),
            |request| request.targets[0].start = Some(pb::Position::default()),
            |request| request.targets[0].topic_id = "x".into(),
            |request| request.targets[0].resume = vec![pb::PartitionResume::default(); 2],
            |request| request.options = Some(pb::ReadOptions { max_message_bytes: 1, ..Default::default() }),
            |request| request.options = Some(pb::ReadOptions { encoding: 99, ..Default::default() }),
        ] {
            assert!(fetch_of(wrong).is_err());
        }
    }
}
