//! The catalogue of metadata keys. One file per family, each with its codec and its tests.
//!
//! | key | value | family |
//! |---|---|---|
//! | `cluster` | id, name, creation | [`cluster`] |
//! | `names/{name}` | topic id | [`topic`] |
//! | `topics/{id}` | name, counts, settings | [`topic`] |
//! | `parts/{id}/{partition}` | replicas, leader, epochs; its mod revision is the partition epoch | [`partition`] |
//! | `nodes/{id}/reg` | incarnation, address; its mod revision is the node epoch | [`node`] |
//! | `nodes/{id}/live` | fenced or not | [`node`] |
//! | `deleting/{id}` | a topic whose data is going away | [`topic`] |
//! | `counts/partitions` | partitions in the cluster | [`counter`] |
//! | `lineages/{number}`, `lineages/accepted/{id}` | starts of controllers | [`lineage`] |
//! | `pids/next` | first producer id that was not handed out | [`counter`] |
//! | `pids/internal` | the same for ids of gateways, counted from 2^62 | [`counter`] |
//! | `pids/epochs/{slot}` | latest epochs of producer ids | [`producer`] |
//!
//! Values are JSON objects: `docs/formats/metadata.md`. Unknown fields are kept out, missing ones are errors.

pub(crate) mod cluster;
pub(crate) mod counter;
pub(crate) mod lineage;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod producer;
pub(crate) mod topic;

use serde::Serialize;
use serde::de::DeserializeOwned;
use walser_metastore::{KeyValue, Op};
use walser_rpc::Failure;

/// A value of some family.
pub(crate) trait Value: Serialize + DeserializeOwned {}

/// Reads a value.
pub(crate) fn decode<V: Value>(entry: &KeyValue) -> Result<V, Failure> {
    let broken = |error: serde_json::Error| {
        Failure::internal(format!("metadata key {} is not readable by this version: {error}", entry.key))
    };
    serde_json::from_slice(&entry.value).map_err(broken)
}

/// A change that writes a value.
pub(crate) fn put<V: Value>(key: String, value: &V) -> Op {
    let value = serde_json::to_vec(value).expect("values are plain structs of strings and numbers");
    Op::Put { key, value: value.into(), lease: None }
}

/// A change that removes a key.
pub(crate) fn delete(key: String) -> Op {
    Op::Delete { key }
}

/// Checks that a value survives, and that its text form is the one in the documentation.
#[cfg(test)]
pub(crate) fn assert_form<V: Value + PartialEq + std::fmt::Debug>(value: &V, text: &str) {
    let Op::Put { value: bytes, .. } = put("k".to_owned(), value) else { panic!("put makes a put") };
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), text);
    let entry = KeyValue { key: "k".to_owned(), value: bytes, create_revision: 1, mod_revision: 1, lease: 0 };
    assert_eq!(&decode::<V>(&entry).unwrap(), value);
}
