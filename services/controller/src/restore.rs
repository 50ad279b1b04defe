//! Metadata that is older than the data: noticed when a node registers, and accepted only by an operator.
//!
//! A restored copy of the metadata would hand out versions and leader epochs a second time. A node that has seen more,
//! or another history, is therefore refused. [`accept`] raises both above what the refused nodes report.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metastore::{Compare, Revision, Txn};
use walser_model::{Timestamp, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::RegisterNodeRequest;
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};
use walser_service::Caller;

use crate::config::Config;
use crate::keys::counter::{Counter, PARTITIONS};
use crate::keys::lineage::{self, Lineage};
use crate::keys::partition::{self, Partition};
use crate::keys::put;
use crate::keys::topic::{self, Deleting, Name, Topic};
use crate::nodes;
use crate::placement::{REPLICATION_DEFAULT, effective_min_isr, place};
use crate::store::{ATTEMPTS_MAX, Store, Versioned, contended, versioned};
use crate::topics::{self, grown};

/// Partitions whose leader epoch is raised in one transaction.
const RAISED_PER_TXN: usize = 100;
/// Revisions that are skipped above what nodes have seen: gateways may have seen a few more.
const REVISIONS_SKIPPED: Revision = 1_000_000;
/// A refused node that was not heard of for this long is not reported any more.
const REMEMBERED: Duration = Duration::from_secs(10);

/// A node whose registration was refused.
#[derive(Debug, Clone)]
struct Refused {
    why: Failure,
    metadata_version: Revision,
    lineage: String,
    /// Leader epochs of its replicas.
    epochs: HashMap<TopicPartition, i32>,
    /// Monotonic time.
    heard: Duration,
}

impl Refused {
    /// Whether the node is still there.
    fn recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) <= REMEMBERED
    }
}

/// Nodes that were refused, by id. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusedNodes {
    by_node: Arc<Mutex<BTreeMap<i32, Refused>>>,
}

fn partition_of(report: &pbi::ReplicaReport) -> Option<TopicPartition> {
    let topic = TopicId::from_bytes(report.topic_id.as_ref().try_into().ok()?);
    Some(TopicPartition::new(topic, walser_model::PartitionIndex(report.partition)))
}

fn epochs(reports: &[pbi::ReplicaReport]) -> HashMap<TopicPartition, i32> {
    reports.iter().filter_map(|report| Some((partition_of(report)?, report.leader_epoch))).collect()
}

/// What a caller has seen of the metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Empty: none.
    pub(crate) cluster_id: &'a str,
    /// Highest version.
    pub(crate) version: Revision,
    /// Lineage of that version; empty: not known.
    pub(crate) lineage: &'a str,
}

/// Refuses a caller of another cluster, and one that has seen a higher version or another history of the metadata.
/// `lineage` is that of this controller's start.
pub(crate) async fn check(store: &Store, (cluster, lineage): (&str, &str), seen: Seen<'_>) -> Result<(), Failure> {
    if !seen.cluster_id.is_empty() && seen.cluster_id != cluster {
        return Err(Failure::cluster_id_mismatch(seen.cluster_id, cluster));
    }
    let revision = store.revision().await?;
    // Nearly every beat says this start's own lineage, which goes on to the present: the others need not be looked up.
    let continues = seen.lineage == lineage || store.lineages().await?.continues(seen.lineage, seen.version);
    if seen.version > revision || !continues {
        return Err(Failure::metadata_rollback(seen.version, revision));
    }
    Ok(())
}

/// Refuses a node whose replicas have higher leader epochs than the metadata.
async fn check_epochs(store: &Store, request: &RegisterNodeRequest) -> Result<(), Failure> {
    let reported = epochs(&request.replicas);
    for entry in store.range(partition::PREFIX).await? {
        let Some((topic, number)) = partition::parse(&entry.key) else { continue };
        let id = TopicPartition::new(topic, walser_model::PartitionIndex(number));
        let Some(epoch) = reported.get(&id) else { continue };
        let current = versioned::<Partition>(&entry)?.value.leader_epoch;
        if *epoch > current {
            let text = format!(
                "replica {id} has leader epoch {epoch}, the metadata {current}: it is an older copy; put the right \
                 metadata back, or accept it with `walser metadata accept-restore`"
            );
            let failure = Failure::new(Reason::MetadataRollback, text).with("partition", id);
            return Err(failure.with("epoch", epoch).with("currentEpoch", current));
        }
    }
    Ok(())
}

// === impl RefusedNodes ===

impl RefusedNodes {
    /// Checks a registration, and remembers the node when it is refused.
    pub(crate) async fn admit(
        &self,
        store: &Store,
        own: (&str, &str),
        request: &RegisterNodeRequest,
        now: Duration,
    ) -> Result<(), Failure> {
        let RegisterNodeRequest { cluster_id, metadata_version: version, lineage, .. } = request;
        let mut checked = check(store, own, Seen { cluster_id, version: *version, lineage }).await;
        if checked.is_ok() {
            checked = check_epochs(store, request).await;
        }
        let mut by_node = self.by_node.lock();
        match &checked {
            Ok(()) => drop(by_node.remove(&request.node_id)),
            Err(why) => {
                let (metadata_version, epochs) = (request.metadata_version, epochs(&request.replicas));
                let lineage = request.lineage.clone();
                let refused = Refused { why: why.clone(), metadata_version, lineage, epochs, heard: now };
                by_node.insert(request.node_id, refused);
            }
        }
        checked
    }

    /// What is to be said of refused nodes.
    pub(crate) fn issues(&self, now: Duration) -> Vec<pb::HealthIssue> {
        let mut by_node = self.by_node.lock();
        by_node.retain(|_, refused| refused.recent(now));
        let issue = |(node, refused): (&i32, &Refused)| pb::HealthIssue {
            severity: pb::HealthStatus::Critical.into(),
            code: refused.why.reason_name().to_owned(),
            message: format!("storage node {node} does not obey this metadata: {}", refused.why),
            hint:
                "its disk is not changed, writes are refused, reads go on; see \"When metadata and data disagree\" in \
                   docs/operations.md"
                    .to_owned(),
            objects: vec![format!("nodes/{node}")],
            start_time: None,
        };
        by_node.iter().map(issue).collect()
    }

    /// Why the metadata is not changed at present: a storage node has refused it lately as an older copy.
    pub(crate) fn rollback(&self, now: Duration) -> Option<Failure> {
        let by_node = self.by_node.lock();
        let rolled_back = |refused: &&Refused| refused.why.reason() == Reason::MetadataRollback;
        by_node.values().filter(|refused| refused.recent(now)).find(rolled_back).map(|refused| refused.why.clone())
    }

    /// Whether a node is there and does not obey this metadata.
    pub(crate) fn refuses(&self, node: i32, now: Duration) -> bool {
        let by_node = self.by_node.lock();
        by_node.get(&node).is_some_and(|refused| refused.recent(now))
    }

    fn rolled_back(&self) -> BTreeMap<i32, Refused> {
        let by_node = self.by_node.lock();
        let rolled_back = by_node.iter().filter(|(_, refused)| refused.why.reason() == Reason::MetadataRollback);
        rolled_back.map(|(node, refused)| (*node, refused.clone())).collect()
    }
}

/// Accepts restored metadata: raises the store's revision and leader epochs above everything that refused nodes have
/// seen. Accepting twice raises twice, which is harmless.
pub(crate) async fn accept(
    store: &Store,
    refused: &RefusedNodes,
    caller: &Caller,
) -> Result<pb::AcceptMetadataRestoreResponse, Failure> {
    let nodes = refused.rolled_back();
    let seen = nodes.values().map(|refused| refused.metadata_version).max().unwrap_or(0);
    let mut highest: HashMap<TopicPartition, i32> = HashMap::new();
    for (partition, epoch) in nodes.values().flat_map(|refused| &refused.epochs) {
        let known = highest.entry(*partition).or_insert(*epoch);
        *known = (*known).max(*epoch);
    }
    if nodes.is_empty() {
        // Accepting helps none of those that were refused for another reason.
        if let Some((node, other)) = refused.by_node.lock().first_key_value() {
            let text = format!("storage node {node} is refused for another reason: {}", other.why.message());
            return Err(Failure::new(other.why.reason(), text));
        }
        let version = store.revision().await?;
        return Ok(pb::AcceptMetadataRestoreResponse { version, ..Default::default() });
    }
    // What lets nodes register comes last. Producer ids need nothing: each start of a controller hands out others.
    let raised = raise_epochs(store, &highest).await?;
    let version = store.raise_revision(seen.saturating_add(REVISIONS_SKIPPED)).await?;
    accept_lineages(store, &nodes).await?;
    tracing::warn!(
        client_id = caller.client_id(),
        client_address = caller.address(),
        nodes = nodes.len(),
        version,
        partitions = raised,
        "restored metadata was accepted"
    );
    Ok(pb::AcceptMetadataRestoreResponse {
        node_ids: nodes.into_keys().collect(),
        version,
        partition_count: i32::try_from(raised).unwrap_or(i32::MAX),
    })
}

/// Raises leader epochs above those given, some partitions at a time; returns how many.
async fn raise_epochs(store: &Store, seen: &HashMap<TopicPartition, i32>) -> Result<usize, Failure> {
    let mut raised = 0;
    let _turn = store.node_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let mut waiting = Vec::new();
        for entry in store.range(partition::PREFIX).await? {
            let Some((topic, number)) = partition::parse(&entry.key) else { continue };
            let found = versioned::<Partition>(&entry)?;
            let id = TopicPartition::new(topic, walser_model::PartitionIndex(number));
            if let Some(epoch) = seen.get(&id).filter(|epoch| **epoch >= found.value.leader_epoch) {
                waiting.push((Partition { leader_epoch: epoch + 1, ..found.value.clone() }, found));
            }
        }
        let mut conflict = false;
        for part in waiting.chunks(RAISED_PER_TXN) {
            let compares = part.iter().map(|(_, found)| found.unchanged()).collect();
            let ops = part.iter().map(|(partition, found)| put(found.key.clone(), partition)).collect();
            match store.commit(Txn { compares, ops }).await? {
                Some(_) => raised += part.len(),
                None => conflict = true,
            }
        }
        if !conflict {
            return Ok(raised);
        }
    }
    Err(contended())
}

/// Accepts what was seen under the lineages of refused nodes.
async fn accept_lineages(store: &Store, nodes: &BTreeMap<i32, Refused>) -> Result<(), Failure> {
    let ids: BTreeSet<_> = nodes.values().map(|refused| &refused.lineage).filter(|id| !id.is_empty()).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    for part in ids.chunks(RAISED_PER_TXN) {
        let accept = |id: &&String| put(lineage::accepted_key(id), &Lineage { id: (*id).clone() });
        // Without a condition: accepting twice is the same.
        store.commit(Txn { compares: Vec::new(), ops: part.iter().map(accept).collect() }).await?;
    }
    Ok(())
}

/// The partitions of a restored topic: each on the node that holds its replica, above its leader epoch; those without
/// one are empty, on any node.
fn restored_partitions(nodes: &[i32], replicas: &[pbi::RestoredReplica]) -> Result<Vec<Partition>, Failure> {
    let found = |restored: &pbi::RestoredReplica| {
        let replica = restored.replica.as_ref()?;
        Some((replica.partition, restored.node_id, replica.leader_epoch))
    };
    let found: Vec<_> = replicas.iter().filter_map(found).collect();
    if found.is_empty() || found.iter().any(|(number, ..)| *number < 0) {
        return Err(Failure::field("replicas", "must name at least one partition"));
    }
    let count = found.iter().map(|(number, ..)| number.saturating_add(1)).max().unwrap_or(1);
    // Above all of them: epochs of one topic are close together, and a gap costs nothing.
    let epoch = found.iter().map(|(_, _, epoch)| *epoch).max().unwrap_or(0).max(0) + 1;
    let min_isr = effective_min_isr(None, REPLICATION_DEFAULT);
    let mut placed = place(nodes, 0, count, REPLICATION_DEFAULT, min_isr)?;
    for partition in &mut placed {
        partition.leader_epoch = epoch;
    }
    for (number, node, _) in found {
        if !nodes.contains(&node) {
            let text = format!("storage node {node} holds partition {number} and is not registered");
            return Err(Failure::new(Reason::LeaderNotAvailable, text).with("nodeId", node));
        }
        let partition = &mut placed[usize::try_from(number).unwrap_or(0)];
        (partition.leader, partition.replicas, partition.isr) = (node, vec![node], vec![node]);
    }
    Ok(placed)
}

/// Makes a topic of replicas that were set aside.
pub(crate) async fn restore_topic(
    store: &Store,
    config: &Config,
    request: &pbi::RestoreTopicRequest,
    now: Timestamp,
) -> Result<(TopicId, Versioned<Topic>), Failure> {
    let bytes = request.topic_id.as_ref().try_into().map_err(|_| Failure::field("topic_id", "is not a UUID"))?;
    let id = TopicId::from_bytes(bytes);
    let name = topics::own_name(&request.name)?;
    let numbers = request.replicas.iter().filter_map(|restored| Some(restored.replica.as_ref()?.partition));
    topics::check_count(numbers.max().unwrap_or(0).saturating_add(1), config)?;
    let _turn = store.topic_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let partitions = restored_partitions(&nodes::usable(store).await?, &request.replicas)?;
        let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let taken = store.get::<Name>(&topic::name_key(name.as_str())).await?.is_some();
        let known = store.get::<Topic>(&topic::key(id)).await?.is_some();
        let deleted = store.get::<Deleting>(&topic::deleting_key(id)).await?.is_some();
        if taken || known || deleted {
            let what = if taken { format!("topic \"{name}\"") } else { format!("topic id {id}") };
            let text = format!("{what} already exists or is being deleted");
            return Err(Failure::new(Reason::TopicExists, text).with("topic", name));
        }
        let (total, total_unchanged) = store.counter(PARTITIONS).await?;
        let total = Counter { value: grown(total, count, config)? };
        let value = Topic {
            name: name.as_str().to_owned(),
            partition_count: count,
            replication_factor: REPLICATION_DEFAULT,
            // Old records would be gone with the next check: how long they stay is decided after they have been seen.
            config: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
            labels: BTreeMap::new(),
            description: String::new(),
            created_ms: now,
        };
        let missing = [topic::name_key(name.as_str()), topic::key(id), topic::deleting_key(id)].map(Compare::Missing);
        let mut txn = Txn { compares: missing.into(), ops: Vec::new() };
        txn.compares.push(total_unchanged);
        txn.ops.push(put(topic::name_key(name.as_str()), &Name { id: id.to_string() }));
        txn.ops.push(put(topic::key(id), &value));
        txn.ops.push(put(PARTITIONS.to_owned(), &total));
        for (number, partition) in (0..).zip(&partitions) {
            txn.ops.push(put(partition::key(id, number), partition));
        }
        if let Some(mod_revision) = store.commit(txn).await? {
            return Ok((id, Versioned { value, mod_revision, key: topic::key(id) }));
        }
    }
    Err(contended())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node_id: i32, partition: i32, leader_epoch: i32) -> pbi::RestoredReplica {
        let replica = pbi::ReplicaReport { partition, leader_epoch, ..Default::default() };
        pbi::RestoredReplica { node_id, replica: Some(replica) }
    }

    #[test]
    fn a_restored_topic_has_its_partitions_where_their_data_lies_and_above_its_epochs() {
        let placed = restored_partitions(&[1, 2, 3], &[replica(2, 0, 4), replica(2, 3, 7)]).unwrap();
        let leaders: Vec<_> = placed.iter().map(|partition| partition.leader).collect();
        assert_eq!((leaders.len(), leaders[0], leaders[3]), (4, 2, 2));
        assert!(placed.iter().all(|partition| partition.leader_epoch == 8 && partition.isr == partition.replicas));
        let away = restored_partitions(&[1], &[replica(2, 0, 4)]).unwrap_err();
        assert_eq!(away.reason(), Reason::LeaderNotAvailable);
        assert!(restored_partitions(&[1], &[]).is_err());
    }
}
