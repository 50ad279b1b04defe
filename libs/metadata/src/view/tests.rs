use std::collections::BTreeMap;

use proptest::prelude::*;
use walser_model::{LeaderEpoch, PartitionIndex};
use walser_replication::PartitionState;

use super::*;
use crate::value::{NodeLiveness, NodeRegistration, TombstoneValue};

fn id(number: u16) -> TopicId {
    let mut bytes = [7; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    TopicId::from_bytes(bytes)
}

fn at(topic: u16, number: i32) -> TopicPartition {
    TopicPartition::new(id(topic), PartitionIndex(number))
}

fn topic(number: u16, partition_count: i32, revision: i64) -> MetadataChange {
    let value = TopicValue { name: format!("t{number}"), partition_count, ..TopicValue::default() };
    MetadataChange::Topic { id: id(number), value: Arc::new(value), revision }
}

fn partition(topic: u16, number: i32, epoch: i32, revision: i64) -> MetadataChange {
    let mut state = PartitionState::new(vec![NodeId(1)], 1);
    state.leader_epoch = LeaderEpoch(epoch);
    MetadataChange::Partition { id: at(topic, number), value: Box::new(state.into()), revision }
}

fn tombstone(topic: u16, revision: i64) -> MetadataChange {
    MetadataChange::Tombstone { topic: id(topic), value: Box::new(TombstoneValue::default()), revision }
}

fn delta(version: i64, changes: Vec<MetadataChange>) -> Delta {
    Delta { version, snapshot: false, changes }
}

fn snapshot(version: i64, changes: Vec<MetadataChange>) -> Delta {
    Delta { snapshot: true, ..delta(version, changes) }
}

fn led(view: &View) -> usize {
    let leaders = view.topics().flat_map(|topic| topic.partitions());
    leaders.filter(|entry| entry.record.state.leader.is_some()).count()
}

/// Everything that can be seen of a view, comparable.
fn seen(view: &View<u8>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for topic in view.topics() {
        all.insert(format!("t {:?}", topic.id), format!("{:?} {} {}", topic.value, topic.revision, topic.extension));
        assert_eq!(view.topic_named(&topic.name).unwrap().revision, topic.revision, "both indexes have the same");
        assert!(view.topic_named(&topic.name).unwrap().partitions().eq(topic.partitions()));
    }
    for entry in (0..8).flat_map(|topic| view.partitions_of(id(topic))) {
        all.insert(format!("p {}", entry.record.key), format!("{entry:?}"));
    }
    all.extend(view.nodes().map(|(node, entry)| (format!("n {node}"), format!("{entry:?}"))));
    all.extend(view.group_shards().map(|(shard, entry)| (format!("g {shard}"), format!("{entry:?}"))));
    all.extend(view.tombstones().map(|(topic, entry)| (format!("d {topic}"), format!("{entry:?}"))));
    assert_eq!(view.partition_count(), view.partitions().count());
    all
}

#[test]
fn a_snapshot_takes_effect_as_a_whole_whatever_its_order() {
    for (topics, partitions) in [(1, 1), (1, 1_000), (1, 10_000), (1_000, 1), (10_000, 1), (122, 9)] {
        let mut changes: Vec<_> = (0..topics)
            .flat_map(|number| (0..partitions).map(move |partition_number| partition(number, partition_number, 3, 5)))
            .collect();
        changes.extend((0..topics).map(|number| topic(number, partitions, 6)));
        let backwards = changes.iter().rev().cloned().collect();
        for changes in [changes, backwards] {
            let mut view = View::<()>::default();
            view.apply(snapshot(9, changes)).unwrap();
            let expected = usize::from(topics) * usize::try_from(partitions).unwrap();
            assert_eq!((view.partition_count(), led(&view), view.topic_count()), (expected, expected, topics.into()));
            assert_eq!(view.version(), 9);
        }
    }
}

#[test]
fn topics_of_walser_itself_count_apart() {
    let mut view = View::<()>::default();
    let name = "__walser_groups".to_owned();
    let value = Arc::new(TopicValue { name, partition_count: 2, ..TopicValue::default() });
    let internal = MetadataChange::Topic { id: id(2), value, revision: 4 };
    let partitions = [partition(1, 0, 0, 3), partition(2, 0, 0, 3), partition(2, 1, 0, 3)];
    view.apply(snapshot(4, partitions.into_iter().chain([topic(1, 1, 4), internal]).collect())).unwrap();
    assert_eq!((view.topic_count(), view.partition_count()), (2, 3));
    assert_eq!(view.user_counts(), (1, 1));
}

#[test]
fn partitions_are_visible_with_their_topic_and_below_its_count() {
    let mut view = View::<()>::default();
    view.apply(delta(3, vec![partition(1, 0, 0, 3), partition(1, 1, 0, 3)])).unwrap();
    assert!(view.topic(id(1)).is_none() && view.accounts_for(at(1, 0)));
    assert_eq!((view.partition_count(), view.partitions().count()), (2, 2), "it may be led, and counts");
    let changes = view.apply(delta(4, vec![topic(1, 2, 4), partition(1, 2, 0, 4)])).unwrap();
    assert_eq!((changes.topics.len(), changes.partitions.len()), (1, 1));
    let seen = |view: &View| view.topic(id(1)).unwrap().partitions().count();
    assert_eq!(seen(&view), 2, "the third one is being added");
    assert_eq!(view.topic(id(1)).unwrap().leader(PartitionIndex(2)), None);
    view.apply(delta(5, vec![topic(1, 4, 5)])).unwrap();
    assert_eq!(seen(&view), 3);
    let unknown = view.topic(id(1)).unwrap().leader(PartitionIndex(3));
    assert_eq!(unknown, Some((None, LeaderEpoch::NONE)), "visible, and not known yet");
}

#[test]
fn a_deleted_topic_is_gone_at_once_and_its_partitions_do_not_count() {
    let mut view = View::<()>::default();
    view.apply(snapshot(3, vec![topic(1, 2, 3), partition(1, 0, 0, 3), partition(1, 1, 0, 3)])).unwrap();
    view.apply(delta(4, vec![MetadataChange::TopicRemoved(id(1)), tombstone(1, 4)])).unwrap();
    assert!(view.topic(id(1)).is_none() && view.topic_named("t1").is_none());
    assert_eq!((view.partition_count(), view.partitions().count()), (0, 0));
    assert_eq!(view.partitions_of(id(1)).count(), 2, "they are to be deleted one by one");
    assert!(view.accounts_for(at(1, 0)) && view.accounts_for(at(1, 99)), "whatever belonged to it");
    let gone = [at(1, 0), at(1, 1)].map(MetadataChange::PartitionRemoved);
    view.apply(delta(5, gone.to_vec())).unwrap();
    assert_eq!((view.partitions_of(id(1)).count(), view.detached_topics().count()), (0, 0));
    view.apply(delta(6, vec![MetadataChange::TombstoneRemoved(id(1))])).unwrap();
    assert!(!view.accounts_for(at(1, 0)));
}

#[test]
fn a_name_that_was_given_again_belongs_to_the_new_topic() {
    let mut view = View::<()>::default();
    view.apply(delta(3, vec![topic(1, 1, 3)])).unwrap();
    let again = TopicValue { name: "t1".to_owned(), ..TopicValue::default() };
    let again = MetadataChange::Topic { id: id(2), value: Arc::new(again), revision: 4 };
    view.apply(delta(4, vec![again, MetadataChange::TopicRemoved(id(1))])).unwrap();
    assert_eq!(view.topic_named("t1").unwrap().id, id(2));
}

#[test]
fn an_older_snapshot_is_refused_and_an_older_delta_changes_nothing() {
    let mut view = View::<()>::default();
    view.apply(snapshot(9, vec![topic(1, 1, 3), partition(1, 0, 4, 8)])).unwrap();
    assert_eq!(view.apply(snapshot(8, Vec::new())), Err(VersionRegression { have: 9, got: 8 }));
    assert_eq!(view.apply(delta(9, vec![MetadataChange::TopicRemoved(id(1))])), Ok(Changes::default()));
    // A record never goes back either, whatever a delta says.
    view.apply(delta(10, vec![partition(1, 0, 1, 7), topic(1, 0, 2)])).unwrap();
    let topic = view.topic_named("t1").unwrap();
    assert_eq!(topic.leader(PartitionIndex(0)), Some((Some(NodeId(1)), LeaderEpoch(4))));
    let changes = view.apply(snapshot(10, Vec::new())).unwrap();
    assert_eq!((view.topic_count(), changes.topics.len(), changes.partitions.len()), (0, 1, 1), "it says what is gone");
}

#[test]
fn what_a_process_attaches_stays_with_the_topic() {
    let mut view = View::<Arc<std::sync::atomic::AtomicUsize>>::default();
    view.apply(delta(3, vec![topic(1, 1, 3), partition(1, 0, 0, 3)])).unwrap();
    let attached = Arc::clone(&view.topic(id(1)).unwrap().extension);
    view.apply(delta(4, vec![topic(1, 2, 4), partition(1, 1, 0, 4)])).unwrap();
    view.apply(snapshot(5, vec![partition(1, 0, 0, 3), topic(1, 2, 4)])).unwrap();
    assert!(Arc::ptr_eq(&attached, &view.topic_named("t1").unwrap().extension));
}

#[test]
fn a_node_is_what_was_written_of_it_last() {
    let mut view = View::<()>::default();
    let registered = |node, revision| {
        let value = NodeRegistration { incarnation: format!("i{revision}"), ..NodeRegistration::default() };
        MetadataChange::Registration { node: NodeId(node), value: Box::new(value), revision }
    };
    let fenced = |node, fenced, revision| {
        let value = NodeLiveness { fenced, ..NodeLiveness::default() };
        MetadataChange::Liveness { node: NodeId(node), value, revision }
    };
    view.apply(delta(3, vec![registered(1, 3), fenced(1, true, 3), registered(2, 2), fenced(2, false, 2)])).unwrap();
    view.apply(delta(5, vec![fenced(1, false, 5)])).unwrap();
    let context = view.decision_context(7);
    let expected = NodeRecord { epoch: 3, live_revision: 5, fenced: false, shutting_down: false, drained: false };
    assert_eq!((context.nodes[&NodeId(1)], context.revision, context.controller_epoch), (expected, 5, 7));
    assert_eq!(view.node(NodeId(1)).unwrap().registration.incarnation, "i3");
    view.apply(delta(6, vec![MetadataChange::NodeRemoved(NodeId(1))])).unwrap();
    assert_eq!(view.nodes().map(|(node, _)| node.0).collect::<Vec<_>>(), [2]);
}

fn change() -> impl Strategy<Value = (u8, u16, i32)> {
    (0..8_u8, 0..4_u16, 0..4)
}

fn made((kind, number, partition_number): (u8, u16, i32), revision: i64) -> MetadataChange {
    match kind {
        0 | 1 => topic(number, partition_number, revision),
        2 => MetadataChange::TopicRemoved(id(number)),
        3 | 4 => partition(number, partition_number, 1, revision),
        5 => MetadataChange::PartitionRemoved(at(number, partition_number)),
        6 => tombstone(number, revision),
        _ => MetadataChange::TombstoneRemoved(id(number)),
    }
}

proptest! {
    /// Whether metadata comes change by change, in large deltas, or as a snapshot of what there is, it is the same.
    #[test]
    fn every_way_to_a_version_leads_to_the_same_view(
        changes in prop::collection::vec(change(), 1..60),
        cut in 1..20_usize,
    ) {
        let changes: Vec<_> = changes.into_iter().zip(1_i64..).map(|(change, at)| made(change, at)).collect();
        let mut one_by_one = View::<u8>::default();
        for (version, change) in (1..).zip(&changes) {
            one_by_one.apply(delta(version, vec![change.clone()])).unwrap();
            prop_assert_eq!(one_by_one.partition_count(), one_by_one.partitions().count());
        }
        // Of each key, the last change.
        let mut last: BTreeMap<String, MetadataChange> = BTreeMap::new();
        let mut again = View::<u8>::default();
        for (at, chunk) in changes.chunks(cut).enumerate() {
            let mut keys: BTreeMap<String, MetadataChange> = BTreeMap::new();
            for change in chunk {
                keys.insert(key(change), change.clone());
            }
            let version = i64::try_from(changes.len().min((at + 1) * cut)).unwrap();
            last.extend(keys.clone());
            again.apply(delta(version, keys.into_values().collect())).unwrap();
        }
        prop_assert_eq!(seen(&again), seen(&one_by_one));
        let there = last.into_values().filter(|change| !removal(change)).collect();
        let mut whole = View::<u8>::default();
        whole.apply(snapshot(again.version(), there)).unwrap();
        prop_assert_eq!(seen(&whole), seen(&one_by_one));
    }
}

/// The key in the store that a change is of.
fn key(change: &MetadataChange) -> String {
    match change {
        MetadataChange::Topic { id, .. } | MetadataChange::TopicRemoved(id) => format!("t {id}"),
        MetadataChange::Partition { id, .. } | MetadataChange::PartitionRemoved(id) => format!("p {id}"),
        MetadataChange::Tombstone { topic, .. } | MetadataChange::TombstoneRemoved(topic) => format!("d {topic}"),
        other => format!("{other:?}"),
    }
}

fn removal(change: &MetadataChange) -> bool {
    matches!(
        change,
        MetadataChange::TopicRemoved(_) | MetadataChange::PartitionRemoved(_) | MetadataChange::TombstoneRemoved(_)
    )
}
