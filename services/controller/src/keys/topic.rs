//! `names/{name}`, `topics/{id}` and `deleting/{id}`: topics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use walser_model::TopicId;

use super::Value;

pub(crate) const PREFIX: &str = "topics/";
pub(crate) const DELETING_PREFIX: &str = "deleting/";

/// The id behind a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) id: String,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partition_count: i32,
    pub(crate) replication_factor: i32,
    /// Overrides only, as canonical text.
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) description: String,
    pub(crate) created_ms: i64,
}

/// A topic that is gone for users while its data goes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deleting {
    pub(crate) name: String,
    pub(crate) operation: String,
    pub(crate) partition_count: i32,
    pub(crate) started_ms: i64,
    /// Nodes that still have data.
    pub(crate) nodes: Vec<i32>,
}

impl Value for Name {}
impl Value for Topic {}
impl Value for Deleting {}

pub(crate) fn name_key(name: &str) -> String {
    format!("names/{name}")
}

pub(crate) fn key(id: TopicId) -> String {
    format!("{PREFIX}{}", id.to_hex())
}

pub(crate) fn deleting_key(id: TopicId) -> String {
    format!("{DELETING_PREFIX}{}", id.to_hex())
}

/// The id in a key of `topics/`.
pub(crate) fn parse(key: &str) -> Option<TopicId> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

/// The id in a key of `deleting/`.
pub(crate) fn parse_deleting(key: &str) -> Option<TopicId> {
    key.strip_prefix(DELETING_PREFIX)?.parse().ok()
}

#[test]
fn the_form_is_the_documented_one() {
    let value = Topic {
        name: "orders".into(),
        partition_count: 6,
        replication_factor: 1,
        config: BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]),
        labels: BTreeMap::new(),
        description: String::new(),
        created_ms: 3,
    };
    let text = r#"{"name":"orders","partition_count":6,"replication_factor":1,"config":{"retention.ms":"1000"},"labels":{},"description":"","created_ms":3}"#;
    super::assert_form(&value, text);
    let deleting =
        Deleting { name: "orders".into(), operation: "op-1".into(), partition_count: 6, started_ms: 4, nodes: vec![1] };
    let text = r#"{"name":"orders","operation":"op-1","partition_count":6,"started_ms":4,"nodes":[1]}"#;
    super::assert_form(&deleting, text);
    let id = TopicId::from_bytes([9; 16]);
    assert_eq!(parse(&key(id)), Some(id));
    assert_eq!((parse_deleting(&deleting_key(id)), parse(&deleting_key(id))), (Some(id), None));
}
