//! Producer ids: handed out once in blocks, never again; and the epochs of those that clients raise.

use walser_metastore::{Compare, Txn};
use walser_model::ProducerId;
use walser_rpc::{ApiError, Reason};

use crate::committer::maybe;
use crate::keys::counter::{Counter, INTERNAL_PRODUCER_IDS, PRODUCER_IDS};
use crate::keys::producer::{self, Epochs};
use crate::keys::put;
use crate::store::{Attempt, Store};
use crate::topics::{ATTEMPTS_MAX, contended};

/// Ids per block.
pub(crate) const BLOCK: i32 = 1000;

/// Takes the next block; gives back its first id. `internal`: for what gateways write themselves.
pub(crate) async fn allocate(store: &Store, internal: bool) -> Result<i64, ApiError> {
    let (key, offset) =
        if internal { (INTERNAL_PRODUCER_IDS, ProducerId::INTERNAL_FIRST.0) } else { (PRODUCER_IDS, 0) };
    let _turn = store.producer_id_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let (first, unchanged) = store.counter(key).await?;
        let next = Counter { value: first + i64::from(BLOCK) };
        let txn = Txn { compares: vec![unchanged], ops: vec![put(key.to_owned(), &next)] };
        if store.commit(txn).await?.is_some() {
            return Ok(offset + first);
        }
    }
    Err(contended())
}

/// The id that is handed out next: at and above it none was ever issued.
pub(crate) async fn end(store: &Store) -> Result<i64, ApiError> {
    Ok(store.counter(PRODUCER_IDS).await?.0)
}

/// Begins the next epoch of a producer that has `epoch`. Of two callers with the same epoch one is refused.
pub(crate) async fn raise_epoch(store: &Store, id: i64, epoch: i32) -> Result<i32, ApiError> {
    let bad = |problem: &str| Err(ApiError::field("previous", problem));
    if !(0..end(store).await?).contains(&id) {
        return bad("names a producer id that was never issued; take one from InitProducer");
    }
    let Some((epoch, next)) = i16::try_from(epoch).ok().and_then(|epoch| Some((epoch, epoch.checked_add(1)?))) else {
        return bad("has an epoch that has no next one");
    };
    if epoch < 0 {
        return bad("has a negative epoch");
    }
    let _turn = store.producer_id_turns.next().await?;
    let mut unsure = false;
    let raised = try_raise_epoch(store, id, (epoch, next), &mut unsure).await;
    raised.map_err(|failure| if unsure { maybe(&failure) } else { failure })
}

/// `unsure`: whether something may have been written, also when this fails.
async fn try_raise_epoch(
    store: &Store,
    id: i64,
    (epoch, next): (i16, i16),
    unsure: &mut bool,
) -> Result<i32, ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        let key = producer::key(id);
        let found = store.get::<Epochs>(&key).await?;
        let (mut epochs, unchanged) = match found {
            Some(found) => (found.value.clone(), found.unchanged()),
            None => (Epochs::default(), Compare::Missing(key.clone())),
        };
        match epochs.latest(id) {
            // This call wrote it, or another session did meanwhile: nobody knows whose epoch it is.
            Some(latest) if latest == next && *unsure => {
                return Err(ApiError::internal("the outcome of a write is not known"));
            }
            Some(latest) if latest > epoch => {
                let text = format!("producer {id} has epoch {latest} by now: another session replaced epoch {epoch}");
                let failure = ApiError::new(Reason::ProducerFenced, text).with("producerId", id);
                return Err(failure.with("epoch", epoch).with("currentEpoch", latest));
            }
            Some(latest) if latest < epoch => {
                return Err(ApiError::field("previous", "has an epoch that was never issued"));
            }
            _ => {}
        }
        epochs.remember(id, next);
        match store.attempt(Txn { compares: vec![unchanged], ops: vec![put(key, &epochs)] }).await? {
            Attempt::Committed(_) => return Ok(i32::from(next)),
            Attempt::Conflict => {}
            Attempt::Unknown => *unsure = true,
        }
    }
    Err(contended())
}
