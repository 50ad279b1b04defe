//! What the coordinator knows of the cluster: the view of the metadata, followed at the controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use walser_group::CoordinatorEpoch;
use walser_metadata::View;
use walser_rpc::{
    ApiError, ControllerClient, CutOffPatience, GROUP_SHARDS, MetadataSeen, MetadataStream, Network, Outage, Reason,
};
use walser_service::Shutdown;

use crate::shard::GivenEpoch;
use crate::topics::KnownTopics;

/// Deltas that are applied together.
const DELTAS_MAX: usize = 256;
/// Pause before a controller is followed again, or another one.
const RETRY: Duration = Duration::from_millis(200);

/// The current view. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    view: Arc<RwLock<Arc<View>>>,
    version: watch::Sender<i64>,
    /// `None`: nothing is known yet.
    topics: watch::Sender<Option<KnownTopics>>,
    /// The id of this coordinator.
    own: Arc<str>,
    /// By shard: the epoch in which it is given to this coordinator.
    given: Arc<[watch::Sender<Option<CoordinatorEpoch>>]>,
    /// Why what the controllers say is not obeyed: it is of another cluster, or older than what was seen.
    refused: watch::Sender<Option<ApiError>>,
}

// === impl Metadata ===

impl Metadata {
    /// Nothing is known yet. `own`: the id of this coordinator.
    pub(crate) fn new(own: &str) -> Self {
        let (version, topics) = (watch::Sender::new(0), watch::Sender::new(None));
        let given = (0..GROUP_SHARDS).map(|_| watch::Sender::new(None)).collect();
        Self { view: Arc::default(), version, topics, own: own.into(), given, refused: watch::Sender::new(None) }
    }

    /// Why what the controllers say is not obeyed at present.
    pub(crate) fn refused(&self) -> watch::Receiver<Option<ApiError>> {
        self.refused.subscribe()
    }

    /// In which epochs the shards are given to this coordinator, by their numbers.
    pub(crate) fn given(&self) -> impl Iterator<Item = GivenEpoch> {
        self.given.iter().map(watch::Sender::subscribe)
    }

    /// The view as it is.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// The topics of the cluster, once they are known, and how they change.
    pub(crate) fn topics(&self) -> watch::Receiver<Option<KnownTopics>> {
        self.topics.subscribe()
    }

    /// Waits until `found` holds for the view, which is known.
    pub(crate) async fn wait_until(&self, found: impl Fn(&View) -> bool) {
        let mut changes = self.version.subscribe();
        // No view is kept while it waits.
        let there = || Some(self.view()).is_some_and(|view| view.version() > 0 && found(&view));
        while !there() {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Follows the controllers, one at a time, until the stop.
    pub(crate) async fn follow(self, controllers: Vec<ControllerClient>, network: Network, shutdown: Shutdown) {
        let mut outage = Outage::of("the metadata stream of the group coordinator");
        let mut seen = MetadataSeen::default();
        let (mut turns, patience) = (controllers.iter().cycle(), CutOffPatience::of(controllers.len()));
        while !shutdown.begun() {
            let Some(controller) = turns.next() else { break };
            let following = self.follow_once((controller, &patience), &network, &mut seen, &mut outage);
            tokio::select! {
                outcome = following => if let Err(failure) = outcome {
                    if matches!(failure.reason(), Reason::ClusterIdMismatch | Reason::MetadataRollback) {
                        self.refused.send_replace(Some(failure.clone()));
                    }
                    outage.failed(&failure);
                },
                () = shutdown.wait() => break,
            }
            let _ = tokio::time::timeout(RETRY, shutdown.wait()).await;
        }
    }

    async fn follow_once(
        &self,
        (controller, patience): (&ControllerClient, &CutOffPatience),
        network: &Network,
        seen: &mut MetadataSeen,
        outage: &mut Outage,
    ) -> Result<(), ApiError> {
        let mut stream = MetadataStream::open(controller, seen.clone(), patience).await?;
        loop {
            let deltas = stream.next_deltas(DELTAS_MAX).await?;
            outage.ended();
            let mut view = View::clone(&self.view());
            let mut topics_changed = view.version() == 0;
            for delta in deltas {
                let changes = view.apply(delta).map_err(|error| ApiError::metadata_rollback(error.have, error.got))?;
                network.dial_changed(&view, &changes);
                topics_changed |= !changes.topics.is_empty();
            }
            seen.clone_from(stream.seen());
            self.refused.send_if_modified(|refused| refused.take().is_some());
            self.publish(view, topics_changed);
        }
    }

    fn publish(&self, view: View, topics_changed: bool) {
        let version = view.version();
        let topics = topics_changed.then(|| {
            let named = |topic: &Arc<walser_metadata::TopicEntry>| {
                Some((topic.name.parse().ok()?, (topic.id, topic.value.partition_count)))
            };
            Arc::new(view.topics().filter_map(named).collect::<BTreeMap<_, _>>())
        });
        let given = (0..).zip(&*self.given).map(|(shard, given)| {
            let own = view.group_shard(shard).filter(|entry| entry.value.coordinator == *self.own);
            (given, own.map(|entry| CoordinatorEpoch(entry.value.epoch)))
        });
        let given: Vec<_> = given.collect();
        *self.view.write() = Arc::new(view);
        for (given, epoch) in given {
            given.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
        }
        if let Some(topics) = topics {
            self.topics.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&topics);
                *known = Some(topics);
                changed
            });
        }
        self.version.send_replace(version);
    }
}
