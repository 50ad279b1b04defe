//! Topics that go: first the topic, then its partitions, and at last its tombstone.

use std::collections::{BTreeMap, BTreeSet};

use walser_metadata::PartitionEntry;
use walser_metadata::value::TombstoneValue;
use walser_metastore::Compare;
use walser_model::{NodeId, Timestamp, TopicId};
use walser_replication::control::{self, Decision, MERGED_PARTITIONS_MAX, OPERATIONS_MAX};
use walser_rpc::ApiError;

use super::{ATTEMPTS_MAX, InHand, Topics, check_etag, contended, find, own_name};
use crate::committer::{Committed, Extra};
use crate::keys::topic;
use crate::keys::{delete, put};
use crate::operations::Operation;

/// The nodes that have replicas, ascending.
fn nodes_of<'a>(partitions: impl Iterator<Item = &'a PartitionEntry>) -> BTreeSet<i32> {
    partitions.flat_map(|partition| &partition.record.state.replicas).map(|node| node.0).collect()
}

impl Topics {
    /// Deletes a topic: it is gone for users, and its data goes away on the nodes afterwards.
    pub(crate) async fn delete(
        &self,
        name: &str,
        etag: &str,
        operation: &str,
        now: Timestamp,
    ) -> Result<(TopicId, Operation), ApiError> {
        own_name(name)?;
        let _turn = self.turns.next_about(name).await?;
        for attempt in 0..ATTEMPTS_MAX {
            let (view, context) = self.committer.context()?;
            // Only a call that was tried before: there are as many tombstones as topics that are being deleted.
            if attempt > 0
                && let Some((id, written)) = view.metadata.tombstones().find(|(_, it)| it.value.operation == operation)
            {
                // Written by this very call, although the outcome was not known.
                return Ok((id, Operation::deletion(&written.value, None)));
            }
            let mut extra = Extra::default();
            // A creation that is not finished can be given up, too.
            let (id, value) = match view.staged_name(name).and_then(|id| Some((id, view.staged.get(&id)?))) {
                Some((id, staged)) => (id, &staged.value.topic),
                None => {
                    let topic = find(&view, name)?;
                    check_etag(etag, topic)?;
                    extra.compares.push(Compare::ModifiedAt(topic::key(topic.id), topic.revision));
                    (topic.id, &*topic.value)
                }
            };
            let partitions = || view.metadata.partitions_of(id);
            // Nobody has taken anything back yet: what is set aside is all there is, and it stays.
            let keeps_data = view.staged.get(&id).is_some_and(|staged| !staged.value.placed_on.is_empty());
            let nodes = if keeps_data { BTreeSet::new() } else { nodes_of(partitions()) };
            let tombstone = TombstoneValue {
                name: value.name.clone(),
                operation: operation.to_owned(),
                partition_count: value.partition_count,
                started_ms: now,
                nodes: nodes.into_iter().collect(),
                keeps_data,
                ..TombstoneValue::default()
            };
            extra.ops.extend([topic::name_key(&value.name), topic::key(id)].map(delete));
            extra.ops.push(put(topic::deleting_key(id), &tombstone));
            match view.staged.get(&id) {
                Some(staged) => {
                    extra.compares.push(Compare::ModifiedAt(topic::staged_key(id), staged.revision));
                    extra.ops.push(delete(topic::staged_key(id)));
                }
                None => extra.compares.push(Compare::Missing(topic::staged_key(id))),
            }
            let gone = partitions().map(|partition| control::delete(&context, &partition.record));
            let mut merged = control::merge(gone, MERGED_PARTITIONS_MAX);
            let at_once = merged.len() <= 1;
            let decision = merged.pop().filter(|_| at_once).unwrap_or_else(|| Decision::new(&context));
            if self.committer.commit(&view, &decision, extra).await? != Committed::Again {
                return Ok((id, Operation::deletion(&tombstone, None)));
            }
        }
        Err(contended())
    }

    /// Deletes the partitions of a topic that is gone.
    pub(super) async fn finish_deletion(&self, in_hand: &InHand) -> Result<(), ApiError> {
        let id = in_hand.id;
        for _ in 0..ATTEMPTS_MAX {
            let (view, context) = self.committer.context()?;
            let Some(tombstone) = view.metadata.tombstone(id) else { return Ok(()) };
            let partitions = || view.metadata.partitions_of(id);
            let Some(_) = partitions().next() else { return Ok(()) };
            // A node that has got a replica since the topic was deleted has something to remove, too.
            let named: BTreeSet<i32> = tombstone.value.nodes.iter().copied().collect();
            let nodes = nodes_of(partitions());
            if !nodes.is_subset(&named) && !tombstone.value.keeps_data {
                let nodes = named.union(&nodes).copied().collect();
                let value = TombstoneValue { nodes, ..tombstone.value.clone() };
                let compares = vec![Compare::ModifiedAt(topic::deleting_key(id), tombstone.revision)];
                let extra = Extra { compares, ops: vec![put(topic::deleting_key(id), &value)], registration: None };
                self.committer.commit(&view, &Decision::new(&context), extra).await?;
                continue;
            }
            let decisions = partitions().map(|partition| control::delete(&context, &partition.record)).collect();
            self.committer.commit_all(&view, decisions, &Extra::default()).await?;
        }
        Err(contended())
    }

    /// Nodes have confirmed that they have nothing of deleted topics any more, or are not registered any more. Tombstones that name no node any more,
    /// and whose partitions are gone, are removed: their operations have ended. Returns whether all was written.
    pub(crate) async fn confirm_removed(
        &self,
        confirmed: &BTreeMap<TopicId, BTreeSet<NodeId>>,
        now: Timestamp,
    ) -> Result<bool, ApiError> {
        let _ending = self.operations.ending().await;
        let (view, context) = self.committer.context()?;
        let mut transactions: Vec<(Extra, Vec<Operation>)> = Vec::new();
        for (id, tombstone) in view.metadata.tombstones() {
            if view.metadata.partitions_of(id).next().is_some() {
                // Until they are gone, a node may still get a replica; it confirms with every beat.
                continue;
            }
            let mut value = tombstone.value.clone();
            // One that is not registered any more never will. What it has of the topic is set aside when it comes back.
            value.nodes.retain(|node| view.metadata.node(NodeId(*node)).is_some());
            if let Some(nodes) = confirmed.get(&id) {
                value.nodes.retain(|node| !nodes.contains(&NodeId(*node)));
            }
            let ended = value.nodes.is_empty();
            if value.nodes == tombstone.value.nodes && !ended {
                continue;
            }
            if transactions.last().is_none_or(|(extra, _)| extra.ops.len() >= OPERATIONS_MAX) {
                transactions.push(Default::default());
            }
            let Some((extra, operations)) = transactions.last_mut() else { continue };
            extra.compares.push(Compare::ModifiedAt(topic::deleting_key(id), tombstone.revision));
            if ended {
                extra.ops.push(delete(topic::deleting_key(id)));
                operations.push(Operation::deletion(&value, Some(now)));
            } else {
                extra.ops.push(put(topic::deleting_key(id), &value));
            }
        }
        let mut all = true;
        for (extra, operations) in transactions {
            if self.committer.commit(&view, &Decision::new(&context), extra).await? == Committed::Again {
                all = false;
            } else {
                self.operations.remember(operations);
            }
        }
        Ok(all)
    }
}
