//! What shards ask the controller for: in-sync sets, and to be taken out of partitions.

use std::time::Duration;

use walser_model::NodeId;
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
        let ToController { mut proposals, mut given_up } = lane.take();
        while !proposals.is_empty() || !given_up.is_empty() {
            let later = proposals.keys().nth(REQUEST_MAX).copied();
            let rest = later.map(|later| proposals.split_off(&later)).unwrap_or_default();
            let later = given_up.keys().nth(REQUEST_MAX).copied();
            let left = later.map(|later| given_up.split_off(&later)).unwrap_or_default();
            let part = ToController {
                proposals: std::mem::replace(&mut proposals, rest),
                given_up: std::mem::replace(&mut given_up, left),
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
            given_up: part
                .given_up
                .iter()
                .map(|(partition, leader_epoch)| walser_proto::partition_ref(*partition, *leader_epoch))
                .collect(),
        };
        let late = |_| ApiError::new(walser_rpc::Reason::ControllerNotAvailable, "the controller does not answer");
        tokio::time::timeout(ANSWER_MAX, self.controller.alter_isr(request)).await.map_err(late)?
    }
}
