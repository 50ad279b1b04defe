//! A disk that panics when a log shard waits for it: only the write of an append is let through.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use walser_log::{Checkpoint, DirectoryId, DirectoryLock, Disk, DiskFile, Entry, Open, OpenFiles, Space};

thread_local! {
    static ON_SHARD: Cell<bool> = const { Cell::new(false) };
    static CHECKPOINT: RefCell<Option<Arc<Mutex<Checkpoint>>>> = const { RefCell::new(None) };
    static HELD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Does something, and tells when the disk was waited for under the lock of the checkpoint, which shards take for every flush.
pub(super) fn waits_under_checkpoint(checkpoint: Arc<Mutex<Checkpoint>>, does: impl FnOnce()) -> Vec<String> {
    CHECKPOINT.set(Some(checkpoint));
    does();
    CHECKPOINT.set(None);
    HELD.take()
}

/// Runs `turn` as the thread of a shard would.
pub(super) fn as_shard<T>(turn: impl FnOnce() -> T) -> T {
    ON_SHARD.set(true);
    let outcome = turn();
    ON_SHARD.set(false);
    outcome
}

fn waits(what: &str, path: &Path) {
    // Whoever panics unwinds through a turn, and the next one on this thread begins anew.
    assert!(!ON_SHARD.replace(false), "a log shard waits for the disk: {what} {}", path.display());
    if CHECKPOINT.with_borrow(|checkpoint| checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.is_locked())) {
        HELD.with_borrow_mut(|held| held.push(format!("{what} {}", path.display())));
    }
}

#[derive(Debug)]
pub(super) struct WatchedDisk<D>(pub(super) D);

#[derive(Debug)]
struct WatchedFile(Arc<dyn DiskFile>);

impl<D: Disk> Disk for WatchedDisk<D> {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        waits("open", path);
        Ok(Arc::new(WatchedFile(self.0.open(path, how)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        waits("list", dir);
        self.0.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        waits("create the directory", dir);
        self.0.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        waits("rename", from);
        self.0.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        waits("remove", path);
        self.0.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        waits("remove the directory", dir);
        self.0.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        waits("sync the directory", dir);
        self.0.sync_dir(dir)
    }

    fn restrict(&self, dir: &Path) -> io::Result<()> {
        waits("restrict", dir);
        self.0.restrict(dir)
    }

    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId> {
        self.0.directory_id(dir)
    }

    fn open_files(&self) -> OpenFiles {
        self.0.open_files()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.0.space(dir)
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        waits("lock", path);
        self.0.lock(path, note)
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()> {
        waits("read", Path::new("a file"));
        self.0.read_at(buffer, at, len)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_at(bytes, at)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        waits("sync", Path::new("a file"));
        self.0.sync_data()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        waits("allocate", Path::new("a file"));
        self.0.allocate(at, len)
    }
}

#[test]
fn a_shard_that_waits_is_noticed() {
    let disk = WatchedDisk(walser_log::MemoryDisk::new(1 << 20));
    let open = || disk.open(Path::new("/file"), Open::Write).map(drop).is_ok();
    assert!(open());
    let waits = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| as_shard(open)));
    assert!(waits.is_err());
    assert!(open(), "the next turn begins anew");
}
