//! `ElectLeaders`.

use std::collections::HashMap;

use walser_model::{NodeId, PartitionIndex, TopicPartition};
use walser_proto::v1 as pb;
use walser_replication::control::{self, DecisionContext, Lack};
use walser_rpc::{ApiError, Reason};
use walser_service::Caller;

use super::Controller;
use crate::cluster_view::ClusterView;
use crate::nodes::{Election, Known, Wish};
use crate::topics;

/// Partitions that one request names.
const PARTITIONS_MAX: usize = 10_000;

/// The partition that a request names.
fn find(view: &ClusterView, named: &pb::TopicPartition) -> Result<TopicPartition, ApiError> {
    let topic = topics::find(view, &named.topic)?;
    let missing = || {
        let (count, name) = (topic.value.partition_count, &topic.name);
        let text = format!("topic \"{name}\" has partitions 0 to {}, not {}", count - 1, named.partition);
        ApiError::new(Reason::PartitionNotFound, text).with("topic", name).with("partition", named.partition)
    };
    topic.partition(PartitionIndex(named.partition)).map(|found| found.record.key).ok_or_else(missing)
}

/// Partitions whose preferred leader can lead, and does not: all of them, or as many as one request may name.
fn not_preferred(view: &ClusterView, context: &DecisionContext) -> Vec<pb::TopicPartition> {
    let of_topic = view.metadata.topics().flat_map(|topic| {
        let partitions = view.metadata.partitions_of(topic.id);
        let partitions = partitions.filter(|partition| control::elect_preferred(context, &partition.record).is_some());
        partitions.map(|partition| pb::TopicPartition {
            topic: topic.name.to_string(),
            partition: partition.record.key.partition.0,
        })
    });
    of_topic.take(PARTITIONS_MAX).collect()
}

impl Controller {
    /// Of these partitions those whose leader is known not to have everything.
    pub(crate) fn lacking(&self, view: &ClusterView, partitions: &[TopicPartition]) -> HashMap<TopicPartition, Lack> {
        let availability = self.availability(view);
        let lack = |id: &TopicPartition| availability.leader_lacks(view.metadata.partition(*id)?);
        partitions.iter().filter_map(|id| Some((*id, lack(id)?))).collect()
    }

    /// Elects leaders as an operator wishes.
    pub(super) async fn elect(
        &self,
        caller: &Caller,
        request: pb::ElectLeadersRequest,
    ) -> Result<pb::ElectLeadersResponse, ApiError> {
        self.changeable()?;
        let pb::ElectLeadersRequest { mut partitions, node_id, unclean } = request;
        if partitions.len() > PARTITIONS_MAX {
            return Err(ApiError::field("partitions", format!("must name at most {PARTITIONS_MAX}")));
        }
        if partitions.is_empty() && (unclean || node_id.is_some()) {
            return Err(ApiError::field(
                "partitions",
                "must be named where a node or an unclean election is asked for",
            ));
        }
        let view = self.views.load();
        if partitions.is_empty() {
            let (view, context) = self.nodes.committer().context()?;
            partitions = not_preferred(&view, &context);
        }
        let found: Vec<_> = partitions.iter().map(|named| find(&view, named)).collect();
        let ids: Vec<_> = found.iter().filter_map(|found| found.as_ref().ok().copied()).collect();
        let wish = Wish { node: node_id.map(NodeId), unclean };
        let known = Known {
            offers: |id| self.sessions.offers(id),
            lacking: |view: &ClusterView, partitions: &[TopicPartition]| self.lacking(view, partitions),
        };
        let outcomes = self.nodes.elect(wish, &ids, &known).await?;
        let gone = || ApiError::new(Reason::PartitionNotFound, "the partition was deleted meanwhile");
        let results = partitions.into_iter().zip(found).map(|(named, found)| {
            let outcome = found.and_then(|id| outcomes.get(&id).cloned().ok_or_else(gone));
            let failed = |failure| Election { failure: Some(failure), ..Election::default() };
            let Election { leader, elected, unproven, failure } = outcome.unwrap_or_else(failed);
            if elected {
                log_election(caller, &named, leader, unproven);
            }
            let leader = leader.map(|leader| leader.0);
            pb::ElectionResult { topic_partition: Some(named), leader, elected, error: failure.map(pb::Error::from) }
        });
        Ok(pb::ElectLeadersResponse { results: results.collect() })
    }
}

fn log_election(caller: &Caller, named: &pb::TopicPartition, leader: Option<NodeId>, unproven: bool) {
    let pb::TopicPartition { topic, partition } = named;
    let leader = leader.map_or(-1, |leader| leader.0);
    let (client_id, client_address) = (caller.client_id(), caller.address());
    if unproven {
        tracing::warn!(
            client_id,
            client_address,
            topic,
            partition,
            leader,
            "leader elected without proof that it has everything: records may be lost"
        );
    } else {
        tracing::info!(client_id, client_address, topic, partition, leader, "leader elected on request");
    }
}
