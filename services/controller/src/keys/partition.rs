//! `parts/{topic id}/{partition}`: where a partition is and who leads it.

use serde::{Deserialize, Serialize};
use walser_model::TopicId;

use super::Value;

pub(crate) const PREFIX: &str = "parts/";

/// A partition. Its mod revision is the partition epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partition {
    pub(crate) replicas: Vec<i32>,
    /// -1: none.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) isr: Vec<i32>,
    pub(crate) min_isr: i32,
}

impl Value for Partition {}

pub(crate) fn key(topic: TopicId, partition: i32) -> String {
    format!("{PREFIX}{}/{partition:010}", topic.to_hex())
}

pub(crate) fn topic_prefix(topic: TopicId) -> String {
    format!("{PREFIX}{}/", topic.to_hex())
}

/// The topic and number in a key.
pub(crate) fn parse(key: &str) -> Option<(TopicId, i32)> {
    let (topic, partition) = key.strip_prefix(PREFIX)?.split_once('/')?;
    Some((topic.parse().ok()?, partition.parse().ok()?))
}

#[test]
fn the_form_is_the_documented_one() {
    let value = Partition { replicas: vec![1], leader: 1, leader_epoch: 4, isr: vec![1], min_isr: 1 };
    super::assert_form(&value, r#"{"replicas":[1],"leader":1,"leader_epoch":4,"isr":[1],"min_isr":1}"#);
    let topic = TopicId::from_bytes([7; 16]);
    assert_eq!(parse(&key(topic, 42)), Some((topic, 42)));
    assert!(key(topic, 2) < key(topic, 10), "keys sort by number");
}
