//! Topics: the decisions behind `TopicService`.

mod describe;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use walser_metastore::{Compare, Txn};
use walser_model::{ConfigError, Setting, Timestamp, TopicConfig, TopicId, TopicName};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

pub(crate) use describe::{cluster_record, configs, described, list, partitions, wire_partition, wire_topic};
pub(crate) use update::{add_partitions, delete, removed, update};

use crate::keys::counter::{Counter, PARTITIONS};
use crate::keys::topic::{self, Name, Topic};
use crate::keys::{partition, put};
use crate::placement::{REPLICATION_DEFAULT, effective_min_isr, place};
use crate::store::{ATTEMPTS_MAX, Store, Versioned, contended};
use crate::{config::Config, nodes};

const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;
const DESCRIPTION_BYTES_MAX: usize = 16 << 10;

/// A topic with its id.
pub(crate) type Found = (TopicId, Versioned<Topic>);

/// Reads a name from a request.
pub(crate) fn name(text: &str) -> Result<TopicName, Failure> {
    text.parse().map_err(|error: walser_model::TopicNameError| {
        let failure = Failure::new(Reason::TopicNameInvalid, format!("topic name {text:?}: {error}"));
        failure.with("topic", text.escape_debug()).with("pattern", walser_model::TOPIC_NAME_PATTERN)
    })
}

/// A name that users may create.
pub(crate) fn own_name(text: &str) -> Result<TopicName, Failure> {
    let name = name(text)?;
    if name.reserved() {
        let prefix = walser_model::RESERVED_PREFIX;
        let text = format!("topic name \"{name}\": names that begin with \"{prefix}\" belong to Walser itself");
        return Err(Failure::new(Reason::TopicNameInvalid, text).with("topic", &name).with("rule", "reserved-prefix"));
    }
    Ok(name)
}

/// Finds a topic by name.
pub(crate) async fn find(store: &Store, text: &str) -> Result<Found, Failure> {
    let name = name(text)?;
    let missing = || {
        let failure = Failure::new(Reason::TopicNotFound, format!("topic \"{name}\" does not exist"));
        failure.with("topic", &name)
    };
    let entry = store.get::<Name>(&topic::name_key(name.as_str())).await?.ok_or_else(missing)?;
    let id: TopicId = entry.value.id.parse().map_err(|_| Failure::internal("a topic's id is not readable"))?;
    let found = store.get::<Topic>(&topic::key(id)).await?.ok_or_else(missing)?;
    Ok((id, found))
}

/// Checks overrides and puts them into canonical form.
pub(crate) fn canonical(overrides: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut canonical = BTreeMap::new();
    for (name, value) in overrides {
        let setting = Setting::require(name).map_err(config_failure)?;
        canonical.insert(name.clone(), setting.canonical(value).map_err(config_failure)?);
    }
    Ok(canonical)
}

fn config_failure(error: ConfigError) -> Failure {
    let text = error.to_string();
    match error {
        ConfigError::Unknown { name, did_you_mean } => {
            let suggestion = did_you_mean.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
            let failure = Failure::new(Reason::ConfigInvalid, format!("{text}{suggestion}")).with("key", name);
            failure.with("didYouMean", did_you_mean.unwrap_or_default())
        }
        ConfigError::Value { name, error } => {
            let failure = Failure::new(Reason::ConfigInvalid, text).with("key", name);
            failure.with("value", error.value).with("allowed", error.allowed)
        }
        ConfigError::Feature { name, feature } => {
            Failure::new(Reason::FeatureDisabled, text).with("key", name).with("feature", feature)
        }
    }
}

fn check_texts(labels: &BTreeMap<String, String>, description: &str) -> Result<(), Failure> {
    let long = labels.iter().any(|(key, value)| key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX);
    if labels.len() > LABELS_MAX || long {
        let rule = format!("at most {LABELS_MAX} labels of at most {LABEL_BYTES_MAX} bytes");
        return Err(Failure::field("topic.labels", rule));
    }
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err(Failure::field("topic.description", format!("at most {DESCRIPTION_BYTES_MAX} bytes")));
    }
    Ok(())
}

pub(crate) fn check_count(count: i32, config: &Config) -> Result<(), Failure> {
    let most = config.topic_partitions_max;
    if (1..=most).contains(&count) {
        return Ok(());
    }
    let text = format!("{count} is out of range, a topic has 1 to {most} partitions");
    Err(Failure::field("topic.partition_count", text).with("limit", most))
}

/// The effective settings, checked against the replication factor.
fn effective(overrides: &BTreeMap<String, String>, replication: i32) -> Result<TopicConfig, Failure> {
    let pairs = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = TopicConfig::from_overrides(pairs).map_err(config_failure)?;
    match config.min_insync_replicas {
        Some(min) if min > replication => {
            let text = format!("min.insync.replicas={min} can never be met by {replication} replicas");
            let failure = Failure::new(Reason::ConfigInvalid, text).with("key", "min.insync.replicas");
            Err(failure.with("value", min).with("allowed", format!("1 to {replication}")))
        }
        _ => Ok(config),
    }
}

/// Creates a topic. Gives it back as it is, or as it would be with `validate_only`.
pub(crate) async fn create(
    store: &Store,
    config: &Config,
    request: &pb::CreateTopicRequest,
    id: TopicId,
    now: Timestamp,
) -> Result<(TopicId, Versioned<Topic>), Failure> {
    let asked = request.topic.as_ref().ok_or_else(|| Failure::field("topic", "is missing"))?;
    let name = own_name(&asked.name)?;
    let partition_count = if asked.partition_count == 0 { 1 } else { asked.partition_count };
    check_count(partition_count, config)?;
    let overrides = canonical(&asked.config.clone().into_iter().collect())?;
    let labels: BTreeMap<_, _> = asked.labels.clone().into_iter().collect();
    check_texts(&labels, &asked.description)?;
    let _turn = store.topic_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let nodes = nodes::usable(store).await?;
        let replication_factor = match asked.replication_factor {
            0 => REPLICATION_DEFAULT,
            count => count,
        };
        if replication_factor < 1 {
            return Err(Failure::field("topic.replication_factor", "must be at least 1, or 0 for the default"));
        }
        let settings = effective(&overrides, replication_factor)?;
        let topic = Topic {
            name: name.as_str().to_owned(),
            partition_count,
            replication_factor,
            config: overrides.clone(),
            labels: labels.clone(),
            description: asked.description.clone(),
            created_ms: now,
        };
        if store.get::<Name>(&topic::name_key(name.as_str())).await?.is_some() {
            return existing(store, request, &topic).await;
        }
        let min_isr = effective_min_isr(settings.min_insync_replicas, replication_factor);
        let placed = place(&nodes, 0, partition_count, replication_factor, min_isr)?;
        let (total, total_unchanged) = store.counter(PARTITIONS).await?;
        let total = grown(total, partition_count, config)?;
        if request.validate_only {
            return Ok((id, Versioned { value: topic, mod_revision: 0, key: topic::key(id) }));
        }
        let mut txn = Txn {
            compares: vec![Compare::Missing(topic::name_key(name.as_str())), total_unchanged],
            ops: vec![
                put(topic::name_key(name.as_str()), &Name { id: id.to_string() }),
                put(topic::key(id), &topic),
                put(PARTITIONS.to_owned(), &Counter { value: total }),
            ],
        };
        for (number, partition) in (0..).zip(&placed) {
            txn.ops.push(put(partition::key(id, number), partition));
        }
        if let Some(revision) = store.commit(txn).await? {
            return Ok((id, Versioned { value: topic, mod_revision: revision, key: topic::key(id) }));
        }
    }
    Err(contended())
}

/// The total after `more` partitions, within the limit.
pub(crate) fn grown(total: i64, more: i32, config: &Config) -> Result<i64, Failure> {
    let total_after = total + i64::from(more);
    if total_after <= config.partitions_max {
        return Ok(total_after);
    }
    let limit = config.partitions_max;
    let text = format!("{total} partitions exist, with {more} more there would be more than the limit of {limit}");
    Err(Failure::new(Reason::PartitionLimitReached, text).with("limit", limit).with("current", total))
}

/// What happens when the name is taken.
async fn existing(store: &Store, request: &pb::CreateTopicRequest, wanted: &Topic) -> Result<Found, Failure> {
    let (id, found) = find(store, &wanted.name).await?;
    let (have, name) = (&found.value, &wanted.name);
    let asked = request.topic.as_ref().is_some_and(|topic| topic.partition_count != 0);
    let difference = difference(have, wanted, asked);
    if request.allow_existing && difference.is_empty() {
        return Ok((id, found));
    }
    let tail = if difference.is_empty() { String::new() } else { format!(": {difference}") };
    let failure = Failure::new(Reason::TopicExists, format!("topic \"{name}\" already exists{tail}"));
    let failure = failure.with("topic", name).with("difference", difference);
    Err(failure.with("partitions", have.partition_count).with("replicas", have.replication_factor))
}

/// How a topic that is there differs from what was asked for. `partitions`: their number was.
fn difference(have: &Topic, wanted: &Topic, partitions: bool) -> String {
    if partitions && have.partition_count != wanted.partition_count {
        return format!("it has {} partitions, you asked for {}", have.partition_count, wanted.partition_count);
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
