//! The catalogue of metadata keys. One file per family, each with its codec and its tests.
//!
//! | key | value | family |
//! |---|---|---|
//! | `cluster` | id, name, creation, defaults | [`cluster`] |
//! | `names/{name}` | topic id | [`topic`] |
//! | `topics/{id}` | name, counts, settings | [`topic`] |
//! | `parts/{id}/{partition}` | replicas, leader, epochs; its mod revision is the partition epoch | [`partition`] |
//! | `staged/{id}` | partitions that are being created, too many for one transaction | [`topic`] |
//! | `deleting/{id}` | the tombstone of a topic | [`topic`] |
//! | `nodes/{id}/reg` | incarnation, address; its mod revision is the node epoch | [`node`] |
//! | `nodes/{id}/live` | fenced or not | [`node`] |
//! | `election/controller` | the controller; its create revision is the controller epoch | `leadership` |
//! | `lineages/{number}`, `lineages/accepted/{id}` | starts of controllers | [`lineage`] |
//! | `shards/groups/{shard}` | the coordinator of a shard of groups | [`group_shard`] |
//! | `pids/next` | first producer id that was not handed out | [`counter`] |
//! | `pids/internal` | the same for ids of gateways, counted from 2^62 | [`counter`] |
//! | `pids/epochs/{slot}` | latest epochs of producer ids | [`producer`] |
//! | `import` | an export that is being imported: no controller starts meanwhile | [`transfer`] |
//! | `moved` | the metadata was exported: no controller starts or leads | [`transfer`] |
//! | `store/probe` | nothing: written to find out whether the store takes writes again | `store_writes` |
//!
//! Values are JSON objects: `docs/formats/metadata.md`. Those that other services see as well are in
//! `walser_metadata::value`.

pub(crate) mod cluster;
pub(crate) mod counter;
pub(crate) mod group_shard;
pub(crate) mod lineage;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod producer;
pub(crate) mod topic;
pub(crate) mod transfer;

use walser_metadata::value::{Value, encode};
use walser_metastore::{KeyValue, Op};
use walser_rpc::ApiError;

/// Written while writes fail, to find out when they work again.
pub(crate) const STORE_PROBE: &str = "store/probe";

/// Reads a value.
pub(crate) fn decode<V: Value>(entry: &KeyValue) -> Result<V, ApiError> {
    let broken = |error: serde_json::Error| {
        ApiError::internal(format!("metadata key {} is not readable by this version: {error}", entry.key))
    };
    walser_metadata::value::decode(&entry.value).map_err(broken)
}

/// A change that writes a value.
pub(crate) fn put<V: Value>(key: String, value: &V) -> Op {
    Op::Put { key, value: encode(value).into(), lease: None }
}

/// A change that removes a key.
pub(crate) fn delete(key: String) -> Op {
    Op::Delete { key }
}

/// Checks that a value survives, and that its text form is the one in the documentation.
#[cfg(test)]
pub(crate) fn assert_form<V: Value + PartialEq + std::fmt::Debug>(value: &V, text: &str) {
    assert_eq!(std::str::from_utf8(&encode(value)).unwrap(), text);
    assert_eq!(&walser_metadata::value::decode::<V>(text.as_bytes()).unwrap(), value);
}
