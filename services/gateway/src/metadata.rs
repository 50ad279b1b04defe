//! What the gateway knows of topics and leaders: a snapshot that is replaced as a whole.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::IntGauge;
use tokio::sync::watch;
use walser_model::{LeaderEpoch, NodeId, TopicConfig, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_rpc::{Connection, Failure, MetadataSeen, MetadataStream, Network, Outage};
use walser_service::Shutdown;

use crate::metrics::TopicCounters;
use crate::retry::Backoff;

/// A topic.
#[derive(Debug, Clone)]
pub(crate) struct TopicView {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) config: TopicConfig,
    pub(crate) partitions: Vec<PartitionView>,
    /// Found when the topic is first used.
    pub(crate) counters: OnceLock<TopicCounters>,
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
    /// Of the cluster and of the metadata; empty before the first snapshot.
    cluster_id: String,
    lineage: String,
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

    /// All topics, in no order.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<TopicView>> {
        self.by_name.values()
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    /// Partitions of all topics.
    pub(crate) fn partition_count(&self) -> usize {
        self.by_name.values().map(|topic| topic.partitions.len()).sum()
    }

    /// Applies a committed group of messages as a whole. The messages of a snapshot come in the order of the store's
    /// keys, partitions before their topics, so every topic of the group is taken before any of its partitions.
    fn apply(&mut self, group: &[pbi::WatchMetadataResponse]) {
        for topic in group.iter().flat_map(|message| &message.topics) {
            self.put_topic(topic);
        }
        for partition in group.iter().flat_map(|message| &message.partitions) {
            self.put_partition(partition);
        }
        for raw in group.iter().flat_map(|message| &message.removed_topic_ids) {
            if let Ok(bytes) = raw.as_ref().try_into() {
                self.remove_topic(TopicId::from_bytes(bytes));
            }
        }
        if let Some(last) = group.last() {
            self.version = last.version;
            self.cluster_id.clone_from(&last.cluster_id);
            self.lineage.clone_from(&last.lineage);
        }
    }

    fn put_topic(&mut self, topic: &pb::Topic) {
        let Ok(id) = topic.id.parse::<TopicId>() else { return };
        let pairs = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let config = TopicConfig::from_overrides(pairs).unwrap_or_default();
        let name: Arc<str> = topic.name.as_str().into();
        let known = self.by_name.get(&name).filter(|known| known.id == id);
        let mut partitions = known.map(|known| known.partitions.clone()).unwrap_or_default();
        let counters = known.map(|known| known.counters.clone()).unwrap_or_default();
        let count = usize::try_from(topic.partition_count).unwrap_or(0);
        partitions.resize(count, PartitionView { leader: None, epoch: LeaderEpoch::NONE });
        self.names.insert(id, Arc::clone(&name));
        self.by_name.insert(Arc::clone(&name), Arc::new(TopicView { id, name, config, partitions, counters }));
    }

    fn put_partition(&mut self, partition: &pbi::PartitionMetadata) {
        let Some((id, epoch)) = partition.r#ref.as_ref().and_then(walser_proto::topic_partition) else { return };
        let topic = self.names.get(&id.topic).and_then(|name| self.by_name.get_mut(name));
        let number = usize::try_from(id.partition.0).unwrap_or(usize::MAX);
        let found = topic.and_then(|topic| Arc::make_mut(topic).partitions.get_mut(number));
        match found {
            Some(found) => {
                *found = PartitionView { leader: (partition.leader >= 0).then_some(NodeId(partition.leader)), epoch };
            }
            None => tracing::error!(partition = %id, "metadata has a partition without its topic"),
        }
    }

    fn remove_topic(&mut self, id: TopicId) {
        if let Some(name) = self.names.remove(&id)
            && self.by_name.get(&name).is_some_and(|topic| topic.id == id)
        {
            self.by_name.remove(&name);
        }
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
        controller: Connection,
        network: Network,
        shown_version: IntGauge,
        shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::default();
        let mut outage = Outage::of("the metadata stream from the controller");
        while !shutdown.begun() {
            let version = self.view.load().version;
            let outcome = tokio::select! {
                outcome = self.follow_once(&controller, &network, &shown_version, &mut outage) => outcome,
                () = shutdown.wait() => return,
            };
            if let Err(failure) = outcome {
                outage.failed(&failure);
            }
            if self.view.load().version > version {
                backoff = Backoff::default();
            }
            backoff.pause().await;
        }
    }

    async fn follow_once(
        &self,
        controller: &Connection,
        network: &Network,
        shown_version: &IntGauge,
        outage: &mut Outage,
    ) -> Result<(), Failure> {
        let view = self.view.load_full();
        let (cluster_id, lineage) = (view.cluster_id.clone(), view.lineage.clone());
        let seen = MetadataSeen { cluster_id, version: view.version, lineage };
        drop(view);
        let mut stream = MetadataStream::open(controller, seen).await?;
        loop {
            let group = stream.next_commit().await?;
            outage.ended();
            let reset = group.iter().any(|message| message.reset);
            let mut view = if reset { View::default() } else { View::clone(&self.view.load()) };
            group.iter().for_each(|message| dial(network, &message.nodes));
            view.apply(&group);
            let version = view.version;
            self.view.store(Arc::new(view));
            self.version.send_replace(version);
            shown_version.set(version);
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

#[cfg(test)]
impl TopicView {
    /// A topic of a test, without partitions.
    pub(crate) fn named(name: &str) -> Self {
        let (id, config) = (TopicId::from_bytes([1; 16]), TopicConfig::default());
        Self { id, name: name.into(), config, partitions: Vec::new(), counters: OnceLock::new() }
    }
}

#[cfg(test)]
impl Metadata {
    /// These topics, and no others, are known.
    pub(crate) fn replace_topics(&self, names: &[&str]) {
        let topics = names.iter().map(|name| (Arc::from(*name), Arc::new(TopicView::named(name))));
        self.view.store(Arc::new(View { by_name: topics.collect(), ..View::default() }));
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicPartition};

    use super::*;

    /// Messages of a snapshot as the controller sends them: in the order of the store's keys, partitions first, cut
    /// into messages of `chunk` entries.
    fn snapshot(topic_count: u16, partition_count: i32, chunk: usize) -> Vec<pbi::WatchMetadataResponse> {
        let id = |number: u16| {
            let mut bytes = [7; 16];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            TopicId::from_bytes(bytes)
        };
        let mut partitions = Vec::new();
        let mut topics = Vec::new();
        for number in 0..topic_count {
            for partition in 0..partition_count {
                let of = TopicPartition::new(id(number), PartitionIndex(partition));
                let r#ref = Some(walser_proto::partition_ref(of, LeaderEpoch(3)));
                partitions.push(pbi::PartitionMetadata { r#ref, leader: 1, ..Default::default() });
            }
            let (id, name) = (id(number).to_string(), format!("t{number}"));
            topics.push(pb::Topic { id, name, partition_count, ..Default::default() });
        }
        let part = |message| pbi::WatchMetadataResponse { version: 9, ..message };
        let mut group: Vec<_> = partitions
            .chunks(chunk)
            .map(|partitions| {
                part(pbi::WatchMetadataResponse { partitions: partitions.to_vec(), ..Default::default() })
            })
            .collect();
        let topics = topics.chunks(chunk);
        group.extend(
            topics.map(|topics| part(pbi::WatchMetadataResponse { topics: topics.to_vec(), ..Default::default() })),
        );
        group[0].reset = true;
        group.push(part(pbi::WatchMetadataResponse { commit: true, ..Default::default() }));
        group
    }

    fn led(view: &View) -> usize {
        view.topics().flat_map(|topic| &topic.partitions).filter(|partition| partition.leader.is_some()).count()
    }

    #[test]
    fn a_snapshot_takes_effect_as_a_whole_however_it_is_cut() {
        for (topics, partitions) in [(1, 1), (1, 1_000), (1, 10_000), (1_000, 1), (10_000, 1), (122, 9)] {
            for chunk in [1, 500, 1_000_000] {
                let mut view = View::default();
                view.apply(&snapshot(topics, partitions, chunk));
                let expected = usize::from(topics) * usize::try_from(partitions).unwrap();
                assert_eq!(view.partition_count(), expected, "{topics} x {partitions} by {chunk}");
                assert_eq!(led(&view), expected, "{topics} x {partitions} by {chunk}");
                assert_eq!((view.version, view.names.len()), (9, usize::from(topics)));
            }
        }
    }

    #[test]
    fn a_delta_changes_what_it_names_and_nothing_else() {
        let mut view = View::default();
        view.apply(&snapshot(3, 2, 500));
        let removed = view.topic("t1").unwrap().id;
        let moved = TopicPartition::new(view.topic("t2").unwrap().id, PartitionIndex(1));
        let partition = pbi::PartitionMetadata {
            r#ref: Some(walser_proto::partition_ref(moved, LeaderEpoch(4))),
            leader: -1,
            ..Default::default()
        };
        view.apply(&[pbi::WatchMetadataResponse {
            version: 10,
            partitions: vec![partition],
            removed_topic_ids: vec![removed.to_bytes().to_vec().into()],
            commit: true,
            ..Default::default()
        }]);
        assert_eq!((led(&view), view.partition_count()), (3, 4));
        assert!(view.topic("t1").is_none());
        assert_eq!(view.topic("t2").unwrap().partitions[0].leader, Some(NodeId(1)));
    }
}
