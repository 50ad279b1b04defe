//! A store over another one, with faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use walser_metastore::{
    KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch, WatchError,
    WatchEvent,
};

use super::Store;

/// A store that answers with faults, as often as it is told.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Store,
    /// Transactions that are carried out and whose outcome is said to be unknown.
    unknown: AtomicUsize,
    /// Transactions that are refused.
    unavailable: AtomicUsize,
    /// Watches that end at once.
    broken_watches: AtomicUsize,
    /// Pages behind which everything is compacted.
    compacted_pages: AtomicUsize,
    /// One permit for each watch that was opened.
    watches: Semaphore,
}

#[derive(Debug)]
struct BrokenWatch;

#[async_trait]
impl Watch for BrokenWatch {
    async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        Err(WatchError::Unavailable("as the test asked".to_owned()))
    }
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl Faulty {
    pub(crate) fn new(inner: &Store) -> Self {
        let (unknown, unavailable, broken_watches, compacted_pages) = Default::default();
        let (inner, watches) = (Arc::clone(inner), Semaphore::new(0));
        Self { inner, unknown, unavailable, broken_watches, compacted_pages, watches }
    }

    pub(crate) fn with_unknown(self, transactions: usize) -> Self {
        Self { unknown: transactions.into(), ..self }
    }

    pub(crate) fn with_unavailable(self, transactions: usize) -> Self {
        Self { unavailable: transactions.into(), ..self }
    }

    pub(crate) fn with_broken_watches(self, watches: usize) -> Self {
        Self { broken_watches: watches.into(), ..self }
    }

    pub(crate) fn with_compacted_pages(self, pages: usize) -> Self {
        Self { compacted_pages: pages.into(), ..self }
    }

    /// Waits for the next watch that was opened.
    pub(crate) async fn watched(&self) {
        self.watches.acquire().await.unwrap().forget();
    }

    /// Whether all faults have happened.
    pub(crate) fn is_used_up(&self) -> bool {
        let counters = [&self.unknown, &self.unavailable, &self.broken_watches, &self.compacted_pages];
        counters.iter().all(|counter| counter.load(Ordering::Relaxed) == 0)
    }
}

#[async_trait]
impl Metastore for Faulty {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        let page = self.inner.range(request).await?;
        if page.more && take(&self.compacted_pages) {
            // A change first: the latest revision itself can always be read.
            let key = page.entries[0].key.clone();
            let value = page.entries[0].value.clone();
            let ops = vec![walser_metastore::Op::Put { key, value, lease: None }];
            let outcome = self.inner.transact(Txn { compares: vec![], ops }).await?;
            self.inner.compact(outcome.revision()).await?;
        }
        Ok(page)
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        if take(&self.unavailable) {
            return Err(StoreError::Unavailable("as the test asked".to_owned()));
        }
        let outcome = self.inner.transact(txn).await;
        if take(&self.unknown) { Err(StoreError::Unknown("as the test asked".to_owned())) } else { outcome }
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        self.inner.raise_revision(floor).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch: Box<dyn Watch> =
            if take(&self.broken_watches) { Box::new(BrokenWatch) } else { self.inner.watch(prefix, after).await? };
        self.watches.add_permits(1);
        Ok(watch)
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}
