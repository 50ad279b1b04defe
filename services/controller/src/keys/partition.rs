//! `parts/{topic id}/{partition}`: where a partition is and who leads it.

use walser_model::{PartitionIndex, TopicPartition};

pub(crate) const PREFIX: &str = "parts/";

pub(crate) fn key(id: TopicPartition) -> String {
    format!("{PREFIX}{}/{:010}", id.topic.to_hex(), id.partition.0)
}

/// The partition in a key.
pub(crate) fn parse(key: &str) -> Option<TopicPartition> {
    let (topic, partition) = key.strip_prefix(PREFIX)?.split_once('/')?;
    Some(TopicPartition::new(topic.parse().ok()?, PartitionIndex(partition.parse().ok()?)))
}

#[test]
fn keys_are_read_as_they_are_written() {
    let at = |number| TopicPartition::new(walser_model::TopicId::from_bytes([7; 16]), PartitionIndex(number));
    assert_eq!(parse(&key(at(42))), Some(at(42)));
    assert!(key(at(2)) < key(at(10)), "keys sort by number");
}
