//! `WatchMetadata`: a snapshot of the view, then its steps. Nothing of it costs an access of the store.

use tokio::sync::mpsc;
use tonic::Status;
use walser_metastore::Revision;
use walser_proto::internal::v1::WatchMetadataResponse;
use walser_rpc::{change_messages, snapshot_messages};

use super::Controller;

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
    let (view, mut steps) = controller.views.subscribe();
    // Whoever has this version already needs no snapshot.
    if resume != view.metadata.version() && !send(controller, snapshot_messages(&view.metadata), items).await {
        return;
    }
    drop(view);
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            () = items.closed() => return,
        };
        let Some((view, changes)) = step else { return };
        if !send(controller, change_messages(&view.metadata, &changes), items).await {
            return;
        }
    }
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
