//! Elects leaders without proof where somebody has decided it: an operator, in partitions of restored metadata, of which no
//! replica is known to have everything; or the topic's `recovery.policy` (rule R21). An operator's election during which the
//! controller died is finished here, too: the partition itself says what was asked for.
//!
//! Nodes offer what they have of partitions that nobody leads. Of restored partitions, and by the policy `balanced`, the one
//! that has most leads when all who may have everything have answered; by `proactive` it leads after a while, when all that
//! are in service have. One of them that never comes back is declared lost by an operator ([`crate::nodes::Nodes::elect`]).

use std::collections::BTreeMap;
use std::time::Duration;

use walser_metadata::PartitionEntry;
use walser_model::{RecoveryPolicy, TopicPartition};
use walser_replication::SteppedDown;
use walser_replication::control::{self, Candidate, Decision, DecisionContext, Lack, Recovery};
use walser_rpc::ApiError;

use super::Duties;
use crate::committer::Extra;
use crate::nodes::{Lacks, STEPPED_DOWN_MAX};

/// Time between two looks at what nodes offer.
const LOOK: Duration = Duration::from_millis(200);
/// Every so many looks all partitions with offers are looked at, new or not.
const LOOKS: u32 = 25;
/// How long `proactive` waits for a replica that has everything: nodes that restart are back by then.
const PROACTIVE_AFTER: Duration = Duration::from_secs(5);

/// Partitions without a leader of which nodes have offered something, and since when, in monotonic time. Bounded by the
/// offers.
type Leaderless = BTreeMap<TopicPartition, Duration>;

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Elects leaders without proof, for as long as the process runs.
    pub(crate) async fn recover(self, lacking: impl Lacks) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leaderless = Leaderless::new();
        for look in 0_u32.. {
            ticks.tick().await;
            if look % LOOKS == 0 {
                // The policy of a topic may have changed.
                self.sessions.look_again();
            }
            if self.nodes.committer().lead.epoch().is_err() {
                leaderless.clear();
                continue;
            }
            let mut offered = self.sessions.take_offered();
            if look % LOOKS == 0 {
                // Nobody need offer anything there, and the former leader leads again then.
                let view = self.nodes.committer().views.load();
                let stepped_down = view.metadata.partitions().filter(|found| found.record.state.stepped_down.is_some());
                offered.extend(stepped_down.map(|found| found.record.key));
                offered.sort_unstable();
                offered.dedup();
            }
            if offered.is_empty() {
                continue;
            }
            match self.elect_offered(&offered, &mut leaderless, &lacking).await {
                Ok(true) => {}
                Ok(false) => self.sessions.look_again(),
                Err(failure) => {
                    tracing::warn!(%failure, "partitions without a leader have none yet; the next look tries again");
                    self.sessions.look_again();
                }
            }
        }
    }

    /// False: some decision was overtaken, or waits for more nodes or for its time.
    async fn elect_offered(
        &self,
        offered: &[TopicPartition],
        leaderless: &mut Leaderless,
        lacking: &impl Lacks,
    ) -> Result<bool, ApiError> {
        let _turn = self.nodes.turns().next().await?;
        let (view, context) = self.nodes.committer().context()?;
        let now = self.clock.monotonic();
        let mut due: Vec<Decision<TopicPartition>> = Vec::new();
        let mut waiting = false;
        for id in offered {
            let found = view.metadata.partition(*id).filter(|_| view.metadata.tombstone(id.topic).is_none());
            let Some(found) = found.filter(|found| found.record.state.leader.is_none()) else {
                self.sessions.forget_offers(*id);
                leaderless.remove(id);
                continue;
            };
            let since = *leaderless.entry(*id).or_insert(now);
            if self.nodes.in_hand().contains(*id) {
                waiting = true;
                continue;
            }
            let late = now.saturating_sub(since);
            if let Some(stepped_down) = &found.record.state.stepped_down {
                let lack = || lacking(&view, &[*id]).remove(id);
                let decided = finish(&context, (found, stepped_down), (&self.sessions.offers(*id), lack), late);
                waiting |= decided.is_none();
                due.extend(decided);
                continue;
            }
            let policy = view.metadata.topic(id.topic).map(|topic| topic.settings.config.recovery_policy);
            let policy = policy.unwrap_or_default();
            if found.record.state.recovering || policy != RecoveryPolicy::Manual {
                // Of restored partitions somebody who was refused may have more.
                let waits = found.record.state.restored.is_some();
                let proactive = policy == RecoveryPolicy::Proactive && late >= PROACTIVE_AFTER && !waits;
                let decided = decide(&context, found, &self.sessions.offers(*id), proactive);
                // What was offered may count later without another word, when a node is in service.
                waiting |= decided.is_none();
                due.extend(decided);
            }
        }
        if due.is_empty() {
            return Ok(!waiting);
        }
        tracing::warn!(
            partitions = due.len(),
            "partitions of restored metadata, or whose recovery.policy or an operator says so, are led by the replica that has \
             most, or that is named: records may be lost"
        );
        Ok(self.nodes.committer().commit_all(&view, due, &Extra::default()).await? && !waiting)
    }
}

/// Brings an election to its end that an operator has asked an earlier controller for: as it was asked for, or the former
/// leader leads again.
fn finish(
    context: &DecisionContext,
    (found, stepped_down): (&PartitionEntry, &SteppedDown),
    (offers, lack): (&[Candidate], impl Fn() -> Option<Lack>),
    late: Duration,
) -> Option<Decision<TopicPartition>> {
    if late >= STEPPED_DOWN_MAX {
        return control::lead_again(context, &found.record);
    }
    // Where two logs contradict each other, nobody leads who is not named.
    if stepped_down.named.is_none() && matches!(lack(), Some(Lack::Committed(_))) {
        return None;
    }
    control::elect_declared_lost(context, &found.record, offers, stepped_down.named)
}

/// `proactive`: also while somebody who has everything may come back.
fn decide(
    context: &DecisionContext,
    found: &PartitionEntry,
    offers: &[Candidate],
    proactive: bool,
) -> Option<Decision<TopicPartition>> {
    let balanced = control::elect_unclean(context, &found.record, offers, Recovery::Balanced);
    balanced.or_else(|| {
        let declared = || control::elect_declared_lost(context, &found.record, offers, None);
        proactive.then(declared).flatten()
    })
}
