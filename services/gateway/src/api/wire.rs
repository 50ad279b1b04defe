//! What several services read from requests and put into answers.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use crate::producing::Outcome;
use crate::topics::Topics;

/// Reads an enum of a request.
pub(super) fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Failure> {
    E::try_from(number).map_err(|_| Failure::field(field, format!("{number} is not a value of the enum")))
}

/// The caller's trace, if it is one.
pub(super) fn trace(metadata: &MetadataMap) -> Option<Arc<str>> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    (text.len() <= 64).then(|| Arc::from(text))
}

/// The caller's time less what the answer needs to travel; tonic would cut the call without saying why.
pub(super) fn time_left(metadata: &MetadataMap) -> Option<Duration> {
    let left = walser_rpc::remaining(metadata)?;
    Some(left.saturating_sub((left / 5).min(Duration::from_millis(150))))
}

/// The outcome of a write that succeeded.
pub(super) fn written(outcome: Outcome) -> pb::ProduceResponse {
    pb::ProduceResponse { positions: outcome.positions, appends: outcome.appends }
}

/// An answer of another service as the caller gets it: always with details, also when the connection made the error.
pub(super) fn relayed(status: Status) -> Status {
    // Without details nobody has answered: the connection is gone.
    if status.code() == Code::Unavailable && status.details().is_empty() {
        let text = "the controller does not answer; topics that are open go on";
        return Failure::new(Reason::ControllerNotAvailable, text).into();
    }
    Failure::from(status).into()
}

/// Waits until this gateway knows the change behind an etag, and its leaders serve.
pub(super) async fn see_change(topics: &Topics, topic: Option<&pb::Topic>) {
    let Some(topic) = topic else { return };
    topics.see_change(topic.etag.parse().ok(), &topic.name).await;
}
