//! Free space: appends stop before the disk is full, so that everything else still works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use walser_log::{DataDirectory, Space};

use crate::config::Config;

/// The reserve where nobody says otherwise: 5 % of the disk, within these bounds, and at most a quarter of it.
const RESERVE_MIN: u64 = 16 << 20;
const RESERVE_MAX: u64 = 1 << 30;
/// Looks at the disk, a second apart, between two tries after a failure that free bytes do not explain.
const LOOKS_BETWEEN_TRIES: u32 = 10;
/// After so many bytes the disk is looked at again: others write to it too.
const LOOK_EVERY_BYTES: u64 = 64 << 20;

/// Whether appends are refused for want of space. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SpaceGuard {
    /// While the disk counts as full.
    shortage: Arc<Mutex<Option<Shortage>>>,
    /// The same, for every append to look at.
    full: Arc<AtomicBool>,
    /// Bytes that may be written before the disk is looked at again.
    left: Arc<AtomicI64>,
    /// Bytes that are about to be filled ahead: the disk does not show them yet.
    ahead: Arc<AtomicU64>,
    /// Bytes that copies under way still need.
    copies: Arc<AtomicU64>,
    /// The disk at the last look.
    seen: Arc<Mutex<Space>>,
    reserve: Option<u64>,
}

/// When appends resume.
#[derive(Debug, Clone, Copy)]
struct Shortage {
    /// With this much free, in bytes: more than what was too little, so that the node does not go back and forth at the
    /// edge.
    resume_at: u64,
    /// After so many looks at the disk although it has shown enough space before: there may be a quota, or a lack of inodes,
    /// of which it says nothing. `None`: free bytes say when.
    tries_in: Option<u32>,
}

/// Space that is about to be filled ahead of need; dropped once it is filled, or will not be.
#[derive(Debug)]
pub(crate) struct SpaceAhead {
    guard: SpaceGuard,
    bytes: u64,
}

/// Room that a copy of a log still needs: other copies leave it alone. Appends do not: a copy can wait.
#[derive(Debug)]
pub(crate) struct CopyRoom {
    guard: SpaceGuard,
    bytes: u64,
}

impl CopyRoom {
    /// So many of the bytes are about to be written.
    pub(crate) fn use_up(&mut self, bytes: usize) {
        let used = u64::try_from(bytes).unwrap_or(u64::MAX).min(self.bytes);
        self.bytes -= used;
        self.guard.copies.fetch_sub(used, Ordering::AcqRel);
    }
}

impl Drop for CopyRoom {
    fn drop(&mut self) {
        self.guard.copies.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Drop for SpaceAhead {
    fn drop(&mut self) {
        self.guard.ahead.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl SpaceGuard {
    pub(crate) fn new(reserve: Option<u64>) -> Self {
        Self {
            shortage: Arc::default(),
            full: Arc::default(),
            left: Arc::default(),
            ahead: Arc::default(),
            copies: Arc::default(),
            seen: Arc::default(),
            reserve,
        }
    }

    /// Bytes of a disk of this size that appends do not touch.
    pub(crate) fn reserve_of(&self, total: u64) -> u64 {
        self.reserve.unwrap_or_else(|| (total / 20).clamp(RESERVE_MIN, RESERVE_MAX).min(total / 4))
    }

    /// Whether `bytes` can be written without touching the reserve. If not, the disk counts as full.
    pub(crate) fn take(&self, bytes: usize, directory: &DataDirectory) -> bool {
        let Err((free, reserve)) = self.deduct(bytes, directory) else { return true };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.begin(free, reserve, reserve.saturating_add(bytes.max(reserve / 8)), None);
        false
    }

    /// Whether `bytes` of something that can wait can be written without touching the reserve. The disk does not count as full
    /// if not.
    pub(crate) fn take_if_there(&self, bytes: usize, directory: &DataDirectory) -> bool {
        !self.full() && self.deduct(bytes, directory).is_ok()
    }

    /// Takes room for a copy of so many bytes, or says how many there are. `None`: the disk does not say.
    pub(crate) fn take_for_copy(&self, bytes: u64, directory: &DataDirectory) -> Option<Result<CopyRoom, u64>> {
        let before = self.copies.fetch_add(bytes, Ordering::AcqRel);
        let room = CopyRoom { guard: self.clone(), bytes };
        let usable = self.usable(directory)?.saturating_sub(before);
        Some(if usable >= bytes { Ok(room) } else { Err(usable) })
    }

    /// Bytes that something that can wait may use at present; `None`: the disk does not say.
    fn usable(&self, directory: &DataDirectory) -> Option<u64> {
        let space = directory.space().ok()?;
        let taken = self.reserve_of(space.total).saturating_add(self.ahead.load(Ordering::Acquire));
        Some(if self.full() { 0 } else { space.free.saturating_sub(taken) })
    }

    /// Takes `bytes`, or says how much is free and what of that is the reserve.
    fn deduct(&self, bytes: usize, directory: &DataDirectory) -> Result<(), (u64, u64)> {
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.left.fetch_sub(wanted, Ordering::Relaxed) >= wanted {
            return Ok(());
        }
        // Where the disk does not say, the write itself will.
        let Ok(space) = directory.space() else { return Ok(()) };
        let reserve = self.reserve_of(space.total);
        let taken = reserve.saturating_add(self.ahead.load(Ordering::Acquire));
        let left = space.free.saturating_sub(taken).min(LOOK_EVERY_BYTES);
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.left.store((left - wanted).max(0), Ordering::Relaxed);
        if left >= wanted { Ok(()) } else { Err((space.free, reserve)) }
    }

    /// Takes `bytes` that are to be filled ahead of need. `None`: they would touch the reserve, or leave appends less than
    /// they were promised; the disk does not count as full for it.
    pub(crate) fn take_ahead(&self, bytes: usize, directory: &DataDirectory) -> Option<SpaceAhead> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let space = directory.space().ok().filter(|_| !self.full())?;
        let promised = u64::try_from(self.left.load(Ordering::Relaxed)).unwrap_or(0);
        let before = self.ahead.fetch_add(bytes, Ordering::AcqRel);
        let taken = SpaceAhead { guard: self.clone(), bytes };
        let needed = [before, bytes, promised].into_iter().fold(self.reserve_of(space.total), u64::saturating_add);
        (needed <= space.free).then_some(taken)
    }

    /// Whether appends are refused.
    pub(crate) fn full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// A write found no space, whatever the disk says of it: there may be a quota.
    pub(crate) fn note_full(&self, directory: &DataDirectory) {
        let (free, total) = directory.space().map_or((0, 0), |space| (space.free, space.total));
        let reserve = self.reserve_of(total);
        let tries_in = (free >= reserve).then_some(LOOKS_BETWEEN_TRIES);
        self.begin(free, reserve, free.max(reserve).saturating_add(reserve / 8), tries_in);
    }

    fn begin(&self, free: u64, reserve: u64, resume_at: u64, tries_in: Option<u32>) {
        let mut shortage = self.shortage.lock();
        if shortage.is_none() {
            tracing::error!(free, reserve, "disk full: appends are refused until space is free");
        }
        let known = shortage.get_or_insert(Shortage { resume_at, tries_in });
        known.resume_at = known.resume_at.max(resume_at);
        known.tries_in = tries_in.or(known.tries_in);
        self.full.store(true, Ordering::Release);
    }

    /// The disk at the last look: nobody waits for a disk to know it. All zeros before the first one.
    pub(crate) fn seen(&self) -> Space {
        *self.seen.lock()
    }

    /// Whether appends resume at a look that finds this much free. It counts as one.
    fn ends(&self, free: u64) -> bool {
        let mut held = self.shortage.lock();
        let Some(shortage) = held.as_mut() else { return false };
        if free < shortage.resume_at {
            shortage.tries_in = shortage.tries_in.map(|left| left.saturating_sub(1));
            if shortage.tries_in != Some(0) {
                return false;
            }
        }
        *held = None;
        self.full.store(false, Ordering::Release);
        true
    }

    /// Looks at the disk. The ballast goes when it is full, and comes back when there is space again.
    pub(crate) fn check(&self, directory: &DataDirectory) -> std::io::Result<()> {
        let space = directory.space()?;
        *self.seen.lock() = space;
        let reserve = self.reserve_of(space.total);
        if space.free < reserve {
            self.begin(space.free, reserve, reserve.saturating_add(reserve / 8), None);
            if space.free < reserve / 2 {
                directory.drop_ballast()?;
            }
        } else if self.ends(space.free) {
            tracing::warn!(free = space.free, "space is free again: appends go on");
            directory.take_ballast()?;
        }
        Ok(())
    }
}

/// Gives up the ballast of a directory where less than half of the reserve is free, so that a server can start on a full
/// disk: others write there before the first look.
///
/// # Errors
/// I/O errors.
pub fn make_room(config: &Config, directory: &DataDirectory) -> std::io::Result<()> {
    let space = directory.space()?;
    let reserve = SpaceGuard::new(config.reserve_bytes).reserve_of(space.total);
    if space.free < reserve / 2 { directory.drop_ballast() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use walser_log::{Disk, MemoryDisk, Open};

    use super::*;

    const MIB: usize = 1 << 20;

    /// A disk of 100 MiB, and a function that fills it until only this many bytes are free.
    fn disk() -> (DataDirectory, impl Fn(u64)) {
        let disk = MemoryDisk::new(100 << 20);
        let directory = DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap();
        let leave = move |free: u64| {
            let path = Path::new("/data/filler");
            let _ = disk.remove_file(path);
            let bytes = disk.space(Path::new("/data")).unwrap().free.saturating_sub(free);
            disk.open(path, Open::Write).unwrap().write_at(&vec![1; usize::try_from(bytes).unwrap()], 0).unwrap();
        };
        (directory, leave)
    }

    #[test]
    fn at_the_edge_of_the_reserve_a_full_disk_stays_full() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        let full_with = |free: u64| {
            leave(free);
            guard.check(&directory).unwrap();
            guard.full()
        };
        assert!(!full_with(40 << 20));
        assert!(full_with(15 << 20));
        assert!(full_with(16 << 20) && full_with(17 << 20), "not enough to go on");
        assert!(!full_with(18 << 20));
        assert!(!full_with(17 << 20), "nor enough to stop");
    }

    #[test]
    fn a_batch_that_does_not_fit_keeps_the_disk_full_until_it_would() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(20 << 20);
        assert!(guard.take(MIB, &directory) && !guard.full());
        assert!(!guard.take(10 * MIB, &directory) && guard.full());
        for free in [20 << 20, 25 << 20] {
            leave(free);
            guard.check(&directory).unwrap();
            assert!(guard.full(), "{free} bytes are no room for it");
        }
        leave(26 << 20);
        guard.check(&directory).unwrap();
        assert!(!guard.full() && guard.take(10 * MIB, &directory));
    }

    #[test]
    fn a_write_without_space_keeps_the_disk_full_until_more_is_free() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(50 << 20);
        guard.note_full(&directory);
        guard.check(&directory).unwrap();
        assert!(guard.full(), "a quota is full although the disk is not");
        leave(52 << 20);
        guard.check(&directory).unwrap();
        assert!(!guard.full());
    }

    /// A quota that was raised, or inodes that were freed, never shows in free bytes.
    #[test]
    fn what_free_bytes_do_not_explain_is_tried_again_now_and_then() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(50 << 20);
        for _ in 0..3 {
            guard.note_full(&directory);
            let looks = (1..100).find(|_| {
                guard.check(&directory).unwrap();
                !guard.full()
            });
            assert_eq!(looks, Some(10));
        }
        leave(1 << 20);
        guard.note_full(&directory);
        for _ in 0..100 {
            guard.check(&directory).unwrap();
            assert!(guard.full(), "free bytes say why");
        }
    }

    #[test]
    fn what_is_filled_ahead_never_touches_the_reserve_however_much_of_it_is_under_way() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(60 << 20);
        let under_way: Vec<_> = (0..50).filter_map(|_| guard.take_ahead(4 * MIB, &directory)).collect();
        assert_eq!(under_way.len(), 11, "of 44 MiB above the reserve");
        assert!(!guard.full() && !guard.take(MIB, &directory), "nothing is left that is not promised");
        drop(under_way);
        guard.check(&directory).unwrap();
        assert_eq!((0..50).map_while(|_| guard.take_ahead(4 * MIB, &directory)).count(), 50, "one after the other");
        assert!(guard.take(MIB, &directory));
        assert!(guard.take_ahead(MIB, &directory).is_some());
        assert!(guard.take_ahead(2 * MIB, &directory).is_none(), "appends were promised 43 MiB");
    }

    #[test]
    fn what_can_wait_and_does_not_fit_leaves_appends_as_they_are() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(20 << 20);
        assert_eq!(guard.usable(&directory), Some(4 << 20));
        assert!(guard.take_if_there(4 * MIB, &directory));
        leave(16 << 20);
        assert!(!guard.take_if_there(MIB, &directory) && !guard.full());
        leave(20 << 20);
        assert!(guard.take(MIB, &directory));
        leave(15 << 20);
        assert!(!guard.take(8 * MIB, &directory) && guard.full());
        assert_eq!(guard.usable(&directory), Some(0));
        leave(60 << 20);
        assert!(!guard.take_if_there(MIB, &directory), "appends wait, and so does this");
    }

    #[test]
    fn copies_leave_each_other_room_and_appends_take_it() {
        let (directory, leave) = disk();
        let guard = SpaceGuard::new(Some(16 << 20));
        leave(26 << 20);
        let mut first = guard.take_for_copy(6 << 20, &directory).unwrap().unwrap();
        assert_eq!(guard.take_for_copy(5 << 20, &directory).unwrap().unwrap_err(), 4 << 20);
        assert!(guard.take(9 * MIB, &directory), "an append does not wait for a copy");
        first.use_up(2 << 20);
        assert!(guard.take_for_copy(5 << 20, &directory).unwrap().is_ok());
        drop(first);
        assert!(guard.take_for_copy(10 << 20, &directory).unwrap().is_ok());
    }

    #[test]
    fn a_start_on_a_full_disk_gives_up_the_ballast_and_no_other_does() {
        let (directory, leave) = disk();
        let settings = walser_service::Settings::load(&[crate::KEYS], None, |_| None, &[]).unwrap();
        let config = Config { reserve_bytes: Some(16 << 20), ..Config::from_settings(&settings, 2) };
        let ballast = || directory.disk().list(Path::new("/data")).unwrap().iter().any(|entry| entry.name == "ballast");
        directory.take_ballast().unwrap();
        leave(8 << 20);
        make_room(&config, &directory).unwrap();
        assert!(ballast());
        leave(0);
        make_room(&config, &directory).unwrap();
        assert!(!ballast());
    }
}
