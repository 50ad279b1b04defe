//! How far groups are behind, as a metric: measured now and then, of the groups in the shards that this coordinator has.
//!
//! As for operators, what is committed is read before the ends of the logs, and where a leader does not answer there is no
//! number at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::future::join_all;
use prometheus::IntGaugeVec;
use walser_group::{GroupId, GroupShard};
use walser_model::{NodeId, Offset, TopicPartition};
use walser_rpc::{Network, PartitionNumbers};
use walser_service::Metrics;

use crate::metadata::Metadata;
use crate::shard::ShardHandle;

/// Time between two measurements.
const EVERY: Duration = Duration::from_secs(15);
/// How long a storage node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Most pairs of a group and a topic with a number: those of the groups that come first by name.
const SERIES_MAX: usize = 1_000;
/// Committed offsets of a shard that are looked at, of the groups that come first by name.
const OFFSETS_MAX: usize = 100_000;

/// What a group has committed.
type Committed = Vec<(TopicPartition, Offset)>;
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
            groups.extend(shard.ask(None, |shard, _, _| Ok(committed(shard))).await.unwrap_or_default());
        }
        let numbers = self.numbers(groups.values().flatten().map(|(partition, _)| *partition)).await;
        let view = self.metadata.view();
        let name = |partition: &TopicPartition| view.topic(partition.topic).map(|topic| topic.name.to_string());
        let lags = lags(&groups, &numbers, name);
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

    /// What the leaders say of partitions.
    async fn numbers(
        &self,
        partitions: impl Iterator<Item = TopicPartition>,
    ) -> HashMap<TopicPartition, PartitionNumbers> {
        let view = self.metadata.view();
        let mut by_node: HashMap<NodeId, BTreeSet<TopicPartition>> = HashMap::new();
        for partition in partitions {
            let leader = view.topic(partition.topic).and_then(|topic| topic.leader(partition.partition));
            if let Some((Some(node), _)) = leader {
                by_node.entry(node).or_default().insert(partition);
            }
        }
        let asked = by_node.into_iter().map(async |(node, partitions)| {
            let partitions: Vec<_> = partitions.into_iter().collect();
            let storage = self.network.storage_client(node)?;
            let answer = tokio::time::timeout(ANSWER_MAX, storage.describe(&partitions)).await.ok()?.ok()?;
            Some(partitions.into_iter().zip(answer).collect::<Vec<_>>())
        });
        let answers = join_all(asked).await.into_iter().flatten().flatten();
        answers.filter_map(|(partition, described)| Some((partition, described.numbers.ok()?))).collect()
    }
}

/// What the groups of a shard have committed.
fn committed(shard: &GroupShard) -> Vec<(GroupId, Committed)> {
    let (mut found, mut count) = (Vec::new(), 0);
    for group in shard.groups(None) {
        let offsets: Committed =
            shard.all_committed(&group.group).map(|(partition, committed)| (*partition, committed.offset)).collect();
        count += offsets.len();
        if count > OFFSETS_MAX {
            break;
        }
        found.push((group.group, offsets));
    }
    found
}

/// The lag of each group in each topic; `None`: not known of one of the partitions. Topics that are gone have none.
fn lags(
    groups: &BTreeMap<GroupId, Committed>,
    numbers: &HashMap<TopicPartition, PartitionNumbers>,
    name: impl Fn(&TopicPartition) -> Option<String>,
) -> BTreeMap<Series, Option<i64>> {
    let mut lags = BTreeMap::new();
    for (group, committed) in groups {
        for (partition, offset) in committed {
            let Some(topic) = name(partition) else { continue };
            let lag =
                numbers.get(partition).map(|known| known.high_watermark.since((*offset).max(known.log_start)).max(0));
            let sum = lags.entry((group.to_string(), topic)).or_insert(Some(0_i64));
            *sum = sum.zip(lag).map(|(sum, lag)| sum.saturating_add(lag));
        }
    }
    lags
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn a_lag_is_the_sum_of_its_partitions_or_not_known() {
        let partition =
            |topic: u8, number| TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number));
        let known = |log_start, high_watermark| PartitionNumbers {
            log_start: Offset(log_start),
            high_watermark: Offset(high_watermark),
            bytes: 0,
        };
        let groups = BTreeMap::from([(
            "g".parse().unwrap(),
            vec![
                (partition(1, 0), Offset(3)),
                (partition(1, 1), Offset(0)),
                (partition(2, 0), Offset(1)),
                (partition(2, 1), Offset(1)),
                (partition(3, 0), Offset(1)),
            ],
        )]);
        // The second one was cut; of the topic 2 one leader does not answer; the topic 3 is gone.
        let numbers = HashMap::from([
            (partition(1, 0), known(0, 10)),
            (partition(1, 1), known(6, 8)),
            (partition(2, 0), known(0, 9)),
        ]);
        let (one, two) = (partition(1, 0).topic, partition(2, 0).topic);
        let name = |of: &TopicPartition| match of.topic {
            topic if topic == one => Some("one".to_owned()),
            topic if topic == two => Some("two".to_owned()),
            _ => None,
        };
        let found: Vec<_> = lags(&groups, &numbers, name).into_iter().map(|((_, topic), lag)| (topic, lag)).collect();
        assert_eq!(found, [("one".to_owned(), Some(9)), ("two".to_owned(), None)]);
    }
}
