//! Moving committed offsets: a plan is made from what is committed and what the logs have, and carried out as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use walser_group::{CommittedOffset, GroupId, LogEnds, OffsetMove, OffsetToCommit};
use walser_model::{Offset, PartitionIndex, TopicPartition};
use walser_rpc::{ApiError, CoordinatorClient, OffsetQuery, Reason};

use crate::groups::request::OffsetCommit;
use crate::leaders::Lookup;
use crate::metadata::TopicView;
use crate::reading::{PartitionName, ReadPosition};
use crate::router::checked_partition;
use crate::topics;

use super::GroupAdmin;

/// Where offsets go.
#[derive(Debug, Clone)]
pub(crate) enum ResetTo {
    /// The same for every partition.
    Position(ReadPosition),
    /// By so many offsets from what is committed.
    Shift(i64),
    /// As another group has committed.
    Group(GroupId),
    /// One for each partition.
    Offsets(Vec<OffsetCommit>),
}

/// Which offsets move, and where to.
#[derive(Debug, Clone)]
pub(crate) struct ResetGroup {
    pub(crate) group: GroupId,
    /// Empty: those that the group reads.
    pub(crate) topics: Vec<String>,
    /// Of the one topic; empty: all.
    pub(crate) partitions: Vec<i32>,
    pub(crate) to: ResetTo,
    pub(crate) force: bool,
    pub(crate) validate_only: bool,
}

/// A partition that may move.
type Wanted = (TopicPartition, Arc<TopicView>);

/// What each form of a reset goes by.
struct Known<'a> {
    committed: &'a HashMap<TopicPartition, CommittedOffset>,
    others: &'a HashMap<TopicPartition, CommittedOffset>,
    given: &'a HashMap<TopicPartition, OffsetCommit>,
}

/// The places of a partition that a reset chooses from.
struct Places {
    ends: LogEnds,
    /// The first record at or after the time that was asked for; the end where there is none.
    time: Option<Offset>,
}

impl GroupAdmin {
    /// Moves offsets, or says what would move. Returns the partitions by topic name and number.
    pub(crate) async fn reset(&self, reset: &ResetGroup) -> Result<Vec<(PartitionName, OffsetMove)>, ApiError> {
        let ResetGroup { group, to, force, validate_only, .. } = reset;
        let committed: HashMap<_, _> = self.committed(group).await?.into_iter().collect();
        let others: HashMap<_, _> = match to {
            ResetTo::Group(other) => self.committed_of_other(other).await?,
            _ => HashMap::new(),
        };
        let given = match to {
            ResetTo::Offsets(offsets) => self.given(offsets).await?,
            _ => HashMap::new(),
        };
        let known = Known { committed: &committed, others: &others, given: &given };
        let wanted = self.wanted(reset, &known).await?;
        let places = self.places(&wanted, to).await?;
        let moved = wanted.iter().zip(&places);
        let offsets: &Vec<_> =
            &moved.filter_map(|((partition, _), places)| known.target(partition, to, places)).collect();
        let how = (*force, *validate_only);
        let reset =
            |coordinator: CoordinatorClient| async move { coordinator.reset_offsets(group, offsets, how).await };
        let moves = self.ask(group, *validate_only, reset).await?;
        let mut named: Vec<_> =
            moves.into_iter().filter_map(|moved| Some((self.named(&moved.partition)?.1, moved))).collect();
        named
            .sort_unstable_by(|(one, _), (other, _)| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        Ok(named)
    }

    /// What another group has committed; it has to exist.
    async fn committed_of_other(&self, other: &GroupId) -> Result<HashMap<TopicPartition, CommittedOffset>, ApiError> {
        let committed = self.committed(other).await?;
        if committed.is_empty() {
            self.describe(other).await?;
        }
        Ok(committed.into_iter().collect())
    }

    async fn given(&self, offsets: &[OffsetCommit]) -> Result<HashMap<TopicPartition, OffsetCommit>, ApiError> {
        let mut given = HashMap::new();
        for offset in offsets {
            if offset.offset < Offset::ZERO {
                return Err(ApiError::field("offsets", "an offset is at least 0"));
            }
            if given.insert(self.topics.partition(&offset.of, offset.topic_id).await?, offset.clone()).is_some() {
                let text = format!("name partition {} of topic \"{}\" twice", offset.of.partition, offset.of.topic);
                return Err(ApiError::field("offsets", text));
            }
        }
        Ok(given)
    }

    /// The partitions that may move, by id.
    async fn wanted(&self, reset: &ResetGroup, known: &Known<'_>) -> Result<Vec<Wanted>, ApiError> {
        let ResetGroup { group, topics, partitions, to, .. } = reset;
        let mut wanted = BTreeMap::new();
        for topic in topics.iter().collect::<BTreeSet<_>>() {
            topics::own_name(topic)?;
            let topic = self.topics.find(topic).await?;
            let topic = match partitions.iter().max() {
                Some(last) => self.topics.with_partition(topic, *last).await?,
                None => topic,
            };
            let numbers: Vec<i32> = match partitions.as_slice() {
                [] => (0..topic.value.partition_count).collect(),
                some => some.to_vec(),
            };
            for number in numbers {
                let partition = TopicPartition::new(topic.id, checked_partition(&topic, number)?);
                wanted.insert(partition, Arc::clone(&topic));
            }
        }
        if topics.is_empty() {
            let all: BTreeSet<TopicPartition> = match to {
                ResetTo::Offsets(_) => known.given.keys().copied().collect(),
                ResetTo::Group(_) => known.others.keys().copied().collect(),
                ResetTo::Position(_) | ResetTo::Shift(_) => self.read_by(group, known.committed).await?,
            };
            for partition in all {
                // A topic that is gone has nothing to read any more.
                if let Some((topic, _)) = self.named(&partition) {
                    wanted.insert(partition, topic);
                }
            }
        }
        // Those that stay need no leader.
        wanted.retain(|partition, _| known.concerns(partition, to));
        Ok(wanted.into_iter().collect())
    }

    /// What a group reads, also of partitions of which nothing is committed: left out, they would begin where the members say,
    /// whatever the reset was for.
    async fn read_by(
        &self,
        group: &GroupId,
        committed: &HashMap<TopicPartition, CommittedOffset>,
    ) -> Result<BTreeSet<TopicPartition>, ApiError> {
        let members = self.describe(group).await?.members;
        let held = members.iter().flat_map(|member| member.current.held());
        Ok(self.read_of(committed.keys().chain(held).copied()))
    }

    /// What the leaders say of partitions; all of them have to answer.
    async fn places(&self, wanted: &[Wanted], to: &ResetTo) -> Result<Vec<Places>, ApiError> {
        let places: Vec<_> = wanted.iter().map(|(of, topic)| (Arc::clone(topic), of.partition.0)).collect();
        // The ends come first: a record that is written between the two questions is not skipped.
        let ends = self.leaders.ends(&places).await;
        let times = match to {
            ResetTo::Position(ReadPosition::Time(millis)) => {
                let lookup = |(of, topic): &Wanted| Lookup {
                    topic: Arc::clone(topic),
                    partition: of.partition.0,
                    query: OffsetQuery::Time(*millis),
                };
                let found = self.leaders.look_up(&wanted.iter().map(lookup).collect::<Vec<_>>()).await;
                found.into_iter().map(Some).collect()
            }
            _ => vec![None; wanted.len()],
        };
        let mut places = Vec::with_capacity(wanted.len());
        for (((of, topic), ends), time) in wanted.iter().zip(ends).zip(times) {
            let ends = ends.map_err(|failure| no_leader(topic, of.partition, &failure))?;
            let time = time.transpose()?.map(|found| found.offset.unwrap_or(ends.end));
            places.push(Places { ends, time });
        }
        Ok(places)
    }
}

impl Known<'_> {
    /// Whether a partition has something to go by.
    fn concerns(&self, partition: &TopicPartition, to: &ResetTo) -> bool {
        match to {
            ResetTo::Position(_) => true,
            ResetTo::Shift(_) => self.committed.contains_key(partition),
            ResetTo::Group(_) => self.others.contains_key(partition),
            ResetTo::Offsets(_) => self.given.contains_key(partition),
        }
    }

    /// Where a partition goes, within what its log has.
    fn target(&self, partition: &TopicPartition, to: &ResetTo, places: &Places) -> Option<OffsetToCommit> {
        let LogEnds { log_start, end } = places.ends;
        let (wanted, leader_epoch, metadata) = match to {
            ResetTo::Position(place) => {
                let offset = match place {
                    ReadPosition::Offset(offset) => Offset(*offset),
                    ReadPosition::Earliest => log_start,
                    ReadPosition::Latest => end,
                    ReadPosition::Last(count) => Offset(end.0.saturating_sub(*count)),
                    ReadPosition::Time(_) => places.time?,
                };
                (offset, None, String::new())
            }
            ResetTo::Shift(by) => {
                let before = self.committed.get(partition)?;
                (Offset(before.offset.0.saturating_add(*by)), None, String::new())
            }
            ResetTo::Group(_) => {
                let other = self.others.get(partition)?;
                (other.offset, other.leader_epoch, other.metadata.clone())
            }
            ResetTo::Offsets(_) => {
                let given = self.given.get(partition)?;
                (given.offset, given.leader_epoch, given.metadata.clone())
            }
        };
        // The log start may lie beyond what followers have of a log that was cut a moment ago.
        let offset = wanted.min(end).max(log_start);
        let leader_epoch = leader_epoch.filter(|_| offset == wanted);
        Some(OffsetToCommit { partition: *partition, offset, leader_epoch, metadata })
    }
}

fn no_leader(topic: &TopicView, partition: PartitionIndex, failure: &ApiError) -> ApiError {
    let text = format!("{}; nothing was moved. Try again, or name other partitions", failure.message());
    ApiError::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name).with("partition", partition)
}
