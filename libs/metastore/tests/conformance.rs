//! The stores of this crate pass the suite, and what is particular to each.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "conformance/suite.rs"]
mod suite;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard};
use walser_metastore::{
    Embedded, HISTORY_CHANGES_MAX, HISTORY_MAX, Memory, Metastore, Op, Outcome, Revision, StoreError, Txn, WatchError,
    WatchEvent,
};

use self::suite::{Fixture, Store};

struct InMemory;
struct OnFile;
/// One store for all cases, as a server that the test run shares.
struct Shared;

impl Fixture for InMemory {
    type Guard = ();

    async fn open() -> (Store, ()) {
        (Arc::new(Memory::new()), ())
    }
}

impl Fixture for OnFile {
    type Guard = TempDir;

    async fn open() -> (Store, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(Embedded::open(&dir.path().join("metadata.redb")).unwrap()), dir)
    }
}

impl Fixture for Shared {
    type Guard = OwnedMutexGuard<()>;

    async fn open() -> (Store, OwnedMutexGuard<()>) {
        static SHARED: LazyLock<(Store, Arc<Mutex<()>>)> = LazyLock::new(|| (Arc::new(Memory::new()), Arc::default()));
        let (store, turn) = &*SHARED;
        (Arc::clone(store), Arc::clone(turn).lock_owned().await)
    }
}

suite::conformance!(in_memory, InMemory);
suite::conformance!(on_a_file, OnFile);
suite::conformance!(shared, Shared);

async fn put(store: &dyn Metastore, key: &str) -> Revision {
    let ops = vec![Op::Put { key: key.to_owned(), value: "1".into(), lease: None }];
    let outcome = store.transact(Txn { compares: vec![], ops }).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
    outcome.revision()
}

/// Where nobody asks for compaction, memory is bounded all the same.
#[tokio::test]
async fn the_history_has_a_bound_of_its_own() {
    let store = Memory::new();
    let first = put(&store, "c").await;
    for _ in 0..HISTORY_MAX + 5 {
        put(&store, "c").await;
    }
    let mut watch = store.watch("c", first).await.unwrap();
    let Err(WatchError::Compacted { kept_from }) = watch.next().await else { panic!("not compacted") };
    assert_eq!(kept_from, first + 5);
    let mut watch = store.watch("c", kept_from).await.unwrap();
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("still compacted") };
    assert_eq!(revision, kept_from + 1);
}

/// A thousand transactions of a hundred partitions each are few revisions, and much memory.
#[tokio::test]
async fn the_history_is_bounded_by_its_changes_too() {
    const CHANGES: usize = 100;
    let store = Memory::new();
    let first = put(&store, "c").await;
    let change = |number: usize| Op::Put { key: format!("c/{number}"), value: "1".into(), lease: None };
    let ops: Vec<_> = (0..CHANGES).map(change).collect();
    for _ in 0..HISTORY_CHANGES_MAX / CHANGES + 5 {
        store.transact(Txn { compares: vec![], ops: ops.clone() }).await.unwrap();
    }
    let mut watch = store.watch("c", first).await.unwrap();
    let Err(WatchError::Compacted { kept_from }) = watch.next().await else { panic!("not compacted") };
    assert_eq!(kept_from, first + 5);
    // What is forgotten on request makes room.
    store.compact(kept_from + 10).await.unwrap();
    for _ in 0..10 {
        store.transact(Txn { compares: vec![], ops: ops.clone() }).await.unwrap();
    }
    let mut watch = store.watch("c", kept_from + 10).await.unwrap();
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("compacted too early") };
    assert_eq!(revision, kept_from + 11);
}

#[tokio::test]
async fn a_raised_revision_survives_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    let store = Embedded::open(&path).unwrap();
    store.raise_revision(7_000).await.unwrap();
    drop(store);
    assert!(put(&Embedded::open(&path).unwrap(), "a").await > 7_000);
}

#[tokio::test]
async fn a_file_keeps_everything_but_leases() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    let store = Embedded::open(&path).unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let leader = store.campaign("controller", "one", lease).await.unwrap();
    put(&store, "kept").await;
    let last = store.raise_revision(7_000).await.unwrap();
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.get("kept").await.unwrap().0.unwrap().value, "1");
    let (entry, revision) = store.get(&leader.key).await.unwrap();
    assert_eq!(entry, None);
    // A copy of the file that is opened must not reach the revision of a change that was made after it.
    assert_eq!(revision, last, "nobody has seen this revision with what went away");
    let mut watch = store.watch("", last - 1).await.unwrap();
    assert!(matches!(watch.next().await, Err(WatchError::Compacted { .. })));
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    std::fs::write(&path, b"this is no database, but it is long enough to look at").unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::Format(_))));
}
