//! What the readers of a log share with its one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use walser_model::Offset;
use walser_record_batch::BatchHeader;

use crate::epochs::{Epochs, has_epoch_of};
use crate::generation::{AtomicGeneration, Generation};
use crate::segment::Segment;

/// Segments, leader epochs and offsets of a log. Only its writer changes them.
#[derive(Debug)]
pub(crate) struct LogState {
    segments: RwLock<Vec<Arc<Segment>>>,
    epochs: RwLock<Epochs>,
    log_start: AtomicI64,
    end: AtomicI64,
    corrupt_from: AtomicI64,
    tombstone_floor: AtomicI64,
    compacted: AtomicI64,
    generation: AtomicGeneration,
    pins: Mutex<Pins>,
}

/// Who wants segments to stay, and who replaces some.
#[derive(Debug, Default)]
struct Pins {
    held: usize,
    replacing: bool,
}

/// While it is there, compaction replaces no segment of a log.
#[derive(Debug)]
pub struct LogPin(Arc<LogState>);

/// While it is there, nobody gets a [`LogPin`].
#[derive(Debug)]
pub(crate) struct Replacing(Arc<LogState>);

impl LogPin {
    /// `None`: a segment is being replaced.
    pub(crate) fn new(state: &Arc<LogState>) -> Option<Self> {
        let mut pins = state.pins.lock();
        if pins.replacing {
            return None;
        }
        pins.held += 1;
        Some(Self(Arc::clone(state)))
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        self.0.pins.lock().held -= 1;
    }
}

impl Replacing {
    /// `None`: somebody wants the segments to stay.
    pub(crate) fn new(state: &Arc<LogState>) -> Option<Self> {
        let mut pins = state.pins.lock();
        if pins.held > 0 {
            return None;
        }
        pins.replacing = true;
        Some(Self(Arc::clone(state)))
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        self.0.pins.lock().replacing = false;
    }
}

impl LogState {
    /// A log of these segments that begins at `log_start`; it ends at `end` as far as is known.
    pub(crate) fn new(segments: Vec<Arc<Segment>>, epochs: Epochs, log_start: Offset, end: Offset) -> Self {
        Self {
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs),
            log_start: AtomicI64::new(log_start.0),
            end: AtomicI64::new(end.0),
            corrupt_from: AtomicI64::new(i64::MAX),
            tombstone_floor: AtomicI64::new(0),
            compacted: AtomicI64::new(0),
            generation: AtomicGeneration::default(),
            pins: Mutex::default(),
        }
    }

    /// By base offset.
    pub(crate) fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.segments.read()
    }

    pub(crate) fn segments_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.segments.write()
    }

    pub(crate) fn last_segment(&self) -> Option<Arc<Segment>> {
        self.segments.read().last().cloned()
    }

    pub(crate) fn epochs(&self) -> RwLockReadGuard<'_, Epochs> {
        self.epochs.read()
    }

    /// Whether a batch is of the leader epoch that its records are known to be of now, see [`has_epoch_of`].
    pub(crate) fn has_epoch_of(&self, header: &BatchHeader) -> bool {
        has_epoch_of(&self.epochs().of_records, header)
    }

    pub(crate) fn epochs_mut(&self) -> RwLockWriteGuard<'_, Epochs> {
        self.epochs.write()
    }

    /// Oldest offset that readers may see.
    pub(crate) fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Where the oldest segment begins that is still there, at or below the log start; of a log without records the log
    /// start: nothing says of which leader epochs the deleted ones were. Inclusive.
    pub(crate) fn retained(&self) -> Offset {
        let start = self.log_start();
        if self.end() <= start {
            return start;
        }
        self.segments.read().first().map_or(start, |first| first.base.min(start))
    }

    pub(crate) fn set_log_start(&self, offset: Offset) {
        self.log_start.store(offset.0, Ordering::Release);
    }

    /// End of what was written. Exclusive.
    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn set_end(&self, offset: Offset) {
        self.end.store(offset.0, Ordering::Release);
    }

    /// Tombstones below may be gone. Exclusive.
    pub(crate) fn tombstone_floor(&self) -> Offset {
        Offset(self.tombstone_floor.load(Ordering::Acquire))
    }

    pub(crate) fn set_tombstone_floor(&self, offset: Offset) {
        self.tombstone_floor.store(offset.0, Ordering::Release);
    }

    /// First damaged offset; the largest one there is when there is no damage.
    pub(crate) fn corrupt_from(&self) -> Offset {
        Offset(self.corrupt_from.load(Ordering::Acquire))
    }

    /// The closed ones of its segments that lie wholly below an offset (exclusive), each with its end.
    pub(crate) fn closed(segments: &[Arc<Segment>], below: Offset) -> impl Iterator<Item = (&Arc<Segment>, Offset)> {
        let ends = segments.iter().skip(1).map(|next| next.base);
        segments.iter().zip(ends).take_while(move |(_, end)| *end <= below)
    }

    /// Everything below was compacted. Exclusive.
    pub(crate) fn compacted(&self) -> Offset {
        Offset(self.compacted.load(Ordering::Acquire))
    }

    pub(crate) fn set_compacted(&self, offset: Offset) {
        self.compacted.store(offset.0, Ordering::Release);
    }

    /// What the log has in it now.
    pub(crate) fn generation(&self) -> Generation {
        self.generation.load()
    }

    /// What comes now is no append.
    pub(crate) fn begin_generation(&self) {
        self.generation.begin();
    }

    /// `None`: nothing is damaged.
    pub(crate) fn set_corrupt_from(&self, from: Option<Offset>) {
        self.corrupt_from.store(from.map_or(i64::MAX, |from| from.0), Ordering::Release);
    }
}
