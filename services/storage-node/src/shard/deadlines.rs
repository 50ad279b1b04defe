//! When partitions are looked at again by themselves: what is due is found without looking at all of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use walser_model::TopicPartition;

/// One deadline for each partition that has one, in monotonic time.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_partition: HashMap<TopicPartition, Duration>,
    /// The same, in their order.
    ordered: BTreeSet<(Duration, TopicPartition)>,
}

impl Deadlines {
    /// The deadline of a partition from now on; `None`: it has none.
    pub(super) fn set(&mut self, partition: TopicPartition, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.by_partition.insert(partition, at),
            None => self.by_partition.remove(&partition),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.ordered.remove(&(before, partition));
        }
        self.ordered.extend(at.map(|at| (at, partition)));
    }

    /// Takes the partitions whose deadline has come, the longest due first.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<TopicPartition> {
        let mut due = Vec::new();
        while let Some((_, partition)) = self.ordered.first().copied().filter(|(at, _)| *at <= now) {
            self.set(partition, None);
            due.push(partition);
        }
        due
    }

    /// The next one.
    pub(super) fn next(&self) -> Option<Duration> {
        self.ordered.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn each_partition_is_due_once_and_in_order() {
        let partition = |number| TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number));
        let at = Duration::from_millis;
        let mut deadlines = Deadlines::default();
        for number in 0..10_000 {
            deadlines.set(partition(number), Some(at(10_000 - u64::from(number.unsigned_abs()))));
        }
        deadlines.set(partition(9_999), Some(at(50_000)));
        deadlines.set(partition(9_998), None);
        assert_eq!(deadlines.next(), Some(at(3)));
        assert_eq!(deadlines.take_due(at(4)), [partition(9_997), partition(9_996)]);
        assert_eq!(deadlines.take_due(at(4)), []);
        assert_eq!(deadlines.take_due(at(20_000)).len(), 9_996);
        assert_eq!(deadlines.next(), Some(at(50_000)));
    }
}
