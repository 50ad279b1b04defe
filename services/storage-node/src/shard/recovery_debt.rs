//! What a restart would have to read: bounded for a shard, whatever the number of its partitions.
//!
//! A partition moves its recovery point every 64 MiB of its own; thousands of partitions below that would add up to
//! hours of reading. Once all of them together owe half of the shard's bound, those that owe most move theirs.

use std::collections::HashMap;
use std::time::Duration;

use walser_model::TopicPartition;

use super::Shard;

/// Bytes behind the recovery points of a shard's partitions.
#[derive(Debug, Default)]
pub(super) struct RecoveryDebt {
    by_partition: HashMap<TopicPartition, u64>,
    total: u64,
    /// Nobody is asked to pay before, in monotonic time: one that could not pay owes as much as before.
    not_before: Duration,
}

/// Time between two rounds of payments.
const ROUND: Duration = Duration::from_millis(200);

impl RecoveryDebt {
    /// Notes what a partition owes at present, in bytes.
    pub(super) fn note(&mut self, partition: TopicPartition, bytes: u64) {
        let before =
            if bytes == 0 { self.by_partition.remove(&partition) } else { self.by_partition.insert(partition, bytes) };
        self.total = self.total + bytes - before.unwrap_or(0);
    }

    /// Takes the partitions that owe most out of the account, until what is left is at most half of `limit` bytes.
    /// Takes none while the total is at most `limit`.
    fn settle(&mut self, limit: u64) -> Vec<TopicPartition> {
        if self.total <= limit {
            return Vec::new();
        }
        let mut largest: Vec<_> = self.by_partition.iter().map(|(partition, bytes)| (*bytes, *partition)).collect();
        largest.sort_unstable();
        let mut taken = Vec::new();
        while let Some((_, partition)) = largest.pop().filter(|_| self.total > limit / 2) {
            self.note(partition, 0);
            taken.push(partition);
        }
        taken
    }
}

impl Shard {
    /// Brings the account of a partition up to date, and has others move their recovery points when all together owe
    /// too much.
    pub(super) fn limit_recovery(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get(&id) else { return };
        self.recovery_debt.note(id, partition.log.unclaimed_recovery_bytes());
        let now = self.context.clock.monotonic();
        if now < self.recovery_debt.not_before {
            return;
        }
        for id in self.recovery_debt.settle(self.context.recovery_bytes_max / 2) {
            self.recovery_debt.not_before = now + ROUND;
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.log.move_recovery_point();
                self.touched.insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number))
    }

    #[test]
    fn those_that_owe_most_pay_first_and_the_total_stays_within_the_limit() {
        let mut debt = RecoveryDebt::default();
        for number in 0..10_000 {
            debt.note(partition(number), u64::try_from(number % 100).unwrap() + 1);
            let paid = debt.settle(50_000);
            assert!(debt.total <= 50_000);
            if !paid.is_empty() {
                assert!(debt.total <= 25_000);
                let owed = |paid: &TopicPartition| u64::try_from(paid.partition.0 % 100).unwrap() + 1;
                let least = paid.iter().map(owed).min().unwrap();
                assert!(debt.by_partition.values().all(|left| *left <= least), "the largest first");
            }
        }
        for number in 0..10_000 {
            debt.note(partition(number), 0);
        }
        assert_eq!((debt.total, debt.by_partition.len()), (0, 0));
    }
}
