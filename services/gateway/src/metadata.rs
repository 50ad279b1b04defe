//! What the gateway knows of topics and leaders: a snapshot that is replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use walser_model::{LeaderEpoch, NodeId, TopicConfig, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_rpc::{Connection, Failure, MetadataStream, Network};
use walser_service::Shutdown;

use crate::retry::Backoff;

/// A topic.
#[derive(Debug, Clone)]
pub(crate) struct TopicView {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) config: TopicConfig,
    pub(crate) partitions: Vec<PartitionView>,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionView {
    pub(crate) leader: Option<NodeId>,
    pub(crate) epoch: LeaderEpoch,
}

/// Everything, as of one version.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    version: i64,
    by_name: HashMap<Arc<str>, Arc<TopicView>>,
    names: HashMap<TopicId, Arc<str>>,
}

/// The current view. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    view: Arc<ArcSwap<View>>,
    version: Arc<watch::Sender<i64>>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { view: Arc::default(), version: Arc::new(watch::Sender::new(0)) }
    }
}

// === impl View ===

impl View {
    /// A topic by name.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicView>> {
        self.by_name.get(name)
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    fn apply(&mut self, message: pbi::WatchMetadataResponse) {
        for topic in message.topics {
            let Ok(id) = topic.id.parse::<TopicId>() else { continue };
            let pairs = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let config = TopicConfig::from_overrides(pairs).unwrap_or_default();
            let name: Arc<str> = topic.name.into();
            let known = self.by_name.get(&name).filter(|known| known.id == id);
            let mut partitions = known.map(|known| known.partitions.clone()).unwrap_or_default();
            let count = usize::try_from(topic.partition_count).unwrap_or(0);
            partitions.resize(count, PartitionView { leader: None, epoch: LeaderEpoch::NONE });
            self.names.insert(id, Arc::clone(&name));
            self.by_name.insert(Arc::clone(&name), Arc::new(TopicView { id, name, config, partitions }));
        }
        for partition in message.partitions {
            let Some((id, epoch)) = partition.r#ref.as_ref().and_then(walser_proto::topic_partition) else { continue };
            let Some(topic) = self.names.get(&id.topic).and_then(|name| self.by_name.get_mut(name)) else { continue };
            let leader = (partition.leader >= 0).then_some(NodeId(partition.leader));
            let number = usize::try_from(id.partition.0).unwrap_or(usize::MAX);
            if let Some(found) = Arc::make_mut(topic).partitions.get_mut(number) {
                *found = PartitionView { leader, epoch };
            }
        }
        for raw in message.removed_topic_ids {
            let Ok(bytes) = raw.as_ref().try_into() else { continue };
            let id = TopicId::from_bytes(bytes);
            if let Some(name) = self.names.remove(&id)
                && self.by_name.get(&name).is_some_and(|topic| topic.id == id)
            {
                self.by_name.remove(&name);
            }
        }
        self.version = message.version;
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
        self.view.load().topic(name).cloned()
    }

    /// Changes of the version.
    pub(crate) fn changes(&self) -> watch::Receiver<i64> {
        self.version.subscribe()
    }

    /// Waits until the view is at least of `version`. False: it did not get there in time.
    pub(crate) async fn reached(&self, version: i64, limit: Duration) -> bool {
        let mut changes = self.version.subscribe();
        let reached = changes.wait_for(|current| *current >= version);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Waits until `found` holds for the view. False: it did not in time.
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
        tokio::time::timeout(limit, waiting).await.unwrap_or(false)
    }

    /// Waits for the first snapshot.
    pub(crate) async fn first_snapshot(&self) {
        let mut changes = self.version.subscribe();
        let _ = changes.wait_for(|version| *version > 0).await;
    }

    /// Follows the controller until the stop.
    pub(crate) async fn follow(self, controller: Connection, network: Network, shutdown: Shutdown) {
        let mut backoff = Backoff::default();
        while !shutdown.begun() {
            let version = self.view.load().version;
            let outcome = tokio::select! {
                outcome = self.follow_once(&controller, &network) => outcome,
                () = shutdown.wait() => return,
            };
            if let Err(failure) = outcome {
                tracing::warn!(error = %failure, "metadata stream ended, it is opened again");
            }
            if self.view.load().version > version {
                backoff = Backoff::default();
            }
            backoff.pause().await;
        }
    }

    async fn follow_once(&self, controller: &Connection, network: &Network) -> Result<(), Failure> {
        let mut stream = MetadataStream::open(controller).await?;
        loop {
            let group = stream.next_commit().await?;
            let reset = group.iter().any(|message| message.reset);
            let mut view = if reset { View::default() } else { View::clone(&self.view.load()) };
            for message in group {
                dial(network, &message.nodes);
                view.apply(message);
            }
            let version = view.version;
            self.view.store(Arc::new(view));
            self.version.send_replace(version);
        }
    }
}

/// Makes storage nodes of other processes known.
fn dial(network: &Network, nodes: &[pbi::NodeMetadata]) {
    for found in nodes.iter().filter(|found| !found.internal_address.is_empty()) {
        let id = NodeId(found.node.as_ref().map_or(-1, |node| node.id));
        if let Err(error) = network.dial_storage(id, &found.internal_address) {
            tracing::error!(node = %id, %error, "a storage node's address cannot be used");
        }
    }
}
