//! Group coordinators: which of them live, and which of them has which shard of groups.
//!
//! A coordinator keeps nothing: it is there while it is heard, under an id that is new with every start. All controllers
//! hear all coordinators, so that a successor knows which of them live; the one that leads gives the shards to those. Each
//! time a shard is given to another coordinator its epoch grows. The coordinator writes that to the log of the shard, which
//! ends the work of the one before: nothing here has to wait until that one has stopped.

mod assignment;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use walser_metadata::value::GroupShardValue;
use walser_metastore::{Compare, Revision, Txn};
use walser_model::Clock;
use walser_rpc::{ApiError, CoordinatorBeat, GROUP_SHARDS, Outage, Reason};

use crate::cluster_view::ClusterView;
use crate::keys::{group_shard, put};
use crate::leadership::ControllerLead;
use crate::pauses::Pauses;
use crate::store::Store;
use crate::views::Views;

/// A coordinator that is not heard for longer has no shards any more.
const SESSION: Duration = Duration::from_millis(1500);
/// How often silent ones are looked for.
const CHECK: Duration = Duration::from_millis(100);
/// Coordinators that are known at once.
const COORDINATORS_MAX: usize = 1_000;

/// What was said by coordinators. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coordinators {
    inner: Arc<Mutex<Inner>>,
    /// There is something new.
    bell: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By id.
    heard: BTreeMap<String, Heard>,
    /// The highest epochs in the logs of shards, where a coordinator has found one above its own.
    outdated: BTreeMap<i32, i64>,
}

/// A coordinator.
#[derive(Debug, Clone)]
struct Heard {
    address: String,
    /// Monotonic time of the first beat.
    since: Duration,
    /// Monotonic time of the last beat.
    at: Duration,
    stopping: bool,
    /// It was not heard here yet, and keeps what it has for the time of a session. It gets nothing.
    expected: bool,
    /// Another one is at its address, which would get what is meant for this one. It gets nothing.
    refused: bool,
}

/// What gives shards to coordinators.
#[derive(Debug, Clone)]
pub(crate) struct ShardDuty {
    pub(crate) coordinators: Coordinators,
    pub(crate) store: Store,
    pub(crate) views: Views,
    pub(crate) lead: ControllerLead,
    pub(crate) clock: Arc<dyn Clock>,
    /// Everything runs in one process: whoever is not heard is not there.
    pub(crate) standalone: bool,
}

// === impl Coordinators ===

impl Coordinators {
    /// A coordinator has said something.
    ///
    /// # Errors
    /// There are too many of them, a field is not of the contract, or another one that lives is at its address.
    pub(crate) fn beat(&self, beat: &CoordinatorBeat, now: Duration) -> Result<(), ApiError> {
        let CoordinatorBeat { id, address, stopping, outdated } = beat;
        if id.is_empty() || id.len() > 64 {
            return Err(ApiError::field("coordinator_id", "must be a UUID"));
        }
        let mut inner = self.inner.lock();
        let known = inner.heard.get(id).map(|heard| (heard.stopping, heard.refused, heard.since));
        if known.is_none() && inner.heard.len() >= COORDINATORS_MAX {
            let text = format!("there are {COORDINATORS_MAX} group coordinators, as many as may be");
            return Err(ApiError::new(Reason::QuotaExceeded, text).with("limit", COORDINATORS_MAX));
        }
        let mut news = false;
        for (shard, epoch) in outdated.iter().filter(|(shard, _)| (0..GROUP_SHARDS).contains(shard)) {
            let known = inner.outdated.entry(*shard).or_insert(0);
            news |= *known < epoch.0;
            *known = (*known).max(epoch.0);
        }
        let since = known.map_or(now, |(.., since)| since);
        // One that stops is in nobody's way.
        let other = inner.at_address(id, address, since).filter(|_| !stopping);
        let refused = other.is_some();
        let (address, stopping) = (address.clone(), *stopping);
        news |= known.is_none_or(|known| known != (stopping, refused, since));
        inner.heard.insert(id.clone(), Heard { address, since, at: now, stopping, expected: false, refused });
        drop(inner);
        if news {
            self.bell.notify_one();
        }
        other.map_or(Ok(()), |other| Err(address_in_use(id, &other, &beat.address)))
    }

    /// What stands against coordinators that are refused.
    pub(crate) fn refused(&self) -> Vec<ApiError> {
        let inner = self.inner.lock();
        let refused = inner.heard.iter().filter(|(_, heard)| heard.refused);
        let why = |(id, heard): (&String, &Heard)| {
            Some(address_in_use(id, &inner.at_address(id, &heard.address, heard.since)?, &heard.address))
        };
        refused.filter_map(why).collect()
    }

    /// Whether a coordinator that wants to stop has no shards any more, or nobody else is there to take them.
    pub(crate) fn may_stop(&self, id: &str, view: &ClusterView) -> bool {
        !self.any_living() || view.metadata.group_shards().all(|(_, given)| given.value.coordinator != id)
    }

    /// Whether anybody could take shards.
    pub(crate) fn any_living(&self) -> bool {
        self.living() > 0
    }

    /// How many could take shards. Those that were not heard here yet count.
    pub(crate) fn living(&self) -> usize {
        self.inner.lock().heard.values().filter(|heard| heard.would_have_shards()).count()
    }

    /// Nobody could be heard for this long: it counts for nobody.
    fn extend(&self, pause: Duration, now: Duration) {
        for heard in self.inner.lock().heard.values_mut() {
            heard.at = (heard.at + pause).min(now);
            heard.since = (heard.since + pause).min(heard.at);
        }
    }

    /// Forgets those that are not heard any more.
    fn forget_silent(&self, now: Duration) {
        let mut inner = self.inner.lock();
        inner.heard.retain(|_, heard| now.saturating_sub(heard.at) <= SESSION);
    }

    /// Those that have shards and were not heard here yet get the time of a session to be heard.
    fn expect(&self, view: &ClusterView, now: Duration) {
        let mut inner = self.inner.lock();
        for (_, given) in view.metadata.group_shards() {
            let GroupShardValue { coordinator, address, .. } = &given.value;
            let expected = || Heard {
                address: address.clone(),
                since: now,
                at: now,
                stopping: false,
                expected: true,
                refused: false,
            };
            inner.heard.entry(coordinator.clone()).or_insert_with(expected);
        }
    }

    /// What is to be written, if anything is.
    fn decide(&self, view: &ClusterView) -> Txn {
        let inner = self.inner.lock();
        let given = |shard: i32| view.metadata.group_shard(shard);
        let owners: Vec<_> =
            (0..GROUP_SHARDS).map(|shard| given(shard).map(|entry| &*entry.value.coordinator)).collect();
        let living = inner.heard.iter().filter(|(_, heard)| heard.would_have_shards()).map(|(id, _)| id.as_str());
        let moves = assignment::moves(&owners, &living.collect::<BTreeSet<_>>());
        let moves = moves.into_iter().filter_map(|(shard, id)| Some((i32::try_from(shard).ok()?, id)));
        let mut to: BTreeMap<i32, &str> = moves.collect();
        // One whose epoch lies below that of its log gets its shard again: of no other one that can be true.
        for (shard, in_log) in &inner.outdated {
            if let Some(entry) = given(*shard).filter(|entry| entry.value.epoch < *in_log) {
                to.entry(*shard).or_insert(&entry.value.coordinator);
            }
        }
        let mut txn = Txn { compares: Vec::new(), ops: Vec::new() };
        for (shard, id) in to {
            let Some(heard) = inner.heard.get(id).filter(|heard| !heard.expected) else { continue };
            let (key, before) = (group_shard::key(shard), given(shard));
            txn.compares.push(match before {
                Some(entry) => Compare::ModifiedAt(key.clone(), entry.revision),
                None => Compare::Missing(key.clone()),
            });
            let in_log = inner.outdated.get(&shard).copied().unwrap_or(0);
            let epoch = before.map_or(0, |entry| entry.value.epoch).max(in_log).saturating_add(1);
            let unknown = before.map(|entry| entry.value.unknown.clone()).unwrap_or_default();
            let (coordinator, address) = (id.to_owned(), heard.address.clone());
            txn.ops.push(put(key, &GroupShardValue { coordinator, address, epoch, unknown }));
        }
        txn
    }
}

// === impl Inner ===

impl Inner {
    /// Another coordinator at this address that came before `since` and was heard after that: both live. One that was
    /// restarted has a new id, and the one before is not heard again.
    fn at_address(&self, id: &str, address: &str, since: Duration) -> Option<String> {
        let both_live = |(other, heard): &(&String, &Heard)| {
            let first = (heard.since, other.as_str()) < (since, id);
            first && heard.address == address && heard.at > since && heard.would_have_shards()
        };
        // In one process there is one, without an address.
        self.heard.iter().filter(|_| !address.is_empty()).find(both_live).map(|(other, _)| other.clone())
    }
}

// === impl Heard ===

impl Heard {
    fn would_have_shards(&self) -> bool {
        !self.stopping && !self.refused
    }
}

// === impl ShardDuty ===

impl ShardDuty {
    /// Gives shards to coordinators for as long as the process runs.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(CHECK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut pauses, mut led): (_, Revision) = (Pauses::new(CHECK, self.clock.monotonic()), 0);
        let mut outage = Outage::of("giving shards of groups to coordinators");
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.coordinators.bell.notified() => {}
            }
            let now = self.clock.monotonic();
            self.coordinators.extend(pauses.before(now), now);
            let leads = self.lead.epoch().unwrap_or(0);
            if leads != led && leads > 0 && !self.standalone {
                self.coordinators.expect(&self.views.load(), now);
            }
            led = leads;
            self.coordinators.forget_silent(now);
            if leads > 0 && self.lead.is_sure() {
                match self.assign().await {
                    Ok(()) => outage.ended(),
                    Err(failure) => outage.failed(&failure),
                }
            }
            pauses.looked(self.clock.monotonic());
        }
    }

    async fn assign(&self) -> Result<(), ApiError> {
        let txn = self.coordinators.decide(&self.views.load());
        if txn.ops.is_empty() {
            return Ok(());
        }
        let shards = txn.ops.len();
        if let Some(revision) = self.store.commit(txn).await? {
            self.views.reached(revision).await?;
            tracing::info!(shards, "shards of groups were given to coordinators");
        }
        Ok(())
    }
}

fn address_in_use(id: &str, other: &str, address: &str) -> ApiError {
    let text = format!(
        "group coordinator {id} says that it is at {address}, and so does group coordinator {other}, which came first; give \
         each an address of its own (`coordinator.advertise`), or stop one of them"
    );
    ApiError::new(Reason::NodeAddressInUse, text)
}

#[cfg(test)]
mod tests;
