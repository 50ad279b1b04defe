//! Topics: they are created, grow, change, and are deleted.
//!
//! What fits one transaction is one. A topic of more partitions than that comes and goes in steps that a successor
//! finishes: `staged/{id}` names the partitions that are being created, and the transaction that writes the topic, and
//! with it makes them visible, removes it; the tombstone `deleting/{id}` comes with the removal of the topic, and the
//! partitions follow it.

mod create;
mod delete;
mod staged;
mod update;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metadata::TopicEntry;
use walser_model::{ConfigError, Setting, TopicConfig, TopicId, TopicName};
use walser_rpc::{ApiError, Reason};

pub(crate) use create::{NewTopic, RestoredTopic};
pub(crate) use update::TopicUpdate;

use crate::cluster_view::{ClusterView, Staged};
use crate::committer::Committer;
use crate::config::Config;
use crate::operations::Operations;
use crate::turns::Turns;

const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;
const DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// A decision is taken again this often when another one came between.
pub(crate) const ATTEMPTS_MAX: usize = 100;
/// Changes of topics that are under way at once. More wait for their turn.
const CONCURRENT_MAX: usize = 64;
/// How long a change waits for another one of the same topic.
const OTHER_PATIENCE: Duration = Duration::from_secs(30);

/// Decisions about topics. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    committer: Committer,
    config: Config,
    turns: Turns,
    operations: Operations,
    /// Partitions that calls under way will have created, by topic: how many the topic has then.
    planned: Arc<Mutex<HashMap<TopicId, usize>>>,
    /// Topics whose staged partitions a call of this process is creating, or whose partitions it is deleting.
    in_hand: Arc<Mutex<HashSet<TopicId>>>,
}

/// Partitions that are planned for as long as this is held.
#[derive(Debug)]
struct Planned<'a> {
    topics: &'a Topics,
    id: TopicId,
}

/// The right to finish what is staged, or being deleted, of a topic.
#[derive(Debug)]
struct InHand {
    in_hand: Arc<Mutex<HashSet<TopicId>>>,
    id: TopicId,
}

// === impl Topics ===

impl Topics {
    pub(crate) fn new(committer: Committer, config: Config, operations: Operations) -> Self {
        let turns = Turns::new(CONCURRENT_MAX);
        Self { committer, config, turns, operations, planned: Arc::default(), in_hand: Arc::default() }
    }

    /// Plans partitions for a topic: `count` is how many it will have. They count from here on, so that calls at once
    /// do not exceed the limit together.
    fn plan(&self, view: &ClusterView, id: TopicId, count: usize) -> Result<Planned<'_>, ApiError> {
        let mut planned = self.planned.lock();
        let missing = |(id, count): (&TopicId, &usize)| count.saturating_sub(view.metadata.partitions_of(*id).count());
        // What an earlier call or controller has begun counts as well.
        let staged =
            |(id, staged): (&TopicId, &Staged)| (*id, usize::try_from(staged.value.topic.partition_count).unwrap_or(0));
        let mut others: HashMap<TopicId, usize> = view.staged.iter().map(staged).collect();
        others.extend(planned.iter().map(|(id, count)| (*id, *count)));
        others.remove(&id);
        let others: usize = others.iter().map(missing).sum();
        let total = view.metadata.partition_count() + others;
        let more = missing((&id, &count));
        let limit = usize::try_from(self.config.partitions_max).unwrap_or(usize::MAX);
        if total + more > limit {
            let text = format!("adding {more} partitions to {total} exceeds the limit of {limit}");
            let failure = ApiError::new(Reason::PartitionLimitReached, text);
            return Err(failure.with("limit", limit).with("current", total));
        }
        planned.insert(id, count);
        Ok(Planned { topics: self, id })
    }

    /// Takes a topic in hand; `None`: another call has.
    fn take(&self, id: TopicId) -> Option<InHand> {
        self.in_hand.lock().insert(id).then(|| InHand { in_hand: Arc::clone(&self.in_hand), id })
    }
}

impl Drop for Planned<'_> {
    fn drop(&mut self) {
        self.topics.planned.lock().remove(&self.id);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.in_hand.lock().remove(&self.id);
    }
}

/// The answer when a decision was overtaken every time.
pub(crate) fn contended() -> ApiError {
    ApiError::new(Reason::ControllerNotAvailable, "too many changes at once; nothing was done, try again")
}

/// Reads a name from a request.
pub(crate) fn name(text: &str) -> Result<TopicName, ApiError> {
    text.parse().map_err(|error: walser_model::TopicNameError| {
        let failure = ApiError::new(Reason::TopicNameInvalid, format!("topic name {text:?}: {error}"));
        failure.with("topic", text.escape_debug()).with("pattern", walser_model::TOPIC_NAME_PATTERN)
    })
}

/// A name that Walser itself may create.
fn internal_name(text: &str) -> Result<TopicName, ApiError> {
    let name = name(text)?;
    if name.reserved() { Ok(name) } else { Err(ApiError::field("name", "is not one of Walser itself")) }
}

/// A name of a topic that users may create, change and delete.
pub(crate) fn own_name(text: &str) -> Result<TopicName, ApiError> {
    let name = name(text)?;
    if name.reserved() {
        let prefix = walser_model::RESERVED_PREFIX;
        let text = format!("topic name \"{name}\": names that begin with \"{prefix}\" belong to Walser itself");
        return Err(ApiError::new(Reason::TopicNameInvalid, text).with("topic", &name).with("rule", "reserved-prefix"));
    }
    Ok(name)
}

/// Finds a topic by name.
pub(crate) fn find<'a>(view: &'a ClusterView, text: &str) -> Result<&'a Arc<TopicEntry>, ApiError> {
    let name = name(text)?;
    let missing = || {
        let failure = ApiError::new(Reason::TopicNotFound, format!("topic \"{name}\" does not exist"));
        failure.with("topic", &name)
    };
    view.metadata.topic_named(name.as_str()).ok_or_else(missing)
}

/// Refuses a change that was made for another state of a topic.
fn check_etag(etag: &str, topic: &TopicEntry) -> Result<(), ApiError> {
    let current = topic.revision.to_string();
    if etag.is_empty() || etag == current {
        return Ok(());
    }
    let text = format!("topic \"{}\" was changed since you read it; read it again", topic.name);
    Err(ApiError::new(Reason::EtagMismatch, text).with("etag", etag).with("currentEtag", current))
}

/// Checks overrides and puts them into canonical form. `level`: the feature level of the cluster.
pub(crate) fn canonical(
    overrides: &BTreeMap<String, String>,
    level: i32,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut canonical = BTreeMap::new();
    for (name, value) in overrides {
        let setting = Setting::require(name).map_err(config_failure)?;
        let value = setting.canonical(value).map_err(config_failure)?;
        let required = setting.feature_level(&value);
        if required > level {
            let text = format!(
                "{name}={value} needs feature level {required}, and this cluster works at {level}: end the upgrade with \
                 `walser cluster finalize-upgrade` once every process is of this version"
            );
            let failure = ApiError::new(Reason::FeatureDisabled, text).with("feature", "compaction").with("key", name);
            return Err(failure.with("requiredLevel", required).with("level", level));
        }
        canonical.insert(name.clone(), value);
    }
    Ok(canonical)
}

fn config_failure(error: ConfigError) -> ApiError {
    let text = error.to_string();
    match error {
        ConfigError::Unknown { name, did_you_mean } => {
            let suggestion = did_you_mean.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
            let failure = ApiError::new(Reason::ConfigInvalid, format!("{text}{suggestion}")).with("key", name);
            failure.with("didYouMean", did_you_mean.unwrap_or_default())
        }
        ConfigError::Value { name, error } => {
            let failure = ApiError::new(Reason::ConfigInvalid, text).with("key", name);
            failure.with("value", error.value).with("allowed", error.allowed)
        }
    }
}

fn check_texts(labels: &BTreeMap<String, String>, description: &str) -> Result<(), ApiError> {
    let long = labels.iter().any(|(key, value)| key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX);
    if labels.len() > LABELS_MAX || long {
        let rule = format!("at most {LABELS_MAX} labels of at most {LABEL_BYTES_MAX} bytes");
        return Err(ApiError::field("topic.labels", rule));
    }
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err(ApiError::field("topic.description", format!("at most {DESCRIPTION_BYTES_MAX} bytes")));
    }
    Ok(())
}

pub(crate) fn check_count(count: i32, config: &Config) -> Result<(), ApiError> {
    let most = config.topic_partitions_max;
    if (1..=most).contains(&count) {
        return Ok(());
    }
    let text = format!("{count} is out of range, a topic has 1 to {most} partitions");
    Err(ApiError::field("topic.partition_count", text).with("limit", most))
}

/// The effective settings, checked against the replication factor.
fn effective(overrides: &BTreeMap<String, String>, replication: i32) -> Result<TopicConfig, ApiError> {
    let pairs = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = TopicConfig::from_overrides(pairs).map_err(config_failure)?;
    match config.min_insync_replicas {
        Some(min) if min > replication => {
            let text = format!("min.insync.replicas={min} can never be met: the number of replicas is {replication}");
            let failure = ApiError::new(Reason::ConfigInvalid, text).with("key", "min.insync.replicas");
            Err(failure.with("value", min).with("allowed", format!("1 to {replication}")))
        }
        _ => Ok(config),
    }
}
