use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::Op;

/// A disk in memory that can be full.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
    /// Nothing can be opened, either.
    gone: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
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
        self.room()?;
        self.bytes.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.bytes.lock()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn store(disk: &Disk) -> Embedded {
    let disk = disk.clone();
    Embedded::open_with(Box::new(move || {
        if disk.gone.load(Ordering::Relaxed) {
            return Err(unavailable("the disk is gone"));
        }
        let builder = &mut Database::builder();
        builder.create_with_backend(disk.clone()).map_err(unavailable)
    }))
    .unwrap()
}

fn put(key: &str) -> Txn {
    let value = Bytes::from_static(b"value");
    Txn { compares: Vec::new(), ops: vec![Op::Put { key: key.to_owned(), value, lease: None }] }
}

/// A full disk once left the store unusable until the next start, so that nothing could be deleted to make room.
#[tokio::test]
async fn a_failed_write_is_over_when_there_is_room_again() {
    let disk = Disk::default();
    let store = store(&disk);
    let first = store.transact(put("first")).await.unwrap();
    assert!(matches!(first, Outcome::Committed(_)));

    disk.full.store(true, Ordering::Relaxed);
    for gone in [false, true, false] {
        disk.gone.store(gone, Ordering::Relaxed);
        assert!(store.transact(put("second")).await.is_err());
        assert!(store.get("second").await.unwrap().0.is_none());
        assert!(store.get("first").await.unwrap().0.is_some(), "reads go on");
    }

    disk.full.store(false, Ordering::Relaxed);
    assert!(matches!(store.transact(put("second")).await.unwrap(), Outcome::Committed(_)));
    assert!(store.get("second").await.unwrap().0.is_some());
    let again = self::store(&disk);
    assert_eq!(crate::read_all(&again, "").await.unwrap().entries.len(), 2);
}
