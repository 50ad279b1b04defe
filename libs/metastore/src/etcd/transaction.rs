//! Transactions, as etcd carries them out.
//!
//! Each asks beside what it does for the base of the revisions, as of the same revision, where etcd allows one operation
//! more.

use etcd_client::{Compare as EtcdCompare, CompareOp, GetOptions, PutOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse};

use super::keys::Keys;
use crate::{Compare, KeyValue, LeaseId, OPERATIONS_MAX, Op, StoreError, Txn};

/// No key was created or changed at this revision.
const NEVER: i64 = -1;

/// The operation that asks for the base of the revisions.
pub(super) fn base(keys: &Keys) -> TxnOp {
    TxnOp::get(keys.revision_base(), None)
}

/// A transaction for etcd, which answers with the compared keys where a condition does not hold.
pub(super) fn encode(keys: &Keys, txn: &Txn) -> EtcdTxn {
    let compares: Vec<_> = txn.compares.iter().map(|compare| condition(keys, compare)).collect();
    let mut changes: Vec<_> = txn.ops.iter().map(|op| change(keys, op)).collect();
    let compared = txn.compares.iter().map(|compare| TxnOp::get(keys.stored(compare.key()), None));
    let mut compared: Vec<_> = compared.collect();
    for operations in [&mut changes, &mut compared] {
        if operations.len() < OPERATIONS_MAX {
            operations.push(base(keys));
        }
    }
    EtcdTxn::new().when(compares).and_then(changes).or_else(compared)
}

fn condition(keys: &Keys, compare: &Compare) -> EtcdCompare {
    let revisions = keys.revisions();
    let key = keys.stored(compare.key());
    let raw = |revision| revisions.exactly(revision).unwrap_or(NEVER);
    match compare {
        Compare::Missing(_) => EtcdCompare::version(key, CompareOp::Equal, 0),
        Compare::CreatedAt(_, revision) => EtcdCompare::create_revision(key, CompareOp::Equal, raw(*revision)),
        Compare::ModifiedAt(_, revision) => EtcdCompare::mod_revision(key, CompareOp::Equal, raw(*revision)),
    }
}

fn change(keys: &Keys, op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            TxnOp::put(keys.stored(key), value.to_vec(), options)
        }
        Op::Delete { key } => TxnOp::delete(keys.stored(key), None),
    }
}

/// The first lease that a transaction binds keys to.
pub(super) fn first_lease(txn: &Txn) -> LeaseId {
    let lease = |op: &Op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    };
    txn.ops.iter().find_map(lease).unwrap_or_default()
}

/// The entries of one answer, and whether there are more.
pub(super) fn entries(keys: &Keys, answer: &TxnOpResponse) -> Result<(Vec<KeyValue>, bool), StoreError> {
    let TxnOpResponse::Get(found) = answer else { return Err(unexpected()) };
    let entries: Result<_, _> = found.kvs().iter().map(|kv| keys.entry(kv)).collect();
    Ok((entries?, found.more()))
}

/// etcd does not keep to its interface.
pub(super) fn unexpected() -> StoreError {
    StoreError::Format("etcd answers something else than was asked".to_owned())
}

/// Takes the base of the revisions from an answer.
pub(super) fn note_base(keys: &Keys, answer: &TxnOpResponse) -> Result<(), StoreError> {
    let TxnOpResponse::Get(found) = answer else { return Ok(()) };
    found.kvs().iter().try_for_each(|kv| keys.note(kv).map(drop))
}

/// Asks for keys from one on, as of a revision of etcd (0: the latest).
pub(super) fn range(from: Vec<u8>, end: Vec<u8>, limit: usize, revision: i64) -> TxnOp {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    TxnOp::get(from, Some(GetOptions::new().with_range(end).with_limit(limit).with_revision(revision)))
}
