//! Elections that operators ask for: of preferred leaders, of a node that they name, and, where nobody who has everything
//! is left, of one that need not have it (rule R21).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metadata::PartitionEntry;
use walser_model::{NodeId, TopicPartition};
use walser_replication::PartitionState;
use walser_replication::control::{self, Candidate, Decision, DecisionContext, Lack, NodeRecord};
use walser_rpc::{ApiError, Reason};

use super::Nodes;
use crate::cluster_view::ClusterView;
use crate::committer::{Extra, maybe};
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

/// What replicas of a partition would lead with.
pub(crate) trait Offers: Fn(TopicPartition) -> Vec<Candidate> {}

impl<F: Fn(TopicPartition) -> Vec<Candidate>> Offers for F {}

/// Of these partitions those whose leader is known not to have everything.
pub(crate) trait Lacks: Fn(&ClusterView, &[TopicPartition]) -> HashMap<TopicPartition, Lack> {}

impl<F: Fn(&ClusterView, &[TopicPartition]) -> HashMap<TopicPartition, Lack>> Lacks for F {}

/// An election as an operator has asked for it, and how far it is.
#[derive(Debug)]
struct Asked<'a> {
    wish: Wish,
    partitions: &'a [TopicPartition],
    /// Who was to lead, and whether it need not have everything.
    elected: BTreeMap<TopicPartition, (NodeId, bool)>,
    /// Something was written, or may have been.
    begun: bool,
}

/// Partitions about which an operator decides: nobody else elects there meanwhile. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct InHand(Arc<Mutex<BTreeSet<TopicPartition>>>);

impl InHand {
    pub(crate) fn contains(&self, id: TopicPartition) -> bool {
        self.0.lock().contains(&id)
    }

    /// Takes those of these partitions that nobody has.
    fn take(&self, partitions: &[TopicPartition]) -> Held<'_> {
        let mut held = self.0.lock();
        let partitions = partitions.iter().copied().filter(|id| held.insert(*id)).collect();
        Held { in_hand: self, partitions }
    }
}

/// Has partitions in hand until it is dropped.
#[derive(Debug)]
struct Held<'a> {
    in_hand: &'a InHand,
    partitions: Vec<TopicPartition>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.in_hand.0.lock();
        for id in &self.partitions {
            held.remove(id);
        }
    }
}

/// How often it is asked again what replicas have whose leader has stepped down: nodes say it with their beats.
const OFFER_LOOK: Duration = Duration::from_millis(100);
/// For so long; then the leader leads again.
pub(crate) const STEPPED_DOWN_MAX: Duration = Duration::from_secs(5);
const OFFER_LOOKS: u128 = STEPPED_DOWN_MAX.as_millis() / OFFER_LOOK.as_millis();

/// What became of the election of one partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Election {
    pub(crate) leader: Option<NodeId>,
    /// Another leader was elected.
    pub(crate) elected: bool,
    /// It need not have everything.
    pub(crate) unproven: bool,
    pub(crate) failure: Option<ApiError>,
}

/// What is to be done about one partition.
enum Step {
    /// This is to be written.
    Elect(Decision<TopicPartition>),
    /// The same, of a node that need not have everything.
    ElectUnproven(Decision<TopicPartition>),
    /// This too; whom to elect is known when the replicas have said what they have.
    Depose(Decision<TopicPartition>),
    /// Nothing: that node leads already, or nobody can.
    Over(Result<Option<NodeId>, ApiError>),
}

fn unavailable(reason: Reason, id: TopicPartition, text: String) -> ApiError {
    ApiError::new(reason, text).with("partition", id.partition)
}

/// Whom a decision makes the leader.
fn leader_of(decision: &Decision<TopicPartition>) -> Option<NodeId> {
    decision.partition_states().find_map(|state| state.leader)
}

/// A node is named that has no replica.
fn no_replica(node: NodeId, state: &PartitionState) -> ApiError {
    let replicas: Vec<_> = state.replicas.iter().map(ToString::to_string).collect();
    let have = if let [only] = &replicas[..] {
        format!("node {only} has")
    } else {
        format!("nodes {} have", replicas.join(", "))
    };
    let text = format!("node {node} has no replica of the partition; {have}");
    ApiError::field("node_id", text)
}

/// Why a node does not get the lead from one that is there.
fn why_not(context: &DecisionContext, state: &PartitionState, wanted: NodeId) -> String {
    let is = |what: &dyn Fn(&NodeRecord) -> bool| context.node(wanted).is_some_and(what);
    if context.alive(wanted) && is(&|found| found.drained) {
        return format!("is drained (`walser node uncordon {wanted}` ends that)");
    }
    let why = if !context.alive(wanted) {
        "is not in service"
    } else if is(&|found| found.shutting_down) {
        "is about to stop"
    } else if context.silent.contains(wanted) {
        "has not been heard for a moment; it may have stopped"
    } else if context.unwritable.contains(wanted) {
        "cannot write at present: its disk is full or not there"
    } else if state.elr.contains(wanted) {
        "is not in sync, but has everything that was committed: `--unclean --accept-loss` elects it, for a leader that reaches \
         nobody; what only that one has, of writes with acks=leader, is lost then"
    } else {
        "is not in sync"
    };
    why.to_owned()
}

/// A leader goes on to lead, because whoever is named cannot take its place.
fn goes_on(context: &DecisionContext, found: &PartitionEntry, leader: NodeId, wanted: NodeId) -> ApiError {
    let why = why_not(context, &found.record.state, wanted);
    let text = format!("node {wanted} {why}; node {leader} goes on to lead");
    unavailable(Reason::EligibleLeadersNotAvailable, found.record.key, text)
}

impl Wish {
    /// What it asks of a partition. `lack`: what its leader does not have.
    fn step(
        self,
        context: &DecisionContext,
        found: &PartitionEntry,
        (offers, lack): (&[Candidate], Option<Lack>),
    ) -> Step {
        let state = &found.record.state;
        if let Some(node) = self.node.filter(|node| !state.replicas.contains(node)) {
            return Step::Over(Err(no_replica(node, state)));
        }
        if !self.unclean {
            return self.in_sync(context, found);
        }
        if let (Some(leader), Some(Lack::Damaged), 1) = (state.leader, lack, state.replicas.len()) {
            let partition = found.record.key.partition;
            let text = format!(
                "changes nothing here: node {leader} has the only replica, and its log is damaged; `walser partition repair TOPIC \
                 {partition} --accept-loss` gives up what cannot be read"
            );
            return Step::Over(Err(ApiError::field("unclean", text)));
        }
        // An only replica is all there is.
        let lack = lack.filter(|_| state.replicas.len() > 1);
        if let (None, Some(Lack::Committed(other))) = (self.node.or(state.leader), lack) {
            let text = format!(
                "must be named here: node {other} has committed records that the last leader had not; other replicas may have \
                 others in place of them; `--node ID` says whose stay"
            );
            return Step::Over(Err(ApiError::field("node_id", text)));
        }
        let Some((leader, lack)) =
            state.leader.zip(lack).filter(|(leader, lack)| self.can_lead(context, *leader, *lack))
        else {
            return self.without_proof(context, found, (offers, lack));
        };
        match (control::step_down(context, &found.record, (lack, self.node)), lack, self.node) {
            (None, ..) => self.without_proof(context, found, (offers, Some(lack))),
            (Some(_), Lack::Committed(other), None) => {
                let text = format!(
                    "must be named here: node {other} has committed records that node {leader}, which leads, has not, and \
                     node {leader} may have written others since; `--node {other}` or `--node {leader}` says which stay"
                );
                Step::Over(Err(ApiError::field("node_id", text)))
            }
            (Some(decision), ..) => Step::Depose(decision),
        }
    }

    /// Whether whoever is named could be elected. The leader itself only where it is for people to say that it stays.
    fn can_lead(self, context: &DecisionContext, leader: NodeId, lack: Lack) -> bool {
        let able = |node: NodeId| context.alive(node) && (node != leader || lack != Lack::Damaged);
        self.node.is_none_or(able)
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
        match control::elect_named(context, &found.record, wanted) {
            Some(decision) => Step::Elect(decision),
            None => Step::Over(Err(goes_on(context, found, leader, wanted))),
        }
    }

    fn without_proof(
        self,
        context: &DecisionContext,
        found: &PartitionEntry,
        (offers, lack): (&[Candidate], Option<Lack>),
    ) -> Step {
        let (id, state) = (found.record.key, &found.record.state);
        if let Some(leader) = state.leader {
            if self.node == Some(leader) {
                return Step::Over(Ok(Some(leader)));
            }
            return self.in_place_of(leader, context, found, lack);
        }
        match control::elect_declared_lost(context, &found.record, offers, self.node) {
            Some(decision) => Step::ElectUnproven(decision),
            None => Step::Over(Err(unavailable(Reason::LeaderNotAvailable, id, self.not_yet(context, found)))),
        }
    }

    /// Has whoever is named lead in place of a leader that does not step down: one in sync, or, as was accepted, one that has
    /// what was committed, and not what the leader alone has.
    fn in_place_of(
        self,
        leader: NodeId,
        context: &DecisionContext,
        found: &PartitionEntry,
        lack: Option<Lack>,
    ) -> Step {
        if let Some(wanted) = self.node {
            if let Some(decision) = control::elect_named(context, &found.record, wanted) {
                return Step::Elect(decision);
            }
            return match control::elect_eligible(context, &found.record, wanted) {
                Some(decision) => Step::ElectUnproven(decision),
                None => Step::Over(Err(goes_on(context, found, leader, wanted))),
            };
        }
        let text = match lack {
            None => format!(
                "is for partitions without a leader: node {leader} leads this one, and it is not known that its log is \
                 damaged or lacks records; nothing was done"
            ),
            Some(_) => format!(
                "is not needed: the log of node {leader}, which leads, is damaged or lacks records, and another node that has \
                 everything takes the lead by itself; nothing was done"
            ),
        };
        Step::Over(Err(ApiError::field("unclean", text)))
    }

    /// Why nobody is elected without proof.
    fn not_yet(self, context: &DecisionContext, found: &PartitionEntry) -> String {
        let state = &found.record.state;
        if let Some(node) = control::eligible_leader(context, state) {
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

impl Asked<'_> {
    /// What is to be written next, and what became of the partitions about which nothing is.
    fn round(
        &mut self,
        view: &ClusterView,
        context: &DecisionContext,
        known: &Known<impl Offers, impl Lacks>,
    ) -> (Vec<Decision<TopicPartition>>, BTreeMap<TopicPartition, Election>) {
        let lacking = if self.wish.unclean { (known.lacking)(view, self.partitions) } else { HashMap::new() };
        let (mut decisions, mut outcomes) = (Vec::new(), BTreeMap::new());
        for id in self.partitions {
            let Some(found) = living(view, *id) else { continue };
            let state = &found.record.state;
            let elected = self.elected.get(id).filter(|(elected, _)| state.leader == Some(*elected));
            if let Some((leader, unproven)) = elected.copied() {
                outcomes.insert(*id, Election { leader: Some(leader), elected: true, unproven, failure: None });
                continue;
            }
            let lack = lacking.get(id).copied().filter(|_| !self.elected.contains_key(id));
            let step = self.wish.step(context, found, (&(known.offers)(*id), lack));
            let unproven = matches!(step, Step::ElectUnproven(_));
            let over = match step {
                Step::Elect(decision) | Step::ElectUnproven(decision) => {
                    self.elected.extend(leader_of(&decision).map(|leader| (*id, (leader, unproven))));
                    decisions.push(decision);
                    continue;
                }
                Step::Depose(decision) => {
                    tracing::warn!(
                        partition = %id, leader = ?state.leader.map(|leader| leader.0),
                        "the leader is to step down, as an operator wishes: its log lacks records"
                    );
                    decisions.push(decision);
                    continue;
                }
                Step::Over(over) => over,
            };
            let (leader, failure) = over.map_or_else(|failure| (None, Some(failure)), |leader| (leader, None));
            let leader = leader.or(state.leader);
            outcomes.insert(*id, Election { leader, failure, ..Election::default() });
        }
        (decisions, outcomes)
    }

    /// A failure: whether anything was written before it is not known.
    fn tell(&self, failure: ApiError) -> ApiError {
        if self.begun { maybe(&failure) } else { failure }
    }

    /// Partitions whose leader has stepped down, for this command or for one that an earlier controller did not finish.
    fn stepped_down<'v>(&'v self, view: &'v ClusterView) -> impl Iterator<Item = &'v PartitionEntry> {
        let found = self.partitions.iter().filter_map(|id| living(view, *id));
        found.filter(|found| found.record.state.stepped_down.is_some())
    }
}

/// A partition of a topic that is not being deleted.
fn living(view: &ClusterView, id: TopicPartition) -> Option<&PartitionEntry> {
    view.metadata.partition(id).filter(|_| view.metadata.tombstone(id.topic).is_none())
}

impl Nodes {
    /// Elects leaders as an operator wishes. What became of each partition, all that exist. It MUST NOT be dropped before
    /// it ends: a leader that has stepped down leads again where nobody is elected in its place.
    ///
    /// # Errors
    /// When this controller does not lead, or nothing can be decided now. What is written already, also by whoever leads
    /// next, is [`maybe`].
    pub(crate) async fn elect(
        &self,
        wish: Wish,
        partitions: &[TopicPartition],
        known: &Known<impl Offers, impl Lacks>,
    ) -> Result<BTreeMap<TopicPartition, Election>, ApiError> {
        if !wish.unclean {
            let mut asked = Asked { wish, partitions, elected: BTreeMap::new(), begun: false };
            return self.elect_in_rounds(&mut asked, known).await.map_err(|failure| asked.tell(failure));
        }
        let held = self.in_hand.take(partitions);
        let mut asked = Asked { wish, partitions: &held.partitions, elected: BTreeMap::new(), begun: false };
        let elected = self.elect_in_rounds(&mut asked, known).await;
        // After a failure it is not known what was written.
        let over = elected.is_ok() && asked.stepped_down(&self.committer().views.load()).next().is_none();
        let given_back = if over || !asked.begun { Ok(()) } else { self.lead_again(&asked).await };
        let mut outcomes = elected.and_then(|outcomes| given_back.map(|()| outcomes)).map_err(|e| asked.tell(e))?;
        if !over {
            let view = self.committer().views.load();
            let leader = |id| view.metadata.partition(id).and_then(|found| found.record.state.leader);
            outcomes.iter_mut().for_each(|(id, election)| election.leader = leader(*id));
        }
        let own: BTreeSet<_> = held.partitions.iter().collect();
        let others = partitions.iter().filter(|id| !own.contains(id));
        outcomes.extend(others.map(|id| {
            let text = "another command elects a leader of the partition at present; try again when it has ended";
            let failure = Some(unavailable(Reason::LeaderNotAvailable, *id, text.to_owned()));
            (*id, Election { failure, ..Election::default() })
        }));
        Ok(outcomes)
    }

    /// Gives the lead back wherever somebody has stepped down for nobody: what can be read there is better than nothing.
    async fn lead_again(&self, asked: &Asked<'_>) -> Result<(), ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns().next().await?;
            // What was written, though its outcome is not known, shows then.
            self.committer().views.catch_up().await?;
            let (view, context) = self.committer().context()?;
            let back = asked.stepped_down(&view).filter_map(|found| control::lead_again(&context, &found.record));
            let back: Vec<_> = back.collect();
            if back.is_empty() {
                return Ok(());
            }
            self.committer().commit_all(&view, back, &Extra::default()).await?;
        }
        Err(contended())
    }

    async fn elect_in_rounds(
        &self,
        asked: &mut Asked<'_>,
        known: &Known<impl Offers, impl Lacks>,
    ) -> Result<BTreeMap<TopicPartition, Election>, ApiError> {
        let (mut looks, mut attempts) = (0, 0);
        loop {
            let turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            let (decisions, outcomes) = asked.round(&view, &context, known);
            if !decisions.is_empty() {
                if attempts == ATTEMPTS_MAX {
                    return Err(contended());
                }
                attempts += 1;
                asked.begun = true;
                // What was written shows in the next round, as a leader that is there.
                self.committer().commit_all(&view, decisions, &Extra::default()).await?;
                self.committer().views.catch_up().await?;
            } else if !asked.wish.unclean || looks == OFFER_LOOKS || asked.stepped_down(&view).next().is_none() {
                return Ok(outcomes);
            } else {
                // Also of one that an earlier controller has begun.
                asked.begun = true;
                looks += 1;
                drop(turn);
                tokio::time::sleep(OFFER_LOOK).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
