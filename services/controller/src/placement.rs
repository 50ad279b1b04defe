//! Which nodes get which replicas. Pure.

use walser_rpc::{Failure, Reason};

use crate::keys::partition::Partition;

/// Replicas where nobody says a number: 3 where there are 3 nodes or more, else 1.
pub(crate) fn default_replication(node_count: usize) -> i32 {
    if node_count >= 3 { 3 } else { 1 }
}

/// The effective `min.insync.replicas`: the topic's, or 2 where there are 3 nodes or more and else 1; never more
/// than there are replicas.
pub(crate) fn effective_min_isr(setting: Option<i32>, node_count: usize, replication: i32) -> i32 {
    setting.unwrap_or(if node_count >= 3 { 2 } else { 1 }).min(replication)
}

/// Places partitions `first..end` round robin over `nodes` (ascending), each led by its first replica.
pub(crate) fn place(
    nodes: &[i32],
    first: i32,
    end: i32,
    replication: i32,
    min_isr: i32,
) -> Result<Vec<Partition>, Failure> {
    let wanted = usize::try_from(replication).unwrap_or(0);
    if wanted > nodes.len() || wanted == 0 {
        let text = format!("{replication} replicas need as many storage nodes, {} are there", nodes.len());
        let failure = Failure::new(Reason::ReplicationFactorTooHigh, text);
        return Err(failure.with("requested", replication).with("available", nodes.len()));
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
    use super::*;

    #[test]
    fn leaders_and_replicas_spread_over_nodes() {
        let placed = place(&[1, 2, 3], 0, 6, 2, 1).unwrap();
        let leaders: Vec<_> = placed.iter().map(|partition| partition.leader).collect();
        assert_eq!(leaders, [1, 2, 3, 1, 2, 3]);
        assert!(placed.iter().all(|partition| partition.replicas.len() == 2 && partition.isr == partition.replicas));
        assert!(place(&[1], 0, 1, 2, 1).is_err());
    }

    #[test]
    fn defaults_follow_the_number_of_nodes() {
        assert_eq!((default_replication(1), default_replication(3)), (1, 3));
        assert_eq!(effective_min_isr(None, 1, 1), 1);
        assert_eq!(effective_min_isr(None, 3, 3), 2);
        assert_eq!(effective_min_isr(Some(3), 3, 2), 2);
    }
}
