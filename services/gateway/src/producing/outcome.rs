//! What became of a write: the answers of its parts, collected into one.

use std::sync::Arc;

use parking_lot::Mutex;
use walser_proto::internal::v1::AppendStreamResponse;
use walser_proto::v1 as pb;
use walser_rpc::Failure;

use crate::producing::part_plan::PartPlan;

/// Bytes of both bitmaps of a failed write: clients take trailers of 8 KiB, base64 and the other details included.
const BITMAP_BYTES_MAX: usize = 4096;
/// Bytes of the failures that are reported partition by partition.
const PARTITION_FAILURE_BYTES_MAX: usize = 600;
/// Bytes of the text of one of them.
const PARTITION_FAILURE_TEXT_MAX: usize = 120;

/// What became of a write.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) appends: Vec<pb::AppendResult>,
    /// One per plain record, in order; empty for batches and when something failed.
    pub(crate) positions: Vec<pb::RecordPosition>,
    /// Present unless everything is written.
    pub(crate) failed: Option<Failed>,
    /// A topic was created for it.
    pub(crate) created: bool,
}

/// How a write failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// For the write as a whole.
    pub(crate) failure: Failure,
    /// Which records are concerned. `None`: all of them.
    pub(crate) detail: Option<pb::ProduceFailure>,
}

/// Called once, on any thread; must not block.
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Where a part was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Offset of the part's first record; `None` with acks NONE.
    pub(crate) base_offset: Option<i64>,
    /// With LogAppendTime.
    pub(crate) log_append_time_millis: Option<i64>,
    pub(crate) log_start_offset: Option<i64>,
    pub(crate) duplicate: bool,
    pub(crate) durability: pb::Durability,
    pub(crate) copies: i32,
}

/// Collects the answers of all parts of a write.
pub(crate) struct Collector {
    state: Mutex<Collected>,
}

struct Collected {
    left: usize,
    /// By part number.
    parts: Vec<Option<(PartPlan, Result<Written, Failure>)>>,
    record_count: usize,
    created: bool,
    done: Option<Done>,
}

/// A set of record indexes as bits.
#[derive(Debug, Default)]
struct Bitmap(Vec<u8>);

// === impl Outcome ===

impl Outcome {
    /// The outcome of a write of which nothing was sent, or nothing is known.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self { failed: Some(Failed { failure, detail: None }), ..Self::default() }
    }

    /// The outcome of a write of these parts. Positions are told when all of them are known.
    pub(crate) fn of(
        parts: impl IntoIterator<Item = (PartPlan, Result<Written, Failure>)>,
        record_count: usize,
        created: bool,
    ) -> Self {
        let mut outcome = Self { created, ..Self::default() };
        let mut failures = Vec::new();
        let mut positions = Some(vec![pb::RecordPosition::default(); record_count]);
        for (plan, answer) in parts {
            match answer {
                Ok(written) => {
                    positions = positions.zip(written.base_offset).map(|(mut positions, base_offset)| {
                        for (offset, index) in (base_offset..).zip(&plan.records) {
                            positions[*index] = pb::RecordPosition { partition: plan.partition, offset };
                        }
                        positions
                    });
                    outcome.appends.push(append_result(&plan, written));
                }
                Err(failure) => failures.push((plan, failure)),
            }
        }
        if failures.is_empty() {
            outcome.positions = positions.unwrap_or_default();
        } else {
            outcome.failed = Some(failed(&failures, record_count, !outcome.appends.is_empty()));
        }
        outcome
    }
}

// === impl Written ===

impl From<AppendStreamResponse> for Written {
    fn from(answer: AppendStreamResponse) -> Self {
        let stamped = answer.log_append_time_millis >= 0;
        Self {
            base_offset: Some(answer.base_offset),
            log_append_time_millis: stamped.then_some(answer.log_append_time_millis),
            log_start_offset: Some(answer.log_start_offset),
            duplicate: answer.duplicate,
            durability: answer.durability(),
            copies: answer.copies,
        }
    }
}

impl Written {
    /// The answer for a write that nobody waits for.
    pub(crate) fn queued() -> Self {
        Self {
            base_offset: None,
            log_append_time_millis: None,
            log_start_offset: None,
            duplicate: false,
            durability: pb::Durability::Queued,
            copies: 0,
        }
    }
}

// === impl Collector ===

impl Collector {
    /// Waits for as many answers as there are parts, which is at least one.
    pub(crate) fn new(part_count: usize, record_count: usize, created: bool, done: Done) -> Arc<Self> {
        let parts = (0..part_count).map(|_| None).collect();
        let state = Collected { left: part_count, parts, record_count, created, done: Some(done) };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Takes the answer of one part; the last one completes the write.
    pub(crate) fn part_done(&self, number: usize, plan: PartPlan, outcome: Result<Written, Failure>) {
        let mut state = self.state.lock();
        state.parts[number] = Some((plan, outcome));
        state.left -= 1;
        if state.left > 0 {
            return;
        }
        let parts = std::mem::take(&mut state.parts);
        let outcome = Outcome::of(parts.into_iter().flatten(), state.record_count, state.created);
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            done(outcome);
        }
    }
}

fn append_result(plan: &PartPlan, written: Written) -> pb::AppendResult {
    pb::AppendResult {
        partition: plan.partition,
        base_offset: written.base_offset,
        record_count: plan.record_count,
        log_append_time_millis: written.log_append_time_millis,
        log_start_offset: written.log_start_offset,
        duplicate: written.duplicate,
        durability: written.durability.into(),
        copies: written.copies,
    }
}

/// The failure of a write from those of its parts. `partly`: other parts are written.
fn failed(failures: &[(PartPlan, Failure)], record_count: usize, partly: bool) -> Failed {
    let (mut not_written, mut unknown) = (Bitmap::default(), Bitmap::default());
    let mut partitions: Vec<pb::PartitionFailure> = Vec::new();
    let mut told_bytes = 0;
    for (plan, failure) in failures {
        let bitmap = match failure.effect() {
            pb::Effect::Applied => None,
            pb::Effect::None => Some(&mut not_written),
            _ => Some(&mut unknown),
        };
        if let Some(bitmap) = bitmap {
            plan.records.iter().for_each(|index| bitmap.insert(*index));
        }
        let told = partitions.iter().any(|told| told.partition == plan.partition);
        let telling = pb::PartitionFailure { partition: plan.partition, error: Some(short(failure)) };
        let bytes = prost::Message::encoded_len(&telling);
        if !told && (partitions.is_empty() || told_bytes + bytes <= PARTITION_FAILURE_BYTES_MAX) {
            told_bytes += bytes;
            partitions.push(telling);
        }
    }
    // What may have happened outweighs what has not.
    let worst = failures.iter().find(|(_, failure)| failure.effect() != pb::Effect::None).unwrap_or(&failures[0]);
    let failure = if partly { worst.1.clone().partial() } else { worst.1.clone() };
    let detail = (record_count > 0).then(|| {
        let bitmaps = usize::from(!not_written.0.is_empty()) + usize::from(!unknown.0.is_empty());
        let bytes_max = BITMAP_BYTES_MAX / bitmaps.max(1);
        let truncated = record_count > bytes_max * 8;
        let (not_written, unknown) = (not_written.into_bytes(bytes_max), unknown.into_bytes(bytes_max));
        pb::ProduceFailure { not_written, unknown, truncated, partitions }
    });
    Failed { failure, detail }
}

/// A failure without what the status says already.
fn short(failure: &Failure) -> pb::Error {
    let mut error = pb::Error::from(failure.clone());
    error.metadata.clear();
    let end = (0..=PARTITION_FAILURE_TEXT_MAX).rev().find(|end| error.message.is_char_boundary(*end));
    error.message.truncate(end.unwrap_or(0));
    error
}

// === impl Bitmap ===

impl Bitmap {
    fn insert(&mut self, index: usize) {
        if index < BITMAP_BYTES_MAX * 8 {
            if self.0.len() <= index / 8 {
                self.0.resize(index / 8 + 1, 0);
            }
            self.0[index / 8] |= 1 << (index % 8);
        }
    }

    fn into_bytes(mut self, bytes_max: usize) -> bytes::Bytes {
        self.0.truncate(bytes_max);
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use walser_rpc::Reason;

    use super::*;

    fn collected(record_count: usize, parts: Vec<(PartPlan, Result<Written, Failure>)>) -> Outcome {
        let told = Arc::new(Mutex::new(None));
        let outcome = Arc::clone(&told);
        let done: Done = Box::new(move |outcome| *told.lock() = Some(outcome));
        let collector = Collector::new(parts.len(), record_count, false, done);
        for (number, (plan, answer)) in parts.into_iter().enumerate().rev() {
            assert!(outcome.lock().is_none());
            collector.part_done(number, plan, answer);
        }
        outcome.lock().take().unwrap()
    }

    fn plan(partition: i32, records: impl IntoIterator<Item = usize>) -> PartPlan {
        PartPlan::of(partition, records)
    }

    fn written(base_offset: i64) -> Written {
        Written { base_offset: Some(base_offset), durability: pb::Durability::Fsync, ..Written::queued() }
    }

    fn indexes(bitmap: &[u8]) -> Vec<usize> {
        (0..bitmap.len() * 8).filter(|index| bitmap[index / 8] & (1 << (index % 8)) != 0).collect()
    }

    #[test]
    fn every_record_that_is_not_written_is_named() {
        let record_count = 10_000;
        let refused = || Failure::new(Reason::LogCorrupt, "damaged");
        let lost = || Failure::new(Reason::LeaderLostAfterAppend, "lost");
        let parts = (0..1000).map(|partition| {
            let of_partition = (0..record_count).filter(move |index| index % 1000 == partition);
            let answer = match partition % 3 {
                0 => Ok(written(5)),
                1 => Err(refused()),
                _ => Err(lost()),
            };
            (plan(i32::try_from(partition).unwrap(), of_partition), answer)
        });
        let outcome = collected(record_count, parts.collect());
        let Failed { failure, detail } = outcome.failed.unwrap();
        let detail = detail.unwrap();
        let named = |remainder| (0..record_count).filter(|index| index % 1000 % 3 == remainder).collect::<Vec<_>>();
        assert_eq!(indexes(&detail.not_written), named(1));
        assert_eq!(indexes(&detail.unknown), named(2));
        assert!(!detail.truncated && !detail.partitions.is_empty());
        assert_eq!((failure.reason(), failure.effect()), (Reason::LeaderLostAfterAppend, pb::Effect::Partial));
        assert_eq!(failure.retry(), pb::RetryAdvice::Never, "what is written would be written twice");
    }

    #[test]
    fn a_write_that_failed_as_a_whole_keeps_its_advice() {
        let away = Failure::new(Reason::LeaderNotAvailable, "away");
        let outcome = collected(3, vec![(plan(0, [0, 2]), Err(away.clone())), (plan(1, [1]), Err(away.clone()))]);
        let Failed { failure, detail } = outcome.failed.unwrap();
        assert_eq!(failure, away);
        assert_eq!(indexes(&detail.unwrap().not_written), [0, 1, 2]);
        let batch = collected(0, vec![(plan(0, []), Err(away))]);
        assert!(batch.failed.unwrap().detail.is_none());
    }

    #[test]
    fn records_beyond_the_bitmaps_count_as_unknown() {
        let away = Failure::new(Reason::LeaderNotAvailable, "away");
        let outcome =
            collected(100_000, vec![(plan(0, 0..50_000), Err(away)), (plan(1, 50_000..100_000), Ok(written(0)))]);
        let detail = outcome.failed.unwrap().detail.unwrap();
        assert!(detail.truncated);
        assert_eq!(indexes(&detail.not_written).len(), BITMAP_BYTES_MAX * 8);
    }

    #[test]
    fn what_failed_fits_the_trailers_of_every_client() {
        let long = "x".repeat(249);
        let away = || Failure::new(Reason::LeaderNotAvailable, format!("partition of {long}")).with("topic", &long);
        let lost = || Failure::new(Reason::LeaderLostAfterAppend, format!("partition of {long}")).with("topic", &long);
        for both in [false, true] {
            let parts = (0..1000).map(|partition| {
                let records = (0..32_768).filter(move |index| index % 1000 == partition);
                let answer = match partition % 3 {
                    0 => Ok(written(0)),
                    1 if both => Err(lost()),
                    _ => Err(away()),
                };
                (plan(i32::try_from(partition).unwrap(), records), answer)
            });
            let Failed { failure, detail } = collected(32_768, parts.collect()).failed.unwrap();
            let detail = detail.unwrap();
            assert_eq!(detail.truncated, both, "one bitmap covers 32,768 records, two cover half");
            let status = failure.into_status_with("walser.v1.ProduceFailure", prost::Message::encode_to_vec(&detail));
            let trailers = status.details().len().div_ceil(3) * 4 + status.message().len();
            assert!(trailers < 7_600, "{trailers}");
        }
    }

    #[test]
    fn of_a_write_that_nobody_waits_for_what_is_not_queued_is_named() {
        let full = || Failure::new(Reason::RequestTimedOut, "no room").with_effect(pb::Effect::None);
        let none = Outcome::of([(plan(0, [0]), Err(full()))], 1, false).failed.unwrap();
        assert_eq!(none.failure.effect(), pb::Effect::None, "nothing is queued: it may be sent again");
        let parts = [(plan(0, [0, 2]), Err(full())), (plan(1, [1]), Ok(Written::queued()))];
        let Failed { failure, detail } = Outcome::of(parts, 3, false).failed.unwrap();
        assert_eq!(failure.effect(), pb::Effect::Partial);
        assert_eq!(indexes(&detail.unwrap().not_written), [0, 2]);
        let all = Outcome::of([(plan(1, [0]), Ok(Written::queued()))], 1, false);
        assert!(all.failed.is_none() && all.positions.is_empty(), "its offset is not known");
        assert_eq!(all.appends[0].durability(), pb::Durability::Queued);
    }

    #[test]
    fn positions_follow_the_records() {
        let outcome = collected(4, vec![(plan(1, [0, 3]), Ok(written(10))), (plan(0, [1, 2]), Ok(written(20)))]);
        let positions: Vec<_> = outcome.positions.iter().map(|at| (at.partition, at.offset)).collect();
        assert_eq!(positions, [(1, 10), (0, 20), (0, 21), (1, 11)]);
    }
}
