//! How far a group is behind: which partitions count, and what is left of each. Everybody who shows a lag reckons here, so that
//! all of them say the same.

use std::collections::BTreeSet;

use walser_model::{Offset, TopicId, TopicPartition};

use crate::topics::partitions;

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnds {
    /// First offset.
    pub log_start: Offset,
    /// Exclusive end of what members may read.
    pub end: Offset,
}

/// The partitions in which a group has something to read: all those of the topics of `touched`, which is what it has committed
/// and what its members hold. Of the others of such a topic nobody may have read anything. `partition_count`: of a topic;
/// `None`: it is gone.
pub fn partitions_read(
    touched: impl Iterator<Item = TopicPartition>,
    partition_count: impl Fn(TopicId) -> Option<i32>,
) -> BTreeSet<TopicPartition> {
    let topics: BTreeSet<TopicId> = touched.map(|partition| partition.topic).collect();
    topics.into_iter().flat_map(|topic| partitions(topic, partition_count(topic).unwrap_or(0))).collect()
}

/// The sum of lags; `None` where one is not known.
pub fn total_lag(mut lags: impl Iterator<Item = Option<i64>>) -> Option<i64> {
    lags.try_fold(0_i64, |sum, lag| Some(sum.saturating_add(lag?)))
}

// === impl LogEnds ===

impl LogEnds {
    /// What a group reads next. Where nothing is committed that is known only of a partition without records.
    pub fn next_read(self, committed: Option<Offset>) -> Option<Offset> {
        let Self { log_start, end } = self;
        match committed {
            Some(committed) => Some(committed.max(log_start)),
            None => (log_start >= end).then_some(end),
        }
    }

    /// Offsets from what is read next to the end of the log. Behind the end it is not known what was read.
    pub fn lag(self, committed: Option<Offset>) -> Option<i64> {
        Some(self.end.since(self.next_read(committed)?)).filter(|lag| *lag >= 0)
    }
}

#[cfg(test)]
mod tests {
    use walser_model::PartitionIndex;

    use super::*;

    #[test]
    fn a_lag_is_known_or_it_is_none() {
        let lag = |log_start, end, committed: Option<i64>| {
            LogEnds { log_start: Offset(log_start), end: Offset(end) }.lag(committed.map(Offset))
        };
        assert_eq!(lag(0, 10, Some(3)), Some(7));
        assert_eq!(lag(6, 8, Some(0)), Some(2), "what was deleted is not left to read");
        assert_eq!(lag(0, 10, Some(11)), None, "behind the end");
        assert_eq!(lag(0, 10, None), None, "nobody may have read it");
        assert_eq!((lag(0, 0, None), lag(9, 9, None)), (Some(0), Some(0)), "there is nothing to read");
        assert_eq!(total_lag([Some(1), Some(2)].into_iter()), Some(3));
        assert_eq!(total_lag([Some(1), None].into_iter()), None);
        assert_eq!(total_lag([Some(1), Some(i64::MAX)].into_iter()), Some(i64::MAX));
    }

    #[test]
    fn of_a_topic_that_is_read_every_partition_counts() {
        let partition =
            |topic: u8, number| TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number));
        let count = |topic: TopicId| (topic == partition(1, 0).topic).then_some(3);
        // The topic 2 is gone.
        let read = partitions_read([partition(1, 1), partition(2, 0)].into_iter(), count);
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [0, 1, 2].map(|number| partition(1, number)));
    }
}
