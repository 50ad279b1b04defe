//! `ListOffsets`.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use walser_proto::v1 as pb;
use walser_rpc::Failure;

use crate::error::no_answer;
use crate::retry::{PATIENCE, while_moved};

use super::Reading;
use super::target::Target;

/// Look-ups of one call that are under way together.
pub(crate) const LOOK_UPS_AT_ONCE: usize = 32;

impl Reading {
    /// Turns positions into offsets. `limit`: the caller's time.
    pub(crate) async fn list_offsets(
        &self,
        request: &pb::ListOffsetsRequest,
        limit: Option<Duration>,
    ) -> Result<pb::ListOffsetsResponse, Failure> {
        if pb::Isolation::try_from(request.isolation).is_err() {
            let text = format!("{} is not a value of the enum", request.isolation);
            return Err(Failure::field("isolation", text));
        }
        let targets = self.positions.targets(&request.targets).await?;
        // One time for all: however many partitions have no leader, or one that does not answer, the call ends.
        let until = Instant::now() + limit.map_or(PATIENCE, |limit| PATIENCE.min(limit / 4));
        let end = until + limit.map_or(PATIENCE, |limit| limit / 2);
        let look_up = async |target: &Target| {
            let found = while_moved(until, || self.positions.find(&target.topic, target.partition, target.start));
            let found = tokio::time::timeout_at(end, found).await;
            found.unwrap_or_else(|_elapsed| Err(no_answer(&target.topic, target.partition)))
        };
        let look_ups: Vec<_> = targets.iter().map(look_up).collect();
        let mut found = futures::stream::iter(look_ups).buffered(LOOK_UPS_AT_ONCE);
        let mut response = pb::ListOffsetsResponse::default();
        let mut first = None;
        for target in &targets {
            let topic_partition =
                Some(pb::TopicPartition { topic: target.topic.name.to_string(), partition: target.partition });
            match found.next().await.unwrap_or_else(|| Err(Failure::internal("a look-up has no answer"))) {
                Ok(found) => response.offsets.push(pb::ResolvedOffset {
                    topic_partition,
                    offset: (found.offset >= 0).then_some(found.offset),
                    timestamp_millis: (found.timestamp >= 0).then_some(found.timestamp),
                    leader_epoch: (found.leader_epoch >= 0).then_some(found.leader_epoch),
                }),
                Err(failure) => {
                    response.errors.push(pb::PartitionError { topic_partition, error: Some(failure.clone().into()) });
                    first.get_or_insert(failure);
                }
            }
        }
        match first {
            // Nothing worked: a client that looks only at the status must not take this for an empty answer.
            Some(failure) if response.offsets.is_empty() => Err(failure),
            _ => Ok(response),
        }
    }
}
