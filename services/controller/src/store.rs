//! Typed access to the metadata store.

use std::sync::Arc;

use walser_metastore::{Compare, KeyValue, Metastore, Outcome, Revision, Txn, read_all};
use walser_model::{ClusterId, Timestamp};
use walser_rpc::Failure;

use crate::config::Config;
use crate::error::store_failure;
use crate::keys::lineage::{self, Lineage, Lineages};
use crate::keys::{self, Value, cluster, decode, delete, put};
use crate::turns::Turns;

/// A decision is taken again this often when another one came between. Decisions of its own kind wait for it
/// ([`Turns`]); those of other kinds change a key that it read now and then.
pub(crate) const ATTEMPTS_MAX: usize = 100;

/// Lineages that are kept.
const LINEAGES_MAX: usize = 256;
/// With each start producer ids go on by up to this many: enough that two copies never meet, and few enough for
/// millions of starts.
const PRODUCER_ID_JUMP_MAX: u128 = 1 << 40;

/// The metadata store as the controller uses it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<dyn Metastore>,
    config: Config,
    /// Of decisions that change which topics and partitions there are, or their settings.
    pub(crate) topic_turns: Turns,
    /// Of decisions that hand out producer ids.
    pub(crate) producer_id_turns: Turns,
    /// Of decisions about nodes and who leads. They never wait for users: a node that waits is taken for dead.
    pub(crate) node_turns: Turns,
}

/// A value with the revision that a later write compares.
#[derive(Debug, Clone)]
pub(crate) struct Versioned<V> {
    pub(crate) value: V,
    pub(crate) mod_revision: Revision,
    pub(crate) key: String,
}

impl<V> Versioned<V> {
    /// The condition that nobody changed it since.
    pub(crate) fn unchanged(&self) -> Compare {
        Compare::ModifiedAt(self.key.clone(), self.mod_revision)
    }
}

impl Store {
    pub(crate) fn new(inner: Arc<dyn Metastore>, config: Config) -> Self {
        let (topic_turns, producer_id_turns, node_turns) = Default::default();
        Self { inner, config, topic_turns, producer_id_turns, node_turns }
    }

    /// The store itself, for watches.
    pub(crate) fn inner(&self) -> &Arc<dyn Metastore> {
        &self.inner
    }

    pub(crate) async fn get<V: Value>(&self, key: &str) -> Result<Option<Versioned<V>>, Failure> {
        let (entry, _) = self.inner.get(key).await.map_err(store_failure)?;
        entry.as_ref().map(versioned).transpose()
    }

    /// The store's revision, as of now.
    pub(crate) async fn revision(&self) -> Result<Revision, Failure> {
        Ok(self.inner.get(cluster::KEY).await.map_err(store_failure)?.1)
    }

    /// Makes every later revision greater than `floor`.
    pub(crate) async fn raise_revision(&self, floor: Revision) -> Result<Revision, Failure> {
        self.inner.raise_revision(floor).await.map_err(store_failure)
    }

    pub(crate) async fn range(&self, prefix: &str) -> Result<Vec<KeyValue>, Failure> {
        Ok(read_all(&*self.inner, prefix).await.map_err(store_failure)?.entries)
    }

    /// Commits; `None` when a condition did not hold and the decision must be taken again.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Option<Revision>, Failure> {
        match self.inner.transact(txn).await.map_err(store_failure)? {
            Outcome::Committed(revision) => Ok(Some(revision)),
            Outcome::Conflict { .. } => Ok(None),
        }
    }

    /// Makes the cluster at the first start, or reads it.
    pub(crate) async fn ensure_cluster(&self, random: [u8; 16], now: Timestamp) -> Result<ClusterId, Failure> {
        loop {
            if let Some(found) = self.get::<cluster::Cluster>(cluster::KEY).await? {
                return found.value.id.parse().map_err(|_| Failure::internal("the cluster's id is not readable"));
            }
            let id = ClusterId::from_random(random).to_string();
            let value = cluster::Cluster { id, name: self.config.cluster_name.clone(), created_ms: now };
            let compares = vec![Compare::Missing(cluster::KEY.to_owned())];
            self.commit(Txn { compares, ops: vec![put(cluster::KEY.to_owned(), &value)] }).await?;
        }
    }

    /// The lineages of the metadata.
    pub(crate) async fn lineages(&self) -> Result<Lineages, Failure> {
        let mut lineages = Lineages::default();
        for entry in self.range(lineage::PREFIX).await? {
            let id = decode::<Lineage>(&entry)?.id;
            match lineage::parse(&entry.key) {
                Some(number) => lineages.starts.push((number, id, entry.create_revision)),
                None => lineages.accepted.push(id),
            }
        }
        Ok(lineages)
    }

    /// Begins a lineage with this start of a controller; returns its id. Producer ids go on a long random way ahead: a
    /// copy of the metadata that is started again hands out others than the one that went on.
    pub(crate) async fn begin_lineage(&self, random: [u8; 16]) -> Result<String, Failure> {
        loop {
            let starts = self.lineages().await?.starts;
            let number = starts.last().map_or(0, |(number, ..)| number + 1);
            let id = ClusterId::from_random(random).to_string();
            let mut txn = Txn { compares: vec![Compare::Missing(lineage::key(number))], ops: Vec::new() };
            txn.ops.push(put(lineage::key(number), &Lineage { id: id.clone() }));
            let surplus = (starts.len() + 1).saturating_sub(LINEAGES_MAX);
            txn.ops.extend(starts.iter().take(surplus).map(|(number, ..)| delete(lineage::key(*number))));
            if number > 0 {
                let jump = i64::try_from(u128::from_be_bytes(random) % PRODUCER_ID_JUMP_MAX).unwrap_or(1) + 1;
                for key in [keys::counter::PRODUCER_IDS, keys::counter::INTERNAL_PRODUCER_IDS] {
                    let (next, unchanged) = self.counter(key).await?;
                    txn.compares.push(unchanged);
                    let value = keys::counter::Counter { value: next.saturating_add(jump) };
                    txn.ops.push(put(key.to_owned(), &value));
                }
            }
            if self.commit(txn).await?.is_some() {
                return Ok(id);
            }
        }
    }

    /// Reads a counter; a missing one is 0. The condition says that nobody changed it since.
    pub(crate) async fn counter(&self, key: &str) -> Result<(i64, Compare), Failure> {
        let found = self.get::<keys::counter::Counter>(key).await?;
        Ok(match found {
            Some(found) => (found.value.value, found.unchanged()),
            None => (0, Compare::Missing(key.to_owned())),
        })
    }
}

/// Reads a value with its revision.
pub(crate) fn versioned<V: Value>(entry: &KeyValue) -> Result<Versioned<V>, Failure> {
    Ok(Versioned { value: decode(entry)?, mod_revision: entry.mod_revision, key: entry.key.clone() })
}

/// The answer when a decision was overtaken every time.
pub(crate) fn contended() -> Failure {
    Failure::new(walser_rpc::Reason::ControllerNotAvailable, "too many changes at once; nothing was done, try again")
}
