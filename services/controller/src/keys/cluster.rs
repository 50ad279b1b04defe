//! `cluster`: the cluster itself.

use serde::{Deserialize, Serialize};
use walser_metadata::value::{UnknownFields, Value};

pub(crate) const KEY: &str = "cluster";

/// Replicas of a partition, and how many of them must be in sync, where nobody says otherwise.
const DEFAULT: i32 = 1;

/// Written when the cluster is formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterRecord {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) created_ms: i64,
    /// The replication factor of topics that ask for none, however many nodes there are.
    #[serde(default = "default")]
    pub(crate) replication_factor: i32,
    /// `min.insync.replicas` of topics without the setting.
    #[serde(default = "default")]
    pub(crate) min_insync_replicas: i32,
    #[serde(flatten)]
    pub(crate) unknown: UnknownFields,
}

fn default() -> i32 {
    DEFAULT
}

impl Value for ClusterRecord {}

impl ClusterRecord {
    /// A cluster whose topics have one replica where nobody says otherwise.
    pub(crate) fn new(id: String, name: String, created_ms: i64) -> Self {
        let (replication_factor, min_insync_replicas) = (DEFAULT, DEFAULT);
        Self { id, name, created_ms, replication_factor, min_insync_replicas, unknown: UnknownFields::default() }
    }

    /// The effective `min.insync.replicas`: the topic's, else the cluster's; never more than there are replicas.
    pub(crate) fn min_isr(&self, setting: Option<i32>, replication_factor: i32) -> usize {
        let wanted = setting.unwrap_or(self.min_insync_replicas).min(replication_factor);
        usize::try_from(wanted).unwrap_or(0).max(1)
    }
}

#[test]
fn the_form_is_the_documented_one() {
    let value = ClusterRecord::new("c".into(), "walser".into(), 5);
    let text = r#"{"id":"c","name":"walser","created_ms":5,"replication_factor":1,"min_insync_replicas":1}"#;
    super::assert_form(&value, text);
    let older = walser_metadata::value::decode(br#"{"id":"c","name":"walser","created_ms":5}"#);
    assert_eq!(older.ok(), Some(value), "a cluster that an older version has formed");
}

#[test]
fn the_smallest_in_sync_set_is_one_unless_the_topic_says_otherwise() {
    let cluster = ClusterRecord::new("c".into(), "walser".into(), 5);
    assert_eq!(cluster.min_isr(None, 1), 1);
    assert_eq!(cluster.min_isr(None, 3), 1);
    assert_eq!(cluster.min_isr(Some(3), 2), 2);
}
