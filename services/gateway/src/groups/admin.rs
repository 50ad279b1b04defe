//! What operators ask of groups. It goes to the coordinator of each group, with what only a gateway knows: the names of
//! topics, and where their logs begin and end.

mod lag;
mod reset;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::Instant;
use walser_group::{GroupDescription, GroupId, GroupPhase, GroupSummary};
use walser_model::{Clock, TopicPartition};
use walser_rpc::{ApiError, CoordinatorClient, Effect, GROUP_SHARDS, Network, Reason, shard_of_group};

use crate::leaders::Leaders;
use crate::metadata::{Metadata, TopicView};
use crate::reading::{PartitionFailure, PartitionName};
use crate::retry::{Backoff, PATIENCE};
use crate::router::checked_partition;
use crate::topics::Topics;

use super::hosted_shard::{session_lost, silent, without_coordinator};
use super::named_commits::NamedCommits;
use super::request::OffsetCommit;

pub(crate) use lag::{PartitionLag, total};
pub(crate) use reset::{ResetGroup, ResetTo};

/// How long a coordinator may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Groups that a shard is asked for at once.
const SHARD_PAGE: i32 = 1_000;

/// Asks coordinators for operators. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct GroupAdmin {
    pub(crate) network: Network,
    pub(crate) metadata: Metadata,
    pub(crate) topics: Topics,
    pub(crate) leaders: Leaders,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Which groups are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupQuery {
    pub(crate) name_contains: String,
    /// Empty: all.
    pub(crate) phases: Vec<GroupPhase>,
    /// Whether they have ever had members; `None`: both.
    pub(crate) had_members: Option<bool>,
}

impl GroupQuery {
    fn matches(&self, group: &GroupSummary) -> bool {
        group.group.as_str().contains(&self.name_contains)
            && (self.phases.is_empty() || self.phases.contains(&group.phase))
            && self.had_members.is_none_or(|had| had == group.had_members)
    }
}

impl GroupAdmin {
    /// The groups behind `after` that match, by name, at most `limit`. All shards answer, or none is listed.
    pub(crate) async fn list(
        &self,
        query: &GroupQuery,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<GroupSummary>, ApiError> {
        let shards = (0..GROUP_SHARDS).map(|shard| self.list_shard(shard, query, after, limit));
        let mut groups: Vec<_> = try_join_all(shards).await?.into_iter().flatten().collect();
        groups.sort_unstable_by(|one, other| one.group.cmp(&other.group));
        groups.truncate(limit);
        Ok(groups)
    }

    async fn list_shard(
        &self,
        shard: i32,
        query: &GroupQuery,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<GroupSummary>, ApiError> {
        let (mut found, mut after) = (Vec::new(), after.cloned());
        let page = usize::try_from(SHARD_PAGE).unwrap_or(usize::MAX);
        while found.len() < limit {
            let groups = self
                .ask_shard(shard, true, |coordinator| {
                    let after = after.clone();
                    async move { coordinator.groups(shard, after.as_ref(), SHARD_PAGE).await }
                })
                .await?;
            let last = groups.len() < page;
            after = groups.last().map(|group| group.group.clone());
            found.extend(groups.into_iter().filter(|group| query.matches(group)));
            if last {
                break;
            }
        }
        Ok(found)
    }

    /// A group with its members.
    pub(crate) async fn describe(&self, group: &GroupId) -> Result<GroupDescription, ApiError> {
        self.ask(group, true, |coordinator| async move { coordinator.describe_group(group).await }).await
    }

    /// Address of the coordinator of a group, as far as is known; empty in one process.
    pub(crate) fn coordinator(&self, group: &GroupId) -> String {
        let view = self.metadata.view();
        view.group_shard(shard_of_group(group)).map(|given| given.value.address.clone()).unwrap_or_default()
    }

    /// Deletes a group without members.
    pub(crate) async fn delete(&self, group: &GroupId) -> Result<(), ApiError> {
        self.ask(group, false, |coordinator| async move { coordinator.delete_group(group).await }).await
    }

    /// Forgets the committed offsets of topics.
    pub(crate) async fn delete_offsets(&self, group: &GroupId, topics: &[String]) -> Result<(), ApiError> {
        let mut ids = BTreeSet::new();
        for topic in topics {
            ids.insert(self.topics.find(topic).await?.id);
        }
        let ids = &ids;
        self.ask(group, true, |coordinator| async move { coordinator.delete_offsets(group, ids).await }).await
    }

    /// Removes a member, by its id or, if that is empty, by its instance id.
    pub(crate) async fn remove_member(&self, group: &GroupId, member: &str, instance: &str) -> Result<(), ApiError> {
        let remove =
            |coordinator: CoordinatorClient| async move { coordinator.remove_member(group, member, instance).await };
        self.ask(group, false, remove).await.map_err(|failure| match failure.reason() {
            Reason::SessionExpired => {
                let named =
                    if member.is_empty() { format!("instance id \"{instance}\"") } else { format!("id \"{member}\"") };
                let text = format!("group \"{group}\" has no member of the {named}; look at those that it has");
                ApiError::new(Reason::SessionExpired, text).with("group", group)
            }
            _ => failure,
        })
    }

    /// Commits without a member. Returns what was refused.
    pub(crate) async fn commit(
        &self,
        group: &GroupId,
        offsets: Vec<OffsetCommit>,
    ) -> Result<Vec<PartitionFailure>, ApiError> {
        let (mut commits, any) = (NamedCommits::default(), !offsets.is_empty());
        commits.resolve(&self.topics, offsets).await;
        if any && commits.to_commit.is_empty() {
            return Ok(commits.into_refused());
        }
        let to_commit: &Vec<_> = &std::mem::take(&mut commits.to_commit).into_values().collect();
        let commit = |coordinator: CoordinatorClient| async move { coordinator.commit(group, to_commit).await };
        for (partition, failure) in self.ask(group, true, commit).await? {
            commits.refuse(&partition, failure);
        }
        Ok(commits.into_refused())
    }

    /// The topic of a partition, and the partition's name, unless it is gone.
    pub(crate) fn named(&self, partition: &TopicPartition) -> Option<(Arc<TopicView>, PartitionName)> {
        let topic = self.metadata.view().topic(partition.topic).cloned()?;
        checked_partition(&topic, partition.partition.0).ok()?;
        let name = PartitionName::of(&topic, partition.partition.0);
        Some((topic, name))
    }

    async fn ask<T, F>(
        &self,
        group: &GroupId,
        repeatable: bool,
        ask: impl Fn(CoordinatorClient) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        self.ask_shard(shard_of_group(group), repeatable, ask).await
    }

    /// Asks the coordinator of a shard, and again while the shard moves. What is not `repeatable` is asked again only if it
    /// is known that nothing was done.
    async fn ask_shard<T, F>(
        &self,
        shard: i32,
        repeatable: bool,
        ask: impl Fn(CoordinatorClient) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let (until, mut backoff) = (Instant::now() + PATIENCE, Backoff::default());
        loop {
            let outcome = match self.network.coordinator(shard) {
                Some(connection) => {
                    let asked = tokio::time::timeout(ANSWER_MAX, ask(CoordinatorClient::new(connection))).await;
                    asked.unwrap_or_else(|_elapsed| Err(silent().with_effect(Effect::Maybe)))
                }
                None => Err(without_coordinator()),
            };
            match outcome {
                Err(failure)
                    if session_lost(&failure)
                        && (repeatable || failure.effect() == Effect::None)
                        && Instant::now() < until =>
                {
                    backoff.pause_until(until).await;
                }
                outcome => return outcome,
            }
        }
    }
}
