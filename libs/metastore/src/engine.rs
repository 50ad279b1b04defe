//! The store itself, in memory: what [`crate::Memory`] is and what [`crate::Embedded`] keeps a copy of.

mod draft;
mod range;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch::Sender;
use tokio::time::Instant;

use draft::Draft;
pub(crate) use draft::{Decided, Prepared, WriteRequest};
pub(crate) use watch::EngineWatch;

use crate::{Change, KeyValue, LeaseId, Outcome, RangePage, RangeRequest, Revision, StoreError};

/// Revisions with changes that watches and ranges can go back at most, however seldom the history is compacted.
pub const HISTORY_MAX: usize = 10_000;
/// Changes that the history has at most, of however few revisions: a transaction may change many large keys.
pub const HISTORY_CHANGES_MAX: usize = 50_000;

/// State behind a lock.
#[derive(Debug)]
struct State {
    entries: BTreeMap<String, KeyValue>,
    revision: Revision,
    /// Changes after this revision are in `history`, with what they replaced.
    kept_from: Revision,
    history: VecDeque<(Revision, Vec<Recorded>)>,
    /// Changes in `history`.
    recorded: usize,
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
    /// Its end is decided, and not applied yet.
    ending: bool,
}

/// The engine, shared by handles, watches and lease timers.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    state: Arc<Mutex<State>>,
    news: Arc<Sender<()>>,
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
            recorded: 0,
            leases: HashMap::new(),
            next_lease: 1,
        };
        Self { state: Arc::new(Mutex::new(state)), news: Arc::default() }
    }

    pub(crate) fn get(&self, key: &str) -> (Option<KeyValue>, Revision) {
        let state = self.state.lock();
        (state.entries.get(key).cloned(), state.revision)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.lock().revision
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangePage, StoreError> {
        self.state.lock().range(request)
    }

    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> EngineWatch {
        EngineWatch::new(Arc::clone(&self.state), self.news.subscribe(), prefix.to_owned(), after)
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
        state.recorded -= forgotten.iter().map(|(_, changes)| changes.len()).sum::<usize>();
        state.kept_from = state.kept_from.max(through);
        // Freeing it takes a while: readers need not wait for that.
        drop(state);
        drop(forgotten);
        Ok(())
    }

    pub(crate) fn grant(&self, ttl: Duration) -> LeaseId {
        let mut state = self.state.lock();
        let id = state.next_lease;
        state.next_lease += 1;
        state.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl, keys: BTreeSet::new(), ending: false });
        id
    }

    pub(crate) fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let lease = state.leases.get_mut(&id).filter(|lease| !lease.ending).ok_or(StoreError::NoLease(id))?;
        lease.deadline = Instant::now() + lease.ttl;
        Ok(())
    }

    /// Waits until a lease was not kept alive in time; returns when that was found, or `None` when it has ended.
    pub(crate) async fn overdue(&self, id: LeaseId) -> Option<Instant> {
        loop {
            let deadline = self.state.lock().leases.get(&id)?.deadline;
            let now = Instant::now();
            if deadline <= now {
                return Some(now);
            }
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Decides requests in their order. None is applied, and leases that are to end are not kept alive any more: what
    /// became of the changes MUST be told with [`Engine::apply`] or [`Engine::discard`] before anything else is decided.
    pub(crate) fn decide<'a>(&self, requests: impl IntoIterator<Item = &'a WriteRequest>) -> Vec<Decided> {
        let mut state = self.state.lock();
        let mut draft = Draft::new(&state);
        let decided: Vec<_> = requests.into_iter().map(|request| draft.decide(request)).collect();
        let prepared = decided.iter().filter_map(|decided| decided.prepared.as_ref());
        state.set_ending(prepared, true);
        decided
    }

    /// Applies changes one by one, each with its own revision, and wakes watches.
    pub(crate) fn apply(&self, prepared: impl IntoIterator<Item = Prepared>) {
        for prepared in prepared {
            self.state.lock().apply(prepared);
            self.news.send_replace(());
        }
    }

    /// Changes did not happen.
    pub(crate) fn discard<'a>(&self, prepared: impl IntoIterator<Item = &'a Prepared>) {
        self.state.lock().set_ending(prepared, false);
    }

    /// Decides a request and applies it at once.
    pub(crate) fn perform(&self, request: &WriteRequest) -> Result<Outcome, StoreError> {
        let mut state = self.state.lock();
        let Decided { prepared, answer } = Draft::new(&state).decide(request);
        if let Some(prepared) = prepared {
            state.apply(prepared);
            drop(state);
            self.news.send_replace(());
        }
        answer
    }
}

// === impl State ===

impl State {
    fn apply(&mut self, prepared: Prepared) {
        self.revision = prepared.revision;
        if let Some(lease) = prepared.ended {
            self.leases.remove(&lease);
        }
        if prepared.changes.is_empty() {
            return;
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
        self.recorded += recorded.len();
        self.history.push_back((self.revision, recorded));
        while self.history.len() > HISTORY_MAX || self.recorded > HISTORY_CHANGES_MAX {
            let Some((revision, changes)) = self.history.pop_front() else { break };
            self.recorded -= changes.len();
            self.kept_from = revision;
        }
    }

    fn set_ending<'a>(&mut self, prepared: impl IntoIterator<Item = &'a Prepared>, ending: bool) {
        for id in prepared.into_iter().filter_map(|prepared| prepared.ended) {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.ending = ending;
            }
        }
    }
}
