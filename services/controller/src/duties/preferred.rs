//! Gives partitions back to their preferred leaders: the first replica of each, so that the load is spread as it was placed.
//!
//! A partition is moved when two looks in a row have found it the same: in between nobody joined or left its in-sync set
//! and nobody was elected. A node that comes and goes gets nothing back.

use std::collections::HashMap;
use std::time::Duration;

use walser_model::TopicPartition;
use walser_replication::control::{self, Decision};
use walser_rpc::ApiError;

use super::Duties;
use crate::committer::Extra;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Most partitions that get another leader after one look: each of them stops for a moment.
const ELECTIONS_MAX: usize = 500;

/// Partitions that the look before has found led by another than their preferred leader, as they were then.
type Found = HashMap<TopicPartition, i64>;

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Restores preferred leaders for as long as the process runs.
    pub(crate) async fn restore_preferred(self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut found = Found::default();
        loop {
            ticks.tick().await;
            if self.nodes.committer().lead.epoch().is_err() {
                found.clear();
                continue;
            }
            if let Err(failure) = self.elect_preferred(&mut found).await {
                tracing::warn!(%failure, "preferred leaders could not be restored; the next look tries again");
            }
        }
    }

    async fn elect_preferred(&self, found: &mut Found) -> Result<(), ApiError> {
        let _turn = self.nodes.turns().next().await?;
        let (view, context) = self.nodes.committer().context()?;
        let living = view.metadata.partitions().map(|partition| &partition.record);
        let living = living.filter(|record| view.metadata.tombstone(record.key.topic).is_none());
        let elected = living.filter_map(|record| Some((record, control::elect_preferred(&context, record)?)));
        let elected: Vec<_> = elected.map(|(record, decision)| (record.key, record.epoch, decision)).collect();
        let before = std::mem::take(found);
        found.extend(elected.iter().map(|(id, epoch, _)| (*id, *epoch)));
        let steady = elected.into_iter().filter(|(id, epoch, _)| before.get(id) == Some(epoch));
        let due: Vec<Decision<TopicPartition>> = steady.map(|(_, _, decision)| decision).take(ELECTIONS_MAX).collect();
        if due.is_empty() {
            return Ok(());
        }
        tracing::info!(partitions = due.len(), "preferred leaders are restored");
        // What stands against one of them shows at the next look.
        self.nodes.committer().commit_all(&view, due, &Extra::default()).await.map(drop)
    }
}
