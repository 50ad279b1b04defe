//! What became of a write: the answers of its parts, collected into one.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use walser_model::{Durability, Offset, Timestamp};
use walser_rpc::{ApiError, BatchAppended, Effect};

use crate::producing::part_plan::PartPlan;

/// Bytes of both bitmaps of a failed write: clients take trailers of 8 KiB, base64 and the other details included.
const BITMAP_BYTES_MAX: usize = 4096;
/// Partitions whose failures are kept apart.
const PARTITION_FAILURES_MAX: usize = 32;

/// What became of a write.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) appends: Vec<PartWritten>,
    /// One per plain record, in order; empty for batches and when something failed.
    pub(crate) positions: Vec<RecordPlace>,
    /// Present unless everything is written.
    pub(crate) failed: Option<Failed>,
    /// A topic was created for it.
    pub(crate) created: bool,
}

/// How a write failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// For the write as a whole.
    pub(crate) failure: ApiError,
    /// Which records are concerned. `None`: all of them.
    pub(crate) records: Option<FailedRecords>,
}

/// Which records of a write failed, by their indexes.
#[derive(Debug)]
pub(crate) struct FailedRecords {
    /// A bit for each record that is not written: the lowest bit of the first byte is that of the first record.
    pub(crate) not_written: Bytes,
    /// The same for those of which it is not known.
    pub(crate) unknown: Bytes,
    /// There are more records than bits; of the rest nothing is known.
    pub(crate) truncated: bool,
    /// Why, by partition: of the first ones.
    pub(crate) partitions: Vec<(i32, ApiError)>,
}

/// A part of a write that is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartWritten {
    pub(crate) partition: i32,
    pub(crate) record_count: i32,
    pub(crate) written: Written,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) partition: i32,
    pub(crate) offset: Offset,
}

/// Called once, on any thread; must not block.
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Where a part was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Offset of the part's first record; `None` with acks NONE.
    pub(crate) base_offset: Option<Offset>,
    /// With LogAppendTime.
    pub(crate) log_append_time: Option<Timestamp>,
    pub(crate) log_start: Option<Offset>,
    pub(crate) duplicate: bool,
    /// `None`: it is queued, and nothing more is known.
    pub(crate) durability: Option<Durability>,
    pub(crate) copies: i32,
}

/// Collects the answers of all parts of a write.
pub(crate) struct Collector {
    state: Mutex<Collected>,
}

struct Collected {
    left: usize,
    /// By part number.
    parts: Vec<Option<(PartPlan, Result<Written, ApiError>)>>,
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
    pub(crate) fn failed(failure: ApiError) -> Self {
        Self { failed: Some(Failed { failure, records: None }), ..Self::default() }
    }

    /// The outcome of a write of these parts. Positions are told when all of them are known.
    pub(crate) fn of(
        parts: impl IntoIterator<Item = (PartPlan, Result<Written, ApiError>)>,
        record_count: usize,
        created: bool,
    ) -> Self {
        let mut outcome = Self { created, ..Self::default() };
        let mut failures = Vec::new();
        let mut positions = Some(vec![RecordPlace::default(); record_count]);
        for (plan, answer) in parts {
            match answer {
                Ok(written) => {
                    positions = positions.zip(written.base_offset).map(|(mut positions, base_offset)| {
                        for (number, index) in (0..).zip(&plan.records) {
                            let (partition, offset) = (plan.partition, base_offset.plus(number));
                            positions[*index] = RecordPlace { partition, offset };
                        }
                        positions
                    });
                    let PartPlan { partition, record_count, .. } = plan;
                    outcome.appends.push(PartWritten { partition, record_count, written });
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

impl From<BatchAppended> for Written {
    fn from(answer: BatchAppended) -> Self {
        Self {
            base_offset: Some(answer.base_offset),
            log_append_time: answer.log_append_time,
            log_start: Some(answer.log_start),
            duplicate: answer.duplicate,
            durability: answer.durability,
            copies: answer.copies,
        }
    }
}

impl Written {
    /// The answer for a write that nobody waits for.
    pub(crate) fn queued() -> Self {
        let (base_offset, log_append_time, log_start, durability) = (None, None, None, None);
        Self { base_offset, log_append_time, log_start, duplicate: false, durability, copies: 0 }
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
    pub(crate) fn part_done(&self, number: usize, plan: PartPlan, outcome: Result<Written, ApiError>) {
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

/// The failure of a write from those of its parts. `partly`: other parts are written.
fn failed(failures: &[(PartPlan, ApiError)], record_count: usize, partly: bool) -> Failed {
    let (mut not_written, mut unknown) = (Bitmap::default(), Bitmap::default());
    let mut partitions: Vec<(i32, ApiError)> = Vec::new();
    for (plan, failure) in failures {
        let bitmap = match failure.effect() {
            Effect::Applied => None,
            Effect::None => Some(&mut not_written),
            _ => Some(&mut unknown),
        };
        if let Some(bitmap) = bitmap {
            plan.records.iter().for_each(|index| bitmap.insert(*index));
        }
        let told = partitions.iter().any(|(partition, _)| *partition == plan.partition);
        if !told && partitions.len() < PARTITION_FAILURES_MAX {
            partitions.push((plan.partition, failure.clone()));
        }
    }
    // What may have happened outweighs what has not.
    let worst = failures.iter().find(|(_, failure)| failure.effect() != Effect::None).unwrap_or(&failures[0]);
    let failure = if partly { worst.1.clone().partial() } else { worst.1.clone() };
    let records = (record_count > 0).then(|| {
        let bitmaps = usize::from(!not_written.0.is_empty()) + usize::from(!unknown.0.is_empty());
        let bytes_max = BITMAP_BYTES_MAX / bitmaps.max(1);
        let truncated = record_count > bytes_max * 8;
        let (not_written, unknown) = (not_written.into_bytes(bytes_max), unknown.into_bytes(bytes_max));
        FailedRecords { not_written, unknown, truncated, partitions }
    });
    Failed { failure, records }
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

    fn into_bytes(mut self, bytes_max: usize) -> Bytes {
        self.0.truncate(bytes_max);
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use walser_rpc::Reason;

    use super::*;

    fn collected(record_count: usize, parts: Vec<(PartPlan, Result<Written, ApiError>)>) -> Outcome {
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
        Written { base_offset: Some(Offset(base_offset)), durability: Some(Durability::Fsync), ..Written::queued() }
    }

    fn indexes(bitmap: &[u8]) -> Vec<usize> {
        (0..bitmap.len() * 8).filter(|index| bitmap[index / 8] & (1 << (index % 8)) != 0).collect()
    }

    #[test]
    fn every_record_that_is_not_written_is_named() {
        let record_count = 10_000;
        let refused = || ApiError::new(Reason::LogCorrupt, "damaged");
        let lost = || ApiError::new(Reason::LeaderLostAfterAppend, "lost");
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
        let Failed { failure, records } = outcome.failed.unwrap();
        let detail = records.unwrap();
        let named = |remainder| (0..record_count).filter(|index| index % 1000 % 3 == remainder).collect::<Vec<_>>();
        assert_eq!(indexes(&detail.not_written), named(1));
        assert_eq!(indexes(&detail.unknown), named(2));
        assert!(!detail.truncated && !detail.partitions.is_empty());
        assert_eq!((failure.reason(), failure.effect()), (Reason::LeaderLostAfterAppend, Effect::Partial));
        assert_eq!(failure.retry(), walser_rpc::RetryAdvice::Never, "what is written would be written twice");
    }

    #[test]
    fn a_write_that_failed_as_a_whole_keeps_its_advice() {
        let away = ApiError::new(Reason::LeaderNotAvailable, "away");
        let outcome = collected(3, vec![(plan(0, [0, 2]), Err(away.clone())), (plan(1, [1]), Err(away.clone()))]);
        let Failed { failure, records } = outcome.failed.unwrap();
        assert_eq!(failure, away);
        assert_eq!(indexes(&records.unwrap().not_written), [0, 1, 2]);
        let batch = collected(0, vec![(plan(0, []), Err(away))]);
        assert!(batch.failed.unwrap().records.is_none());
    }

    #[test]
    fn records_beyond_the_bitmaps_count_as_unknown() {
        let away = ApiError::new(Reason::LeaderNotAvailable, "away");
        let outcome =
            collected(100_000, vec![(plan(0, 0..50_000), Err(away)), (plan(1, 50_000..100_000), Ok(written(0)))]);
        let detail = outcome.failed.unwrap().records.unwrap();
        assert!(detail.truncated);
        assert_eq!(indexes(&detail.not_written).len(), BITMAP_BYTES_MAX * 8);
    }

    #[test]
    fn of_a_write_that_nobody_waits_for_what_is_not_queued_is_named() {
        let full = || ApiError::new(Reason::RequestTimedOut, "no room").with_effect(Effect::None);
        let none = Outcome::of([(plan(0, [0]), Err(full()))], 1, false).failed.unwrap();
        assert_eq!(none.failure.effect(), Effect::None, "nothing is queued: it may be sent again");
        let parts = [(plan(0, [0, 2]), Err(full())), (plan(1, [1]), Ok(Written::queued()))];
        let Failed { failure, records } = Outcome::of(parts, 3, false).failed.unwrap();
        assert_eq!(failure.effect(), Effect::Partial);
        assert_eq!(indexes(&records.unwrap().not_written), [0, 2]);
        let all = Outcome::of([(plan(1, [0]), Ok(Written::queued()))], 1, false);
        assert!(all.failed.is_none() && all.positions.is_empty(), "its offset is not known");
        assert_eq!(all.appends[0].written.durability, None);
    }

    #[test]
    fn positions_follow_the_records() {
        let outcome = collected(4, vec![(plan(1, [0, 3]), Ok(written(10))), (plan(0, [1, 2]), Ok(written(20)))]);
        let positions: Vec<_> = outcome.positions.iter().map(|at| (at.partition, at.offset.0)).collect();
        assert_eq!(positions, [(1, 10), (0, 20), (0, 21), (1, 11)]);
    }
}
