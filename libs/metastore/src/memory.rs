//! A store that is gone with the process.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::engine::Engine;
use crate::{KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch};

/// A store in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    engine: Engine,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self { engine: Engine::new(BTreeMap::new(), 0) }
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let mut state = self.engine.state.lock();
        let prepared = match state.prepare(txn)? {
            Ok(prepared) => prepared,
            Err(conflict) => return Ok(conflict),
        };
        let revision = state.apply(prepared);
        drop(state);
        self.engine.announce();
        Ok(Outcome::Committed(revision))
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
        self.commit(&txn)
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        Ok(self.engine.raise_revision(floor))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.engine.watch(prefix, after)))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.engine.compact(through)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.engine.grant(ttl);
        let store = self.clone();
        tokio::spawn(async move {
            wait_for_end(&store.engine, lease).await;
            let _ = store.revoke(lease).await;
        });
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.engine.end_lease(lease) {
            Some(txn) => self.commit(&txn).map(drop),
            None => Ok(()),
        }
    }
}

/// Waits until a lease has not been kept alive in time.
pub(crate) async fn wait_for_end(engine: &Engine, lease: LeaseId) {
    while let Some(deadline) = engine.lease_deadline(lease) {
        if deadline <= tokio::time::Instant::now() {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}
