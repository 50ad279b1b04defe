//! What callers change is logged: who, what, and from what to what.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use walser_metadata::value::TopicValue;
use walser_model::TopicId;
use walser_proto::v1::Operation;
use walser_service::Caller;

/// Longest description of a change in a line, in bytes.
const CHANGES_BYTES_MAX: usize = 1024;

pub(super) fn topic_created(caller: &Caller, id: TopicId, topic: &TopicValue) {
    let TopicValue { name, partition_count, replication_factor, config, .. } = topic;
    tracing::info!(
        client_id = caller.client_id(), client_address = caller.address(), topic = name, %id,
        partitions = partition_count, replication_factor, config = pairs(config), "topic created"
    );
}

pub(super) fn topic_changed(caller: &Caller, id: TopicId, before: &TopicValue, after: &TopicValue) {
    tracing::info!(
        client_id = caller.client_id(), client_address = caller.address(), topic = after.name, %id,
        changes = changes(before, after), "topic changed"
    );
}

pub(super) fn partitions_added(caller: &Caller, id: TopicId, before: i32, after: &TopicValue) {
    let changes = format!("partitions: {before} -> {}", after.partition_count);
    tracing::info!(
        client_id = caller.client_id(), client_address = caller.address(), topic = after.name, %id, changes,
        "partitions added"
    );
}

pub(super) fn topic_deleted(caller: &Caller, id: TopicId, name: &str, operation: &Operation) {
    let partitions = operation.progress.as_ref().map_or(0, |progress| progress.total);
    tracing::info!(
        client_id = caller.client_id(), client_address = caller.address(), topic = name, %id, partitions,
        operation = operation.id, "topic deleted"
    );
}

/// Settings as `NAME=VALUE`.
fn pairs(config: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = config.iter().map(|(name, value)| format!("{name}={value}")).collect();
    bounded(pairs.join(", "))
}

/// What is different, as `NAME: OLD -> NEW`.
fn changes(before: &TopicValue, after: &TopicValue) -> String {
    let mut out = String::new();
    differences(&mut out, "", "default", &before.config, &after.config);
    differences(&mut out, "label ", "none", &before.labels, &after.labels);
    if before.description != after.description {
        let _ = write!(out, "{}description", if out.is_empty() { "" } else { ", " });
    }
    bounded(if out.is_empty() { "none".to_owned() } else { out })
}

fn differences(
    out: &mut String,
    kind: &str,
    absent: &str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) {
    let names: BTreeMap<&String, ()> = before.keys().chain(after.keys()).map(|name| (name, ())).collect();
    for name in names.into_keys() {
        let [old, new] = [before, after].map(|values| values.get(name).map_or(absent, String::as_str));
        if old != new {
            let _ = write!(out, "{}{kind}{name}: {old} -> {new}", if out.is_empty() { "" } else { ", " });
        }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > CHANGES_BYTES_MAX {
        text.truncate(text.floor_char_boundary(CHANGES_BYTES_MAX));
        text.push_str(" …");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(config: &[(&str, &str)], labels: &[(&str, &str)]) -> TopicValue {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        TopicValue {
            name: "t".to_owned(),
            partition_count: 1,
            replication_factor: 1,
            config: map(config),
            labels: map(labels),
            ..TopicValue::default()
        }
    }

    #[test]
    fn a_change_is_described_from_the_old_to_the_new_value() {
        let before = topic(&[("retention.ms", "1000"), ("segment.bytes", "1048576")], &[("team", "a")]);
        let mut after = topic(&[("retention.ms", "2000"), ("max.message.bytes", "10")], &[("team", "b")]);
        let expected = "max.message.bytes: default -> 10, retention.ms: 1000 -> 2000, segment.bytes: 1048576 -> default, \
                        label team: a -> b";
        assert_eq!(changes(&before, &after), expected);
        after.description = "text".to_owned();
        assert_eq!(changes(&before, &after), format!("{expected}, description"));
        assert_eq!(changes(&before, &before), "none");
    }

    #[test]
    fn a_long_description_is_cut() {
        let long = "ä".repeat(CHANGES_BYTES_MAX);
        let after = topic(&[], &[("team", &long)]);
        let text = changes(&topic(&[], &[]), &after);
        assert!(text.len() <= CHANGES_BYTES_MAX + 4 && text.ends_with(" …"), "{}", text.len());
    }
}
