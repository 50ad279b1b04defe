//! The controller's view of the store, kept up to date by the store's watch.
//!
//! One watch over all keys, in the order of their revisions: a view is of one revision, never newer for one family than
//! for another. Decisions are taken on it, and what they write compares everything they have read; callers are answered
//! from it once it includes what they wrote. Nothing else reads the store but producer ids, which are counters.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};
use walser_metadata::Changes;
use walser_metastore::{Metastore, Revision, WatchError, WatchEvent, read_all};
use walser_rpc::{Failure, Reason};

use crate::cluster_view::ClusterView;
use crate::error::store_failure;
use crate::keys::cluster;

/// Pause before the store is read again after it gave no answer.
const RETRY: Duration = Duration::from_millis(200);
/// How long a caller waits for the view to include a revision.
const PATIENCE: Duration = Duration::from_secs(10);
/// Updates that a subscriber may be behind before it starts from a snapshot again.
const UPDATES_MAX: usize = 1_024;

/// One step of the view.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) view: Arc<ClusterView>,
    pub(crate) changes: Arc<Changes>,
}

/// The view and its steps. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Views {
    store: Arc<dyn Metastore>,
    current: Arc<ArcSwap<ClusterView>>,
    version: Arc<watch::Sender<Revision>>,
    updates: broadcast::Sender<Update>,
}

impl Views {
    /// Reads the store for the first time.
    ///
    /// # Errors
    /// When the store does not answer, or holds what this version cannot read.
    pub(crate) async fn open(store: Arc<dyn Metastore>) -> Result<Self, Failure> {
        let (updates, _) = broadcast::channel(UPDATES_MAX);
        let views = Self { store, current: Arc::default(), version: Arc::new(watch::Sender::new(0)), updates };
        views.read().await?;
        Ok(views)
    }

    /// The view as it is.
    pub(crate) fn load(&self) -> Arc<ClusterView> {
        self.current.load_full()
    }

    /// The view as it is, and its steps from there on. A receiver that is too slow is told, and subscribes again.
    pub(crate) fn subscribe(&self) -> (Arc<ClusterView>, broadcast::Receiver<Update>) {
        // Steps between the two calls are in both: applying them again changes nothing.
        let updates = self.updates.subscribe();
        (self.load(), updates)
    }

    /// Waits until the view includes a revision.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when it does not within 10 seconds.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<Arc<ClusterView>, Failure> {
        let mut version = self.version.subscribe();
        let reached = version.wait_for(|current| *current >= revision);
        if matches!(tokio::time::timeout(PATIENCE, reached).await, Ok(Ok(_))) {
            return Ok(self.load());
        }
        let text = format!(
            "this controller has not seen revision {revision} of the metadata after {} s, it is at {}; try again later",
            PATIENCE.as_secs(),
            self.load().metadata.version()
        );
        Err(Failure::new(Reason::ControllerNotAvailable, text))
    }

    /// Waits until the view changes from `version` on, at most for `limit`.
    pub(crate) async fn changed(&self, version: Revision, limit: Duration) {
        let mut current = self.version.subscribe();
        let _ = tokio::time::timeout(limit, current.wait_for(|current| *current > version)).await;
    }

    /// The view once it includes everything that the store holds now.
    pub(crate) async fn catch_up(&self) -> Result<Arc<ClusterView>, Failure> {
        let (_, revision) = self.store.get(cluster::KEY).await.map_err(store_failure)?;
        self.reached(revision).await
    }

    /// Follows the store for as long as the process runs.
    pub(crate) async fn follow(self) {
        loop {
            let ended = self.follow_once().await;
            match &ended {
                Err(failure) => tracing::warn!(%failure, "the metadata store cannot be followed; retrying"),
                Ok(reason) => tracing::info!(%reason, "the metadata store is read anew"),
            }
            // What changed meanwhile is in the next reading.
            while let Err(failure) = self.read().await {
                tracing::warn!(%failure, "the metadata store cannot be read; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Applies changes until the watch ends; returns why.
    async fn follow_once(&self) -> Result<WatchError, Failure> {
        let mut view = ClusterView::clone(&self.load());
        let mut watch = self.store.watch("", view.metadata.version()).await.map_err(store_failure)?;
        loop {
            let (revision, changes) = match watch.next().await {
                Ok(WatchEvent::Changes { revision, changes }) => (revision, changes),
                Ok(WatchEvent::Progress { revision }) => (revision, Vec::new()),
                Err(error) => return Ok(error),
            };
            let changes = view.apply(&changes, revision)?;
            self.publish(view.clone(), changes);
        }
    }

    async fn read(&self) -> Result<(), Failure> {
        let all = read_all(&*self.store, "").await.map_err(store_failure)?;
        let mut view = ClusterView::clone(&self.load());
        let changes = view.replace(&all.entries, all.revision)?;
        self.publish(view, changes);
        Ok(())
    }

    fn publish(&self, view: ClusterView, changes: Changes) {
        let (version, view) = (view.metadata.version(), Arc::new(view));
        self.current.store(Arc::clone(&view));
        let _ = self.updates.send(Update { view, changes: Arc::new(changes) });
        self.version.send_replace(version);
    }
}
