//! Calls to a disk that are under way, for whoever has to know that one does not end: a disk that hangs gives no error.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirectoryId, DirectoryLock, Disk, DiskFile, Entry, Open, OpenFiles, Space};

thread_local! {
    static PATIENT: Cell<bool> = const { Cell::new(false) };
}

/// Calls to a disk that are under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct DiskCalls {
    /// Of each call how many looks have seen it; `None`: free for the next one. There are never more of them than threads.
    under_way: Arc<Mutex<Vec<Option<u64>>>>,
}

/// A disk whose calls are seen.
#[derive(Debug)]
pub(crate) struct SeenDisk {
    disk: Arc<dyn Disk>,
    calls: DiskCalls,
}

#[derive(Debug)]
struct SeenFile {
    file: Arc<dyn DiskFile>,
    calls: DiskCalls,
}

/// One call, until it is dropped.
struct Call<'a> {
    calls: &'a DiskCalls,
    slot: Option<usize>,
}

// === impl DiskCalls ===

impl DiskCalls {
    /// Calls of this thread may last from now on, and are not seen: it writes what seconds of page cache hold, or removes
    /// thousands of files.
    pub fn of_this_thread_may_last() {
        PATIENT.set(true);
    }

    /// How many looks, this one not counted, have seen the call that has been under way for longest. Somebody who looks at even
    /// intervals measures time in which this process ran.
    pub fn look(&self) -> u64 {
        let mut longest = 0;
        for looks in self.under_way.lock().iter_mut().flatten() {
            longest = longest.max(*looks);
            *looks += 1;
        }
        longest
    }

    fn begin(&self) -> Call<'_> {
        let slot = (!PATIENT.get()).then(|| {
            let mut under_way = self.under_way.lock();
            let free = under_way.iter().position(Option::is_none);
            let slot = free.unwrap_or_else(|| {
                under_way.push(None);
                under_way.len() - 1
            });
            under_way[slot] = Some(0);
            slot
        });
        Call { calls: self, slot }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.calls.under_way.lock()[slot] = None;
        }
    }
}

// === impl SeenDisk ===

impl SeenDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>, calls: DiskCalls) -> Self {
        Self { disk, calls }
    }
}

impl Disk for SeenDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let _call = self.calls.begin();
        Ok(Arc::new(SeenFile { file: self.disk.open(path, how)?, calls: self.calls.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let _call = self.calls.begin();
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let _call = self.calls.begin();
        self.disk.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _call = self.calls.begin();
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _call = self.calls.begin();
        self.disk.remove_file(path)
    }

    /// Is not seen: there may be thousands of files in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _call = self.calls.begin();
        self.disk.sync_dir(dir)
    }

    fn restrict(&self, dir: &Path) -> io::Result<()> {
        let _call = self.calls.begin();
        self.disk.restrict(dir)
    }

    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId> {
        let _call = self.calls.begin();
        self.disk.directory_id(dir)
    }

    fn open_files(&self) -> OpenFiles {
        self.disk.open_files()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let _call = self.calls.begin();
        self.disk.space(dir)
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        let _call = self.calls.begin();
        self.disk.lock(path, note)
    }
}

// === impl SeenFile ===

impl DiskFile for SeenFile {
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.read_at(buffer, at, len)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.write_at(bytes, at)
    }

    fn write_pieces_at(&self, pieces: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.write_pieces_at(pieces, at)
    }

    fn len(&self) -> io::Result<u64> {
        let _call = self.calls.begin();
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.sync_data()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.allocate(at, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_does_not_end_is_seen_at_each_look() {
        let calls = DiskCalls::default();
        assert_eq!(calls.look(), 0);
        let hangs = calls.begin();
        let seen: Vec<_> = (0..4)
            .map(|_| {
                let _ends = calls.begin();
                calls.look()
            })
            .collect();
        assert_eq!(seen, [0, 1, 2, 3], "others begin and end meanwhile");
        drop(hangs);
        let _next = calls.begin();
        assert_eq!((calls.look(), calls.under_way.lock().len()), (0, 2), "a slot is used again");
    }

    #[test]
    fn calls_of_a_thread_may_last() {
        let calls = DiskCalls::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                DiskCalls::of_this_thread_may_last();
                let _call = calls.begin();
                assert_eq!((calls.look(), calls.look()), (0, 0));
            });
        });
    }
}
