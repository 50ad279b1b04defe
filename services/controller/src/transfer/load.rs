//! Writes an export into a store.

use walser_metastore::{
    Compare, Metastore, OPERATIONS_MAX, Op, Outcome, REQUEST_BYTES_MAX, Revision, StoreError, Txn, read_all,
    request_bytes,
};
use walser_model::{ClusterId, Random};

use super::TransferError;
use super::form::Export;
use crate::keys::lineage::{self, Lineage};
use crate::keys::transfer::{self, UnfinishedImport};
use crate::keys::{cluster, decode, delete, put};

/// How often a transaction is tried again whose outcome is not known.
const ATTEMPTS_MAX: usize = 5;

/// Whether a transaction was carried out.
pub(super) async fn write(store: &dyn Metastore, txn: &Txn) -> Result<bool, StoreError> {
    let mut last = StoreError::Unavailable("it was not asked".to_owned());
    for _ in 0..ATTEMPTS_MAX {
        match store.transact(txn.clone()).await {
            Ok(outcome) => return Ok(matches!(outcome, Outcome::Committed(_))),
            Err(error @ (StoreError::Unknown(_) | StoreError::TakesNoWrites(_) | StoreError::Unavailable(_))) => {
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Begins the import, or goes on with it; returns the revision at which it began.
pub(super) async fn begin(store: &dyn Metastore, export: &Export) -> Result<Revision, TransferError> {
    let fingerprint = export.fingerprint();
    let (found, _) = store.get(transfer::KEY).await?;
    if let Some(found) = found {
        let same = decode::<UnfinishedImport>(&found)?.fingerprint == fingerprint;
        return if same { Ok(found.create_revision) } else { Err(TransferError::OtherImport) };
    }
    let there = read_all(store, "").await?.entries;
    if let Some(first) = there.first() {
        let of_cluster = there.iter().find(|entry| entry.key == cluster::KEY);
        let id = of_cluster.and_then(|entry| decode::<cluster::ClusterRecord>(entry).ok()).map(|found| found.id);
        return Err(TransferError::NotEmpty(id.unwrap_or_else(|| format!("key {}", first.key))));
    }
    store.raise_revision(export.revision).await?;
    // A controller that is just starting writes its lineage first.
    let compares = [cluster::KEY, transfer::KEY, &lineage::key(0)].map(|key| Compare::Missing(key.to_owned())).to_vec();
    let marker = UnfinishedImport { fingerprint: fingerprint.clone() };
    write(store, &Txn { compares, ops: vec![put(transfer::KEY.to_owned(), &marker)] }).await?;
    // Also when the outcome was not known, or somebody else has begun one.
    let (found, _) = store.get(transfer::KEY).await?;
    let found = found.ok_or_else(|| TransferError::NotEmpty("a controller has just begun one".to_owned()))?;
    let same = decode::<UnfinishedImport>(&found)?.fingerprint == fingerprint;
    if same { Ok(found.create_revision) } else { Err(TransferError::OtherImport) }
}

/// The transactions that write all entries but the cluster's record.
pub(super) fn transactions<'a>(export: &'a Export, begun: &'a Compare) -> impl Iterator<Item = Txn> + 'a {
    let empty = || Txn { compares: vec![begun.clone()], ops: Vec::new() };
    let mut entries = export.entries.iter().filter(|(key, _)| key != cluster::KEY).peekable();
    std::iter::from_fn(move || {
        entries.peek()?;
        let (mut txn, mut bytes) = (empty(), 0);
        while let Some((key, value)) = entries.peek() {
            let op = Op::Put { key: key.clone(), value: value.clone().into(), lease: None };
            let more = request_bytes(&Txn { compares: Vec::new(), ops: vec![op.clone()] });
            let full = txn.ops.len() == OPERATIONS_MAX || bytes + more > REQUEST_BYTES_MAX / 2;
            if full && !txn.ops.is_empty() {
                break;
            }
            bytes += more;
            txn.ops.push(op);
            entries.next();
        }
        Some(txn)
    })
}

/// Writes an export into a store that is empty, or in which it was begun to be written.
pub(super) async fn load(store: &dyn Metastore, export: &Export, random: &dyn Random) -> Result<(), TransferError> {
    let record = export.entries.iter().find(|(key, _)| key == cluster::KEY).ok_or(TransferError::NoCluster)?;
    let begun = Compare::CreatedAt(transfer::KEY.to_owned(), begin(store, export).await?);
    for txn in transactions(export, &begun) {
        if !write(store, &txn).await? {
            return Err(TransferError::OtherImport);
        }
    }
    let last = export.entries.iter().filter_map(|(key, _)| lineage::parse(key)).max();
    let first = Some(export.revision + 1);
    let start = Lineage { id: ClusterId::from_random(random.bytes()).to_string(), first };
    let key = lineage::key(last.map_or(0, |number| number + 1));
    let (cluster, value) = record.clone();
    let ops = vec![
        put(key, &start),
        Op::Put { key: cluster, value: value.into(), lease: None },
        delete(transfer::KEY.to_owned()),
    ];
    let compares = vec![begun, Compare::Missing(cluster::KEY.to_owned())];
    if write(store, &Txn { compares, ops }).await? || is_done(store, record).await? {
        return Ok(());
    }
    Err(TransferError::OtherImport)
}

/// Whether the last transaction was carried out, although its outcome was not known.
async fn is_done(store: &dyn Metastore, (key, value): &(String, Vec<u8>)) -> Result<bool, StoreError> {
    let there = store.get(key).await?.0.is_some_and(|found| found.value == value[..]);
    Ok(there && store.get(transfer::KEY).await?.0.is_none())
}
