//! What callers change on storage nodes is logged: who, what, and from what to what. What they change in the metadata is
//! logged by the controller, which is told who called.

use walser_proto::internal::v1::RepairPartitionResponse;
use walser_proto::v1 as pb;
use walser_service::Caller;

/// `before` is missing when the log start could not be found.
pub(super) fn truncated(caller: &Caller, topic: &str, partition: i32, before: Option<i64>, log_start: i64) {
    let before = before.map_or_else(|| "unknown".to_owned(), |before| before.to_string());
    tracing::info!(
        client_id = caller.client_id(),
        client_address = caller.address(),
        topic,
        partition,
        changes = format!("log start: {before} -> {log_start}"),
        "topic truncated"
    );
}

pub(super) fn repaired(caller: &Caller, partition: &pb::TopicPartition, repaired: &RepairPartitionResponse) {
    let pb::TopicPartition { topic, partition } = partition;
    let RepairPartitionResponse { old_end_offset, new_end_offset, bytes_set_aside } = repaired;
    tracing::info!(
        client_id = caller.client_id(),
        client_address = caller.address(),
        topic,
        partition,
        bytes_set_aside,
        changes = format!("log end: {old_end_offset} -> {new_end_offset}"),
        "partition repaired"
    );
}

pub(super) fn set_aside_deleted(
    caller: &Caller,
    request: &pb::DeleteSetAsideRequest,
    deleted: &pb::DeleteSetAsideResponse,
) {
    let pb::DeleteSetAsideResponse { deleted_count, freed_bytes } = deleted;
    tracing::info!(
        client_id = caller.client_id(),
        client_address = caller.address(),
        topic_id = request.topic_id,
        partition = request.partition,
        deleted_count,
        freed_bytes,
        "data that was set aside deleted"
    );
}
