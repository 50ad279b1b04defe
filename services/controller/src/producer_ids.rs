//! Blocks of producer ids: handed out once, never again.

use walser_metastore::Txn;
use walser_rpc::Failure;

use crate::keys::counter::{Counter, PRODUCER_IDS};
use crate::keys::put;
use crate::store::{ATTEMPTS_MAX, Store, contended};

/// Ids per block.
pub(crate) const BLOCK: i32 = 1000;

/// Takes the next block; gives back its first id.
pub(crate) async fn allocate(store: &Store) -> Result<i64, Failure> {
    for _ in 0..ATTEMPTS_MAX {
        let (first, unchanged) = store.counter(PRODUCER_IDS).await?;
        let next = Counter { value: first + i64::from(BLOCK) };
        let txn = Txn { compares: vec![unchanged], ops: vec![put(PRODUCER_IDS.to_owned(), &next)] };
        if store.commit(txn).await?.is_some() {
            return Ok(first);
        }
    }
    Err(contended())
}
