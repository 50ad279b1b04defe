//! Decides requests before they are applied: each against the state and the requests ahead of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio::time::Instant;

use super::State;
use crate::{Change, Compare, KeyValue, LeaseId, Op, Outcome, Revision, StoreError, Txn};

/// A request for a change of the store.
#[derive(Debug)]
pub(crate) enum WriteRequest {
    Transact(Txn),
    /// Makes every later revision greater than this one.
    Raise(Revision),
    /// Ends a lease at once.
    Revoke(LeaseId),
    /// Ends a lease whose deadline is not later than this time.
    Expire(LeaseId, Instant),
}

/// What a request changes. It is not applied yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The store's revision afterwards.
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
    /// The lease that ends.
    pub(crate) ended: Option<LeaseId>,
}

/// The decision about a request.
#[derive(Debug)]
pub(crate) struct Decided {
    /// `None`: nothing changes.
    pub(crate) prepared: Option<Prepared>,
    /// The answer, once everything decided so far is applied. One that is no transaction is never a conflict.
    pub(crate) answer: Result<Outcome, StoreError>,
}

/// The state as it will be when everything decided so far is applied.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    state: &'a State,
    /// Keys that change; `None`: deleted.
    changed: BTreeMap<String, Option<KeyValue>>,
    ended: HashSet<LeaseId>,
    revision: Revision,
}

// === impl WriteRequest ===

impl WriteRequest {
    /// Its size, as far as it grows with what the caller sent.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Transact(txn) => crate::limits::request_bytes(txn),
            Self::Raise(_) | Self::Revoke(_) | Self::Expire(..) => 0,
        }
    }
}

// === impl Draft ===

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        Self { state, changed: BTreeMap::new(), ended: HashSet::new(), revision: state.revision }
    }

    /// Decides the next request.
    pub(super) fn decide(&mut self, request: &WriteRequest) -> Decided {
        let prepared = match request {
            WriteRequest::Transact(txn) => match self.transact(txn) {
                Ok(Ok(prepared)) => prepared,
                Ok(Err(conflict)) => return Decided { prepared: None, answer: Ok(conflict) },
                Err(error) => return Decided { prepared: None, answer: Err(error) },
            },
            WriteRequest::Raise(floor) => (*floor > self.revision).then(|| Prepared::floor(*floor)),
            WriteRequest::Revoke(lease) => self.end_lease(*lease),
            WriteRequest::Expire(lease, at) => {
                let due = self.state.leases.get(lease).is_some_and(|lease| lease.deadline <= *at);
                if due { self.end_lease(*lease) } else { None }
            }
        };
        if let Some(prepared) = &prepared {
            self.take_in(prepared);
        }
        Decided { prepared, answer: Ok(Outcome::Committed(self.revision)) }
    }

    /// Checks a transaction. `Ok(Err(…))` is a conflict, `Ok(Ok(None))` changes nothing.
    fn transact(&self, txn: &Txn) -> Result<Result<Option<Prepared>, Outcome>, StoreError> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let current = txn.compares.iter().map(|compare| self.entry(compare.key()).cloned());
            return Ok(Err(Outcome::Conflict { current: current.collect(), revision: self.revision }));
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.has_lease(*lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        let revision = self.revision + 1;
        let changes: Vec<_> = txn.ops.iter().filter_map(|op| self.change(op, revision)).collect();
        Ok(Ok((!changes.is_empty()).then_some(Prepared { revision, changes, ended: None })))
    }

    fn change(&self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => {
                let create_revision = self.entry(key).map_or(revision, |entry| entry.create_revision);
                let (key, value, lease) = (key.clone(), value.clone(), lease.unwrap_or(0));
                Some(Change::Put(KeyValue { key, value, create_revision, mod_revision: revision, lease }))
            }
            Op::Delete { key } => self.entry(key).map(|_| Change::Delete { key: key.clone() }),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.entry(compare.key());
        match compare {
            Compare::Missing(_) => entry.is_none(),
            Compare::CreatedAt(_, revision) => entry.is_some_and(|entry| entry.create_revision == *revision),
            Compare::ModifiedAt(_, revision) => entry.is_some_and(|entry| entry.mod_revision == *revision),
        }
    }

    fn entry(&self, key: &str) -> Option<&KeyValue> {
        self.changed.get(key).map_or_else(|| self.state.entries.get(key), Option::as_ref)
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        self.state.leases.contains_key(&lease) && !self.ended.contains(&lease)
    }

    /// The end of a lease with its keys; `None` when it has ended.
    fn end_lease(&self, id: LeaseId) -> Option<Prepared> {
        let lease = self.state.leases.get(&id).filter(|_| self.has_lease(id))?;
        let before = lease.keys.iter().filter(|key| !self.changed.contains_key(*key));
        let changed = self.changed.iter().filter(|(_, entry)| entry.as_ref().is_some_and(|entry| entry.lease == id));
        let keys: BTreeSet<&String> = before.chain(changed.map(|(key, _)| key)).collect();
        let changes: Vec<_> = keys.into_iter().map(|key| Change::Delete { key: key.clone() }).collect();
        let revision = self.revision + Revision::from(!changes.is_empty());
        Some(Prepared { revision, changes, ended: Some(id) })
    }

    fn take_in(&mut self, prepared: &Prepared) {
        for change in &prepared.changes {
            let entry = match change {
                Change::Put(entry) => Some(entry.clone()),
                Change::Delete { .. } => None,
            };
            self.changed.insert(change.key().to_owned(), entry);
        }
        self.ended.extend(prepared.ended);
        self.revision = prepared.revision;
    }
}

// === impl Prepared ===

impl Prepared {
    fn floor(floor: Revision) -> Self {
        Self { revision: floor, changes: Vec::new(), ended: None }
    }

    /// Whether it raises the revision, and nothing else.
    pub(crate) fn is_floor(&self) -> bool {
        self.changes.is_empty() && self.ended.is_none()
    }
}
