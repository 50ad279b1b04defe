//! Which nodes get which replicas. Pure.

use walser_metadata::View;
use walser_model::NodeId;
use walser_rpc::{ApiError, Reason};

/// Nodes that can take replicas, ascending.
pub(crate) fn usable(metadata: &View) -> Vec<NodeId> {
    let nodes = metadata.nodes().filter(|(_, node)| node.epoch > 0);
    let usable = nodes.filter(|(_, node)| !node.liveness.fenced && !node.liveness.shutting_down);
    usable.map(|(id, _)| id).collect()
}

/// Whether partitions of so many replicas can be placed now.
pub(crate) fn check_placeable(metadata: &View, replication_factor: i32) -> Result<(), ApiError> {
    place(&usable(metadata), 0, replication_factor).map(drop)
}

/// The replicas of a partition: round robin over `nodes` (ascending), the first one leads.
pub(crate) fn place(nodes: &[NodeId], partition: i32, replication_factor: i32) -> Result<Vec<NodeId>, ApiError> {
    if nodes.is_empty() {
        let text = "no storage node is in service; start one, or wait until it has registered";
        return Err(ApiError::new(Reason::LeaderNotAvailable, text));
    }
    let wanted = usize::try_from(replication_factor).unwrap_or(0);
    if wanted > nodes.len() || wanted == 0 {
        let available = nodes.len();
        let text = format!(
            "replication factor {replication_factor} needs {replication_factor} storage nodes; {available} available"
        );
        let failure = ApiError::new(Reason::ReplicationFactorTooHigh, text);
        return Err(failure.with("requested", replication_factor).with("available", available));
    }
    let start = usize::try_from(partition).unwrap_or(0);
    Ok((0..wanted).map(|step| nodes[(start + step) % nodes.len()]).collect())
}

#[cfg(test)]
mod tests {
    use walser_proto::v1::RetryAdvice;

    use super::*;

    fn nodes(numbers: &[i32]) -> Vec<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn leaders_spread_over_nodes() {
        let placed = (0..6).map(|partition| place(&nodes(&[1, 2, 3]), partition, 1).unwrap());
        assert_eq!(placed.flatten().map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn the_replicas_of_a_partition_are_different_nodes_and_more_than_there_are_are_refused() {
        for partition in 0..9 {
            let placed = place(&nodes(&[1, 2, 3, 5]), partition, 3).unwrap();
            let distinct: std::collections::BTreeSet<_> = placed.iter().collect();
            assert_eq!(distinct.len(), 3, "{placed:?}");
        }
        let refused = place(&nodes(&[1, 2]), 0, 3).unwrap_err();
        assert_eq!(refused.reason(), Reason::ReplicationFactorTooHigh);
        assert_eq!(refused.message(), "replication factor 3 needs 3 storage nodes; 2 available");
    }

    #[test]
    fn without_a_node_in_service_it_is_not_the_replication_factor_that_is_wrong() {
        let refused = place(&[], 0, 1).unwrap_err();
        assert_eq!((refused.reason(), refused.retry()), (Reason::LeaderNotAvailable, RetryAdvice::Backoff));
        assert!(refused.message().starts_with("no storage node is in service"), "{refused}");
    }
}
