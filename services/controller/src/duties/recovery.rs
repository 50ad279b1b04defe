//! Elects leaders without proof where an operator has decided it: in partitions of restored metadata, of which no replica
//! is known to have everything (rule R21).
//!
//! Nodes offer what they have of partitions that nobody leads. When all who may have everything have answered, the one
//! that has most leads. One of them that never comes back is declared lost by an operator ([`crate::nodes::Nodes::elect`]).

use std::time::Duration;

use walser_model::TopicPartition;
use walser_replication::control::{self, Decision, Recovery};
use walser_rpc::ApiError;

use super::Duties;
use crate::committer::Extra;

/// Time between two looks at what nodes offer.
const LOOK: Duration = Duration::from_millis(200);

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Elects leaders of restored partitions, for as long as the process runs.
    pub(crate) async fn recover_restored(self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.nodes.committer().lead.epoch().is_err() {
                continue;
            }
            let offered = self.sessions.take_offered();
            if offered.is_empty() {
                continue;
            }
            match self.elect_restored(&offered).await {
                Ok(true) => {}
                Ok(false) => self.sessions.look_again(),
                Err(failure) => {
                    tracing::warn!(%failure, "restored partitions have no leader yet; the next look tries again");
                    self.sessions.look_again();
                }
            }
        }
    }

    /// False: some decision was overtaken, or waits for more nodes.
    async fn elect_restored(&self, offered: &[TopicPartition]) -> Result<bool, ApiError> {
        let _turn = self.nodes.turns().next().await?;
        let (view, context) = self.nodes.committer().context()?;
        let mut due: Vec<Decision<TopicPartition>> = Vec::new();
        let mut waiting = false;
        for id in offered {
            let found = view.metadata.partition(*id).filter(|_| view.metadata.tombstone(id.topic).is_none());
            let Some(record) = found.map(|found| &found.record).filter(|record| record.state.leader.is_none()) else {
                self.sessions.forget_offers(*id);
                continue;
            };
            if record.state.recovering {
                let candidates = self.sessions.offers(*id);
                let decided = control::elect_unclean(&context, record, &candidates, Recovery::Balanced);
                // What was offered may count later without another word, when a node is in service.
                waiting |= decided.is_none();
                due.extend(decided);
            }
        }
        if due.is_empty() {
            return Ok(!waiting);
        }
        tracing::warn!(partitions = due.len(), "restored partitions are led by the replicas that have most");
        Ok(self.nodes.committer().commit_all(&view, due, &Extra::default()).await? && !waiting)
    }
}
