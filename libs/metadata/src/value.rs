//! Values of the metadata store, and their form: JSON objects, as `docs/formats/metadata.md` describes them.
//!
//! A field that an older version has not written has its default; a field that a newer version has written is kept in
//! [`UnknownFields`] and written again. What must not be ignored comes with a feature level, not with a field.

mod group_shard;
mod node;
mod partition;
mod topic;
mod unknown;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use group_shard::GroupShardValue;
pub use node::{FIRST_LEVEL, NodeLiveness, NodeRegistration, first_level, is_first_level};
pub use partition::PartitionValue;
pub use topic::{StagedPartitions, TombstoneValue, TopicValue};
pub use unknown::UnknownFields;

/// A value in the metadata store.
pub trait Value: Serialize + DeserializeOwned {}

/// Reads a value.
///
/// # Errors
/// When the bytes are not a JSON object, or a field has another type.
pub fn decode<V: Value>(bytes: &[u8]) -> Result<V, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Writes a value. Equal values have equal bytes.
pub fn encode<V: Value>(value: &V) -> Vec<u8> {
    serde_json::to_vec(value).expect("values have text keys, numbers and lists of them")
}

/// Whether a number need not be written.
fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// Checks the documented form of a value, that it is read back, and that a field of a newer version survives.
#[cfg(test)]
fn assert_form<V: Value + PartialEq + std::fmt::Debug>(value: &V, text: &str) {
    assert_eq!(std::str::from_utf8(&encode(value)).unwrap(), text);
    assert_eq!(&decode::<V>(text.as_bytes()).unwrap(), value);
    let comma = if text == "{}" { "" } else { "," };
    let newer = format!(r#"{}{comma}"from_a_newer_version":{{"a":[1,"b",null]}}}}"#, text.strip_suffix('}').unwrap());
    let kept = encode(&decode::<V>(newer.as_bytes()).unwrap());
    assert_eq!(std::str::from_utf8(&kept).unwrap(), newer, "what a newer version has written is kept");
}
