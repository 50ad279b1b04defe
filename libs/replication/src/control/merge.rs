//! Many decisions as few transactions.

use super::{Decision, Write};

/// Most comparisons and most writes of a merged transaction. etcd takes 128 of each by default; the rest is for what a
/// caller adds, such as the name of a topic whose partitions are created.
pub const OPERATIONS_MAX: usize = 120;
/// Most partitions of one transaction.
pub const MERGED_PARTITIONS_MAX: usize = 100;

/// Merges decisions that were taken on one context, in their order, into transactions of at most `partitions_max`
/// partitions and [`OPERATIONS_MAX`] comparisons and writes. Conditions that several share are kept once.
///
/// Each transaction is a decision by itself: when one of its comparisons does not hold, none of the merged decisions is
/// written, and all of them are to be taken again. Two decisions about one key never share a transaction: the second
/// one was taken on what the first one replaces.
pub fn merge<P: Clone + PartialEq>(
    decisions: impl IntoIterator<Item = Decision<P>>,
    partitions_max: usize,
) -> Vec<Decision<P>> {
    let mut merged: Vec<Decision<P>> = Vec::new();
    for decision in decisions {
        match merged.last_mut() {
            Some(last) if fits(last, &decision, partitions_max) => last.absorb(decision),
            _ => merged.push(decision),
        }
    }
    merged
}

fn fits<P: Clone + PartialEq>(last: &Decision<P>, next: &Decision<P>, partitions_max: usize) -> bool {
    let fresh = next.comparisons.iter().filter(|condition| !last.comparisons.contains(condition)).count();
    let partitions = last.partitions() + next.partitions();
    last.comparisons.len() + fresh <= OPERATIONS_MAX
        && last.writes.len() + next.writes.len() <= OPERATIONS_MAX
        && (partitions <= partitions_max || partitions == 0)
        && !next.writes.iter().any(|write| last.writes.iter().any(|other| same_key(write, other)))
}

fn same_key<P: PartialEq>(one: &Write<P>, other: &Write<P>) -> bool {
    match (one, other) {
        (Write::Partition(key, _) | Write::Delete(key), Write::Partition(also, _) | Write::Delete(also)) => key == also,
        (Write::Registration(node), Write::Registration(also))
        | (Write::Live { node, .. }, Write::Live { node: also, .. }) => node == also,
        _ => false,
    }
}

impl<P: Clone + PartialEq> Decision<P> {
    /// Partitions that it writes or deletes.
    pub fn partitions(&self) -> usize {
        self.writes.iter().filter(|write| matches!(write, Write::Partition(..) | Write::Delete(_))).count()
    }

    fn absorb(&mut self, other: Self) {
        for condition in other.comparisons {
            if !self.comparisons.contains(&condition) {
                self.comparisons.push(condition);
            }
        }
        self.writes.extend(other.writes);
    }
}

#[cfg(test)]
mod tests {
    use walser_model::NodeId;

    use super::super::Comparison;
    use super::*;
    use crate::PartitionState;

    fn decision(key: u32, nodes: &[i32]) -> Decision<u32> {
        let mut comparisons = vec![Comparison::Controller(5), Comparison::Partition(key, 9)];
        for node in nodes {
            comparisons.push(Comparison::Registration(NodeId(*node), 1));
            comparisons.push(Comparison::Live(NodeId(*node), 2));
        }
        let state = PartitionState::new(vec![NodeId(1)], 1);
        Decision { comparisons, writes: vec![Write::Partition(key, state)] }
    }

    #[test]
    fn one_two_and_ten_thousand_decisions_keep_every_write_and_the_limits() {
        for count in [0, 1, 2, 100, 101, 10_000] {
            let merged = merge((0..count).map(|key| decision(key, &[1, 2])), MERGED_PARTITIONS_MAX);
            assert_eq!(merged.len(), (count as usize).div_ceil(MERGED_PARTITIONS_MAX), "{count}");
            assert_eq!(merged.iter().map(Decision::partitions).sum::<usize>(), count as usize);
            for transaction in &merged {
                // The guard and two nodes once, and every partition.
                assert_eq!(transaction.comparisons.len(), 5 + transaction.partitions());
            }
        }
    }

    #[test]
    fn many_nodes_make_more_transactions_rather_than_too_many_conditions() {
        let merged = merge((0..100).map(|key| decision(key, &[i32::try_from(key).unwrap()])), MERGED_PARTITIONS_MAX);
        assert!(merged.len() > 1);
        assert!(merged.iter().all(|transaction| transaction.comparisons.len() <= OPERATIONS_MAX));
        assert_eq!(merged.iter().map(Decision::partitions).sum::<usize>(), 100);
    }

    #[test]
    fn two_decisions_about_one_partition_are_two_transactions() {
        assert_eq!(merge([decision(1, &[]), decision(1, &[])], MERGED_PARTITIONS_MAX).len(), 2);
    }
}
