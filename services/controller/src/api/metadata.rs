//! `WatchMetadata`: a snapshot of the view, then its steps. Nothing of it costs an access of the store, and every
//! controller serves it.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;
use walser_metastore::Revision;
use walser_proto::internal::v1::WatchMetadataResponse;
use walser_rpc::{FeatureLevels, change_messages, progress_message, snapshot_messages};

use super::Controller;
use crate::cluster_view::ClusterView;

/// A stream that has nothing to say says so after this long: whoever hears nothing for longer asks another controller.
const PROGRESS: Duration = Duration::from_millis(200);
/// Time between two looks at the level of the cluster, which hardly ever changes.
const LEVEL_LOOK: Duration = Duration::from_secs(1);
/// What a reader is called.
pub(super) const FOLLOWER: &str = "the process that follows the metadata";

type Item = Result<WatchMetadataResponse, Status>;

/// Streams metadata from after `resume` on, or a snapshot first.
pub(super) fn watch(controller: Controller, resume: Revision, levels: FeatureLevels) -> mpsc::Receiver<Item> {
    let (items, stream) = mpsc::channel(64);
    let follower = controller.followers.add(levels);
    tokio::spawn(async move {
        let _follower = follower;
        tokio::select! {
            () = too_old(&controller, levels, &items) => {}
            () = follow(&controller, resume, &items) => {}
            () = controller.stopping.wait() => {}
        }
    });
    stream
}

/// Waits until the cluster works at a level at which the reader cannot, and tells it.
async fn too_old(controller: &Controller, levels: FeatureLevels, items: &mpsc::Sender<Item>) {
    let mut looks = tokio::time::interval(LEVEL_LOOK);
    loop {
        looks.tick().await;
        if let Err(failure) = controller.check_level(levels, FOLLOWER) {
            let _ = items.send(Err(failure.into())).await;
            return;
        }
    }
}

/// Sends until the reader goes away.
async fn follow(controller: &Controller, resume: Revision, items: &mpsc::Sender<Item>) {
    let (view, mut steps) = controller.views.subscribe();
    // Whoever has this version already needs no snapshot.
    if resume != view.metadata.version() && !send(controller, &view, snapshot_messages(&view.metadata), items).await {
        return;
    }
    drop(view);
    loop {
        let step = tokio::select! {
            step = tokio::time::timeout(PROGRESS, steps.next()) => step,
            () = items.closed() => return,
        };
        let (messages, view) = match step {
            Ok(Some((view, changes))) => (change_messages(&view.metadata, &changes), view),
            Ok(None) => return,
            Err(_elapsed) => (vec![progress_message(steps.at())], controller.views.load()),
        };
        if !send(controller, &view, messages, items).await {
            return;
        }
    }
}

/// Sends messages that take effect together. False: the reader is gone.
async fn send(
    controller: &Controller,
    view: &ClusterView,
    messages: Vec<WatchMetadataResponse>,
    items: &mpsc::Sender<Item>,
) -> bool {
    for mut message in messages {
        message.cluster_id.clone_from(&controller.history.cluster_id);
        view.lineages.latest().clone_into(&mut message.lineage);
        message.cut_off = controller.views.is_cut_off();
        if items.send(Ok(message)).await.is_err() {
            return false;
        }
    }
    true
}
