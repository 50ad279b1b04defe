//! What the gateway refuses in its own words, where several of its parts say the same.

use walser_model::TopicId;
use walser_rpc::{ApiError, Reason};

use crate::metadata::TopicView;

/// The rule of a leader that took too long.
pub(crate) const NO_ANSWER: &str = "no-answer";

/// The end of a stream that is not complete because the gateway stops.
pub(crate) fn draining() -> ApiError {
    let text = "the gateway stops; open the stream again and go on where it ended";
    ApiError::new(Reason::GatewayDraining, text)
}

/// The topic is not the one that the caller has used under its name.
pub(crate) fn recreated(current: &TopicView, old: TopicId) -> ApiError {
    let text = format!("topic \"{}\" was deleted and created again", current.name);
    let failure = ApiError::new(Reason::TopicRecreated, text).with("topic", &current.name);
    failure.with("oldId", old).with("newId", current.id)
}

/// The topic has no such partition.
pub(crate) fn partition_missing(topic: &str, partition: i32, count: usize) -> ApiError {
    let text = format!("topic \"{topic}\" has no partition {partition}, it has {count} (from 0)");
    let failure = ApiError::new(Reason::PartitionNotFound, text).with("topic", topic);
    failure.with("partition", partition).with("partitionCount", count)
}

/// The leader of a partition takes too long.
pub(crate) fn no_answer(topic: &TopicView, partition: i32) -> ApiError {
    let text = format!("the leader of partition {partition} of topic \"{}\" does not answer", topic.name);
    let failure = ApiError::new(Reason::LeaderNotAvailable, text).with("rule", NO_ANSWER);
    failure.with("topic", &topic.name).with("partition", partition)
}
