//! `WatchMetadata`: a snapshot of the store, then its changes.

use tokio::sync::mpsc;
use tonic::Status;
use walser_metastore::{Change, KeyValue, Revision, StoreError, WatchError, WatchEvent, read_all};
use walser_proto::internal::v1 as pbi;
use walser_rpc::Failure;

use super::Controller;
use crate::error::store_failure;
use crate::keys::node::Registration;
use crate::keys::partition::{self, Partition};
use crate::keys::{decode, node, topic};
use crate::nodes::Known;
use crate::store::versioned;
use crate::topics;

/// Entries and bytes of the store in one message of a snapshot; one larger entry still fits a message.
const CHUNK_ENTRIES: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;

type Item = Result<pbi::WatchMetadataResponse, Status>;

/// Streams metadata from after `resume` on, or a snapshot first.
pub(super) fn watch(controller: Controller, resume: Revision) -> mpsc::Receiver<Item> {
    let (items, stream) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = send_all(&controller, resume, &items) => {}
            () = controller.stopping.wait() => {}
        }
    });
    stream
}

/// Sends until the reader goes away, or the store fails.
async fn send_all(controller: &Controller, resume: Revision, items: &mpsc::Sender<Item>) {
    let mut version = resume;
    loop {
        if let Err(error) = follow(controller, &mut version, items).await {
            let _ = items.send(Err(error.into())).await;
            return;
        }
        if items.is_closed() {
            return;
        }
        // The history does not reach back that far: start over.
        version = 0;
    }
}

/// Streams until the reader goes away, or until the history was compacted.
async fn follow(controller: &Controller, version: &mut Revision, items: &mpsc::Sender<Item>) -> Result<(), Failure> {
    if *version == 0 {
        *version = snapshot(controller, items).await?;
    }
    let mut watch = controller.store.inner().watch("", *version).await.map_err(store_failure)?;
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = items.closed() => return Ok(()),
        };
        let (revision, mut message) = match event {
            Ok(WatchEvent::Changes { revision, changes }) => (revision, delta(controller, &changes)?),
            Ok(WatchEvent::Progress { revision }) => (revision, empty(controller)),
            Err(WatchError::Compacted { .. }) => return Ok(()),
            Err(WatchError::Unavailable(why)) => return Err(store_failure(StoreError::Unavailable(why))),
        };
        (message.version, message.commit) = (revision, true);
        *version = revision;
        if items.send(Ok(message)).await.is_err() {
            return Ok(());
        }
    }
}

async fn snapshot(controller: &Controller, items: &mpsc::Sender<Item>) -> Result<Revision, Failure> {
    let all = read_all(&**controller.store.inner(), "").await.map_err(store_failure)?;
    let revision = all.revision;
    let mut first = true;
    let mut left = &all.entries[..];
    while !left.is_empty() {
        let (chunk, rest) = left.split_at(fitting(left));
        left = rest;
        let changes: Vec<_> = chunk.iter().cloned().map(Change::Put).collect();
        let mut message = delta(controller, &changes)?;
        (message.version, message.reset) = (revision, first);
        first = false;
        if items.send(Ok(message)).await.is_err() {
            return Ok(revision);
        }
    }
    let end = pbi::WatchMetadataResponse { version: revision, reset: first, commit: true, ..empty(controller) };
    let _ = items.send(Ok(end)).await;
    Ok(revision)
}

/// How many of the entries go into one message, at least one.
fn fitting(entries: &[KeyValue]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&KeyValue| {
        bytes += entry.key.len() + entry.value.len();
        bytes <= CHUNK_BYTES
    };
    entries.iter().take(CHUNK_ENTRIES).take_while(fits).count().max(1)
}

/// A message that says whose metadata it is of, and nothing else.
fn empty(controller: &Controller) -> pbi::WatchMetadataResponse {
    let (cluster_id, lineage) = (controller.cluster.to_string(), controller.lineage.clone());
    pbi::WatchMetadataResponse { cluster_id, lineage, ..Default::default() }
}

fn delta(controller: &Controller, changes: &[Change]) -> Result<pbi::WatchMetadataResponse, Failure> {
    let mut message = empty(controller);
    for change in changes {
        match change {
            Change::Put(entry) => put(controller, entry, &mut message)?,
            Change::Delete { key } => {
                if let Some(id) = topic::parse(key) {
                    message.removed_topic_ids.push(id.to_bytes().to_vec().into());
                } else if let Some(id) = topic::parse_deleting(key) {
                    message.removed_tombstone_ids.push(id.to_bytes().to_vec().into());
                }
            }
        }
    }
    Ok(message)
}

fn put(controller: &Controller, entry: &KeyValue, message: &mut pbi::WatchMetadataResponse) -> Result<(), Failure> {
    if let Some(id) = topic::parse(&entry.key) {
        message.topics.push(topics::wire_topic(id, &versioned(entry)?));
    } else if let Some((id, number)) = partition::parse(&entry.key) {
        let value: Partition = decode(entry)?;
        message.partitions.push(topics::wire_partition(id, number, &value, entry.mod_revision));
    } else if let Some(id) = topic::parse_deleting(&entry.key) {
        let topic_id = id.to_bytes().to_vec().into();
        let node_ids = decode::<topic::Deleting>(entry)?.nodes;
        message.tombstones.push(pbi::TopicTombstone { topic_id, version: entry.mod_revision, node_ids });
    } else if let Some((id, true)) = node::parse(&entry.key) {
        let registration: Registration = decode(entry)?;
        let known = Known { id, registration, node_epoch: entry.mod_revision, fenced: false };
        let (node, node_epoch) = (controller.wire_node(&known), entry.mod_revision);
        let internal_address = known.registration.internal_address;
        message.nodes.push(pbi::NodeMetadata { node: Some(node), node_epoch, internal_address, ..Default::default() });
    }
    Ok(())
}
