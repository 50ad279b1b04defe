//! Compaction of the metadata store's history, which grows with every change unless it is asked to forget.
//!
//! A watch that was interrupted resumes within seconds, and reads anew when the history does not reach back that far:
//! nothing depends on old revisions. Every controller process asks; asking twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use walser_metastore::{Metastore, Revision, StoreError};

use crate::keys::cluster;

/// Time between two compactions.
const INTERVAL: Duration = Duration::from_secs(300);
/// Revisions that are kept: far more than change within the seconds for which a watch may be interrupted.
const REVISIONS_KEPT: Revision = 10_000;

/// Compacts at every interval, for as long as the process runs.
pub(crate) async fn run(store: Arc<dyn Metastore>) {
    let mut compacted = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match compact(&*store, compacted).await {
            Ok(through) => compacted = through,
            Err(error) => {
                tracing::warn!(%error, "the history of the metadata store was not compacted; retrying at the next interval");
            }
        }
    }
}

/// Compacts once; returns the revision through which the history has been compacted.
async fn compact(store: &dyn Metastore, compacted: Revision) -> Result<Revision, StoreError> {
    let (_, revision) = store.get(cluster::KEY).await?;
    let Some(through) = due(revision, compacted) else { return Ok(compacted) };
    store.compact(through).await?;
    Ok(through)
}

/// Through which revision to compact a store at `revision` that was compacted through `compacted`.
fn due(revision: Revision, compacted: Revision) -> Option<Revision> {
    Some(revision - REVISIONS_KEPT).filter(|through| *through > compacted)
}

#[cfg(test)]
mod tests {
    use walser_metastore::{Memory, RangeRequest};

    use super::*;

    #[test]
    fn the_last_ten_thousand_revisions_are_kept() {
        assert_eq!(due(0, 0), None);
        assert_eq!(due(10_000, 0), None);
        assert_eq!(due(10_001, 0), Some(1));
        assert_eq!(due(25_000, 14_999), Some(15_000));
        assert_eq!(due(25_000, 15_000), None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_five_minutes_the_store_is_asked_to_forget() {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let at = |revision| RangeRequest { limit: 1, revision: Some(revision), ..RangeRequest::default() };
        store.raise_revision(25_000).await.unwrap();
        let early = INTERVAL - Duration::from_secs(1);
        tokio::time::timeout(early, run(Arc::clone(&store))).await.unwrap_err();
        store.range(at(1)).await.unwrap();
        tokio::time::timeout(2 * early, run(Arc::clone(&store))).await.unwrap_err();
        assert_eq!(store.range(at(14_999)).await, Err(StoreError::Compacted { kept_from: 15_000 }));
        store.range(at(15_000)).await.unwrap();
    }
}
