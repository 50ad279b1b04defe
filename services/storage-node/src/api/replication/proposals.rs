//! What shards ask the controller for: in-sync sets, and to be taken out of partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use walser_model::{LeaderEpoch, NodeId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_rpc::{ApiError, Outage};

use super::Links;
use super::messages::proposal_message;
use crate::replication::{FromPeer, ToController};

/// Proposals and partitions of one request.
const REQUEST_MAX: usize = 1_000;
/// Pause after a request that failed.
const RETRY: Duration = Duration::from_millis(200);
/// A controller that does not answer for this long does not answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Carries proposals to the controller, for as long as the node runs.
pub(super) async fn propose(links: Links) {
    let lane = links.outbox.to_controller();
    let mut outage = Outage::of("in-sync sets proposed to the controller");
    loop {
        lane.changed().await;
        let ToController { mut proposals, mut given_up, mut handed_over } = lane.take();
        while !proposals.is_empty() || !given_up.is_empty() || !handed_over.is_empty() {
            let part = ToController {
                proposals: first(&mut proposals),
                given_up: first(&mut given_up),
                handed_over: first(&mut handed_over),
            };
            match links.ask(&part).await {
                Ok(outcomes) => {
                    outage.ended();
                    for ((partition, _), outcome) in part.proposals.into_iter().zip(outcomes) {
                        let ineligible = outcome.ineligible_node_id.map(NodeId);
                        if !outcome.accepted {
                            links.tell(partition, FromPeer::ProposalOver { ineligible });
                        }
                    }
                }
                Err(failure) => {
                    outage.failed(&failure);
                    for partition in part.proposals.into_keys() {
                        links.tell(partition, FromPeer::ProposalOver { ineligible: None });
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Takes the first entries, as many as one request may have.
fn first<V>(all: &mut BTreeMap<TopicPartition, V>) -> BTreeMap<TopicPartition, V> {
    let later = all.keys().nth(REQUEST_MAX).copied();
    let rest = later.map(|later| all.split_off(&later)).unwrap_or_default();
    std::mem::replace(all, rest)
}

fn references(partitions: &BTreeMap<TopicPartition, LeaderEpoch>) -> Vec<pbi::PartitionRef> {
    let reference = |(partition, leader_epoch): (&TopicPartition, &LeaderEpoch)| {
        walser_proto::partition_ref(*partition, *leader_epoch)
    };
    partitions.iter().map(reference).collect()
}

impl Links {
    async fn ask(&self, part: &ToController) -> Result<Vec<pbi::IsrOutcome>, ApiError> {
        let node_epoch = self.node_epoch.load(std::sync::atomic::Ordering::Acquire);
        let request = pbi::AlterIsrRequest {
            node_id: self.node.0,
            node_epoch,
            proposals: part
                .proposals
                .iter()
                .map(|(partition, proposal)| proposal_message(*partition, proposal))
                .collect(),
            given_up: references(&part.given_up),
            handed_over: references(&part.handed_over),
        };
        let late = |_| ApiError::new(walser_rpc::Reason::ControllerNotAvailable, "the controller does not answer");
        tokio::time::timeout(ANSWER_MAX, self.controller.alter_isr(request)).await.map_err(late)?
    }
}
