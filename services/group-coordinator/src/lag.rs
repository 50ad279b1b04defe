//! How far groups are behind, as a metric: measured now and then, of the groups in the shards that this coordinator has.
//!
//! As for operators, what is committed is read before the ends of the logs, and where a lag is not known there is no number at
//! all: [`LogEnds::lag`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use prometheus::IntGaugeVec;
use walser_group::{GroupId, GroupShard, LogEnds, partitions_read, total_lag};
use walser_model::{Offset, TopicId, TopicPartition};
use walser_rpc::{Network, PartitionLeader, log_ends};
use walser_service::Metrics;

use crate::metadata::Metadata;
use crate::shard::ShardHandle;

/// Time between two measurements.
const EVERY: Duration = Duration::from_secs(15);
/// Most pairs of a group and a topic with a number: those of the groups that come first by name.
const SERIES_MAX: usize = 1_000;
/// Partitions that are looked at: in each shard, and of all that the groups read, those of the groups that come first by name.
const PARTITIONS_MAX: usize = 100_000;

/// Partitions of a group, with what is committed of them: those that it has committed or its members hold, or all that it reads.
type Committed = BTreeMap<TopicPartition, Option<Offset>>;
/// A group and a topic, by name.
type Series = (String, String);

/// Measures lags.
#[derive(Debug)]
pub(crate) struct LagWatch {
    shards: Vec<ShardHandle>,
    metadata: Metadata,
    network: Network,
    lags: IntGaugeVec,
    /// Those that have a number.
    shown: BTreeSet<Series>,
}

impl LagWatch {
    pub(crate) fn new(shards: Vec<ShardHandle>, metadata: Metadata, network: Network, metrics: &Metrics) -> Self {
        let help = "Offsets from what a group has committed to the end of its logs, every 15 s; of 1,000 pairs at most. Absent \
                    while it is not known.";
        let lags = metrics.gauges("walser_group_lag", help, &["group", "topic"]);
        Self { shards, metadata, network, lags, shown: BTreeSet::new() }
    }

    /// Measures for ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.measure().await;
        }
    }

    async fn measure(&mut self) {
        let mut groups = BTreeMap::new();
        for shard in &self.shards {
            // One that is not here, or being loaded, has nothing to say.
            groups.extend(shard.ask(None, |shard, _, _| Ok(touched(shard))).await.unwrap_or_default());
        }
        let view = self.metadata.view();
        let groups = reads(groups, |topic| view.topic(topic).map(|topic| topic.value.partition_count));
        let ends = self.ends(groups.values().flat_map(BTreeMap::keys).copied().collect()).await;
        let name = |topic| view.topic(topic).map(|topic| topic.name.to_string());
        let lags = lags(&groups, &ends, name);
        let known: BTreeMap<_, _> =
            lags.into_iter().take(SERIES_MAX).filter_map(|(of, lag)| Some((of, lag?))).collect();
        for (group, topic) in self.shown.iter().filter(|of| !known.contains_key(of)) {
            // It is there: it was set.
            let _ = self.lags.remove_label_values(&[group, topic]);
        }
        for ((group, topic), lag) in &known {
            self.lags.with_label_values(&[group, topic]).set(*lag);
        }
        self.shown = known.into_keys().collect();
    }

    /// Where partitions begin and end, as far as their leaders say.
    async fn ends(&self, partitions: BTreeSet<TopicPartition>) -> HashMap<TopicPartition, LogEnds> {
        let view = self.metadata.view();
        let leader = |partition: &TopicPartition| {
            let (node, epoch) = view.topic(partition.topic)?.leader(partition.partition)?;
            Some((node?, epoch))
        };
        let asked: Vec<_> = partitions
            .iter()
            .map(|partition| PartitionLeader { partition: *partition, leader: leader(partition) })
            .collect();
        let found = log_ends(&self.network, &asked).await;
        partitions.into_iter().zip(found).filter_map(|(partition, ends)| Some((partition, ends?.ok()?))).collect()
    }
}

/// What the groups of a shard have touched.
fn touched(shard: &GroupShard) -> Vec<(GroupId, Committed)> {
    let (mut found, mut count) = (Vec::new(), 0);
    for group in shard.groups(None) {
        let mut touched: Committed = shard.held(&group.group).map(|partition| (*partition, None)).collect();
        let committed = shard.all_committed(&group.group);
        touched.extend(committed.map(|(partition, committed)| (*partition, Some(committed.offset))));
        count += touched.len();
        if count > PARTITIONS_MAX {
            break;
        }
        found.push((group.group, touched));
    }
    found
}

/// What groups read. `partition_count`: of a topic that is there.
fn reads(
    groups: BTreeMap<GroupId, Committed>,
    partition_count: impl Fn(TopicId) -> Option<i32>,
) -> BTreeMap<GroupId, Committed> {
    let (mut found, mut count) = (BTreeMap::new(), 0);
    for (group, touched) in groups {
        let read = partitions_read(touched.keys().copied(), &partition_count);
        count += read.len();
        if count > PARTITIONS_MAX {
            break;
        }
        let committed = |partition| (partition, touched.get(&partition).copied().flatten());
        found.insert(group, read.into_iter().map(committed).collect());
    }
    found
}

/// The lag of each group in each topic; `None`: not known of one of the partitions. Topics that are gone have none.
fn lags(
    groups: &BTreeMap<GroupId, Committed>,
    ends: &HashMap<TopicPartition, LogEnds>,
    name: impl Fn(TopicId) -> Option<String>,
) -> BTreeMap<Series, Option<i64>> {
    let mut lags: BTreeMap<Series, Vec<Option<i64>>> = BTreeMap::new();
    for (group, read) in groups {
        for (partition, committed) in read {
            let Some(topic) = name(partition.topic) else { continue };
            let lag = ends.get(partition).and_then(|ends| ends.lag(*committed));
            lags.entry((group.to_string(), topic)).or_default().push(lag);
        }
    }
    lags.into_iter().map(|(of, lags)| (of, total_lag(lags.into_iter()))).collect()
}

#[cfg(test)]
mod tests {
    use walser_model::PartitionIndex;

    use super::*;

    #[test]
    fn a_lag_is_the_sum_of_all_partitions_of_a_topic_or_not_known() {
        let partition =
            |topic: u8, number| TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number));
        let known = |log_start, end| LogEnds { log_start: Offset(log_start), end: Offset(end) };
        let committed = |partition, offset| (partition, Some(Offset(offset)));
        let touched = [
            committed(partition(1, 0), 3),
            committed(partition(1, 1), 0),
            committed(partition(2, 0), 1),
            committed(partition(2, 1), 1),
            committed(partition(3, 0), 1),
            committed(partition(4, 0), 9),
            (partition(5, 0), None),
        ];
        let groups = BTreeMap::from([("g".parse().unwrap(), touched.into_iter().collect())]);
        // The second one was cut, and the third of the topic is empty; of the topic 2 one leader does not answer; the topic 3
        // is gone; of the topic 4 something has records of which nothing is committed; of the topic 5 all has.
        let ends = HashMap::from([
            (partition(1, 0), known(0, 10)),
            (partition(1, 1), known(6, 8)),
            (partition(1, 2), known(0, 0)),
            (partition(2, 0), known(0, 9)),
            (partition(4, 0), known(0, 9)),
            (partition(4, 1), known(0, 1)),
            (partition(5, 0), known(0, 1)),
        ]);
        let topics = [(1, 3), (2, 2), (4, 2), (5, 1)].map(|(topic, count)| (partition(topic, 0).topic, (topic, count)));
        let topics = HashMap::from(topics);
        let groups = reads(groups, |topic| topics.get(&topic).map(|(_, count)| *count));
        let name = |topic| topics.get(&topic).map(|(number, _)| number.to_string());
        let found: Vec<_> = lags(&groups, &ends, name).into_iter().map(|((_, topic), lag)| (topic, lag)).collect();
        let expected = [("1", Some(9)), ("2", None), ("4", None), ("5", None)];
        assert_eq!(found, expected.map(|(topic, lag)| (topic.to_owned(), lag)));
    }
}
