//! Elections that operators ask for: of preferred leaders, of a node that they name, and, where nobody who has everything
//! is left, of one that need not have it (rule R21).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use walser_metadata::PartitionEntry;
use walser_model::{NodeId, TopicPartition};
use walser_replication::control::{self, Candidate, Decision, DecisionContext};
use walser_rpc::{ApiError, Reason};

use super::Nodes;
use crate::cluster_view::ClusterView;
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

/// What storage nodes have said of partitions.
#[derive(Debug)]
pub(crate) struct Known<Offers, Lacking> {
    /// What replicas would lead with.
    pub(crate) offers: Offers,
    /// Those whose leader is known not to have everything.
    pub(crate) lacking: Lacking,
}

/// How often, and how many times, it is asked again what replicas have whose leader has stepped down: nodes say it with
/// their beats.
const OFFER_LOOK: Duration = Duration::from_millis(100);
const OFFER_LOOKS: usize = 50;

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
    /// This too; whom to elect is known when the replicas have said what they have.
    Depose(Decision<TopicPartition>),
    /// Nothing: that node leads already, or nobody can.
    Over(Result<Option<NodeId>, ApiError>),
}

fn unavailable(reason: Reason, id: TopicPartition, text: String) -> ApiError {
    ApiError::new(reason, text).with("partition", id.partition)
}

impl Wish {
    /// What it asks of a partition.
    fn step(
        self,
        context: &DecisionContext,
        found: &PartitionEntry,
        (offers, leader_lacks): (&[Candidate], bool),
    ) -> Step {
        if !self.unclean {
            return self.in_sync(context, found);
        }
        match control::step_down(context, &found.record).filter(|_| leader_lacks && self.can_lead(context, found)) {
            Some(decision) => Step::Depose(decision),
            None => self.without_proof(context, found, offers),
        }
    }

    /// Whether whoever is named could be elected.
    fn can_lead(self, context: &DecisionContext, found: &PartitionEntry) -> bool {
        let other = |node| Some(node) != found.record.state.leader && found.record.state.replicas.contains(&node);
        self.node.is_none_or(|node| other(node) && context.alive(node))
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
                     where nobody does, or the log of the leader is damaged or lacks records, and node {node} is a replica \
                     in service"
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
    /// Elects leaders as an operator wishes. What became of each partition, all that exist.
    ///
    /// # Errors
    /// When this controller does not lead, or nothing can be decided now: any part of it may have been written.
    pub(crate) async fn elect(
        &self,
        wish: Wish,
        partitions: &[TopicPartition],
        known: &Known<
            impl Fn(TopicPartition) -> Vec<Candidate>,
            impl Fn(&ClusterView, &[TopicPartition]) -> HashSet<TopicPartition>,
        >,
    ) -> Result<BTreeMap<TopicPartition, Election>, ApiError> {
        let (mut elected, mut stepped_down) = (BTreeSet::new(), BTreeMap::new());
        let mut looks = 0;
        for _ in 0..ATTEMPTS_MAX {
            let turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            let lacking = if wish.unclean { (known.lacking)(&view, partitions) } else { HashSet::new() };
            let mut decisions = Vec::new();
            let mut outcomes = BTreeMap::new();
            for id in partitions {
                let found = view.metadata.partition(*id).filter(|_| view.metadata.tombstone(id.topic).is_none());
                let Some(found) = found else { continue };
                let leader_lacks = !stepped_down.contains_key(id) && lacking.contains(id);
                let over = match wish.step(&context, found, (&(known.offers)(*id), leader_lacks)) {
                    Step::Elect(decision) => {
                        decisions.push(decision);
                        elected.insert(*id);
                        continue;
                    }
                    Step::Depose(decision) => {
                        decisions.push(decision);
                        stepped_down.insert(*id, found.record.state.leader);
                        continue;
                    }
                    Step::Over(over) => over,
                };
                let (leader, failure) = over.map_or_else(|failure| (None, Some(failure)), |leader| (leader, None));
                let leader = leader.or(found.record.state.leader);
                outcomes.insert(*id, Election { leader, elected: elected.contains(id), failure });
            }
            if decisions.is_empty() {
                let waits =
                    |(id, election): (_, &Election)| election.failure.is_some() && stepped_down.contains_key(id);
                if !outcomes.iter().any(waits) {
                    return Ok(outcomes);
                }
                if looks == OFFER_LOOKS {
                    // Whoever led goes on: what can be read there is better than nothing.
                    let back = stepped_down.iter().filter_map(|(id, before)| {
                        let found = view.metadata.partition(*id)?;
                        control::elect_declared_lost(&context, &found.record, &(known.offers)(*id), *before)
                    });
                    self.committer().commit_all(&view, back.collect(), &Extra::default()).await?;
                    return Ok(outcomes);
                }
                looks += 1;
                drop(turn);
                tokio::time::sleep(OFFER_LOOK).await;
                continue;
            }
            // What was written shows in the next round, as a leader that is there.
            self.committer().commit_all(&view, decisions, &Extra::default()).await?;
            self.committer().views.catch_up().await?;
        }
        Err(contended())
    }
}
