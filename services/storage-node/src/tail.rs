//! The tail cache: the newest records of each partition, as they were appended.
//!
//! A run is what one turn of the log shard wrote for a partition: contiguous batches in one allocation of exactly
//! their size, so that the budget counts real memory. All runs of a shard share one budget; the oldest run of any
//! partition gives way first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use walser_model::Offset;
use walser_record_batch::BatchHeader;

/// Memory that a run costs beside its bytes.
const RUN_OVERHEAD: usize = 128;

/// Contiguous batches.
#[derive(Debug)]
struct Run {
    base: Offset,
    next: Offset,
    bytes: Bytes,
}

/// The newest runs of one partition, contiguous, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    runs: Mutex<VecDeque<Run>>,
}

/// The order in which runs of a shard give way. Owned by the shard.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: usize,
    order: VecDeque<(Weak<Tail>, usize)>,
}

impl Tail {
    /// Whole batches from the one that holds `from` on, up to `below` (exclusive), about `bytes_max` but at least
    /// one. `None`: `from` is not in memory.
    pub(crate) fn read(&self, from: Offset, below: Offset, bytes_max: usize) -> Option<Bytes> {
        let runs = self.runs.lock();
        let first = runs.partition_point(|run| run.next <= from);
        if runs.get(first).is_none_or(|run| run.base > from) {
            return None;
        }
        let mut parts: Vec<Bytes> = Vec::new();
        let mut room = bytes_max;
        for (number, run) in runs.range(first..).enumerate() {
            let start = if number == 0 { skip_to(&run.bytes, from) } else { 0 };
            let end = if run.next <= below && run.bytes.len() - start <= room {
                run.bytes.len()
            } else {
                fitting(&run.bytes, start, below, room, parts.is_empty())
            };
            if end > start {
                parts.push(run.bytes.slice(start..end));
            }
            room = room.saturating_sub(end - start);
            if end < run.bytes.len() || room == 0 {
                break;
            }
        }
        drop(runs);
        Some(joined(parts))
    }

    fn push(&self, run: Run) {
        let mut runs = self.runs.lock();
        if runs.back().is_some_and(|last| last.next != run.base) {
            runs.clear();
        }
        runs.push_back(run);
    }

    fn evict_oldest(&self) {
        self.runs.lock().pop_front();
    }

    /// Drops everything: the log was cut.
    pub(crate) fn clear(&self) {
        self.runs.lock().clear();
    }
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, order: VecDeque::new() }
    }

    /// Adds a run to a partition, and lets the oldest give way.
    pub(crate) fn push(&mut self, tail: &Arc<Tail>, base: Offset, next: Offset, bytes: Bytes) {
        let size = bytes.len() + RUN_OVERHEAD;
        if size > self.limit {
            tail.clear();
            return;
        }
        tail.push(Run { base, next, bytes });
        self.order.push_back((Arc::downgrade(tail), size));
        self.used += size;
        self.shrink_to(self.limit);
    }

    /// Lets the oldest runs give way until at most `limit` bytes are used.
    pub(crate) fn shrink_to(&mut self, limit: usize) {
        while self.used > limit {
            let Some((tail, size)) = self.order.pop_front() else { return };
            self.used -= size;
            if let Some(tail) = tail.upgrade() {
                tail.evict_oldest();
            }
        }
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

/// The position of the batch that holds `from`.
fn skip_to(run: &Bytes, from: Offset) -> usize {
    let mut at = 0;
    while let Ok(header) = BatchHeader::parse(&run[at..]) {
        if header.next_offset() > from {
            break;
        }
        at += header.size;
    }
    at
}

/// The end of the batches from `start` on that stay below `below` and within `room` bytes.
fn fitting(run: &Bytes, start: usize, below: Offset, room: usize, at_least_one: bool) -> usize {
    let mut at = start;
    while let Ok(header) = BatchHeader::parse(&run[at..]) {
        let over = at + header.size - start > room && !(at_least_one && at == start);
        if over || header.next_offset() > below {
            break;
        }
        at += header.size;
        if at == run.len() {
            break;
        }
    }
    at
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 => Bytes::new(),
        1 => parts.swap_remove(0),
        _ => {
            let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            for part in &parts {
                whole.extend_from_slice(part);
            }
            whole.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{Compression, LeaderEpoch};
    use walser_record_batch::{BatchBuilder, Batches, Producer, RecordFields, stamp_position};

    use super::*;

    /// A run of `count` batches of two records each.
    fn run(base: i64, count: i64) -> (Offset, Offset, Bytes) {
        let mut bytes = Vec::new();
        for number in 0..count {
            let mut builder = BatchBuilder::new(Compression::None, 0);
            for _ in 0..2 {
                builder.append(&RecordFields { timestamp: 0, key: None, value: Some(b"x"), headers: &[] });
            }
            let mut batch = builder.build(Producer::NONE).to_vec();
            stamp_position(&mut batch, Offset(base + 2 * number), LeaderEpoch(0));
            bytes.extend(batch);
        }
        (Offset(base), Offset(base + 2 * count), bytes.into())
    }

    fn offsets(bytes: Bytes) -> Vec<i64> {
        Batches::of(bytes).map(|batch| batch.unwrap().0.base_offset.0).collect()
    }

    #[test]
    fn reads_start_and_end_at_batches_across_runs() {
        let tail = Arc::new(Tail::default());
        let mut budget = Budget::new(1 << 20);
        for (base, next, bytes) in [run(10, 3), run(16, 1), run(18, 2)] {
            budget.push(&tail, base, next, bytes);
        }
        let read = |from, below, max| tail.read(Offset(from), Offset(below), max).map(offsets);
        assert_eq!(read(9, 22, 1 << 20), None);
        assert_eq!(read(10, 22, 1 << 20), Some(vec![10, 12, 14, 16, 18, 20]));
        assert_eq!(read(13, 22, 1 << 20), Some(vec![12, 14, 16, 18, 20]));
        assert_eq!(read(13, 19, 1 << 20), Some(vec![12, 14, 16]));
        assert_eq!(read(14, 22, 1), Some(vec![14]));
        assert_eq!(read(22, 22, 1), None);
    }

    #[test]
    fn the_oldest_run_of_any_partition_gives_way() {
        let (one, two) = (Arc::new(Tail::default()), Arc::new(Tail::default()));
        let size = run(0, 1).2.len() + RUN_OVERHEAD;
        let mut budget = Budget::new(2 * size);
        for (tail, start) in [(&one, 0), (&two, 0), (&one, 2)] {
            let (base, next, bytes) = run(start, 1);
            budget.push(tail, base, next, bytes);
        }
        assert!(budget.used() <= 2 * size);
        assert_eq!(one.read(Offset(0), Offset(4), 1 << 20), None);
        assert_eq!(one.read(Offset(2), Offset(4), 1 << 20).map(offsets), Some(vec![2]));
        assert_eq!(two.read(Offset(0), Offset(2), 1 << 20).map(offsets), Some(vec![0]));
    }

    #[test]
    fn a_gap_empties_the_tail() {
        let tail = Arc::new(Tail::default());
        let mut budget = Budget::new(1 << 20);
        for (base, next, bytes) in [run(0, 1), run(8, 1)] {
            budget.push(&tail, base, next, bytes);
        }
        assert_eq!(tail.read(Offset(0), Offset(10), 100), None);
        assert_eq!(tail.read(Offset(8), Offset(10), 100).map(offsets), Some(vec![8]));
    }
}
