//! `names/{name}`, `topics/{id}`, `staged/{id}` and `deleting/{id}`: topics.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;
use walser_model::TopicId;

pub(crate) const PREFIX: &str = "topics/";
pub(crate) const NAMES_PREFIX: &str = "names/";
pub(crate) const STAGED_PREFIX: &str = "staged/";
pub(crate) const DELETING_PREFIX: &str = "deleting/";

/// The id behind a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicNameRecord {
    pub(crate) id: String,
}

impl Value for TopicNameRecord {}

pub(crate) fn name_key(name: &str) -> String {
    format!("{NAMES_PREFIX}{name}")
}

pub(crate) fn key(id: TopicId) -> String {
    format!("{PREFIX}{}", id.to_hex())
}

pub(crate) fn staged_key(id: TopicId) -> String {
    format!("{STAGED_PREFIX}{}", id.to_hex())
}

pub(crate) fn deleting_key(id: TopicId) -> String {
    format!("{DELETING_PREFIX}{}", id.to_hex())
}

/// The id in a key of `topics/`.
pub(crate) fn parse(key: &str) -> Option<TopicId> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

/// The id in a key of `staged/`.
pub(crate) fn parse_staged(key: &str) -> Option<TopicId> {
    key.strip_prefix(STAGED_PREFIX)?.parse().ok()
}

/// The id in a key of `deleting/`.
pub(crate) fn parse_deleting(key: &str) -> Option<TopicId> {
    key.strip_prefix(DELETING_PREFIX)?.parse().ok()
}

#[test]
fn keys_are_read_as_they_are_written() {
    let id = TopicId::from_bytes([9; 16]);
    assert_eq!((parse(&key(id)), parse(&deleting_key(id))), (Some(id), None));
    assert_eq!((parse_deleting(&deleting_key(id)), parse_staged(&staged_key(id))), (Some(id), Some(id)));
    super::assert_form(&TopicNameRecord { id: "a".into() }, r#"{"id":"a"}"#);
}
