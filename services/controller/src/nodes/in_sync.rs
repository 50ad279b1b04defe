//! In-sync sets that leaders propose, and partitions that nodes give up.

use std::collections::BTreeMap;

use walser_metastore::Revision;
use walser_model::{LeaderEpoch, NodeId, TopicPartition};
use walser_replication::AlterIsr;
use walser_replication::control::{self, Refusal};
use walser_rpc::ApiError;

use super::{Nodes, current};
use crate::committer::Extra;
use crate::topics::{ATTEMPTS_MAX, contended};

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proposed {
    /// It was written, or is what the partition has already.
    Accepted,
    /// `Some`: because of this node.
    Refused(Option<NodeId>),
}

/// A partition, and the leader epoch in which a node speaks of it.
type Led = (TopicPartition, LeaderEpoch);

impl Nodes {
    /// Writes what leaders propose, as far as it may be (rule R10), takes a node out of partitions for which it says that it
    /// cannot be relied on, and moves the lead of those to which it cannot write at present. What becomes of each proposal, in their order.
    ///
    /// # Errors
    /// When this controller does not lead, or nothing can be decided now: any part of it may have been written.
    pub(crate) async fn alter_isr(
        &self,
        (node, node_epoch): (NodeId, Revision),
        proposals: &[(TopicPartition, AlterIsr)],
        (given_up, handed_over): (&[Led], &[Led]),
    ) -> Result<Vec<Proposed>, ApiError> {
        let mut outcomes = vec![None; proposals.len()];
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            // By partition: of two decisions about one, the second was taken on what the first replaces.
            let mut decisions = BTreeMap::new();
            let mut written = Vec::new();
            for (number, (id, proposal)) in proposals.iter().enumerate() {
                if outcomes[number].is_some() {
                    continue;
                }
                let found = view.metadata.partition(*id).filter(|_| view.metadata.tombstone(id.topic).is_none());
                let decided = match found {
                    Some(found) => control::alter_isr(&context, &found.record, proposal),
                    None => Err(Refusal::NotLeader),
                };
                match decided {
                    Ok(decision) => {
                        decisions.entry(*id).or_insert(decision);
                        written.push(number);
                    }
                    Err(Refusal::Ineligible(node)) => outcomes[number] = Some(Proposed::Refused(Some(node))),
                    Err(_) => outcomes[number] = Some(Proposed::Refused(None)),
                }
            }
            if current(&view, node_epoch).is_some_and(|(known, _)| known == node) {
                let asked = given_up.iter().map(|led| (led, true)).chain(handed_over.iter().map(|led| (led, false)));
                for ((id, leader_epoch), for_good) in asked {
                    let Some(found) = view.metadata.partition(*id) else { continue };
                    let decide = if for_good { control::give_up } else { control::hand_over };
                    if let Some(decision) = decide(&context, &found.record, node, *leader_epoch) {
                        decisions.entry(*id).or_insert(decision);
                    }
                }
            }
            let all = self.committer().commit_all(&view, decisions.into_values().collect(), &Extra::default()).await?;
            if all {
                written.into_iter().for_each(|number| outcomes[number] = Some(Proposed::Accepted));
                return Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(Proposed::Refused(None))).collect());
            }
        }
        Err(contended())
    }
}
