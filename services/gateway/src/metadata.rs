//! What the gateway knows of topics and leaders: a snapshot that is replaced as a whole.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::IntGauge;
use tokio::sync::watch;
use walser_rpc::{ApiError, ControllerClient, CutOffPatience, MetadataSeen, MetadataStream, Network, Outage, Reason};
use walser_service::Shutdown;

use crate::retry::Backoff;
use crate::topic_counters::TopicCounters;

/// Deltas that are applied together.
const DELTAS_MAX: usize = 256;

/// A topic, with its counters, which are found when it is first used.
pub(crate) type TopicView = walser_metadata::TopicEntry<OnceLock<TopicCounters>>;

/// Everything, as of one version.
pub(crate) type View = walser_metadata::View<OnceLock<TopicCounters>>;

/// The current view. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    view: Arc<ArcSwap<View>>,
    version: Arc<watch::Sender<i64>>,
    /// Nothing is followed any more: nobody waits for a change.
    ended: Arc<watch::Sender<bool>>,
    /// Why what the controller says is not obeyed: it is of another cluster, or older than what was seen.
    refused: Arc<ArcSwapOption<ApiError>>,
}

impl Default for Metadata {
    fn default() -> Self {
        let (version, ended) = (Arc::new(watch::Sender::new(0)), Arc::new(watch::Sender::new(false)));
        Self { view: Arc::default(), version, ended, refused: Arc::default() }
    }
}

// === impl Metadata ===

impl Metadata {
    /// The view as it is.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// A topic by name, as it is.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<TopicView>> {
        self.view.load().topic_named(name).cloned()
    }

    /// Why what the controller says is not obeyed at present. What is known goes on; what the controller knows beside it
    /// is not this cluster's.
    pub(crate) fn refused(&self) -> Option<ApiError> {
        self.refused.load_full().map(|failure| ApiError::clone(&failure))
    }

    /// An error while what the controller says is not obeyed: for calls that would ask it, or change something there.
    pub(crate) fn obeyed(&self) -> Result<(), ApiError> {
        self.refused().map_or(Ok(()), Err)
    }

    fn note_refusal(&self, failure: &ApiError) {
        if matches!(failure.reason(), Reason::ClusterIdMismatch | Reason::MetadataRollback) {
            self.refused.store(Some(Arc::new(failure.clone())));
        }
    }

    /// Changes of the version.
    pub(crate) fn changes(&self) -> watch::Receiver<i64> {
        self.version.subscribe()
    }

    /// Waits until the view is at least of `version`. False: it did not get there in time, or a stop has begun.
    pub(crate) async fn reached(&self, version: i64, limit: Duration) -> bool {
        let mut changes = self.version.subscribe();
        let reached = async { changes.wait_for(|current| *current >= version).await.is_ok() };
        self.within(limit, reached).await
    }

    /// False: it took longer than `limit`, or nothing is followed any more.
    async fn within(&self, limit: Duration, waiting: impl Future<Output = bool>) -> bool {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            waited = tokio::time::timeout(limit, waiting) => waited.unwrap_or(false),
            _ = ended.wait_for(|ended| *ended) => false,
        }
    }

    /// Waits until `found` holds for the view. False: it did not in time, or a stop has begun.
    pub(crate) async fn wait_until(&self, limit: Duration, found: impl Fn(&View) -> bool) -> bool {
        let mut changes = self.version.subscribe();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if found(&self.view.load()) {
                    return true;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        self.within(limit, waiting).await
    }

    /// Whether there is a first snapshot.
    pub(crate) fn known(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Waits for the first snapshot.
    pub(crate) async fn first_snapshot(&self) {
        let mut changes = self.version.subscribe();
        let _ = changes.wait_for(|version| *version > 0).await;
    }

    /// Follows the controller until the stop.
    pub(crate) async fn follow(
        self,
        controllers: Vec<ControllerClient>,
        network: Network,
        shown_version: IntGauge,
        shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::default();
        let mut outage = Outage::of("the metadata stream from the controller");
        let mut seen = MetadataSeen::default();
        // Any of them will do, and another one where one fails.
        let (mut turns, patience) = (controllers.iter().cycle(), CutOffPatience::of(controllers.len()));
        while !shutdown.begun() {
            let Some(controller) = turns.next() else { break };
            let version = seen.version;
            let outcome = tokio::select! {
                outcome = self.follow_once((controller, &patience), &network, &shown_version, (&mut seen, &mut outage)) => outcome,
                () = shutdown.wait() => break,
            };
            if let Err(failure) = outcome {
                self.note_refusal(&failure);
                outage.failed(&failure);
            }
            if seen.version > version {
                backoff = Backoff::default();
            }
            backoff.pause().await;
        }
        self.ended.send_replace(true);
    }

    async fn follow_once(
        &self,
        (controller, patience): (&ControllerClient, &CutOffPatience),
        network: &Network,
        shown_version: &IntGauge,
        (seen, outage): (&mut MetadataSeen, &mut Outage),
    ) -> Result<(), ApiError> {
        let mut stream = MetadataStream::open(controller, seen.clone(), patience).await?;
        loop {
            let deltas = stream.next_deltas(DELTAS_MAX).await?;
            outage.ended();
            let mut view = View::clone(&self.view.load());
            for delta in deltas {
                let changes = view.apply(delta).map_err(|error| ApiError::metadata_rollback(error.have, error.got))?;
                network.dial_changed(&view, &changes);
            }
            let version = view.version();
            seen.clone_from(stream.seen());
            self.view.store(Arc::new(view));
            self.refused.store(None);
            self.version.send_replace(version);
            shown_version.set(version);
        }
    }
}

#[cfg(test)]
impl Metadata {
    /// Takes a delta in, as if the controller had sent it.
    pub(crate) fn apply(&self, delta: walser_metadata::Delta) {
        let mut view = View::clone(&self.view.load());
        view.apply(delta).expect("nothing is older");
        let version = view.version();
        self.view.store(Arc::new(view));
        self.version.send_replace(version);
    }

    /// These topics, and no others, are known.
    pub(crate) fn replace_topics(&self, names: &[&str]) {
        let version = self.view.load().version() + 1;
        self.view.store(Arc::new(view_of(names, version)));
    }
}

/// A view of these topics, which have no partitions.
#[cfg(test)]
fn view_of(names: &[&str], version: i64) -> View {
    use walser_metadata::{Delta, MetadataChange, value::TopicValue};
    let topic = |(number, name): (u8, &&str)| {
        let value = TopicValue { name: (*name).to_owned(), ..TopicValue::default() };
        let id = walser_model::TopicId::from_bytes([number; 16]);
        MetadataChange::Topic { id, value: Arc::new(value), revision: 1 }
    };
    let mut view = View::default();
    let delta = Delta { version, snapshot: true, changes: (1..).zip(names).map(topic).collect() };
    view.apply(delta).expect("nothing is older");
    view
}

/// A topic without partitions.
#[cfg(test)]
pub(crate) fn topic_of_a_test(name: &str) -> TopicView {
    TopicView::clone(view_of(&[name], 1).topic_named(name).expect("it was just put there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_change_that_cannot_come_any_more() {
        let metadata = Metadata::default();
        let begun = tokio::time::Instant::now();
        let hour = Duration::from_secs(3600);
        let waiting = async { (metadata.reached(5, hour).await, metadata.wait_until(hour, |_| false).await) };
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            metadata.ended.send_replace(true);
        };
        assert_eq!(tokio::join!(waiting, ends).0, (false, false));
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        metadata.replace_topics(&["t"]);
        assert!(metadata.wait_until(hour, |view| view.topic_named("t").is_some()).await, "what is there is found");
    }
}
