//! Commits as their clients name them: the partitions that are meant, and what became of each.

use std::collections::BTreeMap;

use walser_group::OffsetToCommit;
use walser_model::TopicPartition;
use walser_rpc::ApiError;

use crate::reading::{PartitionFailure, PartitionName};
use crate::topics::Topics;

use super::request::OffsetCommit;

/// Offsets to commit, by partition: of several for one partition the last one holds.
#[derive(Debug, Default)]
pub(super) struct NamedCommits {
    pub(super) to_commit: BTreeMap<TopicPartition, OffsetToCommit>,
    names: BTreeMap<TopicPartition, PartitionName>,
    refused: Vec<PartitionFailure>,
}

impl NamedCommits {
    pub(super) fn add(&mut self, of: PartitionName, offset: OffsetToCommit) {
        self.names.insert(offset.partition, of);
        self.to_commit.insert(offset.partition, offset);
    }

    /// Adds the commits whose partitions are there; the others are refused.
    pub(super) async fn resolve(&mut self, topics: &Topics, commits: Vec<OffsetCommit>) {
        for OffsetCommit { of, offset, leader_epoch, metadata, topic_id } in commits {
            match topics.partition(&of, topic_id).await {
                Ok(partition) => self.add(of, OffsetToCommit { partition, offset, leader_epoch, metadata }),
                Err(failure) => self.refused.push(PartitionFailure { of, failure }),
            }
        }
    }

    /// Refuses those that do not pass.
    pub(super) fn check(&mut self, check: impl Fn(&PartitionName, &OffsetToCommit) -> Result<(), ApiError>) {
        for (partition, offset) in std::mem::take(&mut self.to_commit) {
            match self.names.get(&partition).map_or(Ok(()), |of| check(of, &offset)) {
                Ok(()) => drop(self.to_commit.insert(partition, offset)),
                Err(failure) => self.refuse(&partition, failure),
            }
        }
    }

    /// One is refused.
    pub(super) fn refuse(&mut self, partition: &TopicPartition, failure: ApiError) {
        let of = self.names.get(partition).cloned();
        self.refused.extend(of.map(|of| PartitionFailure { of, failure }));
    }

    /// Those that were refused.
    pub(super) fn into_refused(self) -> Vec<PartitionFailure> {
        self.refused
    }
}
