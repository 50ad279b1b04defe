//! What a node is to a partition, by the metadata that it has seen.

use walser_model::NodeId;

use crate::{PartitionState, Rule, Rules};

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Lead, in the epoch of the metadata.
    Lead,
    /// Follow the leader of the metadata.
    Follow,
    /// Neither: there is no leader, or the metadata is too old to act on.
    Rest,
    /// Forget it: the node has no replica, and what it has on disk can be deleted.
    Gone,
}

/// The role of `node`, registered as `node_epoch`, by metadata as of `revision` (rule R1).
pub fn role(rules: Rules, node: NodeId, node_epoch: i64, revision: i64, partition: &PartitionState) -> Role {
    // Before it has seen its own registration, a restarted node would act on what was true before it died.
    if revision < node_epoch && rules.hold(Rule::FreshMetadata) {
        return Role::Rest;
    }
    match partition.leader {
        Some(leader) if leader == node => Role::Lead,
        _ if !partition.replicas.contains(&node) => Role::Gone,
        Some(_) => Role::Follow,
        None => Role::Rest,
    }
}

/// Whether a node that stops in good order may say so on its disk. What happened before the stop is only forgotten once
/// a registration has recorded it (rule R20).
pub fn may_stop_clean(rules: Rules, registered: bool) -> bool {
    registered || !rules.hold(Rule::UncleanIsSticky)
}
