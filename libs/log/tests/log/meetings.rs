//! Reads that meet a cut or a deletion, and producers that outlive damaged epochs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use walser_log::*;
use walser_model::{Compression, LeaderEpoch, Offset, SequenceCheck};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields, stamp_position};

use crate::site::{Site, config, partition, repeat, session, values};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

#[derive(Clone)]
struct Hooked {
    inner: MemoryDisk,
    hook: Hook,
}
impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hooked")
    }
}
struct HookedFile {
    inner: Arc<dyn DiskFile>,
    log: bool,
    disk: Hooked,
}
impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hooked")
    }
}
impl Disk for Hooked {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, how)?;
        let log = path.extension().is_some_and(|end| end == "log");
        Ok(Arc::new(HookedFile { inner, log, disk: self.clone() }))
    }
    fn list(&self, d: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(d)
    }
    fn create_dir(&self, d: &Path) -> io::Result<()> {
        self.inner.create_dir(d)
    }
    fn rename(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.inner.rename(a, b)
    }
    fn remove_file(&self, p: &Path) -> io::Result<()> {
        self.inner.remove_file(p)
    }
    fn remove_dir(&self, p: &Path) -> io::Result<()> {
        self.inner.remove_dir(p)
    }
    fn sync_dir(&self, p: &Path) -> io::Result<()> {
        self.inner.sync_dir(p)
    }
    fn restrict(&self, p: &Path) -> io::Result<()> {
        self.inner.restrict(p)
    }
    fn directory_id(&self, p: &Path) -> io::Result<DirectoryId> {
        self.inner.directory_id(p)
    }
    fn open_files(&self) -> OpenFiles {
        self.inner.open_files()
    }
    fn space(&self, p: &Path) -> io::Result<Space> {
        self.inner.space(p)
    }
    fn lock(&self, p: &Path, n: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        self.inner.lock(p, n)
    }
}
impl DiskFile for HookedFile {
    fn read_at(&self, b: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()> {
        if self.log {
            let hook = self.disk.hook.lock().unwrap().take();
            if let Some(hook) = hook {
                hook()
            }
        }
        self.inner.read_at(b, at, len)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.inner.write_at(bytes, at)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, l: u64) -> io::Result<()> {
        self.inner.set_len(l)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn allocate(&self, a: u64, l: u64) -> io::Result<()> {
        self.inner.allocate(a, l)
    }
}

fn put(log: &mut Log, value: &[u8], epoch: i32) {
    let base = log.log_end();
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: base.0, key: None, value: Some(value), headers: &[] });
    let mut batch = builder.build(Producer::NONE).to_vec();
    stamp_position(&mut batch, base, LeaderEpoch(epoch));
    let header = BatchHeader::parse(&batch).unwrap();
    log.append(&batch[..].into(), &[header], base.0).unwrap();
}
fn flush(log: &mut Log) -> bool {
    let job = log.begin_flush().unwrap().unwrap();
    let outcome = job.run();
    let postponed = outcome.postponed().is_some();
    log.finish_flush(&outcome).unwrap();
    postponed
}
fn hooked(inner: MemoryDisk, config: LogConfig) -> (Hooked, DataDirectory, Log, PathBuf) {
    let disk = Hooked { inner, hook: Hook::default() };
    let directory = DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap();
    let dir = directory.partition_dir(partition());
    let (log, _) = Log::open(directory.disk(), dir.clone(), partition(), config, directory.checkpoint(), 0).unwrap();
    (disk, directory, log, dir)
}

/// Standalone with memory: a read that meets retention.
#[test]
fn memory_read_that_meets_a_deletion_is_no_damage() {
    let small = LogConfig { segment_bytes: 10_000, ..config() };
    let (disk, _directory, mut log, _) = hooked(MemoryDisk::new(64 << 20), small);
    for _ in 0..6 {
        put(&mut log, &[7; 4_000], 1);
    }
    flush(&mut log);
    let reader = log.reader();
    reader.read(Offset(0), Offset(6), 100).unwrap();
    let log = Arc::new(Mutex::new(log));
    let deletes = Arc::clone(&log);
    *disk.hook.lock().unwrap() = Some(Box::new(move || {
        deletes.lock().unwrap().delete_records(Offset(4), 1).unwrap();
    }));
    let read = reader.read(Offset(0), Offset(6), 1 << 20);
    assert!(!matches!(read, Err(ReadError::Corrupt { .. })));
}

/// The same gap, looked up by time.

#[test]
fn producers_outlive_damaged_epochs() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_as(&values(1, 1, 20 << 10), session(4, 0)).unwrap();
    for _ in 0..20 {
        site.append(&values(1, 1, 20 << 10)).unwrap();
        site.flush().unwrap();
    }
    let end = site.log.log_end();
    site.log.delete_records(Offset(end.0 - 5), 1_000).unwrap();
    site.flush().unwrap();
    for _ in 0..4 {
        site.append(&values(1, 1, 100)).unwrap();
        site.log.move_recovery_point();
        site.flush().unwrap();
        Checkpoint::sync(&site.directory.checkpoint()).unwrap();
    }
    let whole = repeat(&mut site, session(4, 0), 1);
    assert!(matches!(whole, SequenceCheck::Duplicate { .. }), "{whole:?}");
    let disk = site.disk.restart_process();
    let file = site.file("leader-epochs");
    disk.flip_bit(&file, 12, 3);
    site.restart_on(disk, config());
    assert!(site.found.damaged_epochs);
    let check = repeat(&mut site, session(4, 0), 1);
    assert!(matches!(check, SequenceCheck::Duplicate { .. }), "{check:?}");
}

#[test]
fn a_read_that_meets_a_cut_is_no_damage() {
    for (to, segment_bytes) in [(1, 10_000u64), (1, 100_000), (3, 10_000)] {
        let small = LogConfig { segment_bytes, ..config() };
        let (disk, _directory, mut log, _) = hooked(MemoryDisk::simulated(64 << 20), small);
        for _ in 0..6 {
            put(&mut log, &[7; 4_000], 1);
        }
        flush(&mut log);
        let reader = log.reader();
        reader.read(Offset(to), Offset(6), 100).unwrap();
        let log = Arc::new(Mutex::new(log));
        let cuts = Arc::clone(&log);
        *disk.hook.lock().unwrap() = Some(Box::new(move || {
            let mut log = cuts.lock().unwrap();
            log.truncate(Offset(to), false).unwrap();
        }));
        let read = reader.read(Offset(to), Offset(6), 1 << 20);
        let mut log = log.lock().unwrap();
        for _ in 0..3 {
            put(&mut log, &[8; 50], 2);
        }
        assert!(!matches!(read, Err(ReadError::Corrupt { .. })), "cut to {to}: {read:?}");
    }
}
