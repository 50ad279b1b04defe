//! Metadata from one store into another: from the embedded one of a laptop into etcd, say, or back.
//!
//! [`export`] closes a store and writes it into a file, [`import`] reads that into an empty store. What values say about revisions of the
//! old store by being written at them is written out, and revisions of the new one begin above the exported one: for nodes and
//! gateways it is the same metadata, later. The import also begins a lineage right after the export. Whoever has seen
//! the old store go on since then refuses the new one, and whoever has seen the new one refuses the old one.
//!
//! An import is many transactions. The key [`transfer::KEY`] is there from the first to the last of them: no controller
//! starts meanwhile, and the same import can be run again when it was interrupted. The cluster's record comes last.

mod form;
mod load;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use walser_metadata::value::{TopicValue, encode};
use walser_metastore::{Compare, KeyValue, Metastore, Op, Revision, StoreError, Txn, read_all};
use walser_model::Random;
use walser_rpc::ApiError;
use walser_service::{MainError, Settings, Shutdown};

use self::form::{Export, FormError};
use crate::keys::cluster::{self, ClusterRecord};
use crate::keys::lineage::{self, Lineage};
use crate::keys::topic;
use crate::keys::transfer::Moved;
use crate::keys::{STORE_PROBE, decode, delete, put, transfer};
use crate::{leadership, metadata_store};

/// How long a store may take to answer for the first time.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// What was exported or imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferredMetadata {
    pub cluster_id: String,
    /// The cluster's name; empty: none.
    pub cluster_name: String,
    /// The revision of the export.
    pub revision: Revision,
    /// How many keys it has.
    pub entries: usize,
    /// How many of them are partitions.
    pub partitions: usize,
}

/// Why metadata was not exported or imported. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the metadata store does not answer within 10 s; is it there, and is that its address?")]
    NoAnswer,
    /// The store cannot be opened: a setting makes no sense, or another process has it.
    #[error("{0}")]
    Open(MainError),
    #[error("there is no cluster in this metadata store; is it the right one?")]
    NoCluster,
    #[error("the metadata of this store was not exported: it can be used as it is")]
    NotExported,
    #[error(
        "a controller leads the cluster in this metadata store; stop all of its controllers first, storage nodes go on"
    )]
    InUse,
    #[error(
        "the metadata store has a cluster already ({0}); import into an empty one, or under another prefix of etcd"
    )]
    NotEmpty(String),
    #[error(
        "the import of another file into this metadata store has not ended; end that one, or remove all of its keys"
    )]
    OtherImport,
    /// Of the file.
    #[error("{0}")]
    Form(#[from] FormError),
    /// Not readable by this version, or an error of the file system.
    #[error("{0}")]
    Failed(String),
}

impl From<ApiError> for TransferError {
    fn from(error: ApiError) -> Self {
        Self::Failed(error.message().to_owned())
    }
}

/// Ends the use of a store, and writes its metadata into a file: lines of JSON, see `docs/formats/metadata.md`.
/// `settings`: those of a controller that has this store.
///
/// # Errors
/// [`TransferError`]; the file is not whole then, and no import reads it. The store may be closed all the same: an export can
/// be repeated, and [`reopen`] opens it again.
pub async fn export(settings: &Settings, file: &mut impl Write) -> Result<TransferredMetadata, TransferError> {
    let store = open_existing(settings).await?;
    close(&*store).await?;
    let export = read(&*store).await?;
    export.write(file).map_err(|error| TransferError::Failed(error.to_string()))?;
    Ok(export.summary())
}

/// Reads an exported file into a store that is empty, or in which an import of the same file has not ended.
///
/// # Errors
/// [`TransferError`]; it is all there or no controller starts with it, and it can be run again.
pub async fn import(
    settings: &Settings,
    file: impl BufRead,
    random: &dyn Random,
) -> Result<TransferredMetadata, TransferError> {
    // Before anything is written it is known to be whole.
    let export = Export::read(file)?;
    let store = open(settings).await?;
    load::load(&*store, &export, random).await?;
    Ok(export.summary())
}

/// Uses a store again whose metadata was exported: for when nothing was started on the import.
///
/// # Errors
/// [`TransferError`], also when nothing was exported.
pub async fn reopen(settings: &Settings) -> Result<(), TransferError> {
    open_again(&*open_existing(settings).await?).await
}

async fn open_again(store: &dyn Metastore) -> Result<(), TransferError> {
    let (Some(moved), _) = store.get(transfer::MOVED).await? else { return Err(TransferError::NotExported) };
    let compares = vec![Compare::CreatedAt(transfer::MOVED.to_owned(), moved.create_revision)];
    let ops = [transfer::MOVED, leadership::KEY].map(|key| delete(key.to_owned())).to_vec();
    load::write(store, &Txn { compares, ops }).await?;
    Ok(())
}

/// Ends the use of a store in one step: nobody leads, and nobody can win the lead any more.
async fn close(store: &dyn Metastore) -> Result<(), TransferError> {
    if store.get(cluster::KEY).await?.0.is_none() {
        return Err(TransferError::NoCluster);
    }
    if store.get(transfer::MOVED).await?.0.is_some() {
        return Ok(());
    }
    let keys = [leadership::KEY, transfer::KEY, transfer::MOVED];
    let compares = keys.map(|key| Compare::Missing(key.to_owned())).to_vec();
    let held = Op::Put { key: leadership::KEY.to_owned(), value: transfer::MOVED.into(), lease: None };
    let ops = vec![put(transfer::MOVED.to_owned(), &Moved {}), held];
    load::write(store, &Txn { compares, ops }).await?;
    match store.get(transfer::MOVED).await?.0 {
        Some(_) => Ok(()),
        None if store.get(transfer::KEY).await?.0.is_some() => Err(TransferError::OtherImport),
        None => Err(TransferError::InUse),
    }
}

/// Opens a store that is there: opening another one would make it.
async fn open_existing(settings: &Settings) -> Result<Arc<dyn Metastore>, TransferError> {
    if metadata_store::file(settings).is_some_and(|file| !file.exists()) {
        return Err(TransferError::NoCluster);
    }
    open(settings).await
}

async fn open(settings: &Settings) -> Result<Arc<dyn Metastore>, TransferError> {
    let shutdown = Shutdown::new(Duration::ZERO);
    let opened = tokio::time::timeout(OPEN_MAX, metadata_store::open(settings, &shutdown));
    opened.await.map_err(|_| TransferError::NoAnswer)?.map_err(TransferError::Open)
}

/// Everything in a store as of one revision.
async fn read(store: &dyn Metastore) -> Result<Export, TransferError> {
    let snapshot = read_all(store, "").await?;
    let found = |key: &str| snapshot.entries.iter().find(|entry| entry.key == key);
    if found(transfer::KEY).is_some() {
        return Err(TransferError::OtherImport);
    }
    let cluster: ClusterRecord = decode(found(cluster::KEY).ok_or(TransferError::NoCluster)?)?;
    let left_out = [STORE_PROBE, leadership::KEY, transfer::MOVED];
    let kept = snapshot.entries.iter().filter(|entry| entry.lease == 0 && !left_out.contains(&entry.key.as_str()));
    let entries = kept.map(|entry| Ok((entry.key.clone(), written_out(entry)?))).collect::<Result<_, ApiError>>()?;
    Ok(Export { cluster_id: cluster.id, cluster_name: cluster.name, revision: snapshot.revision, entries })
}

/// A value that says by itself what it says by the revision at which it was written.
fn written_out(entry: &KeyValue) -> Result<Vec<u8>, ApiError> {
    if lineage::parse(&entry.key).is_some() {
        let found: Lineage = decode(entry)?;
        let first = Some(found.first(entry.create_revision));
        return Ok(encode(&Lineage { first, ..found }));
    }
    if topic::parse(&entry.key).is_some() {
        let mut found: TopicValue = decode(entry)?;
        if found.durability_revision == 0 {
            found.durability_revision = entry.mod_revision;
        }
        return Ok(encode(&found));
    }
    Ok(entry.value.to_vec())
}

#[cfg(test)]
mod tests;
