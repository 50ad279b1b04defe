//! What a node says of its data directory when it registers.

use std::collections::HashSet;

use walser_metadata::{NodeEntry, TopicEntry};
use walser_model::{Durability, NodeId, TopicPartition};
use walser_replication::control::ReplicaIntegrity;

/// What lies in the data directory of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holdings {
    /// Highest version of the metadata that the directory has seen.
    pub(crate) seen_version: i64,
    /// The latest incarnation that its logs have seen. `None`: not known.
    pub(crate) logs_node_epoch: Option<i64>,
    /// Partitions of which it has a replica that is not empty.
    pub(crate) held: HashSet<TopicPartition>,
    /// Those of them that are damaged, or cannot be opened.
    pub(crate) damaged: HashSet<TopicPartition>,
    /// What was only in the page cache may be lost.
    pub(crate) unclean: bool,
}

impl Holdings {
    /// Whether the directory has a replica that is not empty.
    pub(crate) fn has(&self, id: TopicPartition) -> bool {
        self.held.contains(&id)
    }

    /// Whether the directory, or what lies in it under `logs`, is an older copy. A node notes on its disk that it has registered before it counts: what has
    /// not seen the latest incarnation that has counted was put away before that.
    pub(crate) fn are_older(&self, known: &NodeEntry) -> bool {
        let served = known.liveness.served_epoch;
        self.seen_version < served || self.logs_node_epoch.is_some_and(|seen| seen < served)
    }

    /// What the node has of a partition. `older`: its directory is an older copy. `page_cache`: records of the topic may have
    /// counted before they were flushed. `failed`: the last that the process before has said is that it cannot use the
    /// directory, and so it could not note there that what was not flushed may be lost. What may be lost without a trace comes first: damage is seen, and says that the
    /// rest is there.
    pub(crate) fn integrity(
        &self,
        id: TopicPartition,
        older: bool,
        (page_cache, failed): (bool, bool),
    ) -> ReplicaIntegrity {
        match self.damaged.contains(&id) {
            // Of any age: others have more.
            _ if older => ReplicaIntegrity::Gone,
            _ if page_cache && (self.unclean || failed) => ReplicaIntegrity::Unclean,
            true => ReplicaIntegrity::Damaged,
            false => ReplicaIntegrity::Intact,
        }
    }

    /// Whether records of a topic may have counted on the node before they were flushed: with page cache, and where the
    /// durability has changed since the node has seen the metadata, as what it was then is not known.
    pub(crate) fn counted_unflushed(&self, topic: &TopicEntry) -> bool {
        topic.settings.config.durability == Durability::PageCache || topic.durability_revision() > self.seen_version
    }

    /// Says in the log what is not as the node left it.
    pub(crate) fn report(&self, node: NodeId, (older, failed): (bool, bool)) {
        if older {
            tracing::warn!(
                %node, seen_version = self.seen_version, logs_node_epoch = self.logs_node_epoch,
                "the data directory, or its logs, are an older copy, or the file logs/checkpoint is gone: what the node has served since is taken from the other replicas, and is \
                 lost where there are none"
            );
        }
        if self.unclean {
            tracing::warn!(
                %node,
                "the system of the node went down, or its directory was not closed in good order: for topics with \
                 durability=page-cache it does not count before it has followed a leader"
            );
        }
        if failed {
            tracing::warn!(
                %node,
                "the last that the node has said is that it cannot use its data directory: for topics with \
                 durability=page-cache it does not count, where another one has everything, before it has followed a leader"
            );
        }
        if let Some(first) = self.damaged.iter().min() {
            tracing::warn!(%node, partitions = self.damaged.len(), %first, "replicas are damaged: they are taken from the others");
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn what_may_be_lost_without_a_trace_counts_before_damage() {
        let id = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
        let sound = Holdings::default();
        assert_eq!(sound.integrity(id, false, (true, false)), ReplicaIntegrity::Intact);
        assert_eq!(sound.integrity(id, false, (true, true)), ReplicaIntegrity::Unclean, "nothing could be noted there");
        assert_eq!(sound.integrity(id, false, (false, true)), ReplicaIntegrity::Intact);
        let damaged = Holdings { damaged: [id].into(), ..Holdings::default() };
        assert_eq!(damaged.integrity(id, false, (true, false)), ReplicaIntegrity::Damaged);
        assert_eq!(damaged.integrity(id, true, (true, false)), ReplicaIntegrity::Gone);
        let unclean = Holdings { unclean: true, ..damaged };
        assert_eq!(unclean.integrity(id, false, (false, false)), ReplicaIntegrity::Damaged, "all of it was flushed");
        assert_eq!(unclean.integrity(id, false, (true, false)), ReplicaIntegrity::Unclean);
        assert_eq!(unclean.integrity(id, true, (true, false)), ReplicaIntegrity::Gone);
    }

    #[test]
    fn an_older_copy_is_told_by_the_directory_or_by_its_logs() {
        let mut known = NodeEntry::default();
        known.liveness.served_epoch = 7;
        let held = |seen_version, logs_node_epoch| Holdings { seen_version, logs_node_epoch, ..Holdings::default() };
        assert!(
            held(6, None).are_older(&known) && held(9, Some(6)).are_older(&known) && held(9, Some(0)).are_older(&known)
        );
        assert!(!held(7, Some(7)).are_older(&known) && !held(9, None).are_older(&known));
    }
}
