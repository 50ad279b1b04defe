//! The history of the metadata store, as its watchers read it: every change since the compaction, in the order of
//! revisions.

use walser_model::NodeId;
use walser_replication::PartitionState;
use walser_replication::control::NodeRecord;

use crate::key::{Key, TopicSettings};

/// A new value of a key.
#[derive(Debug, Clone)]
pub(crate) enum NewValue {
    Partition(Key, PartitionState),
    Deleted(Key),
    Node(NodeId, NodeRecord),
    Settings(usize, TopicSettings),
    /// Another controller was elected.
    Controller,
}

/// A change, and the revision that made it. A revision may make several.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) value: NewValue,
}

/// Changes by their revisions, ascending. Every revision has at least one.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    changes: Vec<Change>,
    /// Changes up to here are gone: whoever has seen less reads everything anew.
    pub(crate) compacted: i64,
}

impl History {
    pub(crate) fn push(&mut self, revision: i64, value: NewValue) {
        self.changes.push(Change { revision, value });
    }

    /// What a watcher that has seen a revision has not seen yet.
    pub(crate) fn after(&self, seen: i64) -> &[Change] {
        &self.changes[self.changes.partition_point(|change| change.revision <= seen)..]
    }

    /// The beginning of some changes: at least one, about `count`, and each revision whole.
    pub(crate) fn whole(changes: &[Change], count: usize) -> &[Change] {
        let count = count.max(1);
        let Some(last) = changes.get(count - 1) else { return changes };
        let rest = changes[count..].iter().take_while(|change| change.revision == last.revision).count();
        &changes[..count + rest]
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        self.changes.clear();
    }
}
