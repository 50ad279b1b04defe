//! Who gets which partitions: from the subscriptions of all members and the targets that they had, to their targets.
//!
//! Pure, and the same for the same input. Every partition of a topic that some member reads goes to exactly one member
//! that reads it.

mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walser_model::{TopicId, TopicPartition};

use crate::subscription::Assignor;

/// A member, to an assignor.
#[derive(Debug, Clone, Default)]
pub struct AssignorMember {
    /// Members are ordered by it: the instance id of a static member, so that a restart changes nothing, or the member id.
    pub rank: String,
    /// What the member reads. Topics that do not exist are ignored.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// The target that the member had.
    pub previous: Vec<TopicPartition>,
}

/// Computes the target of each member, in their order, each sorted. `topics` has the partition count of every topic.
pub fn assign(
    assignor: Assignor,
    members: &[AssignorMember],
    topics: &BTreeMap<TopicId, i32>,
) -> Vec<Vec<TopicPartition>> {
    let mut targets = match assignor {
        Assignor::Uniform => uniform::assign(members, topics),
        Assignor::Range => range::assign(members, topics),
    };
    targets.iter_mut().for_each(|target| target.sort_unstable());
    targets
}

#[cfg(test)]
mod tests;
