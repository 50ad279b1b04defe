//! Reading topics: wire forms, pages, settings.

use std::collections::BTreeMap;

use walser_model::{ConfigType, SETTINGS, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_rpc::Failure;

use super::{Found, find};
use crate::availability::Availability;
use crate::keys::partition::{self, Partition};
use crate::keys::topic::{self, Topic};
use crate::keys::{cluster, decode};
use crate::operations::time;
use crate::paging::{after_token, next_token, page_size};
use crate::placement::{REPLICATION_DEFAULT, effective_min_isr};
use crate::store::{Store, Versioned, versioned};

/// A topic as the metadata has it. Its state is not known from that alone.
pub(crate) fn wire_topic(id: TopicId, found: &Versioned<Topic>) -> pb::Topic {
    let topic = &found.value;
    pb::Topic {
        name: topic.name.clone(),
        id: id.to_string(),
        partition_count: topic.partition_count,
        replication_factor: topic.replication_factor,
        config: topic.config.clone().into_iter().collect(),
        labels: topic.labels.clone().into_iter().collect(),
        description: topic.description.clone(),
        state: pb::TopicState::Unspecified.into(),
        internal: topic.name.starts_with(walser_model::RESERVED_PREFIX),
        stats: None,
        etag: found.mod_revision.to_string(),
        create_time: Some(time(topic.created_ms)),
    }
}

/// A topic as clients see it, with its state and the counts of its stats; gateways add the live numbers.
pub(crate) async fn described(
    store: &Store,
    availability: &Availability,
    (id, found): &Found,
) -> Result<pb::Topic, Failure> {
    let mut partitions = Vec::new();
    for entry in store.range(&partition::topic_prefix(*id)).await? {
        if let Some((_, number)) = partition::parse(&entry.key) {
            partitions.push((number, decode::<Partition>(&entry)?));
        }
    }
    let (state, stats) = availability.of_topic(*id, &partitions);
    Ok(pb::Topic { state: state.into(), stats: Some(stats), ..wire_topic(*id, found) })
}

/// A partition as services see it.
pub(crate) fn wire_partition(topic: TopicId, number: i32, value: &Partition, epoch: i64) -> pbi::PartitionMetadata {
    pbi::PartitionMetadata {
        r#ref: Some(pbi::PartitionRef {
            topic_id: topic.to_bytes().to_vec().into(),
            partition: number,
            leader_epoch: value.leader_epoch,
        }),
        leader: value.leader,
        replicas: value.replicas.clone(),
        isr: value.isr.clone(),
        partition_epoch: epoch,
        min_isr: value.min_isr,
        ..Default::default()
    }
}

/// Topics by name, page by page.
pub(crate) async fn list(
    store: &Store,
    availability: &Availability,
    request: &pb::ListTopicsRequest,
) -> Result<pb::ListTopicsResponse, Failure> {
    let size = page_size(request.page_size, 100, 1000)?;
    let query = format!("topics/{}/{}", request.include_internal, request.name_contains);
    let after = after_token(&request.page_token, &query)?;
    let mut topics: Vec<Found> = Vec::new();
    for entry in store.range(topic::PREFIX).await? {
        let Some(id) = topic::parse(&entry.key) else { continue };
        topics.push((id, versioned(&entry)?));
    }
    let wanted = |(_, found): &Found| {
        let topic = &found.value;
        topic.name.as_str() > after
            && topic.name.contains(&request.name_contains)
            && (request.include_internal || !topic.name.starts_with(walser_model::RESERVED_PREFIX))
    };
    topics.retain(wanted);
    topics.sort_unstable_by(|(_, left), (_, right)| left.value.name.cmp(&right.value.name));
    let more = topics.len() > size;
    topics.truncate(size);
    let last = topics.last().map(|(_, found)| found.value.name.clone()).unwrap_or_default();
    let next_page_token = if more { next_token(&query, &last) } else { String::new() };
    let mut described_topics = Vec::with_capacity(topics.len());
    for topic in &topics {
        let topic = described(store, availability, topic).await?;
        let stats = topic.stats.filter(|_| request.include_stats);
        described_topics.push(pb::Topic { stats, ..topic });
    }
    Ok(pb::ListTopicsResponse { topics: described_topics, next_page_token })
}

/// Partitions of a topic (or the unhealthy ones of all), page by page; live numbers are filled in by gateways.
pub(crate) async fn partitions(
    store: &Store,
    availability: &Availability,
    request: &pb::ListPartitionsRequest,
) -> Result<pb::ListPartitionsResponse, Failure> {
    let size = page_size(request.page_size, 200, 2000)?;
    if request.topic.is_empty() && !request.only_unhealthy {
        return Err(Failure::field("topic", "is needed unless only_unhealthy is set"));
    }
    let query = format!("partitions/{}/{}", request.only_unhealthy, request.topic);
    let after = after_token(&request.page_token, &query)?;
    let mut names = BTreeMap::new();
    let prefix = if request.topic.is_empty() {
        for entry in store.range(topic::PREFIX).await? {
            if let Some(id) = topic::parse(&entry.key) {
                names.insert(id, decode::<Topic>(&entry)?.name);
            }
        }
        partition::PREFIX.to_owned()
    } else {
        let (id, found) = find(store, &request.topic).await?;
        names.insert(id, found.value.name);
        partition::topic_prefix(id)
    };
    let mut found = Vec::new();
    for entry in store.range(&prefix).await?.into_iter().filter(|entry| entry.key.as_str() > after) {
        let Some((id, number)) = partition::parse(&entry.key) else { continue };
        let value: Partition = decode(&entry)?;
        if request.only_unhealthy && availability.healthy(id, number, &value) {
            continue;
        }
        let Some(topic) = names.get(&id) else { continue };
        let problem = availability.problem(id, number, &value);
        let partition = pb::Partition {
            partition: number,
            damaged: problem.as_ref().is_some_and(|problem| problem.damaged),
            problem: problem.map(|problem| problem.text),
            leader: (value.leader >= 0).then_some(value.leader),
            leader_epoch: value.leader_epoch,
            replicas: value.replicas,
            isr: value.isr,
            ..Default::default()
        };
        found.push((entry.key, pb::TopicPartitionInfo { topic: topic.clone(), partition: Some(partition) }));
        if found.len() > size {
            break;
        }
    }
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().map(|(key, _)| key.clone()).unwrap_or_default();
    let next_page_token = if more { next_token(&query, &last) } else { String::new() };
    Ok(pb::ListPartitionsResponse { partitions: found.into_iter().map(|(_, info)| info).collect(), next_page_token })
}

/// Every setting with value, default, source and documentation.
pub(crate) async fn configs(
    store: &Store,
    request: &pb::ListTopicConfigsRequest,
) -> Result<pb::ListTopicConfigsResponse, Failure> {
    let size = page_size(request.page_size, usize::MAX, usize::MAX)?;
    let query = format!("configs/{}/{}", request.overrides_only, request.topic);
    let after = after_token(&request.page_token, &query)?;
    let (overrides, replication) = if request.topic.is_empty() {
        (BTreeMap::new(), REPLICATION_DEFAULT)
    } else {
        let (_, found) = find(store, &request.topic).await?;
        (found.value.config, found.value.replication_factor)
    };
    let min_isr = effective_min_isr(None, replication).to_string();
    let entry = |setting: &walser_model::Setting| {
        let chosen = overrides.get(setting.name);
        let default = if setting.default.is_empty() { min_isr.as_str() } else { setting.default };
        let source = if chosen.is_some() { pb::ConfigSource::Topic } else { pb::ConfigSource::Default };
        let kind = match setting.kind {
            ConfigType::Bool => pb::ConfigType::Bool,
            ConfigType::Int => pb::ConfigType::Int,
            ConfigType::DurationMs => pb::ConfigType::DurationMs,
            ConfigType::Bytes => pb::ConfigType::Bytes,
            ConfigType::Text => pb::ConfigType::String,
        };
        pb::ConfigEntry {
            name: setting.name.to_owned(),
            value: chosen.map_or(default, String::as_str).to_owned(),
            default_value: default.to_owned(),
            source: source.into(),
            r#type: kind.into(),
            documentation: setting.documentation.to_owned(),
            ..Default::default()
        }
    };
    let wanted = SETTINGS.iter().filter(|setting| setting.name > after);
    let wanted = wanted.filter(|setting| !request.overrides_only || overrides.contains_key(setting.name));
    let mut configs: Vec<_> = wanted.map(entry).collect();
    let more = configs.len() > size;
    configs.truncate(size);
    let last = configs.last().map(|config| config.name.clone()).unwrap_or_default();
    let next_page_token = if more { next_token(&query, &last) } else { String::new() };
    Ok(pb::ListTopicConfigsResponse { configs, next_page_token })
}

/// The cluster's record.
pub(crate) async fn cluster_record(store: &Store) -> Result<cluster::Cluster, Failure> {
    let found = store.get::<cluster::Cluster>(cluster::KEY).await?;
    Ok(found.ok_or_else(|| Failure::internal("the cluster has no record"))?.value)
}
