//! Metadata as it travels on `WatchMetadata`: from a view to messages, and from messages to a delta.

use std::sync::Arc;

use prost::Message as _;
use walser_metadata::value::{
    GroupShardValue, NodeLiveness, NodeRegistration, PartitionValue, TombstoneValue, TopicValue,
};
use walser_metadata::{
    Changes, Delta, GroupShardEntry, MetadataChange, NodeEntry, PartitionEntry, TombstoneEntry, TopicEntry, View,
};
use walser_model::{LeaderEpoch, NodeId, RESERVED_PREFIX, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_replication::{NodeSet, PartitionState};

/// Entries and bytes of one message; one larger entry still fits a message.
const CHUNK_ENTRIES: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;

/// Messages under construction.
#[derive(Default)]
struct Chunks {
    full: Vec<pbi::WatchMetadataResponse>,
    current: pbi::WatchMetadataResponse,
    entries: usize,
    bytes: usize,
}

impl Chunks {
    /// Adds an entry of so many bytes.
    fn add(&mut self, bytes: usize, add: impl FnOnce(&mut pbi::WatchMetadataResponse)) {
        if self.entries == CHUNK_ENTRIES || self.entries > 0 && self.bytes + bytes > CHUNK_BYTES {
            self.full.push(std::mem::take(&mut self.current));
            (self.entries, self.bytes) = (0, 0);
        }
        add(&mut self.current);
        self.entries += 1;
        self.bytes += bytes;
    }

    fn topic<X>(&mut self, topic: &TopicEntry<X>) {
        let topic = wire_topic(topic);
        self.add(topic.encoded_len(), |message| message.topics.push(topic));
    }

    fn partition(&mut self, partition: &PartitionEntry) {
        let partition = wire_partition(partition);
        self.add(partition.encoded_len(), |message| message.partitions.push(partition));
    }

    fn node(&mut self, node: NodeId, entry: &NodeEntry) {
        let node = wire_node(node, entry);
        self.add(node.encoded_len(), |message| message.nodes.push(node));
    }

    fn tombstone(&mut self, topic: TopicId, entry: &TombstoneEntry) {
        let (topic_id, version, node_ids) = (raw(topic), entry.revision, entry.value.nodes.clone());
        let tombstone = pbi::TopicTombstone { topic_id, version, node_ids, keeps_data: entry.value.keeps_data };
        self.add(tombstone.encoded_len(), |message| message.tombstones.push(tombstone));
    }

    fn group_shard(&mut self, shard: i32, entry: &GroupShardEntry) {
        let GroupShardValue { coordinator, address, epoch, unknown: _ } = entry.value.clone();
        let (coordinator_id, internal_address, version) = (coordinator, address, entry.revision);
        let given = pbi::GroupShardMetadata { shard, coordinator_id, internal_address, epoch, version };
        self.add(given.encoded_len(), |message| message.group_shards.push(given));
    }

    /// All messages; the last one commits.
    fn finish(mut self, version: i64) -> Vec<pbi::WatchMetadataResponse> {
        self.current.commit = true;
        self.full.push(self.current);
        self.full.iter_mut().for_each(|message| message.version = version);
        self.full
    }
}

/// Says that everything up to a version has been sent.
pub fn progress_message(version: i64) -> pbi::WatchMetadataResponse {
    pbi::WatchMetadataResponse { version, commit: true, ..Default::default() }
}

/// Whether a message says only that everything up to its version has been sent.
pub(super) fn is_progress(message: &pbi::WatchMetadataResponse) -> bool {
    let (cluster_id, lineage) = (message.cluster_id.clone(), message.lineage.clone());
    *message == pbi::WatchMetadataResponse { cluster_id, lineage, ..progress_message(message.version) }
}

/// Everything in a view, as messages that replace whatever the receiver has.
pub fn snapshot_messages<X>(view: &View<X>) -> Vec<pbi::WatchMetadataResponse> {
    let mut chunks = Chunks::default();
    view.topics().for_each(|topic| chunks.topic(topic));
    let topics = view.topics().map(|topic| topic.id).chain(view.detached_topics());
    topics.flat_map(|topic| view.partitions_of(topic)).for_each(|partition| chunks.partition(partition));
    view.nodes().for_each(|(node, entry)| chunks.node(node, entry));
    view.tombstones().for_each(|(topic, entry)| chunks.tombstone(topic, entry));
    view.group_shards().for_each(|(shard, entry)| chunks.group_shard(shard, entry));
    let mut messages = chunks.finish(view.version());
    if let Some(first) = messages.first_mut() {
        first.reset = true;
    }
    messages
}

/// What a delta has changed, as messages that take effect together. `view`: the metadata afterwards.
pub fn change_messages<X>(view: &View<X>, changes: &Changes) -> Vec<pbi::WatchMetadataResponse> {
    if changes.snapshot {
        return snapshot_messages(view);
    }
    let mut chunks = Chunks::default();
    for id in &changes.topics {
        match view.topic(*id) {
            Some(topic) => chunks.topic(topic),
            None => chunks.add(16, |message| message.removed_topic_ids.push(raw(*id))),
        }
    }
    for id in &changes.partitions {
        match view.partition(*id) {
            Some(partition) => chunks.partition(partition),
            None => {
                let gone = walser_proto::partition_ref(*id, LeaderEpoch::NONE);
                chunks.add(gone.encoded_len(), |message| message.removed_partitions.push(gone));
            }
        }
    }
    for id in &changes.nodes {
        match view.node(*id) {
            Some(node) => chunks.node(*id, node),
            None => chunks.add(4, |message| message.removed_node_ids.push(id.0)),
        }
    }
    for id in &changes.tombstones {
        match view.tombstone(*id) {
            Some(tombstone) => chunks.tombstone(*id, tombstone),
            None => chunks.add(16, |message| message.removed_tombstone_ids.push(raw(*id))),
        }
    }
    let shards = changes.group_shards.iter().filter_map(|shard| Some((*shard, view.group_shard(*shard)?)));
    shards.for_each(|(shard, entry)| chunks.group_shard(shard, entry));
    chunks.finish(view.version())
}

/// The delta of messages that take effect together. Entries that are not of this contract are left out.
pub(super) fn delta(group: Vec<pbi::WatchMetadataResponse>) -> Delta {
    let mut delta = Delta::default();
    for message in group {
        delta.version = delta.version.max(message.version);
        delta.snapshot |= message.reset;
        let changes = &mut delta.changes;
        changes.extend(message.topics.into_iter().filter_map(topic_change));
        changes.extend(message.removed_topic_ids.iter().filter_map(|id| id_of(id)).map(MetadataChange::TopicRemoved));
        changes.extend(message.partitions.into_iter().filter_map(partition_change));
        let gone = message.removed_partitions.iter().filter_map(walser_proto::topic_partition);
        changes.extend(gone.map(|(id, _)| MetadataChange::PartitionRemoved(id)));
        changes.extend(message.nodes.into_iter().flat_map(node_changes));
        changes.extend(message.removed_node_ids.into_iter().map(|node| MetadataChange::NodeRemoved(NodeId(node))));
        changes.extend(message.tombstones.into_iter().filter_map(tombstone_change));
        let gone = message.removed_tombstone_ids.iter().filter_map(|id| id_of(id));
        changes.extend(gone.map(MetadataChange::TombstoneRemoved));
        changes.extend(message.group_shards.into_iter().map(group_shard_change));
    }
    delta
}

fn raw(topic: TopicId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&topic.to_bytes())
}

fn id_of(raw: &[u8]) -> Option<TopicId> {
    raw.try_into().ok().map(TopicId::from_bytes)
}

fn numbers(nodes: &NodeSet) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

fn nodes(numbers: Vec<i32>) -> impl Iterator<Item = NodeId> {
    numbers.into_iter().map(NodeId)
}

/// Milliseconds as a timestamp message.
pub fn wire_time(millis: walser_model::Timestamp) -> pbjson_types::Timestamp {
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    pbjson_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

/// The same the other way; 0: it is missing.
pub(crate) fn millis(time: Option<pbjson_types::Timestamp>) -> walser_model::Timestamp {
    time.map_or(0, |time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000)))
}

/// A topic as the metadata has it. Its state is not known from that alone.
pub fn wire_topic<X>(topic: &TopicEntry<X>) -> pb::Topic {
    wire_topic_value(topic.id, &topic.value, topic.revision)
}

/// A topic of this value; `revision` is that of its key, 0 where it is not written.
pub fn wire_topic_value(id: TopicId, value: &TopicValue, revision: i64) -> pb::Topic {
    pb::Topic {
        name: value.name.clone(),
        id: id.to_string(),
        partition_count: value.partition_count,
        replication_factor: value.replication_factor,
        config: value.config.clone().into_iter().collect(),
        labels: value.labels.clone().into_iter().collect(),
        description: value.description.clone(),
        state: pb::TopicState::Unspecified.into(),
        internal: value.name.starts_with(RESERVED_PREFIX),
        stats: None,
        etag: revision.to_string(),
        create_time: Some(wire_time(value.created_ms)),
    }
}

fn topic_change(topic: pb::Topic) -> Option<MetadataChange> {
    let value = TopicValue {
        name: topic.name,
        partition_count: topic.partition_count,
        replication_factor: topic.replication_factor,
        config: topic.config.into_iter().collect(),
        labels: topic.labels.into_iter().collect(),
        description: topic.description,
        created_ms: millis(topic.create_time),
        ..TopicValue::default()
    };
    let (id, revision) = (topic.id.parse().ok()?, topic.etag.parse().ok()?);
    Some(MetadataChange::Topic { id, value: Arc::new(value), revision })
}

fn wire_partition(entry: &PartitionEntry) -> pbi::PartitionMetadata {
    let (id, state): (TopicPartition, &PartitionState) = (entry.record.key, &entry.record.state);
    pbi::PartitionMetadata {
        r#ref: Some(walser_proto::partition_ref(id, state.leader_epoch)),
        leader: state.leader.map_or(-1, |leader| leader.0),
        replicas: state.replicas.iter().map(|node| node.0).collect(),
        isr: numbers(&state.isr),
        partition_epoch: entry.record.epoch,
        adding: numbers(&state.adding),
        removing: numbers(&state.removing),
        elr: numbers(&state.elr),
        last_known_elr: numbers(&state.last_known_elr),
        min_isr: i32::try_from(state.min_isr).unwrap_or(i32::MAX),
        recovering: state.recovering,
        unclean_epoch: (state.unclean_epoch != LeaderEpoch::NONE).then_some(state.unclean_epoch.0),
    }
}

fn partition_change(wire: pbi::PartitionMetadata) -> Option<MetadataChange> {
    let (id, leader_epoch) = walser_proto::topic_partition(wire.r#ref.as_ref()?)?;
    let min_isr = usize::try_from(wire.min_isr).unwrap_or(1);
    let state = PartitionState {
        leader: (wire.leader >= 0).then_some(NodeId(wire.leader)),
        leader_epoch,
        isr: nodes(wire.isr).collect(),
        adding: nodes(wire.adding).collect(),
        removing: nodes(wire.removing).collect(),
        elr: nodes(wire.elr).collect(),
        last_known_elr: nodes(wire.last_known_elr).collect(),
        recovering: wire.recovering,
        unclean_epoch: wire.unclean_epoch.map_or(LeaderEpoch::NONE, LeaderEpoch),
        ..PartitionState::new(nodes(wire.replicas).collect(), min_isr)
    };
    let value = Box::new(PartitionValue::from(state));
    Some(MetadataChange::Partition { id, value, revision: wire.partition_epoch })
}

/// A node as it has registered. Its state and statistics are not known from that alone.
pub fn wire_registration(node: NodeId, registration: &NodeRegistration) -> pb::Node {
    pb::Node {
        id: node.0,
        instance: registration.incarnation.clone(),
        roles: registration.roles.clone(),
        address: registration.public_address.clone(),
        rack: registration.rack.clone(),
        version: registration.version.clone(),
        start_time: Some(wire_time(registration.started_ms)),
        ..Default::default()
    }
}

fn wire_node(node: NodeId, entry: &NodeEntry) -> pbi::NodeMetadata {
    pbi::NodeMetadata {
        node: Some(wire_registration(node, &entry.registration)),
        node_epoch: entry.epoch,
        fenced: entry.liveness.fenced,
        internal_address: entry.registration.internal_address.clone(),
        live_revision: entry.live_revision,
        shutting_down: entry.liveness.shutting_down,
    }
}

fn node_changes(wire: pbi::NodeMetadata) -> Vec<MetadataChange> {
    let Some(public) = wire.node else { return Vec::new() };
    let node = NodeId(public.id);
    let registration = NodeRegistration {
        incarnation: public.instance,
        roles: public.roles,
        internal_address: wire.internal_address,
        public_address: public.address,
        rack: public.rack,
        version: public.version,
        started_ms: millis(public.start_time),
        ..NodeRegistration::default()
    };
    let liveness = NodeLiveness { fenced: wire.fenced, shutting_down: wire.shutting_down, ..NodeLiveness::default() };
    vec![
        MetadataChange::Registration { node, value: Box::new(registration), revision: wire.node_epoch },
        MetadataChange::Liveness { node, value: liveness, revision: wire.live_revision },
    ]
}

fn group_shard_change(wire: pbi::GroupShardMetadata) -> MetadataChange {
    let pbi::GroupShardMetadata { shard, coordinator_id, internal_address, epoch, version } = wire;
    let (coordinator, address) = (coordinator_id, internal_address);
    let value = GroupShardValue { coordinator, address, epoch, ..GroupShardValue::default() };
    MetadataChange::GroupShard { shard, value: Box::new(value), revision: version }
}

fn tombstone_change(wire: pbi::TopicTombstone) -> Option<MetadataChange> {
    let topic = id_of(&wire.topic_id)?;
    let value = TombstoneValue { nodes: wire.node_ids, keeps_data: wire.keeps_data, ..Default::default() };
    Some(MetadataChange::Tombstone { topic, value: Box::new(value), revision: wire.version })
}

#[cfg(test)]
mod tests;
