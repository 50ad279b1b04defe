//! What a node says of its data directory when it registers.

use std::collections::HashSet;

use walser_metadata::NodeEntry;
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

    /// What the node has of a partition. `older`: its directory is an older copy. `durability`: of the topic.
    pub(crate) fn integrity(&self, id: TopicPartition, older: bool, durability: Durability) -> ReplicaIntegrity {
        match self.damaged.contains(&id) {
            true => ReplicaIntegrity::Damaged,
            // Of any age: others have more.
            false if older => ReplicaIntegrity::Gone,
            false if self.unclean && durability == Durability::PageCache => ReplicaIntegrity::Unclean,
            false => ReplicaIntegrity::Intact,
        }
    }

    /// Says in the log what is not as the node left it.
    pub(crate) fn report(&self, node: NodeId, older: bool) {
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
        if let Some(first) = self.damaged.iter().min() {
            tracing::warn!(%node, partitions = self.damaged.len(), %first, "replicas are damaged: they are taken from the others");
        }
    }
}
