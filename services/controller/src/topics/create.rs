//! New topics, and more partitions for those that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walser_metadata::value::{StagedPartitions, TopicValue};
use walser_metadata::{TopicEntry, View};
use walser_metastore::Compare;
use walser_model::{Setting, Timestamp, TopicId};
use walser_replication::control::{self, Decision, MERGED_PARTITIONS_MAX};
use walser_rpc::{ApiError, Reason};

use super::{ATTEMPTS_MAX, OTHER_PATIENCE, Topics};
use super::{canonical, check_count, check_texts, contended, effective, find, internal_name, own_name};
use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Extra, maybe};
use crate::keys::topic::{self, TopicNameRecord};
use crate::keys::{delete, put};
use crate::placement::Places;

/// What a new topic is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    /// `None`: one.
    pub(crate) partition_count: Option<i32>,
    /// `None`: the cluster's.
    pub(crate) replication_factor: Option<i32>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) description: String,
    /// A topic that is there and has these settings is the answer.
    pub(crate) allow_existing: bool,
    pub(crate) validate_only: bool,
    /// A topic of Walser itself, with a reserved name: one that is there is the answer, whatever its settings.
    pub(crate) internal: bool,
}

/// A topic that is made of replicas that were set aside.
#[derive(Debug, Clone)]
pub(crate) struct RestoredTopic {
    pub(crate) id: TopicId,
    pub(crate) name: String,
    /// The node that has the replica of each partition, or any node.
    pub(crate) placed_on: Vec<i32>,
    /// Above that of every replica.
    pub(crate) leader_epoch: i32,
}

/// A creation that is about to be written.
struct Creation<'a> {
    id: TopicId,
    staged: &'a StagedPartitions,
    /// The topic as it is, of one that grows.
    grown: Option<&'a TopicEntry>,
}

/// A topic with another number of partitions.
fn with_partitions(topic: &TopicEntry, partition_count: i32) -> TopicValue {
    let durability_revision = topic.durability_revision();
    TopicValue { partition_count, durability_revision, ..TopicValue::clone(&topic.value) }
}

impl Topics {
    /// Where replicas of the topic of this name can be placed now.
    fn places(&self, metadata: &View, topic: &str) -> Places {
        Places::of(metadata, &self.committer.advice.failed(), topic)
    }

    /// Creates a topic, or finds the one that has the name. With `validate_only` it returns how the topic would be, and
    /// no topic.
    pub(crate) async fn create(
        &self,
        request: &NewTopic,
        id: TopicId,
        now: Timestamp,
    ) -> Result<(Arc<TopicValue>, Option<Arc<TopicEntry>>), ApiError> {
        let name = if request.internal { internal_name(&request.name)? } else { own_name(&request.name)? };
        let partition_count = request.partition_count.unwrap_or(1);
        check_count(partition_count, &self.config)?;
        check_texts(&request.labels, &request.description)?;
        let _turn = self.turns.next_about(name.as_str()).await?;
        for _ in 0..ATTEMPTS_MAX {
            let view = self.committer.views.load();
            let replication_factor = request.replication_factor.unwrap_or(view.cluster()?.replication_factor);
            if replication_factor < 1 {
                return Err(ApiError::field("topic.replication_factor", "must be at least 1, or 0 for the default"));
            }
            let config = canonical(&request.config, view.cluster()?.feature_level)?;
            effective(&config, replication_factor)?;
            let value = TopicValue {
                name: name.as_str().to_owned(),
                partition_count,
                replication_factor,
                config,
                labels: request.labels.clone(),
                description: request.description.clone(),
                created_ms: now,
                ..TopicValue::default()
            };
            if let Some(found) = view.metadata.topic_named(name.as_str()) {
                // Created by this very call, when the outcome of its transaction was not known.
                if found.id != id && !request.internal {
                    existing(request, found, &value)?;
                }
                return Ok((Arc::clone(&found.value), Some(Arc::clone(found))));
            }
            if let Some(other) = view.staged_name(name.as_str()) {
                let finished = self.until_finished(other, name.as_str()).await;
                // So may what is staged be.
                finished.map_err(|failure| if other == id { maybe(&failure) } else { failure })?;
                continue;
            }
            if view.metadata.tombstone(id).is_some() {
                let text = format!("topic \"{name}\" was deleted while it was created");
                return Err(ApiError::new(Reason::TopicNotFound, text).with("topic", &name));
            }
            self.places(&view.metadata, name.as_str()).check(replication_factor)?;
            let _planned = self.plan(&view, id, usize::try_from(partition_count).unwrap_or(0))?;
            if request.validate_only {
                return Ok((Arc::new(value), None));
            }
            let staged = StagedPartitions { topic: value, ..StagedPartitions::default() };
            if let Some(created) = self.try_create(&Creation { id, staged: &staged, grown: None }).await? {
                return Ok((Arc::clone(&created.value), Some(created)));
            }
        }
        Err(contended())
    }

    /// Makes a topic of replicas that were set aside.
    pub(crate) async fn restore(&self, restored: &RestoredTopic, now: Timestamp) -> Result<Arc<TopicEntry>, ApiError> {
        let name = own_name(&restored.name)?;
        let partition_count = i32::try_from(restored.placed_on.len()).unwrap_or(i32::MAX);
        check_count(partition_count, &self.config)?;
        let staged = StagedPartitions {
            topic: TopicValue {
                name: name.as_str().to_owned(),
                partition_count,
                replication_factor: 1,
                // Old records would be gone with the next check: how long they stay is decided after they have been seen.
                config: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
                created_ms: now,
                ..TopicValue::default()
            },
            leader_epoch: restored.leader_epoch,
            placed_on: restored.placed_on.clone(),
            ..StagedPartitions::default()
        };
        let id = restored.id;
        let _turn = self.turns.next_about(name.as_str()).await?;
        for attempt in 0..ATTEMPTS_MAX {
            let view = self.committer.views.load();
            let metadata = &view.metadata;
            // Written by this very call, when the outcome of its transaction was not known.
            if attempt > 0 && view.staged.get(&id).is_some_and(|found| found.value == staged) {
                self.until_finished(id, name.as_str()).await.map_err(|failure| maybe(&failure))?;
                continue;
            }
            if attempt > 0
                && let Some(found) = metadata.topic(id).filter(|found| *found.value == staged.topic)
            {
                return Ok(Arc::clone(found));
            }
            let taken = metadata.topic_named(name.as_str()).is_some() || view.staged_name(name.as_str()).is_some();
            if taken
                || metadata.topic(id).is_some()
                || metadata.tombstone(id).is_some()
                || view.staged.contains_key(&id)
            {
                let text = match metadata.topic(id).filter(|_| !taken) {
                    // It has fewer partitions than it had once: those beyond are taken back as they come again.
                    Some(topic) => format!(
                        "topic id {id} is that of topic \"{}\", which has {} partitions: what is set aside of further ones \
                         comes back when it gets that many (add-partitions)",
                        topic.name, topic.value.partition_count
                    ),
                    None => {
                        let what = if taken { format!("topic \"{name}\"") } else { format!("topic id {id}") };
                        format!("{what} already exists or is being deleted")
                    }
                };
                return Err(ApiError::new(Reason::TopicExists, text).with("topic", name));
            }
            self.places(metadata, name.as_str()).check(1)?;
            let _planned = self.plan(&view, id, restored.placed_on.len())?;
            if let Some(created) = self.try_create(&Creation { id, staged: &staged, grown: None }).await? {
                return Ok(created);
            }
        }
        Err(contended())
    }

    /// Adds partitions. Returns how many there were, too.
    pub(crate) async fn grow(
        &self,
        name: &str,
        wanted: i32,
        validate_only: bool,
    ) -> Result<(i32, TopicId, Arc<TopicValue>), ApiError> {
        own_name(name)?;
        let _turn = self.turns.next_about(name).await?;
        let mut before = None;
        for _ in 0..ATTEMPTS_MAX {
            let view = self.committer.views.load();
            let topic = Arc::clone(find(&view, name)?);
            let now = topic.value.partition_count;
            if let Some(before) = before.filter(|_| now >= wanted) {
                return Ok((before, topic.id, Arc::clone(&topic.value)));
            }
            if wanted <= now {
                let text = format!("must be larger than the present {now}: a topic cannot lose partitions");
                return Err(ApiError::field("partition_count", text).with("partitionCount", now));
            }
            check_count(wanted, &self.config)?;
            if view.staged.contains_key(&topic.id) {
                let finished = self.until_finished(topic.id, name).await;
                // It may have been staged by this very call.
                finished.map_err(|failure| if before.is_some() { maybe(&failure) } else { failure })?;
                continue;
            }
            self.places(&view.metadata, &topic.value.name).check(topic.value.replication_factor)?;
            let value = with_partitions(&topic, wanted);
            let _planned = self.plan(&view, topic.id, usize::try_from(wanted).unwrap_or(0))?;
            if validate_only {
                return Ok((now, topic.id, Arc::new(value)));
            }
            let staged = StagedPartitions { topic: value, first: now, ..StagedPartitions::default() };
            let creation = Creation { id: topic.id, staged: &staged, grown: Some(&topic) };
            before.get_or_insert(now);
            if let Some(created) = self.try_create(&creation).await? {
                return Ok((now, topic.id, Arc::clone(&created.value)));
            }
        }
        Err(contended())
    }

    /// Creates partitions, in one transaction where they fit. `None`: something came between.
    async fn try_create(&self, creation: &Creation<'_>) -> Result<Option<Arc<TopicEntry>>, ApiError> {
        let (view, context) = self.committer.context()?;
        let Creation { id, staged, grown } = *creation;
        let mut extra = Extra::default();
        match grown {
            Some(topic) => extra.compares.push(Compare::ModifiedAt(topic::key(id), topic.revision)),
            None => {
                extra.compares.push(Compare::Missing(topic::name_key(&staged.topic.name)));
                extra.compares.extend([topic::key(id), topic::deleting_key(id)].map(Compare::Missing));
                extra.ops.push(put(topic::name_key(&staged.topic.name), &TopicNameRecord { id: id.to_string() }));
            }
        }
        extra.compares.push(Compare::Missing(topic::staged_key(id)));
        let decisions = self.partitions_to_create(&view, &context, id, staged)?;
        let mut merged = control::merge(decisions, MERGED_PARTITIONS_MAX);
        if let Some(decision) = merged.pop_if(|_| true).filter(|_| merged.is_empty()) {
            extra.ops.push(put(topic::key(id), &staged.topic));
            let committed = self.committer.commit(&view, &decision, extra).await?;
            return Ok(self.created(id, staged).filter(|_| committed != Committed::Again));
        }
        let Some(in_hand) = self.take(id) else {
            self.committer.views.changed(view.metadata.version(), OTHER_PATIENCE).await;
            return Ok(None);
        };
        extra.ops.push(put(topic::staged_key(id), staged));
        if self.committer.commit(&view, &Decision::new(&context), extra).await? == Committed::Again {
            return Ok(None);
        }
        self.finish_staged(&in_hand).await.map_err(|failure| maybe(&failure))?;
        Ok(self.created(id, staged))
    }

    /// The topic, when it has what was staged.
    fn created(&self, id: TopicId, staged: &StagedPartitions) -> Option<Arc<TopicEntry>> {
        let view = self.committer.views.load();
        let topic = view.metadata.topic(id)?;
        (topic.value.partition_count >= staged.topic.partition_count).then(|| Arc::clone(topic))
    }

    /// The transaction that makes staged partitions visible, once all of them are there.
    pub(super) fn publication(&self, view: &ClusterView, id: TopicId, staged: &StagedPartitions) -> Option<Extra> {
        let revision = view.staged.get(&id)?.revision;
        let mut extra = Extra::default();
        extra.compares.push(Compare::ModifiedAt(topic::staged_key(id), revision));
        extra.ops.push(delete(topic::staged_key(id)));
        let value = match view.metadata.topic(id) {
            Some(topic) => {
                extra.compares.push(Compare::ModifiedAt(topic::key(id), topic.revision));
                with_partitions(topic, staged.topic.partition_count)
            }
            None => {
                extra.compares.push(Compare::Missing(topic::key(id)));
                staged.topic.clone()
            }
        };
        extra.ops.push(put(topic::key(id), &value));
        Some(extra)
    }
}

/// Refuses a creation whose name is taken, unless the topic that has it is the answer.
fn existing(request: &NewTopic, have: &TopicEntry, wanted: &TopicValue) -> Result<(), ApiError> {
    let difference = difference(&have.value, wanted, request.partition_count.is_some());
    if request.allow_existing && difference.is_empty() {
        return Ok(());
    }
    let (name, value) = (&have.name, &have.value);
    let tail = if difference.is_empty() { String::new() } else { format!(": {difference}") };
    let failure = ApiError::new(Reason::TopicExists, format!("topic \"{name}\" already exists{tail}"));
    let failure = failure.with("topic", name).with("difference", difference);
    Err(failure.with("partitions", value.partition_count).with("replicas", value.replication_factor))
}

/// How a topic that is there differs from what was asked for. `partitions`: their number was.
fn difference(have: &TopicValue, wanted: &TopicValue, partitions: bool) -> String {
    if partitions && have.partition_count != wanted.partition_count {
        let (count, wanted) = (have.partition_count, wanted.partition_count);
        return format!("it has {count} partition{}, you asked for {wanted}", if count == 1 { "" } else { "s" });
    }
    let shown = |config: &BTreeMap<String, String>, name: &str| match (config.get(name), Setting::named(name)) {
        (Some(value), Some(setting)) => setting.shown(value),
        (Some(value), None) => value.clone(),
        (None, _) => "the default".to_owned(),
    };
    let names: BTreeSet<&String> = have.config.keys().chain(wanted.config.keys()).collect();
    let differs = names.into_iter().filter(|name| have.config.get(*name) != wanted.config.get(*name));
    let told = differs.map(|name| {
        format!("its {name} is {}, you asked for {}", shown(&have.config, name), shown(&wanted.config, name))
    });
    told.collect::<Vec<_>>().join("; ")
}
