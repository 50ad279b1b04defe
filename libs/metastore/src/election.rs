//! Elections over any store: the candidate that creates the key leads until the key goes away.

use std::time::Duration;

use crate::{Compare, Leadership, LeaseId, Metastore, Op, Outcome, Revision, StoreError, Txn, WatchError, WatchEvent};

/// Pauses before the key is read again after the store did not answer: doubled each time, up to the longer one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// So many failures in a row are told: whoever campaigns says why nobody is elected, and campaigns again.
const FAILURES_MAX: u32 = 5;

pub(crate) async fn campaign<S: Metastore + ?Sized>(
    store: &S,
    name: &str,
    candidate: &str,
    lease: LeaseId,
) -> Result<Leadership, StoreError> {
    let key = format!("election/{name}");
    let (mut pause, mut failures) = (PAUSE_MIN, 0);
    loop {
        match attempt(store, &key, candidate, lease).await {
            Ok(Some(epoch)) => return Ok(Leadership { key, epoch }),
            Ok(None) => (pause, failures) = (PAUSE_MIN, 0),
            // The key shows what became of the attempt, so nothing is lost by reading it again.
            Err(
                StoreError::Unavailable(_)
                | StoreError::Unknown(_)
                | StoreError::TakesNoWrites(_)
                | StoreError::Compacted { .. },
            ) if failures < FAILURES_MAX => {
                failures += 1;
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks once; returns the epoch of the leadership, or `None` when the key has changed and must be read again.
async fn attempt<S: Metastore + ?Sized>(
    store: &S,
    key: &str,
    candidate: &str,
    lease: LeaseId,
) -> Result<Option<Revision>, StoreError> {
    let (holder, revision) = store.get(key).await?;
    match holder {
        // An earlier attempt won, and its answer was lost. With another lease the key belongs to something that ended.
        Some(holder) if holder.value == candidate && holder.lease == lease => Ok(Some(holder.create_revision)),
        Some(_) => wait_for_change(store, key, revision).await.map(|()| None),
        None => {
            let put = Op::Put { key: key.to_owned(), value: candidate.to_owned().into(), lease: Some(lease) };
            let txn = Txn { compares: vec![Compare::Missing(key.to_owned())], ops: vec![put] };
            match store.transact(txn).await? {
                Outcome::Committed(epoch) => Ok(Some(epoch)),
                Outcome::Conflict { .. } => Ok(None),
            }
        }
    }
}

async fn wait_for_change<S: Metastore + ?Sized>(store: &S, key: &str, after: Revision) -> Result<(), StoreError> {
    let mut watch = store.watch(key, after).await?;
    loop {
        match watch.next().await {
            // The key is also the prefix of longer ones.
            Ok(WatchEvent::Changes { changes, .. }) if changes.iter().any(|change| change.key() == key) => {
                return Ok(());
            }
            Ok(WatchEvent::Changes { .. } | WatchEvent::Progress { .. }) => {}
            Err(WatchError::Compacted { .. }) => return Ok(()),
            Err(WatchError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
        }
    }
}
