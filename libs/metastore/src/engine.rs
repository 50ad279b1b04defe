//! The store itself, in memory: what [`crate::Memory`] is and what [`crate::Embedded`] keeps a copy of.

mod range;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch::Sender;
use tokio::time::Instant;

pub(crate) use watch::EngineWatch;

use crate::{Change, Compare, KeyValue, LeaseId, Op, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn};

/// Revisions with changes that watches and ranges can go back at most, however seldom the history is compacted.
pub const HISTORY_MAX: usize = 10_000;

/// State behind a lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, KeyValue>,
    pub(crate) revision: Revision,
    /// Changes after this revision are in `history`, with what they replaced.
    kept_from: Revision,
    history: VecDeque<(Revision, Vec<Recorded>)>,
    leases: HashMap<LeaseId, Lease>,
    next_lease: LeaseId,
}

/// A change in the history.
#[derive(Debug)]
struct Recorded {
    change: Change,
    /// What the key was before; `None`: it did not exist.
    replaced: Option<KeyValue>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<String>,
}

/// The engine, shared by handles, watches and lease timers.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) state: Arc<Mutex<State>>,
    news: Arc<Sender<()>>,
}

/// A transaction whose conditions hold.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

// === impl Engine ===

impl Engine {
    /// A store with these entries, as of `revision`.
    pub(crate) fn new(entries: BTreeMap<String, KeyValue>, revision: Revision) -> Self {
        let state = State {
            entries,
            revision,
            kept_from: revision,
            history: VecDeque::new(),
            leases: HashMap::new(),
            next_lease: 1,
        };
        Self { state: Arc::new(Mutex::new(state)), news: Arc::default() }
    }

    pub(crate) fn get(&self, key: &str) -> (Option<KeyValue>, Revision) {
        let state = self.state.lock();
        (state.entries.get(key).cloned(), state.revision)
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangePage, StoreError> {
        self.state.lock().range(request)
    }

    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> EngineWatch {
        EngineWatch::new(Arc::clone(&self.state), self.news.subscribe(), prefix.to_owned(), after)
    }

    /// Makes every later revision greater than `floor`.
    pub(crate) fn raise_revision(&self, floor: Revision) -> Revision {
        let mut state = self.state.lock();
        state.revision = state.revision.max(floor);
        let revision = state.revision;
        drop(state);
        self.announce();
        revision
    }

    /// Forgets the history up to and including `through`. Watches that wait have returned all of it: none is woken.
    pub(crate) fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if through > state.revision {
            let text = format!("revision {through} is not there; compact through {} at most", state.revision);
            return Err(StoreError::Invalid(text));
        }
        let first_kept = state.history.partition_point(|(revision, _)| *revision <= through);
        let kept = state.history.split_off(first_kept);
        let forgotten = std::mem::replace(&mut state.history, kept);
        state.kept_from = state.kept_from.max(through);
        // Freeing it takes a while: readers need not wait for that.
        drop(state);
        drop(forgotten);
        Ok(())
    }

    /// Wakes watches: the state has changed.
    pub(crate) fn announce(&self) {
        self.news.send_replace(());
    }

    pub(crate) fn grant(&self, ttl: Duration) -> LeaseId {
        let mut state = self.state.lock();
        let id = state.next_lease;
        state.next_lease += 1;
        state.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl, keys: BTreeSet::new() });
        id
    }

    pub(crate) fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let lease = state.leases.get_mut(&id).ok_or(StoreError::NoLease(id))?;
        lease.deadline = Instant::now() + lease.ttl;
        Ok(())
    }

    /// When a lease ends unless it is kept alive; `None` when it has ended.
    pub(crate) fn lease_deadline(&self, id: LeaseId) -> Option<Instant> {
        self.state.lock().leases.get(&id).map(|lease| lease.deadline)
    }

    /// Takes a lease away; gives back the deletion of its keys.
    pub(crate) fn end_lease(&self, id: LeaseId) -> Option<Txn> {
        let lease = self.state.lock().leases.remove(&id)?;
        let ops = lease.keys.into_iter().map(|key| Op::Delete { key }).collect();
        Some(Txn { compares: Vec::new(), ops })
    }
}

// === impl State ===

impl State {
    /// Checks a transaction. `Ok(Err(…))` is a conflict.
    pub(crate) fn prepare(&self, txn: &Txn) -> Result<Result<Prepared, Outcome>, StoreError> {
        let mut seen = HashSet::new();
        for op in &txn.ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            if !seen.insert(key) {
                return Err(StoreError::Invalid(format!("key {key} is changed twice")));
            }
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let current = txn.compares.iter().map(|compare| self.entries.get(compare.key()).cloned());
            return Ok(Err(Outcome::Conflict { current: current.collect(), revision: self.revision }));
        }
        let revision = self.revision + 1;
        let changes = txn.ops.iter().filter_map(|op| self.change(op, revision)).collect();
        Ok(Ok(Prepared { revision, changes }))
    }

    fn change(&self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => {
                let create_revision = self.entries.get(key).map_or(revision, |entry| entry.create_revision);
                let (key, value, lease) = (key.clone(), value.clone(), lease.unwrap_or(0));
                Some(Change::Put(KeyValue { key, value, create_revision, mod_revision: revision, lease }))
            }
            Op::Delete { key } => self.entries.contains_key(key).then(|| Change::Delete { key: key.clone() }),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.entries.get(compare.key());
        match compare {
            Compare::Missing(_) => entry.is_none(),
            Compare::CreatedAt(_, revision) => entry.is_some_and(|entry| entry.create_revision == *revision),
            Compare::ModifiedAt(_, revision) => entry.is_some_and(|entry| entry.mod_revision == *revision),
        }
    }

    /// Applies a prepared transaction. One without changes leaves the revision as it is.
    pub(crate) fn apply(&mut self, prepared: Prepared) -> Revision {
        if prepared.changes.is_empty() {
            return self.revision;
        }
        let mut recorded = Vec::with_capacity(prepared.changes.len());
        for change in prepared.changes {
            let key = change.key();
            let replaced = match &change {
                Change::Put(entry) => self.entries.insert(key.to_owned(), entry.clone()),
                Change::Delete { key } => self.entries.remove(key),
            };
            if let Some(lease) = replaced.as_ref().and_then(|entry| self.leases.get_mut(&entry.lease)) {
                lease.keys.remove(key);
            }
            if let Change::Put(entry) = &change
                && let Some(lease) = self.leases.get_mut(&entry.lease)
            {
                lease.keys.insert(key.to_owned());
            }
            recorded.push(Recorded { change, replaced });
        }
        self.revision = prepared.revision;
        self.history.push_back((self.revision, recorded));
        while self.history.len() > HISTORY_MAX {
            if let Some((revision, _)) = self.history.pop_front() {
                self.kept_from = revision;
            }
        }
        self.revision
    }
}

// === impl Compare ===

impl Compare {
    fn key(&self) -> &str {
        match self {
            Self::Missing(key) | Self::CreatedAt(key, _) | Self::ModifiedAt(key, _) => key,
        }
    }
}
