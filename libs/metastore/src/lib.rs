//! Where cluster metadata lives: a small ordered store of keys with revisions, transactions, watches and leases.
//!
//! The shape is etcd's (v3 API), because a cluster runs on etcd; [`Embedded`] gives one process the same on a local
//! file, [`Memory`] in memory. `tests/conformance/suite.rs` is the one suite that every implementation passes.

mod election;
mod embedded;
mod engine;
#[cfg(feature = "etcd")]
mod etcd;
mod limits;
mod memory;
mod range;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use embedded::Embedded;
pub use engine::{HISTORY_CHANGES_MAX, HISTORY_MAX};
#[cfg(feature = "etcd")]
pub use etcd::{Etcd, EtcdConfig, EtcdCredentials, EtcdTls, etcd_is_too_old};
pub use limits::{OPERATIONS_MAX, REQUEST_BYTES_MAX, request_bytes};
pub use memory::Memory;
pub use range::{RangePage, RangeRequest, Snapshot, read_all};

/// Grows by one with every transaction that changes something. Never reused, also not across an import into
/// another store: what leaves this crate is the store's own revision plus a base.
pub type Revision = i64;

/// A lease: keys bound to it go away when it ends. Greater than 0.
pub type LeaseId = i64;

/// A key with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// Revision of its creation; a key that was deleted and made again has a new one.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// The lease that it is bound to; 0: none.
    pub lease: LeaseId,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Missing(String),
    /// The key exists and was created at this revision.
    CreatedAt(String, Revision),
    /// The key exists and was last changed at this revision.
    ModifiedAt(String, Revision),
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates or replaces a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// Deletes the key when this lease ends.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; a missing one is fine.
    Delete {
        /// The key.
        key: String,
    },
}

/// Changes that happen together, if all conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them must hold.
    pub compares: Vec<Compare>,
    /// At most one per key.
    pub ops: Vec<Op>,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All changes happened, at this revision.
    Committed(Revision),
    /// A condition did not hold, nothing happened.
    Conflict {
        /// The compared keys as they are, in the order of the compares.
        current: Vec<Option<KeyValue>>,
        /// The store's revision when they were compared.
        revision: Revision,
    },
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put(KeyValue),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
    },
}

/// What a watch returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of one revision under the prefix.
    Changes {
        /// The revision.
        revision: Revision,
        /// In the order of the transaction.
        changes: Vec<Change>,
    },
    /// Every change up to this revision under the prefix has been returned. Revisions without changes under the prefix
    /// are reported this way, several of them at once where they come faster than the watch is read.
    Progress {
        /// The revision.
        revision: Revision,
    },
}

/// What an operator should know of a store, though it may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreProblem {
    /// It refuses every write until somebody has done something: why, and what.
    TakesNoWrites(String),
    /// A part of it does not answer, is damaged, or has known faults. Writes go on as long as most of it is there.
    Part(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history back to the last event is not kept any more: read again and watch from there.
    #[error("the history up to revision {kept_from} was compacted; read again and watch from there")]
    Compacted {
        /// Changes after this revision are still there.
        kept_from: Revision,
    },
    /// The store does not answer, or was closed. A new watch may continue after the last event.
    #[error("the metadata store is not available: {0}; watch again after the last event")]
    Unavailable(String),
}

/// Proof of having won an election: as long as the key exists with this creation revision, nobody else has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The key to compare in every transaction of the leader.
    pub key: String,
    /// Its creation revision: the leader's epoch.
    pub epoch: Revision,
}

/// Why a store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request cannot be carried out by any store.
    #[error("the request is invalid: {0}")]
    Invalid(String),
    /// The transaction is larger than what every store can take: nothing was applied.
    #[error("{count} {what} in one transaction exceed the limit of {limit}; split the transaction")]
    TooLarge {
        /// What there is too much of: `compares`, `changes` or `bytes`.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        limit: usize,
    },
    /// The lease does not exist (any more).
    #[error("lease {0} does not exist")]
    NoLease(LeaseId),
    /// The revision that was asked for is not kept any more: read at a later one.
    #[error("the history up to revision {kept_from} was compacted; read at a later revision")]
    Compacted {
        /// This revision and later ones can be read.
        kept_from: Revision,
    },
    /// Nothing was applied; try again later.
    #[error("the metadata store is not available: {0}")]
    Unavailable(String),
    /// The outcome is not known: read again before deciding anything.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The store is full: read again before deciding anything. Trying again does not help before there is space.
    #[error("the metadata store takes no writes; this one may have been applied: {0}")]
    TakesNoWrites(String),
    /// What is stored is not what this version writes.
    #[error("the metadata store is damaged or of another version: {0}")]
    Format(String),
}

/// A running watch. Dropping it ends it.
///
/// It MUST return every change under its prefix once, in the order of their revisions, and all changes of one revision
/// in one event. It MUST return [`WatchEvent::Progress`] when the store's revision grows without changes under the
/// prefix, and MAY return it at other times. Revisions of events MUST NOT decrease, and changes at or
/// below the revision of a `Progress` MUST NOT follow it. After an error the watch MUST NOT return events.
#[async_trait]
pub trait Watch: Send + Debug {
    /// Waits for the next event. Dropping the future MUST NOT lose an event.
    ///
    /// # Errors
    /// [`WatchError`] when the watch has ended.
    async fn next(&mut self) -> Result<WatchEvent, WatchError>;
}

/// A metadata store.
///
/// Every read MUST be linearizable: it sees all transactions that were answered before it began. A transaction MUST
/// be durable before it is answered. Revisions MUST grow with every change and MUST never be reused, whatever
/// happens to the store.
///
/// Dropping the future of a call MAY leave its effect in place.
#[async_trait]
pub trait Metastore: Send + Sync + Debug {
    /// One key, and the store's revision.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError>;

    /// Some of the keys with a prefix. An older revision is answered exactly as of then; see [`read_all`] for all pages.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] for a revision that the history does not reach any more, [`StoreError::Invalid`] for one
    /// above the store's and for a limit of 0.
    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError>;

    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above [`OPERATIONS_MAX`] or [`REQUEST_BYTES_MAX`], [`StoreError::Invalid`] for two changes
    /// of one key, [`StoreError::NoLease`] for a lease that has ended, when all conditions hold.
    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Makes every later revision greater than `floor`, durably, and returns the store's revision. A store that is
    /// there already changes nothing. For a store that was restored from an older copy: revisions that were handed out
    /// before MUST NOT be handed out again.
    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError>;

    /// Watches the keys with a prefix for changes after `after` (exclusive).
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// Lets the store forget the history up to and including `through`: watches from before that revision and ranges as
    /// of an earlier one answer `Compacted`. It concerns the whole store, not one prefix. What is forgotten already
    /// changes nothing, and a store MAY forget more on its own.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a revision above the store's.
    async fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// Makes a lease that ends when it is not kept alive for `ttl`.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Extends a lease by its whole duration from now.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease at once. One that has ended is fine.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Whether another process can use the store at the same time: a candidate of an election may have rivals.
    fn is_shared(&self) -> bool;

    /// What an operator should know of the store, though it may answer. Empty: nothing.
    async fn problems(&self) -> Vec<StoreProblem> {
        Vec::new()
    }

    /// Waits until this candidate is the leader of `name`. Its leadership ends with the lease.
    ///
    /// `candidate` MUST be unique for each start of a process: a key with this candidate and this lease is taken for the
    /// outcome of an attempt whose answer was lost. A key with this candidate and another lease is waited for like that
    /// of any other candidate. A store that does not answer is asked again a few times.
    ///
    /// When the future is dropped, the candidate MAY become the leader nevertheless, until its lease ends; a campaign
    /// with the same candidate and lease returns that leadership.
    ///
    /// # Errors
    /// [`StoreError::NoLease`] when the lease has ended by the time the key is free.
    async fn campaign(&self, name: &str, candidate: &str, lease: LeaseId) -> Result<Leadership, StoreError> {
        election::campaign(self, name, candidate, lease).await
    }
}

// === impl Compare ===

impl Compare {
    /// The key that is compared.
    pub fn key(&self) -> &str {
        match self {
            Self::Missing(key) | Self::CreatedAt(key, _) | Self::ModifiedAt(key, _) => key,
        }
    }
}

// === impl Op ===

impl Op {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The revision of the commit, or that of the store at the conflict.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Committed(revision) | Self::Conflict { revision, .. } => *revision,
        }
    }
}

// === impl Change ===

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(KeyValue { key, .. }) | Self::Delete { key } => key,
        }
    }
}
