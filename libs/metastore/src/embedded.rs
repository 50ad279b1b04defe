//! A store for one process, in one file, durable at every transaction.
//!
//! redb keeps the entries; the engine in memory answers reads and watches. Leases and the keys bound to them do not
//! survive opening: the lock on the data directory proves that whoever held them is dead.

mod damage;
mod digest;
mod file;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::damage::or_damaged;
use self::file::{File, Opener, load, open_file};
use self::writer::WriteQueue;
use crate::engine::{Engine, WriteRequest};
use crate::{KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch};

/// Pause before the end of a lease is written again after that failed.
const EXPIRE_RETRY: Duration = Duration::from_millis(500);

/// A store in one file.
#[derive(Debug, Clone)]
pub struct Embedded {
    engine: Engine,
    file: Arc<File>,
    /// One writer at a time: conditions are checked, made durable and applied as one step.
    queue: Arc<WriteQueue>,
}

impl Embedded {
    /// Opens or creates the store, and its directory where there is none. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`StoreError::Format`] when the file is damaged, of another kind or from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        Self::open_with(Box::new(move || open_file(&path)))
    }

    fn open_with(open: Opener) -> Result<Self, StoreError> {
        let (database, (entries, revision)) = or_damaged(|| {
            let mut database = open()?;
            load(&mut database).map(|loaded| (database, loaded))
        })?;
        let file = Arc::new(File::new(open, database));
        Ok(Self { engine: Engine::new(entries, revision), file, queue: Arc::default() })
    }
}

#[async_trait]
impl Metastore for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        Ok(self.engine.get(key))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        self.engine.range(&request)
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        crate::limits::check_txn(&txn)?;
        self.write(WriteRequest::Transact(txn)).await
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        Ok(self.write(WriteRequest::Raise(floor)).await?.revision())
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.engine.watch(prefix, after)))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.engine.compact(through)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.engine.grant(ttl);
        // The timer does not keep the file open.
        let (engine, queue) = (self.engine.clone(), Arc::clone(&self.queue));
        let file = Arc::downgrade(&self.file);
        tokio::spawn(async move {
            // Kept alive since it was found overdue, it is waited for again.
            while let Some(at) = engine.overdue(lease).await {
                let Some(file) = file.upgrade() else { return };
                let store = Self { engine: engine.clone(), file, queue: Arc::clone(&queue) };
                let ended = store.write(WriteRequest::Expire(lease, at)).await;
                drop(store);
                if ended.is_err() {
                    tokio::time::sleep(EXPIRE_RETRY).await;
                }
            }
        });
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write(WriteRequest::Revoke(lease)).await.map(drop)
    }

    /// The file is locked.
    fn is_shared(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
