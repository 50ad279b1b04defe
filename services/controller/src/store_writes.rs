//! Whether the metadata store takes writes, as the last one has shown.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metastore::{Metastore, Op, Outcome, StoreError, Txn};

use crate::keys::STORE_PROBE;

/// Time between two tries while writes fail.
const PROBE: Duration = Duration::from_secs(2);

/// Why the last write of the store failed, if it did. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreWrites(Arc<Mutex<Option<String>>>);

// === impl StoreWrites ===

impl StoreWrites {
    /// Notes what became of a write.
    pub(crate) fn note(&self, outcome: &Result<Outcome, StoreError>) {
        let mut problem = self.0.lock();
        match outcome {
            Err(StoreError::Unavailable(error) | StoreError::TakesNoWrites(error)) => {
                if problem.replace(error.clone()).is_none() {
                    tracing::error!(error, "the metadata store takes no writes");
                }
            }
            Ok(_) => {
                if problem.take().is_some() {
                    tracing::info!("the metadata store takes writes again");
                }
            }
            // These say nothing of the store.
            Err(_) => {}
        }
    }

    /// Why the store takes no writes; `None`: it does, as far as is known.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Finds out when writes work again, where nobody else writes: for ever.
    pub(crate) async fn probe(self, store: Arc<dyn Metastore>) {
        loop {
            tokio::time::sleep(PROBE).await;
            if self.problem().is_some() {
                let op = Op::Put { key: STORE_PROBE.to_owned(), value: Vec::new().into(), lease: None };
                // The store notes what becomes of it.
                let _ = store.transact(Txn { compares: Vec::new(), ops: vec![op] }).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::TimedStore;

    #[test]
    fn a_store_takes_no_writes_from_the_first_that_fails_to_the_first_that_does_not() {
        let writes = StoreWrites::default();
        assert_eq!(writes.problem(), None);
        writes.note(&Err(StoreError::Unavailable("no space".to_owned())));
        writes.note(&Err(StoreError::NoLease(1)));
        assert_eq!(writes.problem().as_deref(), Some("no space"));
        writes.note(&Ok(Outcome::Committed(7)));
        assert_eq!(writes.problem(), None);
        writes.note(&Err(StoreError::TakesNoWrites("its quota is used up".to_owned())));
        assert_eq!(writes.problem().as_deref(), Some("its quota is used up"));
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_writes_a_probe_finds_out_that_writes_work_again() {
        let writes = StoreWrites::default();
        let inner = Arc::new(walser_metastore::Memory::new());
        let store = TimedStore::new(inner, &walser_service::Metrics::default(), writes.clone());
        let probing = tokio::spawn(writes.clone().probe(Arc::new(store.clone())));
        tokio::time::sleep(3 * PROBE).await;
        assert_eq!(store.get(STORE_PROBE).await.unwrap().0, None, "nothing had failed");
        writes.note(&Err(StoreError::Unavailable("no space".to_owned())));
        tokio::time::sleep(2 * PROBE).await;
        assert_eq!(writes.problem(), None);
        probing.abort();
    }
}
