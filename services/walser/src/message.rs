//! Messages of the API as JSON that other programs can use: the fields of protobuf's JSON mapping, also those that
//! are zero, and 64-bit integers as numbers. Fields that are `optional` and absent stay absent.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::error::CliError;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(walser_proto::DESCRIPTORS).ok());

/// A message as JSON.
pub(crate) fn json<M: Message + prost::Name>(message: &M) -> Result<Value, CliError> {
    let name = M::full_name();
    let failed = |error: &dyn std::error::Error| CliError::failed(format!("{name} as JSON: {error}"));
    let unknown = || CliError::failed(format!("{name} is not described"));
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&name)).ok_or_else(unknown)?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    let message = message.map_err(|error| failed(&error))?;
    let options = SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| failed(&error))
}

/// A list of messages as JSON.
pub(crate) fn list<M: Message + prost::Name>(messages: &[M]) -> Result<Value, CliError> {
    messages.iter().map(json).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

#[cfg(test)]
mod tests {
    use walser_proto::v1 as pb;

    use super::*;

    #[test]
    fn zeros_are_there_and_numbers_are_numbers() {
        let stats = pb::TopicStats { size_bytes: Some(0), record_count: Some(i64::MAX), ..Default::default() };
        let json = json(&stats).unwrap();
        assert_eq!(json["sizeBytes"], 0);
        assert_eq!(json["recordCount"], i64::MAX);
        assert_eq!(json["offlineCount"], 0);
        let absent = super::json(&pb::TopicStats::default()).unwrap();
        assert!(absent.get("sizeBytes").is_none_or(Value::is_null));
        let topic = pb::Topic { name: "a".to_owned(), ..Default::default() };
        let all = list(&[topic]).unwrap();
        assert_eq!((&all[0]["name"], &all[0]["partitionCount"]), (&"a".into(), &0.into()));
    }
}
