//! Which nodes get which replicas. Pure.

use walser_rpc::{Failure, Reason};

use crate::keys::partition::Partition;

/// The replication factor where the request says none, however many nodes there are.
pub(crate) const REPLICATION_DEFAULT: i32 = 1;

/// Highest replication factor that is supported: followers do not copy records in this version, so that a write to a
/// partition with more replicas would never be acknowledged.
const REPLICATION_MAX: i32 = 1;

/// The effective `min.insync.replicas`: the topic's, else 1; never more than there are replicas.
pub(crate) fn effective_min_isr(setting: Option<i32>, replication: i32) -> i32 {
    setting.unwrap_or(1).min(replication)
}

/// Places partitions `first..end` round robin over `nodes` (ascending), each led by its first replica.
pub(crate) fn place(
    nodes: &[i32],
    first: i32,
    end: i32,
    replication: i32,
    min_isr: i32,
) -> Result<Vec<Partition>, Failure> {
    if nodes.is_empty() {
        let text = "no storage node is in service; start one, or wait until it has registered";
        return Err(Failure::new(Reason::LeaderNotAvailable, text));
    }
    let wanted = usize::try_from(replication).unwrap_or(0);
    if wanted > nodes.len() || wanted == 0 {
        let available = nodes.len();
        let text = format!("replication factor {replication} needs {replication} storage nodes; {available} available");
        let failure = Failure::new(Reason::ReplicationFactorTooHigh, text);
        return Err(failure.with("requested", replication).with("available", available));
    }
    if replication > REPLICATION_MAX {
        let text = format!("replication factor {replication}: replication is not available in this version; use 1");
        let failure = Failure::new(Reason::FeatureDisabled, text).with("feature", "replication");
        return Err(failure.with("requested", replication).with("limit", REPLICATION_MAX));
    }
    let place = |partition: i32| {
        let start = usize::try_from(partition).unwrap_or(0);
        let replicas: Vec<i32> = (0..wanted).map(|step| nodes[(start + step) % nodes.len()]).collect();
        Partition { leader: replicas[0], leader_epoch: 0, isr: replicas.clone(), min_isr, replicas }
    };
    Ok((first..end).map(place).collect())
}

#[cfg(test)]
mod tests {
    use walser_proto::v1::RetryAdvice;

    use super::*;

    #[test]
    fn leaders_spread_over_nodes() {
        let placed = place(&[1, 2, 3], 0, 6, 1, 1).unwrap();
        let leaders: Vec<_> = placed.iter().map(|partition| partition.leader).collect();
        assert_eq!(leaders, [1, 2, 3, 1, 2, 3]);
        assert!(placed.iter().all(|partition| partition.replicas.len() == 1 && partition.isr == partition.replicas));
    }

    #[test]
    fn more_replicas_than_nodes_are_refused_and_more_than_one_is_not_available() {
        let refused = place(&[1, 2], 0, 1, 3, 1).unwrap_err();
        assert_eq!(refused.reason(), Reason::ReplicationFactorTooHigh);
        assert_eq!(refused.message(), "replication factor 3 needs 3 storage nodes; 2 available");
        for replication in [2, 3] {
            let refused = place(&[1, 2, 3], 0, 1, replication, 1).unwrap_err();
            assert_eq!((refused.reason(), refused.value("feature")), (Reason::FeatureDisabled, Some("replication")));
        }
    }

    #[test]
    fn without_a_node_in_service_it_is_not_the_replication_factor_that_is_wrong() {
        let refused = place(&[], 0, 1, 1, 1).unwrap_err();
        assert_eq!((refused.reason(), refused.retry()), (Reason::LeaderNotAvailable, RetryAdvice::Backoff));
        assert!(refused.message().starts_with("no storage node is in service"), "{refused}");
    }

    #[test]
    fn the_smallest_in_sync_set_is_one_unless_the_topic_says_otherwise() {
        assert_eq!(effective_min_isr(None, 1), 1);
        assert_eq!(effective_min_isr(None, 3), 1);
        assert_eq!(effective_min_isr(Some(3), 2), 2);
    }
}
