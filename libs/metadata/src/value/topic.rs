//! Topics: those that are there, come and go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use walser_model::Timestamp;

use super::{UnknownFields, Value, is_zero};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicValue {
    #[serde(default)]
    pub name: String,
    /// Partitions that are visible: those below this number.
    #[serde(default)]
    pub partition_count: i32,
    /// Replicas of each partition.
    #[serde(default)]
    pub replication_factor: i32,
    /// Overrides only, as canonical text.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub description: String,
    /// When it was created, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub created_ms: Timestamp,
    /// The revision at which its durability was changed last; 0: that of this value.
    #[serde(default)]
    pub durability_revision: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// A topic that is gone for users while its data goes away: its tombstone. It stays until its partitions are out of the
/// metadata and every node that held data has confirmed that nothing is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneValue {
    /// The name it had.
    #[serde(default)]
    pub name: String,
    /// The operation that deletes it.
    #[serde(default)]
    pub operation: String,
    /// Number of partitions that the topic had.
    #[serde(default)]
    pub partition_count: i32,
    /// When the deletion began, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub started_ms: Timestamp,
    /// Nodes that may still have data, ascending.
    #[serde(default)]
    pub nodes: Vec<i32>,
    /// What nodes have set aside of it stays: a creation from that was given up before it was finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_data: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Partitions that are being created, too many for one transaction: not visible before the last one, which writes the
/// topic and removes this value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedPartitions {
    /// The topic as it will be. Of a topic that exists, only the number of partitions counts.
    pub topic: TopicValue,
    /// The first partition that is created; 0 for a topic that is created with them.
    #[serde(default)]
    pub first: i32,
    /// The leader epoch of each: above that of replicas that were set aside and are taken back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leader_epoch: i32,
    /// The node of the only replica of each, from the first one on; -1, and where the list ends: any nodes will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed_on: Vec<i32>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

impl Value for TopicValue {}
impl Value for TombstoneValue {}
impl Value for StagedPartitions {}

#[test]
fn the_form_is_the_documented_one() {
    let value = TopicValue {
        name: "orders".into(),
        partition_count: 6,
        replication_factor: 1,
        config: BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]),
        created_ms: 3,
        ..TopicValue::default()
    };
    let text = r#"{"name":"orders","partition_count":6,"replication_factor":1,"config":{"retention.ms":"1000"},"labels":{},"description":"","created_ms":3,"durability_revision":0}"#;
    super::assert_form(&value, text);
    let staged = StagedPartitions { topic: value, first: 2, ..StagedPartitions::default() };
    super::assert_form(&staged, &format!(r#"{{"topic":{text},"first":2}}"#));
    let tombstone = TombstoneValue {
        name: "orders".into(),
        operation: "op-1".into(),
        partition_count: 6,
        started_ms: 4,
        nodes: vec![1],
        ..TombstoneValue::default()
    };
    let text = r#"{"name":"orders","operation":"op-1","partition_count":6,"started_ms":4,"nodes":[1]}"#;
    super::assert_form(&tombstone, text);
    let given_up = TombstoneValue { keeps_data: true, nodes: Vec::new(), ..tombstone };
    let text =
        r#"{"name":"orders","operation":"op-1","partition_count":6,"started_ms":4,"nodes":[],"keeps_data":true}"#;
    super::assert_form(&given_up, text);
}
