use walser_model::PartitionIndex;

use super::*;

fn id(number: u32) -> TopicId {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    TopicId::from_bytes(bytes)
}

fn at(topic: u32, number: i32) -> TopicPartition {
    TopicPartition::new(id(topic), PartitionIndex(number))
}

fn topic(number: u32, partition_count: i32) -> MetadataChange {
    let value = TopicValue {
        name: format!("t{number}"),
        partition_count,
        replication_factor: 3,
        config: [("retention.ms".to_owned(), "5000".to_owned())].into(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        description: "some".to_owned(),
        created_ms: 1_700_000_000_123,
        ..TopicValue::default()
    };
    MetadataChange::Topic { id: id(number), value: Arc::new(value), revision: 4 }
}

fn partition(topic: u32, number: i32) -> MetadataChange {
    let set = |node| [NodeId(node)].into_iter().collect::<NodeSet>();
    let state = PartitionState {
        leader: None,
        leader_epoch: LeaderEpoch(9),
        isr: set(2),
        adding: set(3),
        removing: set(1),
        elr: NodeSet::EMPTY,
        last_known_elr: set(1),
        recovering: true,
        unclean_epoch: LeaderEpoch(8),
        ..PartitionState::new([2, 1, 3].map(NodeId).to_vec(), 2)
    };
    MetadataChange::Partition { id: at(topic, number), value: Box::new(state.into()), revision: 5 }
}

fn node(number: i32) -> [MetadataChange; 2] {
    let value = NodeRegistration {
        incarnation: "i".to_owned(),
        roles: vec![2],
        internal_address: "h:1".to_owned(),
        public_address: "h:2".to_owned(),
        rack: "r".to_owned(),
        version: "0.1.0".to_owned(),
        started_ms: 1_700_000_000_456,
        ..NodeRegistration::default()
    };
    let liveness = NodeLiveness { fenced: true, shutting_down: true, ..NodeLiveness::default() };
    let node = NodeId(number);
    [
        MetadataChange::Registration { node, value: Box::new(value), revision: 2 },
        MetadataChange::Liveness { node, value: liveness, revision: 3 },
    ]
}

fn tombstone(topic: u32) -> MetadataChange {
    let value = TombstoneValue { nodes: vec![1, 2], ..TombstoneValue::default() };
    MetadataChange::Tombstone { topic: id(topic), value: Box::new(value), revision: 6 }
}

fn group_shard(shard: i32, epoch: i64) -> MetadataChange {
    let (coordinator, address) = (format!("c{epoch}"), "h:3".to_owned());
    let value = GroupShardValue { coordinator, address, epoch, ..GroupShardValue::default() };
    MetadataChange::GroupShard { shard, value: Box::new(value), revision: 7 + epoch }
}

/// Everything in a view, in one order.
fn content(view: &View) -> Vec<String> {
    let mut all: Vec<_> =
        view.topics().map(|topic| format!("{:?} {} {:?}", topic.id, topic.revision, topic.value)).collect();
    let topics = view.topics().map(|topic| topic.id).chain(view.detached_topics());
    all.extend(topics.flat_map(|topic| view.partitions_of(topic)).map(|partition| format!("{partition:?}")));
    all.extend(view.nodes().map(|node| format!("{node:?}")));
    all.extend(view.group_shards().map(|given| format!("{given:?}")));
    all.extend(view.tombstones().map(|tombstone| format!("{tombstone:?}")));
    all.sort_unstable();
    all
}

fn received(view: &mut View, messages: Vec<pbi::WatchMetadataResponse>) {
    let commits = messages.iter().filter(|message| message.commit).count();
    assert!(commits == 1 && messages.last().unwrap().commit, "they take effect together");
    assert!(messages.iter().all(|message| message.encoded_len() < CHUNK_BYTES + 4096));
    view.apply(delta(messages)).unwrap();
}

#[test]
fn a_view_arrives_as_it_was_sent_however_large_it_is() {
    for (topics, partitions) in [(0, 0), (1, 1), (1, 10_000), (10_000, 1), (122, 9)] {
        let mut sent = View::<()>::default();
        let mut changes: Vec<_> = (0..topics).map(|number| topic(number, partitions)).collect();
        let numbers = (0..topics).flat_map(|topic| (0..partitions).map(move |number| (topic, number)));
        changes.extend(numbers.map(|(topic, number)| partition(topic, number)));
        changes.extend(node(1).into_iter().chain(node(7)));
        changes.extend([group_shard(0, 1), group_shard(15, 2)]);
        changes.extend([tombstone(99_999), partition(99_999, 0), partition(99_998, 0)]);
        sent.apply(Delta { version: 9, snapshot: true, changes }).unwrap();
        let mut view = View::default();
        received(&mut view, snapshot_messages(&sent));
        assert_eq!(content(&view), content(&sent), "{topics} x {partitions}");
        assert_eq!((view.version(), view.partition_count()), (9, sent.partition_count()));
    }
}

#[test]
fn every_kind_of_change_arrives() {
    let mut sent = View::<()>::default();
    let everything = [topic(1, 2), partition(1, 0), partition(1, 1), topic(2, 1), partition(2, 0), tombstone(3)];
    let shards = [group_shard(0, 1), group_shard(1, 1)];
    let changes = everything.into_iter().chain(node(1)).chain(node(2)).chain(shards).collect();
    sent.apply(Delta { version: 9, snapshot: true, changes }).unwrap();
    let mut view = View::default();
    received(&mut view, snapshot_messages(&sent));
    let steps = [
        vec![topic(4, 1), partition(4, 0)],
        vec![MetadataChange::TopicRemoved(id(1)), tombstone(1)],
        vec![MetadataChange::PartitionRemoved(at(1, 0)), MetadataChange::PartitionRemoved(at(1, 1))],
        vec![group_shard(1, 2), group_shard(2, 1)],
        vec![MetadataChange::TombstoneRemoved(id(3)), MetadataChange::NodeRemoved(NodeId(2))],
        Vec::new(),
    ];
    for (version, changes) in (10..).zip(steps) {
        let changes = sent.apply(Delta { version, snapshot: false, changes }).unwrap();
        received(&mut view, change_messages(&sent, &changes));
        assert_eq!(content(&view), content(&sent), "{version}");
        assert_eq!(view.version(), version);
    }
    let changes = sent.apply(Delta { version: 20, snapshot: true, changes: vec![topic(5, 0)] }).unwrap();
    received(&mut view, change_messages(&sent, &changes));
    assert_eq!(content(&view), content(&sent));
}
