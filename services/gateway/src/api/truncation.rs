//! `TruncateTopic`: deletes records of many partitions, a bounded number at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use walser_model::Offset;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};
use walser_service::Caller;

use super::change_log;
use super::reads::place;
use super::topic::TopicApi;
use crate::metadata::TopicView;
use crate::reading::{ReadPosition, Target};
use crate::retry::{patience, while_moved};
use crate::router::checked_partition;
use crate::topics::own_name;

/// Partitions that are asked, or whose records are deleted, at once.
const PARTITIONS_AT_ONCE: usize = 32;

/// Deletes the records of the partitions that a request names. Nothing is deleted anywhere unless every leader is there,
/// and knows the place.
pub(super) async fn truncate(
    api: &TopicApi,
    caller: &Caller,
    request: &pb::TruncateTopicRequest,
) -> Result<pb::TruncateTopicResponse, ApiError> {
    own_name(&request.topic)?;
    let topic = api.topics.find(&request.topic).await?;
    let before = request.before.ok_or_else(|| ApiError::field("before", "is missing"))?;
    let before = place(before, "before", api.clock.now_millis())?;
    let partitions = named(&topic, &request.partitions)?;
    let until = patience();
    let places = partitions.into_iter().map(|partition| {
        let topic = &topic;
        async move { Ok::<_, ApiError>((partition, place_in(api, topic, (partition, before), until).await?)) }
    });
    let places: Vec<(i32, Offset)> = stream::iter(places).buffered(PARTITIONS_AT_ONCE).try_collect().await?;
    let log_start_offsets = match request.validate_only {
        true => would_begin(api, &topic, places).await?,
        false => delete(api, caller, &topic, places).await?,
    };
    Ok(pb::TruncateTopicResponse { log_start_offsets })
}

/// Those that are named, or all.
fn named(topic: &TopicView, partitions: &[i32]) -> Result<Vec<i32>, ApiError> {
    if partitions.is_empty() {
        return Ok((0..topic.value.partition_count).collect());
    }
    let mut seen = HashSet::new();
    for partition in partitions {
        checked_partition(topic, *partition)?;
        if !seen.insert(*partition) {
            return Err(ApiError::field("partitions", format!("partition {partition} is named twice")));
        }
    }
    Ok(partitions.to_vec())
}

/// The offset in a partition before which records are to be deleted. Exclusive.
async fn place_in(
    api: &TopicApi,
    topic: &Arc<TopicView>,
    (partition, before): (i32, ReadPosition),
    until: Instant,
) -> Result<Offset, ApiError> {
    let target = Target { topic: Arc::clone(topic), partition, start: before, end: None, last_epoch: -1 };
    let offset = while_moved(until, || api.positions.boundary(&target, before)).await?;
    let end = while_moved(until, || api.positions.find(topic, partition, ReadPosition::Latest)).await?.offset;
    if offset.0 > end {
        let text =
            format!("offset {} is beyond the end of {}/{partition}, {end}: nothing was deleted", offset.0, topic.name);
        return Err(ApiError::new(Reason::OffsetOutOfRange, text).with("topic", &topic.name));
    }
    api.router.route(topic, partition)?;
    Ok(offset)
}

/// Where the partitions would begin.
async fn would_begin(
    api: &TopicApi,
    topic: &TopicView,
    places: Vec<(i32, Offset)>,
) -> Result<Vec<pb::RecordPosition>, ApiError> {
    let starts = places.into_iter().map(|(partition, offset)| async move {
        let start = api.positions.find(topic, partition, ReadPosition::Earliest).await?.offset;
        Ok(pb::RecordPosition { partition, offset: offset.0.max(start) })
    });
    stream::iter(starts).buffered(PARTITIONS_AT_ONCE).try_collect().await
}

/// Deletes, and gives back where the partitions begin. After the first failure no further deletion begins; those that are
/// under way are waited for.
async fn delete(
    api: &TopicApi,
    caller: &Caller,
    topic: &TopicView,
    places: Vec<(i32, Offset)>,
) -> Result<Vec<pb::RecordPosition>, ApiError> {
    let failed = &AtomicBool::new(false);
    let deletions = places.into_iter().map(|(partition, before)| async move {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let was = api.positions.find(topic, partition, ReadPosition::Earliest).await.map(|found| found.offset).ok();
        let deleted = delete_records(api, topic, (partition, before)).await;
        match &deleted {
            Ok(log_start) => change_log::truncated(caller, &topic.name, partition, was, *log_start),
            Err(_) => failed.store(true, Ordering::Relaxed),
        }
        Some(deleted.map(|offset| pb::RecordPosition { partition, offset }))
    });
    let outcomes = stream::iter(deletions).buffered(PARTITIONS_AT_ONCE).filter_map(std::future::ready);
    let outcomes: Vec<Result<_, ApiError>> = outcomes.collect().await;
    let partly = outcomes.iter().any(Result::is_ok);
    let begin: Result<Vec<_>, _> = outcomes.into_iter().collect();
    // LATEST would be another offset if the call was made again.
    begin.map_err(|failure| if partly { failure.partial() } else { failure })
}

/// Deletes the records of a partition before an offset; returns its log start.
async fn delete_records(
    api: &TopicApi,
    topic: &TopicView,
    (partition, before): (i32, Offset),
) -> Result<i64, ApiError> {
    let route = api.router.route(topic, partition)?;
    let connection = api.router.storage(route.node)?;
    let request = pbi::DeleteRecordsRequest { r#ref: Some(route.partition.into()), before_offset: before.0 };
    Ok(StorageServiceClient::new(connection).delete_records(request).await?.into_inner().log_start_offset)
}
