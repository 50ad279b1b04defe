//! Storage nodes: registration, fencing, and the leadership that follows from both.

use walser_metastore::{Compare, Op, Txn};
use walser_model::{Timestamp, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_rpc::{Failure, Reason};

use crate::config::Config;
use crate::keys::node::{self, Live, Registration};
use crate::keys::partition::{self, Partition};
use crate::keys::{decode, put};
use crate::store::{ATTEMPTS_MAX, Store, contended, versioned};

/// A storage node as it stands in the store.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: i32,
    pub(crate) registration: Registration,
    pub(crate) node_epoch: i64,
    pub(crate) fenced: bool,
}

/// Every storage node, by id.
pub(crate) async fn list(store: &Store) -> Result<Vec<Known>, Failure> {
    let mut known: Vec<Known> = Vec::new();
    let mut fenced = Vec::new();
    for entry in store.range(node::PREFIX).await? {
        match node::parse(&entry.key) {
            Some((id, true)) => {
                let registration = decode(&entry)?;
                known.push(Known { id, registration, node_epoch: entry.mod_revision, fenced: false });
            }
            Some((id, false)) if decode::<Live>(&entry)?.fenced => fenced.push(id),
            _ => {}
        }
    }
    for node in &mut known {
        node.fenced = fenced.contains(&node.id);
    }
    Ok(known)
}

/// Ids of nodes that can take replicas, ascending.
pub(crate) async fn usable(store: &Store) -> Result<Vec<i32>, Failure> {
    Ok(list(store).await?.into_iter().filter(|node| !node.fenced).map(|node| node.id).collect())
}

/// Registers a storage node. Its partitions get a new leader epoch in the same transaction, so that nothing of its
/// earlier incarnation counts any more; those without a leader for which it is in sync are led by it.
pub(crate) async fn register(
    store: &Store,
    config: &Config,
    request: &pbi::RegisterNodeRequest,
    now: Timestamp,
) -> Result<i64, Failure> {
    let id = request.node_id;
    let registration = Registration {
        incarnation: request.incarnation.clone(),
        roles: request.roles.clone(),
        internal_address: request.internal_address.clone(),
        public_address: request.public_address.clone(),
        rack: request.rack.clone(),
        version: request.version.clone(),
        started_ms: now,
        directory: hex(&request.directory_id),
    };
    let _turn = store.node_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = sweep(store, id, |partition| {
            let leads = partition.leader == id;
            let can_lead = partition.leader == -1 && partition.isr.contains(&id);
            (leads || can_lead).then(|| Partition {
                leader: id,
                leader_epoch: partition.leader_epoch + 1,
                ..partition.clone()
            })
        })
        .await?;
        txn.compares.push(vacant(store, config, id, &registration).await?);
        txn.ops.push(put(node::registration_key(id), &registration));
        txn.ops.push(put(node::live_key(id), &Live { fenced: false }));
        if let Some(revision) = store.commit(txn).await? {
            return Ok(revision);
        }
    }
    Err(contended())
}

/// The condition under which a node may register: nobody does meanwhile. Refuses one with another data directory while
/// the node that is registered is not fenced: both would acknowledge records under the same offsets.
async fn vacant(store: &Store, config: &Config, id: i32, new: &Registration) -> Result<Compare, Failure> {
    let key = node::registration_key(id);
    let Some(found) = store.get::<Registration>(&key).await? else { return Ok(Compare::Missing(key)) };
    let live = store.get::<Live>(&node::live_key(id)).await?.is_some_and(|live| !live.value.fenced);
    let other = &found.value;
    let same = other.directory.is_empty() || other.directory == new.directory || other.incarnation == new.incarnation;
    // Where everything runs in one process, its lock on the data directory says that no other is there.
    if live && !same && !config.standalone {
        let text = format!(
            "storage node {id} is in service on another data directory (instance {}, since {}); give this one an id of \
             its own, or stop that one and wait until its session is over",
            other.incarnation, other.started_ms
        );
        return Err(Failure::new(Reason::NodeIdInUse, text).with("nodeId", id));
    }
    Ok(found.unchanged())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Begins a new leader epoch of a partition for the node that leads it in `epoch`, above that and `above`; returns the
/// new one.
pub(crate) async fn renew_epoch(
    store: &Store,
    node_epoch: i64,
    id: TopicPartition,
    epoch: i32,
    above: i32,
) -> Result<i32, Failure> {
    let stale = || {
        let text = format!("the caller does not lead partition {id} in epoch {epoch} any more");
        Failure::new(Reason::StaleEpoch, text).with("epoch", epoch)
    };
    let _turn = store.node_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let key = partition::key(id.topic, id.partition.0);
        let found = store.get::<Partition>(&key).await?.ok_or_else(stale)?;
        let registration = node::registration_key(found.value.leader);
        let registered = store.get::<Registration>(&registration).await?.ok_or_else(stale)?;
        if registered.mod_revision != node_epoch || found.value.leader_epoch != epoch {
            return Err(stale());
        }
        let leader_epoch = epoch.max(above).saturating_add(1);
        let compares = vec![found.unchanged(), registered.unchanged()];
        let ops = vec![put(key, &Partition { leader_epoch, ..found.value })];
        if store.commit(Txn { compares, ops }).await?.is_some() {
            return Ok(leader_epoch);
        }
    }
    Err(contended())
}

/// Fences a node whose session is over: it leads nothing until it registers again.
pub(crate) async fn fence(store: &Store, id: i32, node_epoch: i64) -> Result<(), Failure> {
    let _turn = store.node_turns.next().await?;
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = sweep(store, id, |partition| {
            (partition.leader == id).then(|| Partition {
                leader: -1,
                leader_epoch: partition.leader_epoch + 1,
                ..partition.clone()
            })
        })
        .await?;
        txn.compares.push(Compare::ModifiedAt(node::registration_key(id), node_epoch));
        txn.ops.push(put(node::live_key(id), &Live { fenced: true }));
        let registered = store.get::<Registration>(&node::registration_key(id)).await?;
        if registered.is_none_or(|found| found.mod_revision != node_epoch) {
            return Ok(());
        }
        if store.commit(txn).await?.is_some() {
            return Ok(());
        }
    }
    Err(contended())
}

/// The transaction that changes every partition of a node for which `decide` says how.
async fn sweep(store: &Store, id: i32, decide: impl Fn(&Partition) -> Option<Partition>) -> Result<Txn, Failure> {
    let mut txn = Txn::default();
    for entry in store.range(partition::PREFIX).await? {
        let found = versioned::<Partition>(&entry)?;
        if !found.value.replicas.contains(&id) {
            continue;
        }
        if let Some(changed) = decide(&found.value) {
            txn.compares.push(found.unchanged());
            txn.ops.push(put(found.key, &changed));
        }
    }
    debug_assert!(txn.ops.iter().all(|op| matches!(op, Op::Put { .. })), "a sweep removes nothing");
    Ok(txn)
}
