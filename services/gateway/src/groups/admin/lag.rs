//! How far a group is behind. What it has committed is read first and the ends of the logs after it, so that a lag is
//! never too small; where a leader does not answer, there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use walser_group::{CommittedOffset, GroupDescription, GroupId, LogEnds, MemberId, partitions_read, total_lag};
use walser_model::{Offset, TopicPartition};
use walser_rpc::{ApiError, OffsetQuery};

use crate::leaders::Lookup;
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

    fn committed_offset(&self) -> Option<Offset> {
        self.committed.as_ref().map(|committed| committed.offset)
    }

    /// What the group reads next.
    fn next(&self) -> Option<Offset> {
        self.ends?.next_read(self.committed_offset())
    }

    /// Offsets that are left to read.
    pub(crate) fn offsets(&self) -> Option<i64> {
        self.ends?.lag(self.committed_offset())
    }

    /// Whether its lag counts offsets of which records may be gone.
    pub(crate) fn is_compacted(&self) -> bool {
        self.topic.settings.config.cleanup_policy.compacts()
    }
}

/// The sum of lags; `None` where one is not known.
pub(crate) fn total<'a>(lags: impl Iterator<Item = &'a PartitionLag>) -> Option<i64> {
    total_lag(lags.map(PartitionLag::offsets))
}

impl GroupAdmin {
    /// The partitions that a group reads, by topic name and number.
    pub(crate) async fn partitions(&self, group: &GroupDescription) -> Result<Vec<PartitionLag>, ApiError> {
        let id = &group.summary.group;
        let mut committed: BTreeMap<_, _> = self.committed(id).await?.into_iter().collect();
        let mut owners = BTreeMap::new();
        for member in &group.members {
            owners.extend(member.current.held().map(|partition| (*partition, member.member.clone())));
        }
        let all = self.read_of(committed.keys().chain(owners.keys()).copied());
        let found = all.into_iter().filter_map(|partition| {
            let (topic, of) = self.named(&partition)?;
            let (committed, member) = (committed.remove(&partition), owners.remove(&partition));
            Some(PartitionLag { of, topic, committed, member, ends: None, problem: None, behind: None })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by(|one, other| one.place().cmp(&other.place()));
        Ok(found)
    }

    /// The partitions that a group reads. `touched`: what it has committed, and what its members hold.
    pub(super) fn read_of(&self, touched: impl Iterator<Item = TopicPartition>) -> BTreeSet<TopicPartition> {
        let view = self.metadata.view();
        partitions_read(touched, |topic| view.topic(topic).map(|topic| topic.value.partition_count))
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
