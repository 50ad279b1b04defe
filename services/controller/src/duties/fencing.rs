//! Nodes that are not heard of any more are fenced: those whose connection has broken, and those that are silent
//! ([`crate::silence`] has the rule).

use std::time::Duration;

use walser_metastore::Revision;
use walser_model::NodeId;
use walser_replication::control;
use walser_rpc::ApiError;

use super::Duties;
use crate::committer::{Committed, Extra};
use crate::pauses::Pauses;
use crate::sessions::Session;
use crate::silence::{InService, SilenceRule, Verdict};

/// How often silent nodes are looked for.
const FENCE_CHECK: Duration = Duration::from_millis(100);
/// A node whose connection has broken, and that is not heard for this long then, is fenced before its session is over. A
/// node that lives is back earlier.
const LOST_GRACE: Duration = Duration::from_millis(500);
/// A node counts as heard for so many beats: when it is asked whether the controller itself is cut off, and for who is to
/// lead.
const BEATS_RECENT: u32 = 3;

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Fences nodes that are not heard of any more, for as long as the process runs.
    pub(crate) async fn fence_silent(self) {
        let mut ticks = tokio::time::interval(FENCE_CHECK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pauses = Pauses::new(FENCE_CHECK, self.clock.monotonic());
        let mut rule = SilenceRule::new(self.config.session, self.may_have_rivals());
        let mut led = 0;
        loop {
            ticks.tick().await;
            let now = self.clock.monotonic();
            // Connections that broke meanwhile have their session to come back, too.
            self.sessions.extend(pauses.before(now), now);
            let leads = self.nodes.committer().lead.epoch().unwrap_or(0);
            if leads != led {
                self.hear_all(now);
                led = leads;
            }
            self.forget_deregistered();
            let recent = BEATS_RECENT * self.config.beat;
            if self.nodes.committer().advice.note_silent(leads, self.sessions.out_of_sight(now, recent)) {
                // It may take the leads that a drained node had to keep.
                self.bell.ring_for_all();
            }
            if leads > 0 && self.nodes.committer().lead.is_sure() {
                self.fence_lost(now).await;
                self.fence_one_silent(now, leads, &mut rule).await;
            }
            pauses.looked(self.clock.monotonic());
        }
    }

    /// Nothing of a node outlives its registration, whichever controller has removed that.
    fn forget_deregistered(&self) {
        let view = self.nodes.committer().views.load();
        let registered = |node| view.metadata.node(node).is_some();
        self.sessions.retain(registered);
        self.nodes.committer().advice.retain(registered);
    }

    /// Whether other controllers may lead this cluster.
    fn may_have_rivals(&self) -> bool {
        !self.config.standalone && self.nodes.committer().store.is_shared()
    }

    /// Fences those whose connection has broken.
    async fn fence_lost(&self, now: Duration) {
        for (node, node_epoch) in self.sessions.lost(now, LOST_GRACE, BEATS_RECENT * self.config.beat) {
            if self.sessions.may_be_away(node, self.config.standalone) {
                self.fence(node, node_epoch, LOST_GRACE).await;
            }
        }
    }

    /// Fences one of those that have been silent for a session, or lets another controller lead, as the rule says.
    async fn fence_one_silent(&self, now: Duration, term: Revision, rule: &mut SilenceRule) {
        let silent = self.sessions.silent(now, self.config.session);
        let away = |(node, _): &(NodeId, Revision)| {
            self.sessions.may_be_away(*node, self.config.standalone) && !self.is_refused(*node, now)
        };
        let silent: Vec<_> = silent.into_iter().filter(away).collect();
        match rule.step(now, term, self.in_service(now), !silent.is_empty()) {
            Verdict::Wait => {}
            Verdict::StepAside => self.nodes.committer().lead.step_aside(term),
            Verdict::FenceOne => {
                for (node, node_epoch) in silent {
                    // Where the store is away it is away for all of them.
                    if self.fence(node, node_epoch, self.config.session).await {
                        return rule.fenced(self.clock.monotonic());
                    }
                }
            }
        }
    }

    /// Whether a node was refused lately: it is there, and its partitions can be read.
    fn is_refused(&self, node: NodeId, now: Duration) -> bool {
        let view = self.nodes.committer().views.load();
        view.metadata.node(node).is_some_and(|entry| self.refused.refuses(node, &entry.registration, now))
    }

    /// How many nodes are in service, and how many of them are there.
    fn in_service(&self, now: Duration) -> InService {
        let view = self.nodes.committer().views.load();
        let lately = (BEATS_RECENT * self.config.beat).max(self.config.session / 2);
        let in_service = view.metadata.nodes().filter(|(_, entry)| entry.epoch > 0 && !entry.liveness.fenced);
        InService::of(in_service.map(|(node, entry)| {
            let heard = self.sessions.is_heard(node, entry.epoch, now, lately);
            let refused = self.refused.refuses(node, &entry.registration, now);
            (heard || refused, entry.liveness.shutting_down)
        }))
    }

    /// Nodes that this controller has not heard yet get a full session from the moment in which it leads. Those that it has
    /// heard while another one led are measured by that. So are all of them where it has lately heard at most half: with
    /// other controllers it steps aside for that, and otherwise it was cut off itself, and gives each of them a session.
    fn hear_all(&self, now: Duration) {
        let view = self.nodes.committer().views.load();
        let alive: Vec<_> = view.metadata.nodes().filter(|(_, node)| !node.liveness.fenced).collect();
        let heard = |node: &NodeId, epoch, limit| self.sessions.seen(*node, epoch, now, limit).is_some();
        let lately = alive.iter().filter(|(node, entry)| heard(node, entry.epoch, self.config.session)).count();
        let measured = self.may_have_rivals() || 2 * lately > alive.len();
        for (node, entry) in alive {
            if measured && heard(&node, entry.epoch, Duration::MAX) {
                continue;
            }
            let heard_ms = self.clock.now_millis();
            let session = Session { node_epoch: entry.epoch, heard: now, heard_ms, given: true, ..Default::default() };
            self.sessions.beat(node, session);
        }
    }

    /// Fences a node that was not heard for `limit`, unless it was heard meanwhile. Returns whether it did, or may have.
    async fn fence(&self, node: NodeId, node_epoch: Revision, limit: Duration) -> bool {
        let fenced = async {
            let _turn = self.nodes.turns().next().await?;
            let (view, context) = self.nodes.committer().context()?;
            // The clock is looked at again: it was another time when the turn was waited for.
            let now = self.clock.monotonic();
            let heard = self.sessions.seen(node, node_epoch, now, limit).is_some();
            // A node that was refused is there, and does not obey this metadata: its partitions can be read.
            let current = view.metadata.node(node).filter(|found| found.epoch == node_epoch);
            if heard || current.is_some_and(|found| self.refused.refuses(node, &found.registration, now)) {
                return Ok(false);
            }
            let decision = control::fence(&context, node).filter(|_| current.is_some());
            if let Some(decision) = &decision {
                if self.nodes.committer().commit(&view, decision, Extra::default()).await? == Committed::Again {
                    // The session stays: the next look finds the node as silent, or fenced.
                    return Ok(true);
                }
                tracing::warn!(node = %node, node_epoch, "node fenced: not heard within its session, or its connection broke");
            }
            self.sessions.end(node, node_epoch);
            Ok::<_, ApiError>(decision.is_some())
        };
        fenced.await.unwrap_or_else(|failure| {
            tracing::warn!(node = %node, %failure, "fencing did not finish, it will be tried again");
            true
        })
    }
}
