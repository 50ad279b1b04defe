//! Nodes that want to stop: what others can lead is led by them first, and they leave the in-sync sets that stay large
//! enough without them (rule R23). Nodes that cannot write leave those too, and go on.

use std::collections::HashMap;

use walser_metastore::Revision;
use walser_model::NodeId;
use walser_replication::control::{self, DecisionContext};
use walser_rpc::ApiError;

use super::Duties;
use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Extra};

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Does what is next for each node that wants to stop.
    pub(super) async fn see_off(&self) -> Result<(), ApiError> {
        for (node, node_epoch) in self.sessions.stopping() {
            let _turn = self.nodes.turns().next().await?;
            let (view, context) = self.nodes.committer().context()?;
            if view.metadata.node(node).is_none_or(|known| known.epoch != node_epoch) {
                continue;
            }
            if let Some(decision) = control::shut_down(&context, node) {
                // Its partitions are looked at on the view that includes it.
                if self.nodes.committer().commit(&view, &decision, Extra::default()).await? != Committed::Again {
                    tracing::info!(%node, "a node wants to stop: its partitions are given to others");
                }
                continue;
            }
            let partitions = || view.metadata.partitions().map(|partition| &partition.record);
            let mut seen = self.seen_by(&view, &context);
            seen.remove(&node);
            let seen_by = |other: NodeId| seen.get(&other).copied().unwrap_or(0);
            let drained = partitions().filter_map(|record| control::drain(&context, record, node, seen_by));
            let drained: Vec<_> = drained.collect();
            if !drained.is_empty() {
                self.nodes.committer().commit_all(&view, drained, &Extra::default()).await?;
            } else if control::can_stop(&context, node, partitions(), seen.into_values()) {
                self.sessions.let_stop(node, node_epoch);
            }
        }
        Ok(())
    }

    /// Takes nodes that cannot write out of in-sync sets that stay large enough without them.
    pub(super) async fn relieve_unwritable(&self) -> Result<(), ApiError> {
        if self.nodes.committer().advice.all_can_write() {
            return Ok(());
        }
        let _turn = self.nodes.turns().next().await?;
        let (view, context) = self.nodes.committer().context()?;
        let seen = self.seen_by(&view, &context);
        let seen_by = |other: NodeId| seen.get(&other).copied().unwrap_or(0);
        let partitions = view.metadata.partitions().map(|partition| &partition.record);
        // One of each at a time: who else can be spared then is another question.
        let relieve =
            |record| context.unwritable.iter().find_map(|node| control::relieve(&context, record, node, seen_by));
        let relieved: Vec<_> = partitions.filter_map(relieve).collect();
        if !relieved.is_empty() {
            self.nodes.committer().commit_all(&view, relieved, &Extra::default()).await?;
        }
        Ok(())
    }

    /// What every node in service has seen of the metadata; nothing, where it is silent: whether it is still there is
    /// known once it is heard again, or fenced.
    fn seen_by(&self, view: &ClusterView, context: &DecisionContext) -> HashMap<NodeId, Revision> {
        let (now, limit) = (self.clock.monotonic(), self.config.session);
        let others = view.metadata.nodes().filter(|(_, entry)| !entry.liveness.fenced);
        // One that does not obey this metadata never says that it has seen it.
        let others = others.filter(|(other, entry)| !self.refused.refuses(*other, &entry.registration, now));
        let seen = |other, epoch| {
            let heard = self.sessions.seen(other, epoch, now, limit).filter(|_| !context.silent.contains(other));
            heard.unwrap_or(0)
        };
        others.map(|(other, entry)| (other, seen(other, entry.epoch))).collect()
    }
}
