//! The tail cache: the newest records of each partition, as they were appended.
//!
//! A run is what one turn of the log shard wrote for a partition: contiguous batches, in the pieces in which they were
//! written. The first reader of a run makes one piece of it, which those behind it share. All runs of a shard share one
//! budget, which counts their bytes; the oldest run of any partition gives way first. A large piece is a part of the
//! message that it came in, which is at most four times as large, and as old.

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
    pieces: Vec<Bytes>,
}

/// What a look at the runs gave.
enum Found {
    Read(Bytes),
    /// The run from this offset on has to be one piece first.
    InPieces(Offset, Vec<Bytes>),
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
        loop {
            match self.look(from, below, bytes_max)? {
                Found::Read(batches) => return Some(batches),
                // Copied while nobody waits for the lock.
                Found::InPieces(base, pieces) => {
                    let whole = joined(pieces.clone());
                    self.join(base, &pieces, whole);
                }
            }
        }
    }

    /// Puts one piece in the place of those of a run, if it is still there: another one may have come with its offsets.
    fn join(&self, base: Offset, pieces: &[Bytes], whole: Bytes) {
        let mut runs = self.runs.lock();
        let number = runs.partition_point(|run| run.base < base);
        // The pieces are alive: nothing else has their addresses.
        let places = |pieces: &[Bytes]| pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>();
        if let Some(run) = runs.get_mut(number).filter(|run| places(&run.pieces) == places(pieces)) {
            run.pieces = vec![whole];
        }
    }

    fn look(&self, from: Offset, below: Offset, bytes_max: usize) -> Option<Found> {
        let runs = self.runs.lock();
        let first = runs.partition_point(|run| run.next <= from);
        if runs.get(first).is_none_or(|run| run.base > from) {
            return None;
        }
        let mut parts: Vec<Bytes> = Vec::new();
        let mut room = bytes_max;
        for (number, run) in runs.range(first..).enumerate() {
            let [bytes] = &run.pieces[..] else { return Some(Found::InPieces(run.base, run.pieces.clone())) };
            let start = if number == 0 { skip_to(bytes, from) } else { 0 };
            let end = if run.next <= below && bytes.len() - start <= room {
                bytes.len()
            } else {
                fitting(bytes, start, below, room, parts.is_empty())
            };
            if end > start {
                parts.push(bytes.slice(start..end));
            }
            room = room.saturating_sub(end - start);
            if end < bytes.len() || room == 0 {
                break;
            }
        }
        drop(runs);
        Some(Found::Read(joined(parts)))
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
    pub(crate) fn push(&mut self, tail: &Arc<Tail>, base: Offset, next: Offset, batches: walser_log::Run) {
        let size = batches.len() + RUN_OVERHEAD;
        if size > self.limit {
            tail.clear();
            return;
        }
        tail.push(Run { base, next, pieces: batches.into_pieces() });
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
    fn run(base: i64, count: i64) -> (Offset, Offset, walser_log::Run) {
        run_of(b"x", base, count)
    }

    /// The same, of large records: in pieces.
    fn large(base: i64, count: i64) -> (Offset, Offset, walser_log::Run) {
        run_of(&[7; 20_000], base, count)
    }

    fn run_of(value: &[u8], base: i64, count: i64) -> (Offset, Offset, walser_log::Run) {
        let mut run = walser_log::Run::default();
        for number in 0..count {
            let mut builder = BatchBuilder::new(Compression::None, 0);
            for _ in 0..2 {
                builder.append(&RecordFields { timestamp: 0, key: None, value: Some(value), headers: &[] });
            }
            let mut batch = builder.build(Producer::NONE).to_vec();
            stamp_position(&mut batch, Offset(base + 2 * number), LeaderEpoch(0));
            let (header, body) = batch.split_first_chunk().unwrap();
            run.push(header, Bytes::copy_from_slice(body));
        }
        (Offset(base), Offset(base + 2 * count), run)
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
    fn runs_in_pieces_are_read_like_others_and_are_one_piece_then() {
        let tail = Arc::new(Tail::default());
        let mut budget = Budget::new(1 << 20);
        for (base, next, bytes) in [large(10, 3), run(16, 1), large(18, 2)] {
            budget.push(&tail, base, next, bytes);
        }
        let pieces = || tail.runs.lock().iter().map(|run| run.pieces.len()).collect::<Vec<_>>();
        assert_eq!(pieces(), [6, 1, 4]);
        let read = |from, below, max| tail.read(Offset(from), Offset(below), max).map(offsets);
        assert_eq!(read(13, 22, 1), Some(vec![12]));
        assert_eq!(pieces(), [1, 1, 4], "only what is read");
        assert_eq!(read(10, 22, 1 << 20), Some(vec![10, 12, 14, 16, 18, 20]));
        assert_eq!(pieces(), [1, 1, 1]);
        let batches = tail.read(Offset(12), Offset(14), 1).unwrap();
        let again = tail.read(Offset(12), Offset(14), 1).unwrap();
        assert_eq!(batches.as_ptr(), again.as_ptr(), "readers share it");
    }

    /// A repair has cut the log while a reader made one piece of a run, and new records have taken its offsets.
    #[test]
    fn records_that_were_given_up_do_not_take_the_place_of_new_ones() {
        let tail = Arc::new(Tail::default());
        let mut budget = Budget::new(1 << 20);
        let (base, next, given_up) = large(10, 3);
        budget.push(&tail, base, next, given_up);
        let Some(Found::InPieces(_, pieces)) = tail.look(base, next, 1 << 20) else { panic!("it is in pieces") };
        tail.clear();
        let (base, next, new) = run_of(&[8; 20_000], 10, 3);
        let expected = new.clone().into_pieces().concat();
        budget.push(&tail, base, next, new);
        tail.join(base, &pieces, joined(pieces.clone()));
        assert!(tail.read(base, next, 1 << 20).unwrap() == expected);
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
