//! The controller's view of the store, kept up to date by the store's watch.
//!
//! One watch over all keys, in the order of their revisions: a view is of one revision, never newer for one family than
//! for another. Decisions are taken on it, and what they write compares everything they have read; callers are answered
//! from it once it includes what they wrote. Nothing else reads the store but producer ids, which are counters.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use walser_metadata::Changes;
use walser_metastore::{Metastore, Revision, WatchError, WatchEvent, read_all};
use walser_rpc::{ApiError, Outage, Reason};
use walser_service::Shutdown;

use crate::cluster_view::ClusterView;
use crate::error::store_failure;
use crate::keys::cluster;
use crate::leadership::ControllerLead;

/// Pause before the store is read again after it gave no answer.
const RETRY: Duration = Duration::from_millis(200);
/// The store changes its leader faster than this.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);
/// How long a caller waits for the view to include a revision.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps that a subscriber may be behind before it looks at everything again. A step names what it has touched, and
/// keeps no view alive.
const STEPS_MAX: usize = 1_024;

/// One step of the view.
#[derive(Debug, Clone)]
struct Step {
    version: Revision,
    changes: Arc<Changes>,
}

/// Follows the view from where it was subscribed.
#[derive(Debug)]
pub(crate) struct Subscription {
    views: Views,
    steps: broadcast::Receiver<Step>,
    /// The view that was returned last includes everything up to here.
    at: Revision,
    /// What was touched since, by the steps up to `seen`.
    touched: Changes,
    seen: Revision,
}

/// The view and its steps. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Views {
    store: Arc<dyn Metastore>,
    lead: ControllerLead,
    current: Arc<ArcSwap<ClusterView>>,
    version: Arc<watch::Sender<Revision>>,
    steps: broadcast::Sender<Step>,
}

impl Views {
    /// Reads the store for the first time.
    ///
    /// # Errors
    /// When the store does not answer, or holds what this version cannot read.
    pub(crate) async fn open(store: Arc<dyn Metastore>, lead: ControllerLead) -> Result<Self, ApiError> {
        let (steps, _) = broadcast::channel(STEPS_MAX);
        let views = Self { store, lead, current: Arc::default(), version: Arc::new(watch::Sender::new(0)), steps };
        views.read().await?;
        Ok(views)
    }

    /// The view as it is.
    pub(crate) fn load(&self) -> Arc<ClusterView> {
        self.current.load_full()
    }

    /// Whether the store could not be followed for so long that others may know more.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.lead.is_blind_for(CUT_OFF_AFTER)
    }

    /// The view as it is, and what follows it.
    pub(crate) fn subscribe(&self) -> (Arc<ClusterView>, Subscription) {
        let steps = self.steps.subscribe();
        let view = self.load();
        let at = view.metadata.version();
        (view, Subscription { views: self.clone(), steps, at, touched: Changes::default(), seen: at })
    }

    /// Waits until the view includes a revision.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when it does not within 10 seconds.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<Arc<ClusterView>, ApiError> {
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
        Err(ApiError::new(Reason::ControllerNotAvailable, text))
    }

    /// Waits until the view changes from `version` on, at most for `limit`.
    pub(crate) async fn changed(&self, version: Revision, limit: Duration) {
        let mut current = self.version.subscribe();
        let _ = tokio::time::timeout(limit, current.wait_for(|current| *current > version)).await;
    }

    /// The view once it includes everything that the store holds now.
    pub(crate) async fn catch_up(&self) -> Result<Arc<ClusterView>, ApiError> {
        let (_, revision) = self.store.get(cluster::KEY).await.map_err(store_failure)?;
        self.reached(revision).await
    }

    /// Follows the store for as long as the process runs. An older copy that was put in its place ends the process: its next
    /// start begins another history, which nodes can tell from the one that they have seen.
    pub(crate) async fn follow(self, shutdown: Shutdown) {
        let mut outage = Outage::of("following the metadata store");
        loop {
            let ended = self.follow_once(&mut outage).await;
            self.lead.note_following(false);
            match &ended {
                Err(failure) => {
                    outage.failed(failure);
                    tokio::time::sleep(RETRY).await;
                }
                Ok(reason) => tracing::info!(%reason, "the metadata store is read anew"),
            }
            // What changed meanwhile is in the next reading.
            while let Err(failure) = self.read().await {
                if failure.reason() == Reason::MetadataRollback {
                    tracing::error!(%failure, "an older copy of the metadata is in the store: this process ends");
                    return shutdown.begin_failed(format!("an older copy of the metadata is in the store: {failure}"));
                }
                outage.failed(&failure);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Applies changes until the watch ends; returns why.
    async fn follow_once(&self, outage: &mut Outage) -> Result<WatchError, ApiError> {
        let mut view = ClusterView::clone(&self.load());
        let mut watch = self.store.watch("", view.metadata.version()).await.map_err(store_failure)?;
        self.lead.note_following(true);
        outage.ended();
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

    async fn read(&self) -> Result<(), ApiError> {
        let all = read_all(&*self.store, "").await.map_err(store_failure)?;
        let mut view = ClusterView::clone(&self.load());
        let changes = view.replace(&all.entries, all.revision)?;
        self.publish(view, changes);
        Ok(())
    }

    fn publish(&self, view: ClusterView, changes: Changes) {
        let (version, view) = (view.metadata.version(), Arc::new(view));
        // Before its step: a subscriber that sees the step finds the view.
        self.current.store(view);
        let _ = self.steps.send(Step { version, changes: Arc::new(changes) });
        self.version.send_replace(version);
        self.lead.note_seen(version);
    }
}

// === impl Subscription ===

impl Subscription {
    /// The version of the view that was returned last.
    pub(crate) fn at(&self) -> Revision {
        self.at
    }

    /// The view once it has changed, and everything that was touched since the last call. A subscriber that is too slow
    /// for single steps is told that everything was ([`Changes::snapshot`]). Dropping the future loses nothing. `None`:
    /// nothing will change any more.
    pub(crate) async fn next(&mut self) -> Option<(Arc<ClusterView>, Changes)> {
        loop {
            match self.steps.recv().await {
                // It was in the view that is known already.
                Ok(step) if step.version <= self.at && !step.changes.snapshot => continue,
                Ok(step) => {
                    self.touched.merge(Changes::clone(&step.changes));
                    self.seen = self.seen.max(step.version);
                }
                Err(RecvError::Lagged(_)) => self.touched.snapshot = true,
                Err(RecvError::Closed) => return None,
            }
            let view = self.views.load();
            // The step of this view may not have been sent yet; it will be at once.
            if view.metadata.version() <= self.seen || self.touched.snapshot {
                self.at = view.metadata.version();
                return Some((view, std::mem::take(&mut self.touched)));
            }
        }
    }
}
