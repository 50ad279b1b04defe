//! A store whose calls a test counts, holds up and breaks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use walser_metastore::{
    KeyValue, LeaseId, Memory, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch,
};

/// A transaction that was caught, and the way to let it go on.
pub(crate) type Caught = (Txn, oneshot::Sender<()>);

/// A store that counts its calls, lets none through while it hangs, holds one back, and loses answers.
#[derive(Debug)]
pub(crate) struct ObservedStore {
    pub(crate) inner: Memory,
    pub(crate) calls: AtomicUsize,
    pub(crate) hangs: watch::Sender<bool>,
    /// The outcome of the next transaction of the API is not known, although it is written.
    pub(crate) loses_answer: AtomicBool,
    /// Once a key with this prefix is written, one of them cannot be read, once.
    pub(crate) breaks: Mutex<Option<&'static str>>,
    pub(crate) broken: Mutex<Option<&'static str>>,
    /// A key, and who is told of the first transaction that changes it.
    awaited: Mutex<Option<(String, oneshot::Sender<Caught>)>>,
}

impl ObservedStore {
    pub(crate) fn new() -> Self {
        Self {
            inner: Memory::new(),
            calls: AtomicUsize::new(0),
            hangs: watch::Sender::new(false),
            loses_answer: AtomicBool::new(false),
            breaks: Mutex::default(),
            broken: Mutex::default(),
            awaited: Mutex::default(),
        }
    }

    /// Catches the next transaction that changes a key.
    pub(crate) fn catch(&self, key: &str) -> oneshot::Receiver<Caught> {
        let (caught, waiting) = oneshot::channel();
        *self.awaited.lock() = Some((key.to_owned(), caught));
        waiting
    }

    async fn call(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let mut hangs = self.hangs.subscribe();
        hangs.wait_for(|hangs| !hangs).await.unwrap();
    }
}

#[async_trait]
impl Metastore for ObservedStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.call().await;
        if self.broken.lock().take_if(|prefix| key.starts_with(*prefix)).is_some() {
            return Err(StoreError::Unavailable("it is away for a moment".to_owned()));
        }
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        self.call().await;
        self.inner.range(request).await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.call().await;
        let awaited = self.awaited.lock().take_if(|(key, _)| txn.ops.iter().any(|op| op.key() == key));
        if let Some((_, caught)) = awaited {
            let (go_on, waiting) = oneshot::channel();
            caught.send((txn.clone(), go_on)).unwrap();
            waiting.await.unwrap();
        }
        let written: Vec<_> = txn.ops.iter().map(|op| op.key().to_owned()).collect();
        let outcome = self.inner.transact(txn).await;
        let breaks = |prefix: &mut &str| written.iter().any(|key| key.starts_with(*prefix));
        if let Some(prefix) = self.breaks.lock().take_if(breaks) {
            *self.broken.lock() = Some(prefix);
        }
        if matches!(outcome, Ok(Outcome::Committed(_))) && self.loses_answer.swap(false, Ordering::AcqRel) {
            return Err(StoreError::Unknown("the answer was lost".to_owned()));
        }
        outcome
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        self.call().await;
        self.inner.raise_revision(floor).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.call().await;
        self.inner.watch(prefix, after).await
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
