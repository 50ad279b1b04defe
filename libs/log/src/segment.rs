//! A segment: one file of batches and its index.

mod loaded_index;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use walser_model::{Offset, Timestamp};
use walser_record_batch::{BatchHeader, HEADER_LEN};

use self::loaded_index::LoadedIndex;
use crate::disk::{Disk, DiskFile, Open, remove_file_if_any, rewrite};
use crate::index::{ENTRY_LEN, Entries, Floor, Index, IndexEntry};
use crate::scan::{Scan, Step};
use crate::segment_names::{INDEX_EXTENSION, MOVED_EXTENSION, log_name};

/// One segment, shared by the one writer and all readers of a partition.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Offset of the first record that it holds or will hold.
    pub(crate) base: Offset,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Bytes of log: the file may be longer by zeros.
    size: AtomicU64,
    parts: Mutex<Parts>,
    /// Another one has taken its place, and its names. Set while `parts` is held: a file that is open stays the right one.
    replaced: AtomicBool,
    /// Held by whoever writes the index file.
    writes_index: Mutex<()>,
}

/// Entries at the end of an index, for its file.
#[derive(Debug)]
pub(crate) struct IndexTail {
    /// How many come before them.
    from: usize,
    /// How many there are with them.
    to: usize,
    bytes: Vec<u8>,
}

/// What is opened and loaded on demand, and dropped when the partition rests.
#[derive(Debug, Default)]
struct Parts {
    file: Option<Arc<dyn DiskFile>>,
    index: Option<LoadedIndex>,
    /// Highest timestamp, as known when the index was dropped: retention asks for it again and again.
    rested_max_timestamp: Option<Timestamp>,
}

impl Segment {
    /// Describes the segment at `base` with `size` bytes of log. Opens nothing.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, base: Offset, size: u64) -> Self {
        let path = dir.join(log_name(base));
        Self {
            base,
            path,
            disk,
            size: AtomicU64::new(size),
            parts: Mutex::default(),
            replaced: AtomicBool::new(false),
            writes_index: Mutex::default(),
        }
    }

    /// Says that another segment takes its place: no file is opened by its names any more.
    pub(crate) fn replace(&self) {
        let _nobody_writes_the_index = self.writes_index.lock();
        let _no_file_is_being_opened = self.parts.lock();
        self.replaced.store(true, Ordering::Release);
    }

    /// Reads from a file that is open already, and has another name yet.
    pub(crate) fn adopt_file(&self, file: Arc<dyn DiskFile>) {
        self.parts.lock().file = Some(file);
    }

    /// An error when the file of this name is another segment's.
    fn own_name(&self) -> io::Result<()> {
        if self.replaced.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another segment has taken the place of this one"));
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension(INDEX_EXTENSION)
    }

    /// The log file, opened when need be. The writer creates it; readers must find it.
    pub(crate) fn file(&self, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut parts = self.parts.lock();
        if let Some(file) = &parts.file {
            return Ok(Arc::clone(file));
        }
        // Readers and the writer share one handle that can write, but only the writer creates: a reader would bring
        // back what retention has just removed.
        let how = if how == Open::Read { Open::Edit } else { how };
        self.own_name()?;
        let file = self.disk.open(&self.path, how)?;
        parts.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// The log file once more, with a file description of its own; it must exist.
    pub(crate) fn open_apart(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.own_name()?;
        self.disk.open(&self.path, Open::Edit)
    }

    /// Closes the file and drops the index. Handles given out before stay good.
    pub(crate) fn release_idle(&self) {
        self.parts.lock().release_idle();
    }

    /// The same, unless somebody is loading them, which may take as long as the disk does.
    pub(crate) fn rest_at_once(&self) {
        self.parts.try_lock().iter_mut().for_each(|parts| parts.release_idle());
    }

    /// Closes the file and keeps what is known of it: recovery holds no file open that nobody reads or writes.
    pub(crate) fn close(&self) {
        self.parts.lock().file = None;
    }

    /// The same, unless somebody is loading something from it, which may take as long as the disk does.
    pub(crate) fn close_at_once(&self) {
        self.parts.try_lock().iter_mut().for_each(|parts| parts.file = None);
    }

    /// Writes the bytes of log from `position` on once more and makes them durable. After a failed sync they may be in
    /// the cache, clean, and not on the disk: a sync alone would write nothing.
    pub(crate) fn write_again(&self, position: u64) -> io::Result<()> {
        let file = self.file(Open::Write)?;
        if position > 0 {
            return rewrite(&*file, &*file, position, self.size());
        }
        // Nothing of it was durable: neither may its name be. A file that is made anew has both.
        let temporary = self.path.with_extension("tmp");
        let anew = self.disk.open(&temporary, Open::Write)?;
        anew.set_len(0)?;
        rewrite(&*file, &*anew, 0, self.size())?;
        self.disk.rename(&temporary, &self.path)?;
        self.close();
        Ok(())
    }

    /// Writes the name of the file once more: it may be in the cache, clean, and not on the disk. The caller syncs the
    /// directory; [`moved_name`] tells what an interruption leaves.
    pub(crate) fn write_name_again(&self) -> io::Result<()> {
        let moved = self.path.with_extension(MOVED_EXTENSION);
        self.close();
        self.disk.rename(&self.path, &moved)?;
        self.disk.rename(&moved, &self.path)
    }

    /// Starts an empty index: for a new segment, whose file has nothing in it.
    pub(crate) fn start_index(&self) {
        self.parts.lock().index = Some(LoadedIndex::new(Index::default(), self.base));
    }

    /// Notes an appended or scanned batch, with an index entry when the last one is far enough behind.
    pub(crate) fn note(&self, header: &BatchHeader, position: u64, interval_bytes: u64) -> io::Result<()> {
        let mut parts = self.index()?;
        let loaded = parts.index.as_mut().expect("the index was just loaded");
        loaded.note(self.base, header, position, Some(interval_bytes))?;
        self.size.store(loaded.noted_to, Ordering::Release);
        Ok(())
    }

    /// Highest timestamp of all batches, if it is in memory. Never waits: while somebody loads it, it is not.
    pub(crate) fn newest_in_memory(&self) -> Option<Timestamp> {
        let parts = self.parts.try_lock()?;
        match &parts.index {
            Some(loaded) => Some(loaded.max_timestamp).filter(|_| !loaded.damaged),
            None => parts.rested_max_timestamp,
        }
    }

    /// Highest timestamp of all batches; `i64::MIN` when there are none. `Err` with the offset from which on the
    /// segment cannot be read: then nobody knows.
    pub(crate) fn max_timestamp(&self) -> io::Result<Result<Timestamp, Offset>> {
        if let Parts { index: None, rested_max_timestamp: Some(known), .. } = &*self.parts.lock() {
            return Ok(Ok(*known));
        }
        let parts = self.index()?;
        let known =
            |loaded: &LoadedIndex| if loaded.damaged { Err(loaded.next_offset) } else { Ok(loaded.max_timestamp) };
        Ok(parts.index.as_ref().map_or(Ok(Timestamp::MIN), known))
    }

    /// Offset after the last batch that can be read. Exclusive.
    pub(crate) fn end(&self) -> io::Result<Offset> {
        let parts = self.index()?;
        Ok(parts.index.as_ref().map_or(self.base, |loaded| loaded.next_offset))
    }

    /// Where to start reading for an offset, and the base offset of the batch there.
    pub(crate) fn place_for(&self, offset: Offset) -> io::Result<(u64, Offset)> {
        let relative = u32::try_from(offset.since(self.base).max(0)).unwrap_or(u32::MAX);
        self.place(|entry| entry.relative_offset <= relative)
    }

    /// Where to start looking for a timestamp. `None`: every record is older.
    pub(crate) fn place_for_time(&self, timestamp: Timestamp) -> io::Result<Option<(u64, Offset)>> {
        // What is known of a segment that rests is enough to pass it by.
        if let Parts { index: None, rested_max_timestamp: Some(newest), .. } = &*self.parts.lock()
            && *newest < timestamp
        {
            return Ok(None);
        }
        // What cannot be read may hold it.
        let older = |loaded: &LoadedIndex| loaded.max_timestamp < timestamp && !loaded.damaged;
        if self.index()?.index.as_ref().is_none_or(older) {
            return Ok(None);
        }
        self.place(|entry| entry.max_timestamp_before < timestamp).map(Some)
    }

    /// Where the batch of the last entry is of those that are `not_behind` what is looked for, and its base offset.
    fn place(&self, not_behind: impl Fn(&IndexEntry) -> bool) -> io::Result<(u64, Offset)> {
        let found = self.index()?.index.as_ref().and_then(|loaded| loaded.index.floor(&not_behind));
        let entry = match found {
            None => return Ok((0, self.base)),
            Some(Floor::Here(entry)) => entry,
            // Without the lock, which appends take. An entry that cannot be read costs a longer scan.
            Some(Floor::Filed { known, numbers }) => {
                let read = self.read_index_file(numbers.start, numbers.len());
                let found = read.unwrap_or_default().floor(not_behind);
                found.filter(|found| found.position >= known.position).unwrap_or(known)
            }
        };
        Ok((u64::from(entry.position), self.base.plus(i64::from(entry.relative_offset))))
    }

    /// The entries that the index file lacks, if there are any.
    pub(crate) fn unwritten_index(&self) -> Option<IndexTail> {
        let parts = self.parts.lock();
        let index = &parts.index.as_ref().filter(|loaded| !loaded.index.recent().is_empty())?.index;
        Some(IndexTail { from: index.filed(), to: index.len(), bytes: index.encode_recent() })
    }

    /// Writes entries into the index file, without making them durable; returns the file to sync. `None`: they do not
    /// continue what is written, since another writer was faster, or the segment rests or is gone.
    pub(crate) fn write_index(&self, tail: &IndexTail) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let _one_at_a_time = self.writes_index.lock();
        let filed = |parts: &Parts| parts.index.as_ref().map(|loaded| loaded.index.filed());
        if filed(&self.parts.lock()) != Some(tail.from) || self.own_name().is_err() {
            return Ok(None);
        }
        let file = self.disk.open(&self.index_path(), Open::Write)?;
        let at = (tail.from * ENTRY_LEN) as u64;
        file.write_at(&tail.bytes, at)?;
        file.set_len(at + tail.bytes.len() as u64)?;
        if let Some(loaded) = &mut self.parts.lock().index {
            loaded.index.file(tail.to);
        }
        Ok(Some(file))
    }

    /// Writes all entries that the index file lacks, without making them durable; returns the file to sync, if there were
    /// any. Nothing is appended meanwhile.
    pub(crate) fn write_whole_index(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        while let Some(tail) = self.unwritten_index() {
            if let Some(file) = self.write_index(&tail)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Loads the index as far as it was complete at `below`, and gives back where a scan goes on from there: the
    /// position of a batch at or before `below`, and the batch's base offset.
    pub(crate) fn start_recovery(&self, below: Offset) -> io::Result<(u64, Offset)> {
        let file = self.file(Open::Read)?;
        let mut entries = self.read_index_file(0, usize::MAX)?;
        let limit = u32::try_from(below.since(self.base)).unwrap_or(0);
        entries.truncate_above(limit);
        if !entries.last().is_none_or(|last| self.stands_at_batch(&*file, last)) {
            entries = Entries::default();
        }
        let last = entries.last();
        let position = last.map_or(0, |last| u64::from(last.position));
        let offset = last.map_or(self.base, |last| self.base.plus(i64::from(last.relative_offset)));
        self.parts.lock().index = Some(LoadedIndex::new(Index::of_file(&entries), self.base));
        Ok((position, offset))
    }

    /// Sets the bytes of log, as found by recovery.
    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Sets the bytes of log, where some were written that the index does not know.
    pub(crate) fn grow_to(&self, size: u64) {
        let mut parts = self.parts.lock();
        self.size.store(size, Ordering::Release);
        // A reader may have loaded it before that.
        parts.index = None;
    }

    /// Bytes of memory held by the index.
    pub(crate) fn memory_bytes(&self) -> usize {
        let parts = self.parts.try_lock();
        parts.map_or(0, |parts| parts.index.as_ref().map_or(0, |loaded| loaded.index.memory_bytes()))
    }

    /// Whether the file is open, or somebody is about to read it.
    pub(crate) fn open(&self) -> bool {
        self.parts.try_lock().is_none_or(|parts| parts.file.is_some())
    }

    /// Cuts the log to `size` bytes: file, index and size. The caller syncs.
    pub(crate) fn cut(&self, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.file(Open::Write)?;
        // Readers see that it was cut before the bytes are gone.
        self.size.store(size, Ordering::Release);
        file.set_len(size)?;
        let mut parts = self.parts.lock();
        parts.rested_max_timestamp = None;
        let kept = parts.index.take();
        drop(parts);
        let mut entries = self.read_index_file(0, usize::MAX)?;
        if let Some(LoadedIndex { index, .. }) = kept {
            // What the file has behind is of no account.
            entries.truncate(index.filed());
            if entries.len() == index.filed() {
                entries.extend(index.recent());
            }
        }
        entries.truncate_at(u32::try_from(size).unwrap_or(u32::MAX));
        let index_file = self.disk.open(&self.index_path(), Open::Write)?;
        let entries = entries.encode();
        index_file.write_at(&entries, 0)?;
        index_file.set_len(entries.len() as u64)?;
        Ok(file)
    }

    /// Removes log and index.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let _nobody_writes_the_index = self.writes_index.lock();
        self.release_idle();
        remove_file_if_any(&*self.disk, &self.path)?;
        remove_file_if_any(&*self.disk, &self.index_path())
    }

    /// Reads `count` entries of the index file from number `from` on; fewer where the file ends.
    fn read_index_file(&self, from: usize, count: usize) -> io::Result<Entries> {
        if self.own_name().is_err() {
            return Ok(Entries::default());
        }
        let file = match self.disk.open(&self.index_path(), Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::default()),
            other => other?,
        };
        let at = (from * ENTRY_LEN) as u64;
        // Each entry stands at a batch of its own: what is longer is no index, and is not taken into memory.
        let most = usize::try_from(self.size() / HEADER_LEN as u64 + 1).unwrap_or(usize::MAX);
        let left = usize::try_from(file.len()?.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        file.read_at(&mut bytes, at, left.min(count.min(most).saturating_mul(ENTRY_LEN)))?;
        // Between the first look and the opening it may have become another one's.
        let own = self.own_name().is_ok();
        Ok(if own { Entries::decode(&bytes) } else { Entries::default() })
    }

    /// The parts with the index loaded: from its file, and by reading the log behind its last entry.
    fn index(&self) -> io::Result<MutexGuard<'_, Parts>> {
        let mut parts = self.parts.lock();
        if parts.index.is_some() {
            return Ok(parts);
        }
        let size = self.size();
        let file = match &parts.file {
            Some(file) => Arc::clone(file),
            None => {
                self.own_name()?;
                let file = self.disk.open(&self.path, Open::Edit)?;
                parts.file = Some(Arc::clone(&file));
                file
            }
        };
        let mut entries = self.read_index_file(0, usize::MAX)?;
        let on_disk = entries.len();
        entries.truncate_at(u32::try_from(size).unwrap_or(u32::MAX));
        if !entries.last().is_none_or(|last| self.stands_at_batch(&*file, last)) {
            entries = Entries::default();
        }
        let whole = entries.len() == on_disk;
        let index = if whole { Index::of_file(&entries) } else { Index::of_recent(&entries) };
        parts.index = Some(self.complete(&*file, index, size)?);
        Ok(parts)
    }

    /// Whether an entry points at the batch that it says.
    fn stands_at_batch(&self, file: &dyn DiskFile, entry: IndexEntry) -> bool {
        let mut scan = Scan::new(file, u64::from(entry.position), self.size());
        match scan.step() {
            Ok(Step::Batch(found)) => found.header.base_offset.since(self.base) == i64::from(entry.relative_offset),
            _ => false,
        }
    }

    /// Whether another segment begins at `next`: then nothing of this one is missing before it.
    fn goes_on_at(&self, next: Offset) -> io::Result<bool> {
        if next <= self.base {
            return Ok(false);
        }
        match self.disk.open(&self.path.with_file_name(log_name(next)), Open::Edit) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the log behind the last entry for what the entries do not say.
    fn complete(&self, file: &dyn DiskFile, index: Index, size: u64) -> io::Result<LoadedIndex> {
        /// Distance of entries when an index has to be made again.
        const INTERVAL_BYTES: u64 = 4096;
        let rebuilding = index.len() == 0;
        let mut loaded = LoadedIndex::new(index, self.base);
        let mut scan = Scan::new(file, loaded.noted_to, size);
        loop {
            let found = match scan.step()? {
                Step::Batch(found) if found.header.base_offset == loaded.next_offset => found,
                Step::End => return Ok(loaded),
                // The closed file was to be cut here, and the power was lost before that was on the disk.
                Step::Zeros(end) if self.goes_on_at(loaded.next_offset)? => {
                    self.set_size(end);
                    return Ok(loaded);
                }
                // One that does not follow is damaged in its base offset.
                Step::Zeros(_) | Step::Invalid(_) | Step::Batch(_) => {
                    loaded.damaged = true;
                    return Ok(loaded);
                }
            };
            loaded.note(self.base, &found.header, found.position, rebuilding.then_some(INTERVAL_BYTES))?;
        }
    }
}

impl Parts {
    fn release_idle(&mut self) {
        let known = self.index.as_ref().filter(|loaded| !loaded.damaged).map(|loaded| loaded.max_timestamp);
        *self = Self { rested_max_timestamp: known.or(self.rested_max_timestamp), ..Self::default() };
    }
}
