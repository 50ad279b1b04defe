//! The topics of the cluster, as shards hear of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use walser_group::TopicChange;
use walser_model::{TopicId, TopicName};

/// All topics, as of one version of the metadata.
pub(crate) type KnownTopics = Arc<BTreeMap<TopicName, (TopicId, i32)>>;

/// What has changed between two versions.
pub(crate) fn topic_changes(before: &KnownTopics, after: &KnownTopics) -> Vec<TopicChange> {
    if Arc::ptr_eq(before, after) {
        return Vec::new();
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| TopicChange::Absent { name: name.clone() });
    let changed = after.iter().filter(|(name, found)| before.get(*name) != Some(found));
    let changed = changed.map(|(name, (id, partition_count))| TopicChange::Present {
        name: name.clone(),
        id: *id,
        partition_count: *partition_count,
    });
    gone.chain(changed).collect()
}
