//! A store that is gone with the process.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Engine, WriteRequest};
use crate::{KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch};

/// A store in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    engine: Engine,
}

impl Memory {
    pub fn new() -> Self {
        Self { engine: Engine::new(BTreeMap::new(), 0) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Metastore for Memory {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        Ok(self.engine.get(key))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        self.engine.range(&request)
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        crate::limits::check_txn(&txn)?;
        self.engine.perform(&WriteRequest::Transact(txn))
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        Ok(self.engine.perform(&WriteRequest::Raise(floor))?.revision())
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.engine.watch(prefix, after)))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.engine.compact(through)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.engine.grant(ttl);
        let engine = self.engine.clone();
        tokio::spawn(async move {
            // Kept alive since it was found overdue, it is waited for again.
            while let Some(at) = engine.overdue(lease).await {
                let _ = engine.perform(&WriteRequest::Expire(lease, at));
            }
        });
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.perform(&WriteRequest::Revoke(lease)).map(drop)
    }

    /// Whoever has a clone uses it as another process would.
    fn is_shared(&self) -> bool {
        true
    }
}
