//! `ListOffsets`.

use walser_proto::v1 as pb;
use walser_rpc::Failure;

use crate::Gateway;

impl Gateway {
    /// Turns positions into offsets.
    pub(crate) async fn list_offsets(
        &self,
        request: &pb::ListOffsetsRequest,
    ) -> Result<pb::ListOffsetsResponse, Failure> {
        if pb::Isolation::try_from(request.isolation).is_err() {
            let text = format!("{} is not a value of the enum", request.isolation);
            return Err(Failure::field("isolation", text));
        }
        let targets = self.targets(&request.targets, None).await?;
        let mut response = pb::ListOffsetsResponse::default();
        let mut first = None;
        for target in &targets {
            let topic_partition =
                Some(pb::TopicPartition { topic: target.topic.name.to_string(), partition: target.partition });
            match self.find(&target.topic, target.partition, target.start).await {
                Ok(found) => response.offsets.push(pb::ResolvedOffset {
                    topic_partition,
                    offset: found.offset,
                    timestamp_millis: found.timestamp,
                    leader_epoch: found.leader_epoch,
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
