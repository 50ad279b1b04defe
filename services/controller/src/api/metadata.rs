//! `WatchMetadata`: a snapshot of the view, then its steps. Nothing of it costs an access of the store.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;
use walser_metastore::Revision;
use walser_proto::internal::v1::WatchMetadataResponse;
use walser_rpc::{change_messages, snapshot_messages};

use super::Controller;
use crate::cluster_view::ClusterView;

type Item = Result<WatchMetadataResponse, Status>;

/// Streams metadata from after `resume` on, or a snapshot first.
pub(super) fn watch(controller: Controller, resume: Revision) -> mpsc::Receiver<Item> {
    let (items, stream) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&controller, resume, &items) => {}
            () = controller.stopping.wait() => {}
        }
    });
    stream
}

/// Sends until the reader goes away.
async fn follow(controller: &Controller, resume: Revision, items: &mpsc::Sender<Item>) {
    let mut sent = resume;
    loop {
        let (view, mut updates) = controller.views.subscribe();
        // Whoever has this version already needs no snapshot.
        if sent != view.metadata.version() && !send_snapshot(controller, &view, items).await {
            return;
        }
        sent = view.metadata.version();
        loop {
            let update = tokio::select! {
                update = updates.recv() => update,
                () = items.closed() => return,
            };
            let update = match update {
                Ok(update) => update,
                // It is too slow for single steps.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            };
            let version = update.view.metadata.version();
            if version <= sent && !update.changes.snapshot {
                continue;
            }
            let messages = change_messages(&update.view.metadata, &update.changes);
            if !send(controller, messages, items).await {
                return;
            }
            sent = version;
        }
    }
}

async fn send_snapshot(controller: &Controller, view: &Arc<ClusterView>, items: &mpsc::Sender<Item>) -> bool {
    send(controller, snapshot_messages(&view.metadata), items).await
}

/// Sends messages that take effect together. False: the reader is gone.
async fn send(controller: &Controller, messages: Vec<WatchMetadataResponse>, items: &mpsc::Sender<Item>) -> bool {
    for mut message in messages {
        message.cluster_id.clone_from(&controller.history.cluster_id);
        message.lineage.clone_from(&controller.history.lineage);
        if items.send(Ok(message)).await.is_err() {
            return false;
        }
    }
    true
}
