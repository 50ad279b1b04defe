//! How far a group is behind. What it has committed is read first and the ends of the logs after it, so that a lag is
//! never too small; where a leader does not answer, there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use walser_group::{CommittedOffset, GroupDescription, GroupId, MemberId};
use walser_model::{Offset, PartitionIndex, TopicPartition};
use walser_rpc::{ApiError, OffsetQuery};

use crate::leaders::{LogEnds, Lookup};
use crate::metadata::TopicView;
use crate::reading::PartitionName;

use super::GroupAdmin;

/// A partition of a group.
#[derive(Debug, Clone)]
pub(crate) struct PartitionLag {
    pub(crate) of: PartitionName,
    topic: Arc<TopicView>,
    pub(crate) committed: Option<CommittedOffset>,
    /// The member that has it.
    pub(crate) member: Option<MemberId>,
    /// `None`: its leader does not answer, or does not know the end.
    pub(crate) ends: Option<LogEnds>,
    /// Why.
    pub(crate) problem: Option<String>,
    /// Age of the first record that is not read.
    pub(crate) behind: Option<Duration>,
}

impl PartitionLag {
    /// Its place in a list.
    pub(crate) fn place(&self) -> (&str, i32) {
        (&self.of.topic, self.of.partition)
    }

    /// What the group reads next: where nothing is committed that is known only of a partition without records.
    fn next(&self) -> Option<Offset> {
        let LogEnds { log_start, end } = self.ends?;
        match &self.committed {
            Some(committed) => Some(committed.offset.max(log_start)),
            None => (log_start >= end).then_some(end),
        }
    }

    /// Offsets from what is read next to the end of the log. Behind the end it is not known what was read.
    pub(crate) fn offsets(&self) -> Option<i64> {
        Some(self.ends?.end.since(self.next()?)).filter(|lag| *lag >= 0)
    }

    /// Whether its lag counts offsets of which records may be gone.
    pub(crate) fn is_compacted(&self) -> bool {
        self.topic.settings.config.cleanup_policy.compacts()
    }
}

/// The sum of lags; `None` where one is not known.
pub(crate) fn total<'a>(mut lags: impl Iterator<Item = &'a PartitionLag>) -> Option<i64> {
    lags.try_fold(0_i64, |sum, lag| Some(sum.saturating_add(lag.offsets()?)))
}

impl GroupAdmin {
    /// What a group has committed, and its members hold, by topic name and partition.
    pub(crate) async fn partitions(&self, group: &GroupDescription) -> Result<Vec<PartitionLag>, ApiError> {
        let id = &group.summary.group;
        let mut committed: BTreeMap<_, _> = self.committed(id).await?.into_iter().collect();
        let mut owners = BTreeMap::new();
        for member in &group.members {
            owners.extend(member.current.held().map(|partition| (*partition, member.member.clone())));
        }
        let mut all: BTreeSet<TopicPartition> = committed.keys().chain(owners.keys()).copied().collect();
        // Of a topic that it reads, also the partitions of which nothing is committed: nobody may have read them.
        let view = self.metadata.view();
        let topics: BTreeSet<_> =
            all.iter().filter_map(|partition| view.topic(partition.topic)).map(|it| it.id).collect();
        for topic in topics {
            let count = view.topic(topic).map_or(0, |topic| topic.value.partition_count);
            all.extend((0..count).map(|number| TopicPartition::new(topic, PartitionIndex(number))));
        }
        let found = all.into_iter().filter_map(|partition| {
            let (topic, of) = self.named(&partition)?;
            let (committed, member) = (committed.remove(&partition), owners.remove(&partition));
            Some(PartitionLag { of, topic, committed, member, ends: None, problem: None, behind: None })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by(|one, other| one.place().cmp(&other.place()));
        Ok(found)
    }

    /// All committed offsets of a group.
    pub(super) async fn committed(&self, group: &GroupId) -> Result<Vec<(TopicPartition, CommittedOffset)>, ApiError> {
        self.ask(group, true, |coordinator| async move { coordinator.committed_offsets(group).await }).await
    }

    /// Asks the leaders how far partitions go, and how old is what was not read.
    pub(crate) async fn measure(&self, partitions: &mut [PartitionLag]) {
        let places: Vec<_> = partitions.iter().map(|lag| (Arc::clone(&lag.topic), lag.of.partition)).collect();
        let found = self.leaders.ends(&places).await;
        for (lag, found) in partitions.iter_mut().zip(found) {
            match found {
                Ok(ends) => {
                    (lag.ends, lag.problem) = (Some(ends), None);
                    let beyond = lag.committed.as_ref().filter(|committed| committed.offset > ends.end);
                    lag.problem = beyond.map(|committed| {
                        let text =
                            "is committed, behind the end of the log: the group goes on where its `out_of_range` says";
                        format!("{} {text}", committed.offset)
                    });
                }
                Err(failure) => (lag.ends, lag.problem) = (None, Some(failure.message().to_owned())),
            }
        }
        self.measure_time(partitions).await;
    }

    async fn measure_time(&self, partitions: &mut [PartitionLag]) {
        let (mut asked, mut lookups) = (Vec::new(), Vec::new());
        for lag in partitions.iter_mut() {
            match (lag.offsets(), lag.next()) {
                (Some(0), _) => lag.behind = Some(Duration::ZERO),
                (Some(_), Some(next)) => {
                    let (topic, partition) = (Arc::clone(&lag.topic), lag.of.partition);
                    lookups.push(Lookup { topic, partition, query: OffsetQuery::Record(next) });
                    asked.push(lag);
                }
                _ => {}
            }
        }
        let found = self.leaders.look_up(&lookups).await;
        let now = self.clock.now_millis();
        for (lag, found) in asked.into_iter().zip(found) {
            let Ok(found) = found else { continue };
            // Where compaction has left nothing, nothing is waited for.
            let age = found.timestamp.map_or(0, |timestamp| now.saturating_sub(timestamp).max(0));
            lag.behind = Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        }
    }
}
