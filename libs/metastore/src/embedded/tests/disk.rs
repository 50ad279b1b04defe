//! A disk in memory with faults.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use redb::Database;

use crate::Embedded;
use crate::embedded::file::unavailable;

/// A disk in memory that can be full, and whose syncs can fail.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    pub(super) full: Arc<AtomicBool>,
    /// Nothing can be opened, either.
    pub(super) gone: Arc<AtomicBool>,
    /// The next write fails, and writes nothing.
    pub(super) failing_write: Arc<AtomicBool>,
    /// The next sync panics.
    pub(super) panics: Arc<AtomicBool>,
    /// Syncs so far.
    pub(super) syncs: Arc<AtomicUsize>,
    /// The sync with this number fails, although everything was written. 0: none.
    pub(super) failing_sync: Arc<AtomicUsize>,
}

impl Disk {
    fn check_space(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The same bytes on another disk.
    pub(super) fn copy(&self) -> Self {
        Self { bytes: Arc::new(Mutex::new(self.bytes.lock().clone())), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.lock().len()
    }

    pub(super) fn flip(&self, byte: usize, bit: u8) {
        self.bytes.lock()[byte] ^= 1 << bit;
    }

    /// Opens a store on it.
    pub(super) fn open(&self) -> Embedded {
        self.try_open().unwrap()
    }

    pub(super) fn try_open(&self) -> Result<Embedded, crate::StoreError> {
        let disk = self.clone();
        Embedded::open_with(Box::new(move || {
            if disk.gone.load(Ordering::Relaxed) {
                return Err(unavailable("the disk is gone"));
            }
            disk.database()
        }))
    }

    pub(super) fn database(&self) -> Result<Database, crate::StoreError> {
        Database::builder().create_with_backend(self.clone()).map_err(unavailable)
    }

    /// Lets the sync fail that is the `number`th from here, counted from 1.
    pub(super) fn fail_sync(&self, number: usize) {
        self.failing_sync.store(self.syncs.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        out.copy_from_slice(self.bytes.lock().get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_space()?;
        self.bytes.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "as the test asked");
        let number = self.syncs.fetch_add(1, Ordering::Relaxed) + 1;
        if number == self.failing_sync.load(Ordering::Relaxed) {
            return Err(io::Error::other("as the test asked"));
        }
        self.check_space()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_space()?;
        if self.failing_write.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("as the test asked"));
        }
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.bytes.lock()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}
