//! Limits of a request: those of etcd with its default settings. Every store enforces them, so that what works on one
//! works on all.

use std::collections::HashSet;

use crate::{Compare, Op, RangeRequest, StoreError, Txn};

/// Compares of a transaction, and changes of a transaction, each counted by itself (etcd's `max-txn-ops`).
pub const OPERATIONS_MAX: usize = 128;
/// Bytes of a transaction as [`request_bytes`] estimates them (etcd's `max-request-bytes`).
pub const REQUEST_BYTES_MAX: usize = 1_572_864;

/// What a compare or a change takes beyond its keys and values in etcd's encoding: kinds, a revision or a lease of up
/// to 10 bytes, and the lengths of keys, values and messages, together at most 38 bytes, rounded up.
const OPERATION_OVERHEAD_BYTES: usize = 64;
/// What a transaction takes beyond its compares and changes: the header that etcd adds.
const REQUEST_OVERHEAD_BYTES: usize = 256;

/// Estimates how large a transaction is for etcd, rather too high than too low, in bytes: 256, and 64 for each compare
/// and each change, and their keys and values. The key of a compare counts twice: when the conditions do not hold, the
/// same request reads it.
pub fn request_bytes(txn: &Txn) -> usize {
    let compare = |compare: &Compare| OPERATION_OVERHEAD_BYTES + 2 * compare.key().len();
    let change = |op: &Op| match op {
        Op::Put { key, value, .. } => OPERATION_OVERHEAD_BYTES + key.len() + value.len(),
        Op::Delete { key } => OPERATION_OVERHEAD_BYTES + key.len(),
    };
    let compares: usize = txn.compares.iter().map(compare).sum();
    let changes: usize = txn.ops.iter().map(change).sum();
    REQUEST_OVERHEAD_BYTES + compares + changes
}

/// Refuses a transaction that is too large, or that changes a key twice.
pub(crate) fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    let counted = [
        ("compares", txn.compares.len(), OPERATIONS_MAX),
        ("changes", txn.ops.len(), OPERATIONS_MAX),
        ("bytes", request_bytes(txn), REQUEST_BYTES_MAX),
    ];
    match counted.into_iter().find(|(_, count, limit)| count > limit) {
        Some((what, count, limit)) => Err(StoreError::TooLarge { what, count, limit }),
        None => check_keys(&txn.ops),
    }
}

fn check_keys(ops: &[Op]) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    let twice = ops.iter().map(Op::key).find(|key| !seen.insert(*key));
    twice.map_or(Ok(()), |key| Err(StoreError::Invalid(format!("key {key} is changed twice; change it once"))))
}

/// Refuses a range that asks for nothing.
pub(crate) fn check_range(request: &RangeRequest) -> Result<(), StoreError> {
    match request.limit {
        0 => Err(StoreError::Invalid("limit 0 reads no entry; ask for at least 1".to_owned())),
        _ => Ok(()),
    }
}
