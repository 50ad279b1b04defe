//! Where reading begins and ends: targets spread over partitions, and places found in their logs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use walser_model::{LeaderEpoch, Offset};
use walser_rpc::{ApiError, OffsetQuery};

use crate::error::no_answer;
use crate::metadata::TopicView;
use crate::router::Router;
use crate::topics::Topics;

use super::answer::{FoundPlace, PartitionName};
use super::request::{ReadPosition, ReadTarget};

/// Targets of one call after topics are spread over their partitions.
const PARTITIONS_MAX: usize = 10_000;
/// How long a leader may take to answer what needs no waiting, before it counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// One partition to read.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) topic: Arc<TopicView>,
    pub(crate) partition: i32,
    pub(crate) start: ReadPosition,
    pub(crate) end: Option<ReadPosition>,
    pub(crate) last_epoch: i32,
}

impl Target {
    pub(crate) fn name(&self) -> PartitionName {
        PartitionName::of(&self.topic, self.partition)
    }
}

/// Finds places in logs. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    topics: Topics,
    router: Router,
}

impl Positions {
    pub(crate) fn new(topics: Topics, router: Router) -> Self {
        Self { topics, router }
    }

    /// Spreads targets over partitions, each of which begins where the reader stands in it, else at `start`.
    pub(crate) async fn targets(&self, targets: &[ReadTarget]) -> Result<Vec<Target>, ApiError> {
        if targets.is_empty() {
            return Err(ApiError::field("targets", "names nothing to read"));
        }
        let mut spread = Vec::new();
        let mut seen = HashSet::new();
        for target in targets {
            let topic = self.topics.find(&target.topic).await?;
            if let Some(id) = target.topic_id {
                self.topics.check_id(&topic, id).await?;
            }
            // Every partition that the reader names exists, also when this gateway has not heard of it yet.
            let named = target.partition.or_else(|| target.resume.keys().max().copied());
            let topic = match named {
                Some(partition) => self.topics.with_partition(topic, partition).await?,
                None => topic,
            };
            let partitions = match target.partition {
                Some(partition) => partition..partition + 1,
                None => 0..topic.value.partition_count,
            };
            for partition in partitions {
                if !seen.insert((topic.id, partition)) {
                    let text = format!("partition {partition} of topic \"{}\" is named twice", topic.name);
                    return Err(ApiError::field("targets", text));
                }
                let (start, last_epoch) = match target.resume.get(&partition) {
                    Some(standing) => (ReadPosition::Offset(standing.next_offset.0), standing.leader_epoch),
                    None => (target.start.unwrap_or(ReadPosition::Earliest), target.last_epoch),
                };
                let (topic, last_epoch) = (Arc::clone(&topic), last_epoch.unwrap_or(-1));
                spread.push(Target { topic, partition, start, end: target.end, last_epoch });
            }
            if spread.len() > PARTITIONS_MAX {
                return Err(ApiError::field("targets", format!("at most {PARTITIONS_MAX} partitions in one call")));
            }
        }
        Ok(spread)
    }

    /// Finds a place in a partition's log.
    pub(crate) async fn find(
        &self,
        topic: &TopicView,
        partition: i32,
        place: ReadPosition,
    ) -> Result<FoundPlace, ApiError> {
        match place {
            ReadPosition::Offset(offset) => Ok(FoundPlace { offset, timestamp: -1, leader_epoch: -1 }),
            ReadPosition::Earliest => self.look_up(topic, partition, OffsetQuery::Earliest).await,
            ReadPosition::Latest => self.look_up(topic, partition, OffsetQuery::Latest).await,
            ReadPosition::Time(millis) => self.look_up(topic, partition, OffsetQuery::Time(millis)).await,
            ReadPosition::Last(count) => {
                let end = self.look_up(topic, partition, OffsetQuery::Latest).await?;
                let start = self.look_up(topic, partition, OffsetQuery::Earliest).await?;
                let offset = end.offset.saturating_sub(count).max(start.offset);
                Ok(FoundPlace { offset, ..start })
            }
        }
    }

    /// Where reading begins or ends: a time after the last record is the end of the log as of now.
    pub(crate) async fn boundary(&self, target: &Target, place: ReadPosition) -> Result<Offset, ApiError> {
        let find = |place| self.find(&target.topic, target.partition, place);
        if !matches!(place, ReadPosition::Time(_)) {
            return Ok(Offset(find(place).await?.offset));
        }
        // The end comes first: a record that is written between the two questions is not skipped.
        let end = find(ReadPosition::Latest).await?.offset;
        let found = find(place).await?.offset;
        Ok(Offset(if found >= 0 { found } else { end }))
    }

    async fn look_up(&self, topic: &TopicView, partition: i32, query: OffsetQuery) -> Result<FoundPlace, ApiError> {
        let route = self.router.route(topic, partition)?;
        let answer = tokio::time::timeout(ANSWER_MAX, route.storage.look_up(route.partition, query)).await;
        let found = answer.map_err(|_elapsed| no_answer(topic, partition))??;
        Ok(FoundPlace {
            offset: found.offset.map_or(-1, |offset| offset.0),
            timestamp: found.timestamp.unwrap_or(-1),
            leader_epoch: found.leader_epoch.unwrap_or(LeaderEpoch::NONE).0,
        })
    }
}
