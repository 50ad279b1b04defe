//! Changing and deleting topics.

use walser_metastore::{Compare, Txn};
use walser_model::{Timestamp, TopicId};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use super::{Found, canonical, check_count, check_texts, effective, find, grown};
use crate::config::Config;
use crate::keys::counter::{Counter, PARTITIONS};
use crate::keys::partition::{self, Partition};
use crate::keys::topic::{self, Deleting, Topic};
use crate::keys::{delete as remove, put};
use crate::nodes;
use crate::operations::deletion;
use crate::placement::{effective_min_isr, place};
use crate::store::{ATTEMPTS_MAX, Store, Versioned, contended, versioned};

fn check_etag(etag: &str, found: &Versioned<Topic>) -> Result<(), Failure> {
    let current = found.mod_revision.to_string();
    if etag.is_empty() || etag == current {
        return Ok(());
    }
    let text = format!("topic \"{}\" was changed since you read it; read it again", found.value.name);
    Err(Failure::new(Reason::EtagMismatch, text).with("etag", etag).with("currentEtag", current))
}

/// Most labels and settings in one request.
const CHANGES_MAX: usize = 1000;

/// Whether a request names anything to change, and nothing twice.
fn check_changes(request: &pb::UpdateTopicRequest) -> Result<(), Failure> {
    let pb::UpdateTopicRequest { config_updates, config_resets, label_updates, label_removals, .. } = request;
    let changes = config_updates.len() + config_resets.len() + label_updates.len() + label_removals.len();
    if changes == 0 && request.description.is_none() {
        return Err(Failure::field("config_updates", "the request names nothing to change"));
    }
    if changes > CHANGES_MAX {
        return Err(Failure::field("config_updates", format!("{changes} changes exceed the limit of {CHANGES_MAX}")));
    }
    if let Some(both) = config_resets.iter().find(|name| config_updates.contains_key(*name)) {
        return Err(Failure::field("config_resets", format!("\"{both}\" is in config_updates, too")));
    }
    match label_removals.iter().find(|name| label_updates.contains_key(*name)) {
        Some(both) => Err(Failure::field("label_removals", format!("\"{both}\" is in label_updates, too"))),
        None => Ok(()),
    }
}

/// Applies the changes of a request to a topic.
fn apply(topic: &mut Topic, request: &pb::UpdateTopicRequest) -> Result<(), Failure> {
    topic.config.extend(canonical(&request.config_updates.clone().into_iter().collect())?);
    for name in &request.config_resets {
        // It exists, or is one that another version has set.
        if topic.config.remove(name).is_none() {
            walser_model::Setting::require(name).map_err(super::config_failure)?;
        }
    }
    topic.labels.extend(request.label_updates.clone());
    topic.labels.retain(|name, _| !request.label_removals.contains(name));
    if let Some(description) = &request.description {
        topic.description.clone_from(description);
    }
    check_texts(&topic.labels, &topic.description)
}

/// Changes settings, labels or description. Returns the topic as it was, too.
pub(crate) async fn update(store: &Store, request: &pb::UpdateTopicRequest) -> Result<(Topic, Found), Failure> {
    check_changes(request)?;
    let _turn = store.topic_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let (id, found) = find(store, &request.name).await?;
        check_etag(&request.etag, &found)?;
        let mut topic = found.value.clone();
        apply(&mut topic, request)?;
        let settings = effective(&topic.config, topic.replication_factor)?;
        let before = found.value.clone();
        if request.validate_only {
            return Ok((before, (id, Versioned { value: topic, ..found })));
        }
        let min_isr = effective_min_isr(settings.min_insync_replicas, topic.replication_factor);
        let mut txn = Txn { compares: vec![found.unchanged()], ops: vec![put(topic::key(id), &topic)] };
        for entry in store.range(&partition::topic_prefix(id)).await? {
            // Leader and controller use the partition's own value (amendment A3), so it changes in this transaction.
            let partition = versioned::<Partition>(&entry)?;
            if partition.value.min_isr != min_isr {
                txn.compares.push(partition.unchanged());
                txn.ops.push(put(partition.key, &Partition { min_isr, ..partition.value }));
            }
        }
        if let Some(revision) = store.commit(txn).await? {
            return Ok((before, (id, Versioned { value: topic, mod_revision: revision, key: topic::key(id) })));
        }
    }
    Err(contended())
}

/// Adds partitions. Returns how many there were, too.
pub(crate) async fn add_partitions(
    store: &Store,
    config: &Config,
    request: &pb::AddPartitionsRequest,
) -> Result<(i32, Found), Failure> {
    let _turn = store.topic_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let (id, found) = find(store, &request.topic).await?;
        let (now, wanted) = (found.value.partition_count, request.partition_count);
        if wanted <= now {
            let text = format!("must be larger than the present {now}: a topic cannot lose partitions");
            return Err(Failure::field("partition_count", text).with("partitionCount", now));
        }
        check_count(wanted, config)?;
        let settings = effective(&found.value.config, found.value.replication_factor)?;
        let nodes = nodes::usable(store).await?;
        let replication = found.value.replication_factor;
        let min_isr = effective_min_isr(settings.min_insync_replicas, replication);
        let placed = place(&nodes, now, wanted, replication, min_isr)?;
        let (total, total_unchanged) = store.counter(PARTITIONS).await?;
        let total = grown(total, wanted - now, config)?;
        let topic = Topic { partition_count: wanted, ..found.value.clone() };
        if request.validate_only {
            return Ok((now, (id, Versioned { value: topic, ..found })));
        }
        let mut txn = Txn {
            compares: vec![found.unchanged(), total_unchanged],
            ops: vec![put(topic::key(id), &topic), put(PARTITIONS.to_owned(), &Counter { value: total })],
        };
        for (number, partition) in (now..).zip(&placed) {
            txn.ops.push(put(partition::key(id, number), partition));
        }
        if let Some(revision) = store.commit(txn).await? {
            return Ok((now, (id, Versioned { value: topic, mod_revision: revision, key: topic::key(id) })));
        }
    }
    Err(contended())
}

/// Takes a topic out of the metadata; its data goes away on the nodes afterwards. Returns its id, too.
pub(crate) async fn delete(
    store: &Store,
    request: &pb::DeleteTopicRequest,
    operation: &str,
    now: Timestamp,
) -> Result<(TopicId, pb::Operation), Failure> {
    let _turn = store.topic_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let (id, found) = find(store, &request.name).await?;
        check_etag(&request.etag, &found)?;
        let (total, total_unchanged) = store.counter(PARTITIONS).await?;
        let count = found.value.partition_count;
        let total = Counter { value: (total - i64::from(count)).max(0) };
        let mut deleting = Deleting {
            name: found.value.name.clone(),
            operation: operation.to_owned(),
            partition_count: count,
            started_ms: now,
            nodes: Vec::new(),
        };
        let mut txn = Txn { compares: vec![found.unchanged(), total_unchanged], ops: Vec::new() };
        for entry in store.range(&partition::topic_prefix(id)).await? {
            let partition = versioned::<Partition>(&entry)?;
            deleting.nodes.extend(&partition.value.replicas);
            txn.compares.push(partition.unchanged());
            txn.ops.push(remove(partition.key));
        }
        deleting.nodes.sort_unstable();
        deleting.nodes.dedup();
        txn.ops.push(remove(topic::name_key(&found.value.name)));
        txn.ops.push(remove(topic::key(id)));
        txn.ops.push(put(PARTITIONS.to_owned(), &total));
        txn.ops.push(put(topic::deleting_key(id), &deleting));
        if store.commit(txn).await?.is_some() {
            return Ok((id, deletion(&deleting, None)));
        }
    }
    Err(contended())
}

/// A node has nothing of a deleted topic any more. Gives back the operation when it was the last one.
pub(crate) async fn removed(
    store: &Store,
    id: TopicId,
    node: i32,
    now: Timestamp,
) -> Result<Option<pb::Operation>, Failure> {
    let _turn = store.node_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let Some(found) = store.get::<Deleting>(&topic::deleting_key(id)).await? else { return Ok(None) };
        let mut deleting = found.value.clone();
        deleting.nodes.retain(|left| *left != node);
        if deleting.nodes == found.value.nodes && !deleting.nodes.is_empty() {
            // A node that had none of it; writing the tombstone again would tell it to all others again.
            return Ok(None);
        }
        let done = deleting.nodes.is_empty();
        let op = if done { remove(topic::deleting_key(id)) } else { put(topic::deleting_key(id), &deleting) };
        let compares = vec![Compare::ModifiedAt(found.key, found.mod_revision)];
        if store.commit(Txn { compares, ops: vec![op] }).await?.is_some() {
            return Ok(done.then(|| deletion(&deleting, Some(now))));
        }
    }
    Err(contended())
}
