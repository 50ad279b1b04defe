//! What is read from the metadata store itself, before there is a view, or because it is a counter.

use std::sync::Arc;

use walser_metadata::value::Value;
use walser_metastore::{Compare, KeyValue, Metastore, Outcome, Revision, StoreError, Txn, read_all};
use walser_model::{ClusterId, Timestamp};
use walser_replication::control::ControllerStart;
use walser_rpc::ApiError;

use crate::committer::maybe;
use crate::config::Config;
use crate::error::store_failure;
use crate::keys::cluster::{self, ClusterRecord};
use crate::keys::counter::{Counter, INTERNAL_PRODUCER_IDS, PRODUCER_IDS};
use crate::keys::lineage::{self, Lineage, Lineages};
use crate::keys::{decode, delete, put, transfer};
use crate::leadership::ControllerLead;
use crate::topics::{ATTEMPTS_MAX, contended};
use crate::turns::Turns;

/// Lineages that are kept.
const LINEAGES_MAX: usize = 256;
/// Leader epochs that a start skips in a partition. Exclusive. Large against those that begin between a copy of the metadata
/// and its use, and small enough for more than a hundred thousand starts.
const EPOCHS_SKIPPED_MAX: u128 = 16_384;
/// With each start producer ids go on by up to this many: enough that two copies never meet, and few enough for
/// millions of starts.
const PRODUCER_ID_JUMP_MAX: u128 = 1 << 40;

/// The metadata store as the controller uses it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<dyn Metastore>,
    lead: ControllerLead,
    /// Of decisions that hand out producer ids.
    pub(crate) producer_id_turns: Turns,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Committed(Revision),
    /// A condition did not hold: nothing was written.
    Conflict,
    /// It may have been written.
    Unknown,
}

impl Attempt {
    /// What became of the others is found when they are decided again.
    fn revision(self) -> Option<Revision> {
        match self {
            Self::Committed(revision) => Some(revision),
            Self::Conflict | Self::Unknown => None,
        }
    }
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
    pub(crate) fn new(inner: Arc<dyn Metastore>, lead: ControllerLead) -> Self {
        Self { inner, lead, producer_id_turns: Turns::new(1) }
    }

    pub(crate) async fn get<V: Value>(&self, key: &str) -> Result<Option<Versioned<V>>, ApiError> {
        let (entry, _) = self.inner.get(key).await.map_err(store_failure)?;
        entry.as_ref().map(versioned).transpose()
    }

    /// Makes every later revision greater than `floor`.
    pub(crate) async fn raise_revision(&self, floor: Revision) -> Result<Revision, ApiError> {
        self.lead.epoch()?;
        self.inner.raise_revision(floor).await.map_err(store_failure)
    }

    /// Commits, if this controller leads; `None` when a condition did not hold, or it is not known, and the decision must be
    /// taken again.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Option<Revision>, ApiError> {
        Ok(self.attempt(txn).await?.revision())
    }

    /// Tries to commit, if this controller leads.
    pub(crate) async fn attempt(&self, mut txn: Txn) -> Result<Attempt, ApiError> {
        txn.compares.push(self.lead.guard(self.lead.epoch()?));
        self.attempt_unled(txn).await
    }

    /// The same whoever leads: for what comes before there is a leader.
    async fn attempt_unled(&self, txn: Txn) -> Result<Attempt, ApiError> {
        match self.inner.transact(txn).await {
            Ok(Outcome::Committed(revision)) => Ok(Attempt::Committed(revision)),
            Ok(Outcome::Conflict { .. }) => Ok(Attempt::Conflict),
            Err(StoreError::Unknown(_)) => Ok(Attempt::Unknown),
            Err(error) => Err(store_failure(error)),
        }
    }

    /// Makes the cluster at the first start, or reads it.
    pub(crate) async fn ensure_cluster(
        &self,
        config: &Config,
        random: [u8; 16],
        now: Timestamp,
    ) -> Result<ClusterId, ApiError> {
        loop {
            if let Some(found) = self.get::<ClusterRecord>(cluster::KEY).await? {
                return found.value.id.parse().map_err(|_| ApiError::internal("the cluster's id is not readable"));
            }
            self.check_place().await?;
            let (id, name) = (ClusterId::from_random(random).to_string(), config.cluster_name.clone());
            let Config { replication_factor, min_insync_replicas, .. } = *config;
            let new = ClusterRecord::new(id, name, now);
            let value = ClusterRecord { replication_factor, min_insync_replicas, ..new };
            let compares = vec![Compare::Missing(cluster::KEY.to_owned()), no_import()];
            self.attempt_unled(Txn { compares, ops: vec![put(cluster::KEY.to_owned(), &value)] }).await?;
        }
    }

    /// Changes the cluster's record. Returns it as it was, and as it is, or would be with `validate_only`.
    pub(crate) async fn change_cluster(
        &self,
        change: impl Fn(&ClusterRecord) -> Result<ClusterRecord, ApiError>,
        validate_only: bool,
    ) -> Result<(ClusterRecord, ClusterRecord), ApiError> {
        let mut unsure = false;
        let changed = self.try_change_cluster(change, validate_only, &mut unsure).await;
        changed.map_err(|failure| if unsure { maybe(&failure) } else { failure })
    }

    /// `unsure`: whether something may have been written, also when this fails.
    async fn try_change_cluster(
        &self,
        change: impl Fn(&ClusterRecord) -> Result<ClusterRecord, ApiError>,
        validate_only: bool,
        unsure: &mut bool,
    ) -> Result<(ClusterRecord, ClusterRecord), ApiError> {
        let mut first = None;
        for _ in 0..ATTEMPTS_MAX {
            let missing = || ApiError::internal("the cluster has no record");
            let found = self.get::<ClusterRecord>(cluster::KEY).await?.ok_or_else(missing)?;
            let changed = change(&found.value)?;
            let before = first.get_or_insert_with(|| found.value.clone());
            // Written by this very call, when the outcome was not known.
            if validate_only || changed == found.value {
                return Ok((before.clone(), changed));
            }
            let compares = vec![found.unchanged()];
            let ops = vec![put(cluster::KEY.to_owned(), &changed)];
            match self.attempt(Txn { compares, ops }).await? {
                Attempt::Committed(_) => return Ok((before.clone(), changed)),
                Attempt::Conflict => {}
                Attempt::Unknown => *unsure = true,
            }
        }
        Err(contended())
    }

    /// The lineages of the metadata.
    async fn lineages(&self) -> Result<Lineages, ApiError> {
        let mut lineages = Lineages::default();
        for entry in read_all(&*self.inner, lineage::PREFIX).await.map_err(store_failure)?.entries {
            let found = decode::<Lineage>(&entry)?;
            let first = found.first(entry.create_revision);
            lineages.put(&entry.key, found.id, first);
        }
        Ok(lineages)
    }

    async fn has(&self, key: &str) -> Result<bool, ApiError> {
        Ok(self.inner.get(key).await.map_err(store_failure)?.0.is_some())
    }

    /// Refuses a store into which metadata is being imported, or out of which it was exported.
    async fn check_place(&self) -> Result<(), ApiError> {
        let text = match () {
            () if self.has(transfer::KEY).await? => {
                "an import into this metadata store has not ended: run it again with the same file"
            }
            () if self.has(transfer::MOVED).await? => {
                "this metadata was exported, and goes on in another store; `walser metadata reopen` uses it again, where \
                 nothing was started on the other one"
            }
            () => return Ok(()),
        };
        Err(ApiError::internal(text))
    }

    /// Begins a lineage with this start of a controller. Leader epochs and producer ids go on a long random way ahead: a
    /// copy of the metadata that is started again hands out others than the one that went on.
    pub(crate) async fn begin_lineage(&self, random: [u8; 16]) -> Result<ControllerStart, ApiError> {
        loop {
            self.check_place().await?;
            let starts = self.lineages().await?.starts;
            let own = ClusterId::from_random(random).to_string();
            let started = |number: i64| {
                let epochs_skipped = i32::try_from(u128::from_be_bytes(random) % EPOCHS_SKIPPED_MAX).unwrap_or(0);
                ControllerStart { number: number + 1, epochs_skipped }
            };
            if let Some((number, ..)) = starts.iter().find(|(_, id, _)| *id == own) {
                // Written, although the outcome was not known.
                return Ok(started(*number));
            }
            let number = starts.last().map_or(0, |(number, ..)| number + 1);
            let compares = vec![Compare::Missing(lineage::key(number)), no_import(), not_moved()];
            let mut txn = Txn { compares, ops: Vec::new() };
            txn.ops.push(put(lineage::key(number), &Lineage::new(&own)));
            let surplus = (starts.len() + 1).saturating_sub(LINEAGES_MAX);
            txn.ops.extend(starts.iter().take(surplus).map(|(number, ..)| delete(lineage::key(*number))));
            if number > 0 {
                let jump = i64::try_from(u128::from_be_bytes(random) % PRODUCER_ID_JUMP_MAX).unwrap_or(1) + 1;
                for key in [PRODUCER_IDS, INTERNAL_PRODUCER_IDS] {
                    let (next, unchanged) = self.counter(key).await?;
                    txn.compares.push(unchanged);
                    let value = Counter { value: next.saturating_add(jump) };
                    txn.ops.push(put(key.to_owned(), &value));
                }
            }
            if self.attempt_unled(txn).await?.revision().is_some() {
                return Ok(started(number));
            }
        }
    }

    /// Reads a counter; a missing one is 0. The condition says that nobody changed it since.
    pub(crate) async fn counter(&self, key: &str) -> Result<(i64, Compare), ApiError> {
        let found = self.get::<Counter>(key).await?;
        Ok(match found {
            Some(found) => (found.value.value, found.unchanged()),
            None => (0, Compare::Missing(key.to_owned())),
        })
    }
}

/// The condition that no import is under way, which would take what is written for its own.
fn no_import() -> Compare {
    Compare::Missing(transfer::KEY.to_owned())
}

/// The condition that the metadata was not exported.
fn not_moved() -> Compare {
    Compare::Missing(transfer::MOVED.to_owned())
}

/// Reads a value with its revision.
pub(crate) fn versioned<V: Value>(entry: &KeyValue) -> Result<Versioned<V>, ApiError> {
    Ok(Versioned { value: decode(entry)?, mod_revision: entry.mod_revision, key: entry.key.clone() })
}
