//! Elections that operators ask for: of preferred leaders, of a node that they name, and, where nobody who has everything
//! is left, of one that need not have it (rule R21).

use std::collections::{BTreeMap, BTreeSet};

use walser_metadata::PartitionEntry;
use walser_model::{NodeId, TopicPartition};
use walser_replication::control::{self, Candidate, Decision, DecisionContext};
use walser_rpc::{ApiError, Reason};

use super::Nodes;
use crate::committer::Extra;
use crate::topics::{ATTEMPTS_MAX, contended};

/// Whom an operator wants to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// `None`: the preferred leader; without proof, whoever has most.
    pub(crate) node: Option<NodeId>,
    /// It need not have everything.
    pub(crate) unclean: bool,
}

/// What became of the election of one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Election {
    pub(crate) leader: Option<NodeId>,
    /// Another leader was elected.
    pub(crate) elected: bool,
    pub(crate) failure: Option<ApiError>,
}

/// What is to be done about one partition.
enum Step {
    /// This is to be written.
    Elect(Decision<TopicPartition>),
    /// Nothing: that node leads already, or nobody can.
    Over(Result<Option<NodeId>, ApiError>),
}

fn unavailable(reason: Reason, id: TopicPartition, text: String) -> ApiError {
    ApiError::new(reason, text).with("partition", id.partition)
}

impl Wish {
    /// What it asks of a partition.
    fn step(self, context: &DecisionContext, found: &PartitionEntry, offers: &[Candidate]) -> Step {
        if self.unclean { self.without_proof(context, found, offers) } else { self.in_sync(context, found) }
    }

    fn in_sync(self, context: &DecisionContext, found: &PartitionEntry) -> Step {
        let (id, state) = (found.record.key, &found.record.state);
        let Some(wanted) = self.node.or_else(|| state.replicas.first().copied()) else { return Step::Over(Ok(None)) };
        let Some(leader) = state.leader else {
            let text = "the partition has no leader, and no replica that has everything is in service; start its nodes, or \
                        elect one that need not have it, which loses records";
            return Step::Over(Err(unavailable(Reason::EligibleLeadersNotAvailable, id, text.to_owned())));
        };
        if leader == wanted {
            return Step::Over(Ok(Some(leader)));
        }
        if !state.replicas.contains(&wanted) {
            return Step::Over(Err(ApiError::field(
                "node_id",
                format!("node {wanted} has no replica of the partition"),
            )));
        }
        match control::elect_named(context, &found.record, wanted) {
            Some(decision) => Step::Elect(decision),
            None => {
                let text = format!("node {wanted} is not in sync or not in service; node {leader} goes on to lead");
                Step::Over(Err(unavailable(Reason::EligibleLeadersNotAvailable, id, text)))
            }
        }
    }

    fn without_proof(self, context: &DecisionContext, found: &PartitionEntry, offers: &[Candidate]) -> Step {
        let (id, state) = (found.record.key, &found.record.state);
        if let Some(leader) = state.leader {
            let other = self.node.filter(|node| *node != leader).map(|node| {
                let text = format!(
                    "must be false here: node {leader} leads the partition, and node {node} can lead without proof only \
                     where nobody does"
                );
                ApiError::field("unclean", text)
            });
            return Step::Over(other.map_or(Ok(Some(leader)), Err));
        }
        match control::elect_declared_lost(context, &found.record, offers, self.node) {
            Some(decision) => Step::Elect(decision),
            None => Step::Over(Err(unavailable(Reason::LeaderNotAvailable, id, self.not_yet(context, found)))),
        }
    }

    /// Why nobody is elected without proof.
    fn not_yet(self, context: &DecisionContext, found: &PartitionEntry) -> String {
        let state = &found.record.state;
        if let Some(node) = state.whole().iter().find(|node| context.alive(*node)) {
            return format!(
                "node {node} has everything and is in service: it leads as soon as it can open its log; try again"
            );
        }
        if let Some(node) = self.node {
            return format!(
                "node {node} has not said what it has of the partition: it has no replica, is not in service, or has just \
                 come; try again in a moment"
            );
        }
        let mut alive = state.replicas.iter().filter(|node| context.alive(**node)).peekable();
        if alive.peek().is_none() {
            let nodes: Vec<_> = state.replicas.iter().map(ToString::to_string).collect();
            return format!(
                "none of the nodes with a replica is in service ({}): start one of them; if all of them are lost, so are \
                 the records: delete the topic",
                nodes.join(", ")
            );
        }
        "a replica in service has not said yet what it has; try again in a moment, or name a node".to_owned()
    }
}

impl Nodes {
    /// Elects leaders as an operator wishes. `offers`: what replicas of a partition would lead with. What became of each
    /// partition, all that exist.
    ///
    /// # Errors
    /// When this controller does not lead, or nothing can be decided now: any part of it may have been written.
    pub(crate) async fn elect(
        &self,
        wish: Wish,
        partitions: &[TopicPartition],
        offers: impl Fn(TopicPartition) -> Vec<Candidate>,
    ) -> Result<BTreeMap<TopicPartition, Election>, ApiError> {
        let mut elected = BTreeSet::new();
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            let mut decisions = Vec::new();
            let mut outcomes = BTreeMap::new();
            for id in partitions {
                let found = view.metadata.partition(*id).filter(|_| view.metadata.tombstone(id.topic).is_none());
                let Some(found) = found else { continue };
                let over = match wish.step(&context, found, &offers(*id)) {
                    Step::Elect(decision) => {
                        decisions.push(decision);
                        elected.insert(*id);
                        continue;
                    }
                    Step::Over(over) => over,
                };
                let (leader, failure) = over.map_or_else(|failure| (None, Some(failure)), |leader| (leader, None));
                let leader = leader.or(found.record.state.leader);
                outcomes.insert(*id, Election { leader, elected: elected.contains(id), failure });
            }
            if decisions.is_empty() {
                return Ok(outcomes);
            }
            // What was written shows in the next round, as a leader that is there.
            self.committer().commit_all(&view, decisions, &Extra::default()).await?;
            self.committer().views.catch_up().await?;
        }
        Err(contended())
    }
}
