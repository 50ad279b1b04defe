//! Reading topics: wire forms, pages, settings. Everything is answered from the view.

use std::collections::BTreeMap;
use std::sync::Arc;

use walser_metadata::value::TopicValue;
use walser_metadata::{PartitionEntry, TopicEntry};
use walser_model::{ConfigType, RESERVED_PREFIX, SETTINGS, Setting, TopicId, TopicPartition};
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, after_token, page, page_size, wire_time, wire_topic, wire_topic_value};

use super::availability::Availability;
use crate::cluster_view::ClusterView;
use crate::keys::partition;
use crate::operations::Operation;
use crate::topics::find;

/// A topic as clients see it, with its state and the counts of its stats; gateways add the live numbers.
pub(super) fn described(availability: &Availability, topic: &TopicEntry) -> pb::Topic {
    let partitions: Vec<_> = topic.partitions().collect();
    let (state, stats) = availability.of_topic(partitions.iter().copied());
    pb::Topic { state: state.into(), stats: Some(stats), ..wire_topic(topic) }
}

/// A topic as it would be.
pub(super) fn planned(id: TopicId, value: &TopicValue) -> pb::Topic {
    wire_topic_value(id, value, 0)
}

/// An operation as clients see it.
pub(super) fn wire_operation(operation: &Operation) -> pb::Operation {
    let total = i64::from(operation.partition_count);
    let ended = operation.ended_ms;
    let state = if ended.is_some() { pb::OperationState::Succeeded } else { pb::OperationState::Running };
    let done = if ended.is_some() { total } else { 0 };
    let message = match ended {
        Some(_) => format!("deleted topic {}", operation.topic),
        None => format!("removing the data of topic {}", operation.topic),
    };
    pb::Operation {
        id: operation.id.clone(),
        kind: "DELETE_TOPIC".to_owned(),
        target: format!("topics/{}", operation.topic),
        state: state.into(),
        message,
        progress: Some(pb::Progress { done, total, unit: "PARTITIONS".to_owned() }),
        error: None,
        create_time: Some(wire_time(operation.started_ms)),
        end_time: ended.map(wire_time),
    }
}

/// Topics by name, page by page.
pub(super) fn list(
    view: &ClusterView,
    availability: &Availability,
    request: &pb::ListTopicsRequest,
) -> Result<pb::ListTopicsResponse, ApiError> {
    let size = page_size(request.page_size, 100, 1000)?;
    let query = format!("topics/{}/{}", request.include_internal, request.name_contains);
    let after = after_token(&request.page_token, &query)?;
    let wanted = |topic: &&Arc<TopicEntry>| {
        &*topic.name > after
            && topic.name.contains(&request.name_contains)
            && (request.include_internal || !topic.name.starts_with(RESERVED_PREFIX))
    };
    let mut topics: Vec<_> = view.metadata.topics().filter(wanted).collect();
    topics.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    let (topics, next_page_token) = page(topics, size, &query, |topic| topic.name.to_string());
    let describe = |topic: &Arc<TopicEntry>| {
        let topic = described(availability, topic);
        let stats = topic.stats.filter(|_| request.include_stats);
        pb::Topic { stats, ..topic }
    };
    Ok(pb::ListTopicsResponse { topics: topics.into_iter().map(describe).collect(), next_page_token })
}

/// Partitions of a topic (or the unhealthy ones of all), page by page; live numbers are filled in by gateways.
pub(super) fn partitions(
    view: &ClusterView,
    availability: &Availability,
    request: &pb::ListPartitionsRequest,
) -> Result<pb::ListPartitionsResponse, ApiError> {
    let size = page_size(request.page_size, 200, 2000)?;
    if request.topic.is_empty() && !request.only_unhealthy {
        return Err(ApiError::field("topic", "is needed unless only_unhealthy is set"));
    }
    let query = format!("partitions/{}/{}", request.only_unhealthy, request.topic);
    let after = partition::parse(after_token(&request.page_token, &query)?);
    let mut topics: Vec<&Arc<TopicEntry>> = match request.topic.is_empty() {
        true => view.metadata.topics().collect(),
        false => vec![find(view, &request.topic)?],
    };
    topics.sort_unstable_by_key(|topic| topic.id);
    let id = |entry: &PartitionEntry| entry.record.key;
    let listed = topics.into_iter().flat_map(|topic| topic.partitions().map(move |entry| (topic, entry)));
    let listed = listed.filter(|(_, entry)| after.is_none_or(|after| id(entry) > after));
    let listed = listed.filter(|(_, entry)| !request.only_unhealthy || !availability.healthy(entry));
    let found = listed.take(size + 1).collect();
    let (found, next_page_token) = page(found, size, &query, |(_, entry)| partition::key(id(entry)));
    let info = |(topic, entry): (&Arc<TopicEntry>, &PartitionEntry)| {
        let (partition, topic) = (Some(wire_partition(availability, entry)), topic.name.to_string());
        pb::TopicPartitionInfo { topic, partition }
    };
    Ok(pb::ListPartitionsResponse { partitions: found.into_iter().map(info).collect(), next_page_token })
}

fn wire_partition(availability: &Availability, entry: &PartitionEntry) -> pb::Partition {
    let (id, state): (TopicPartition, _) = (entry.record.key, &entry.record.state);
    let problem = availability.problem(entry);
    pb::Partition {
        partition: id.partition.0,
        damaged: problem.as_ref().is_some_and(|problem| problem.damaged),
        problem: problem.map(|problem| problem.text),
        leader: state.leader.map(|leader| leader.0),
        leader_epoch: state.leader_epoch.0,
        replicas: state.replicas.iter().map(|node| node.0).collect(),
        isr: state.isr.iter().map(|node| node.0).collect(),
        ..Default::default()
    }
}

/// Every setting with value, default, source and documentation.
pub(super) fn configs(
    view: &ClusterView,
    request: &pb::ListTopicConfigsRequest,
) -> Result<pb::ListTopicConfigsResponse, ApiError> {
    let size = page_size(request.page_size, usize::MAX, usize::MAX)?;
    let query = format!("configs/{}/{}", request.overrides_only, request.topic);
    let after = after_token(&request.page_token, &query)?;
    let (overrides, replication) = if request.topic.is_empty() {
        (BTreeMap::new(), view.cluster()?.replication_factor)
    } else {
        let value = &find(view, &request.topic)?.value;
        (value.config.clone(), value.replication_factor)
    };
    let min_isr = view.cluster()?.min_isr(None, replication).to_string();
    let entry = |setting: &Setting| {
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
    let configs = wanted.map(entry).collect();
    let (configs, next_page_token) = page(configs, size, &query, |config: &pb::ConfigEntry| config.name.clone());
    Ok(pb::ListTopicConfigsResponse { configs, next_page_token })
}
