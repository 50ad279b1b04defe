//! The one suite that every metadata store passes.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use walser_metastore::{
    Change, Compare, Embedded, HISTORY_MAX, KeyValue, LeaseId, Memory, Metastore, Op, Outcome, RangePage, RangeRequest,
    Revision, StoreError, Txn, Watch, WatchError, WatchEvent, read_all,
};

type Store = Arc<dyn Metastore>;

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_owned().into(), lease: None }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

async fn commit(store: &Store, compares: Vec<Compare>, ops: Vec<Op>) -> Revision {
    match store.transact(Txn { compares, ops }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict { current, .. } => panic!("conflict: {current:?}"),
    }
}

async fn value(store: &Store, key: &str) -> Option<String> {
    let (entry, _) = store.get(key).await.unwrap();
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn transactions_compare_and_put(store: Store) {
    let first = commit(&store, vec![Compare::Missing("a".into())], vec![put("a", "1"), put("b", "1")]).await;
    let (entry, revision) = store.get("a").await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, revision), (first, first, first));
    let second = commit(&store, vec![Compare::ModifiedAt("a".into(), first)], vec![put("a", "2")]).await;
    assert_eq!(second, first + 1);
    let stale = Txn { compares: vec![Compare::ModifiedAt("a".into(), first)], ops: vec![put("b", "9")] };
    let other = commit(&store, vec![], vec![put("c", "1")]).await;
    let outcome = store.transact(stale).await.unwrap();
    let Outcome::Conflict { current, revision } = outcome else { panic!("stale compare passed") };
    assert_eq!(revision, other, "the store's, not that of the key");
    assert_eq!(current[0].as_ref().unwrap().value, "2");
    assert_eq!(value(&store, "b").await.as_deref(), Some("1"));
    commit(&store, vec![Compare::CreatedAt("a".into(), first)], vec![delete("a")]).await;
    let again = commit(&store, vec![Compare::Missing("a".into())], vec![put("a", "3")]).await;
    assert_eq!(store.get("a").await.unwrap().0.unwrap().create_revision, again, "a new life, a new revision");
    let nothing = commit(&store, vec![], vec![delete("missing")]).await;
    assert_eq!(nothing, again, "what changes nothing has no revision");
    let twice = store.transact(Txn { compares: vec![], ops: vec![put("x", "1"), delete("x")] }).await;
    assert!(matches!(twice, Err(StoreError::Invalid(_))));
}

async fn a_raised_revision_is_never_gone_below(store: Store) {
    let first = commit(&store, vec![], vec![put("a", "1")]).await;
    let mut watch = store.watch("", first).await.unwrap();
    assert_eq!(store.raise_revision(first + 500).await.unwrap(), first + 500);
    assert_eq!(store.raise_revision(first).await.unwrap(), first + 500, "lower changes nothing");
    assert_eq!(watch.next().await, Ok(WatchEvent::Progress { revision: first + 500 }));
    let next = commit(&store, vec![Compare::ModifiedAt("a".into(), first)], vec![put("a", "2")]).await;
    assert!(next > first + 500, "{next}");
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("the watch goes on") };
    assert_eq!(revision, next);
}

async fn ranges_are_ordered_and_bounded_by_the_prefix(store: Store) {
    let keys = ["t/b", "t/a", "s/z", "u", "t0"];
    for key in keys {
        commit(&store, vec![], vec![put(key, key)]).await;
    }
    let found: Vec<_> = read_all(&*store, "t/").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(found, ["t/a", "t/b"]);
    assert_eq!(read_all(&*store, "").await.unwrap().entries.len(), 5);
}

/// Keys and values of one page.
async fn page(store: &Store, after: Option<&str>, limit: usize, at: Revision) -> (Vec<String>, bool) {
    let (prefix, after) = ("p/".to_owned(), after.map(str::to_owned));
    let page = store.range(RangeRequest { prefix, after, limit, revision: Some(at) }).await.unwrap();
    assert_eq!(page.revision, at);
    let show = |entry: KeyValue| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value));
    (page.entries.into_iter().map(show).collect(), page.more)
}

async fn pages_show_one_revision_whatever_changes_meanwhile(store: Store) {
    let first = commit(&store, vec![], vec![put("p/b", "1"), put("p/c", "1"), put("p/d", "1"), put("q", "1")]).await;
    let second = commit(&store, vec![], vec![put("p/a", "2"), put("p/c", "2"), delete("p/d"), put("p/e", "2")]).await;
    let third = commit(&store, vec![], vec![put("p/c", "3"), put("p/d", "3"), delete("p/e"), delete("q")]).await;
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let all = [
        (first, texts(&["p/b=1", "p/c=1", "p/d=1"])),
        (second, texts(&["p/a=2", "p/b=1", "p/c=2", "p/e=2"])),
        (third, texts(&["p/a=2", "p/b=1", "p/c=3", "p/d=3"])),
    ];
    for (revision, wanted) in all {
        assert_eq!(page(&store, None, 10, revision).await, (wanted.clone(), false));
        assert_eq!(page(&store, None, wanted.len(), revision).await, (wanted.clone(), false));
        assert_eq!(page(&store, None, 2, revision).await, (wanted[..2].to_vec(), true));
        assert_eq!(page(&store, Some("p/b"), 1, revision).await.0, wanted[wanted.len() - 2..][..1]);
    }
    let (entry, _) = store.get("p/d").await.unwrap();
    assert_eq!(entry.unwrap().create_revision, third);
    let old = store.range(RangeRequest { prefix: "p/d".into(), after: None, limit: 1, revision: Some(first) }).await;
    assert_eq!(old.unwrap().entries[0].create_revision, first);
    let future = RangeRequest { revision: Some(third + 1), limit: 1, ..RangeRequest::default() };
    assert!(matches!(store.range(future).await, Err(StoreError::Invalid(_))));
}

async fn watches_give_every_change_once_and_in_order(store: Store) {
    let start = commit(&store, vec![], vec![put("w/0", "0")]).await;
    let mut watch = store.watch("w/", start).await.unwrap();
    commit(&store, vec![], vec![put("other", "1")]).await;
    let both = commit(&store, vec![], vec![put("w/1", "1"), put("w/2", "1"), put("v", "1")]).await;
    let gone = commit(&store, vec![], vec![delete("w/1")]).await;
    let Ok(WatchEvent::Changes { revision, changes }) = watch.next().await else { panic!("no changes") };
    assert_eq!((revision, changes.len()), (both, 2));
    let deleted = WatchEvent::Changes { revision: gone, changes: vec![Change::Delete { key: "w/1".into() }] };
    assert_eq!(watch.next().await, Ok(deleted));
    for _ in 0..3 {
        let last = commit(&store, vec![], vec![put("other", "2")]).await;
        assert_eq!(watch.next().await, Ok(WatchEvent::Progress { revision: last }));
    }
    let writer = Arc::clone(&store);
    let later = tokio::spawn(async move { commit(&writer, vec![], vec![put("w/3", "1")]).await });
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("no changes") };
    assert_eq!(revision, later.await.unwrap());
}

async fn old_history_is_compacted_and_says_so(store: Store) {
    let first = commit(&store, vec![], vec![put("c", "0")]).await;
    let mut last = first;
    while last < first + Revision::try_from(HISTORY_MAX).unwrap() + 5 {
        last = commit(&store, vec![], vec![put("c", "1")]).await;
    }
    let mut watch = store.watch("c", first).await.unwrap();
    let Err(WatchError::Compacted { kept_from }) = watch.next().await else { panic!("not compacted") };
    let gone = RangeRequest { revision: Some(kept_from - 1), limit: 1, ..RangeRequest::default() };
    assert_eq!(store.range(gone.clone()).await, Err(StoreError::Compacted { kept_from }));
    store.range(RangeRequest { revision: Some(kept_from), ..gone }).await.unwrap();
    let mut watch = store.watch("c", kept_from).await.unwrap();
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("still compacted") };
    assert_eq!(revision, kept_from + 1);
}

async fn history_is_forgotten_when_that_is_asked_for(store: Store) {
    let first = commit(&store, vec![], vec![put("k", "1")]).await;
    let mut behind = store.watch("k", first).await.unwrap();
    let second = commit(&store, vec![], vec![put("k", "2")]).await;
    let third = commit(&store, vec![], vec![put("k", "3")]).await;
    assert!(matches!(store.compact(third + 1).await, Err(StoreError::Invalid(_))));
    store.compact(second).await.unwrap();
    store.compact(first).await.unwrap();
    let compacted = |kept_from| WatchError::Compacted { kept_from };
    assert_eq!(behind.next().await, Err(compacted(second)));
    let at = |revision| RangeRequest { prefix: "k".into(), limit: 1, revision: Some(revision), after: None };
    assert_eq!(store.range(at(first)).await, Err(StoreError::Compacted { kept_from: second }));
    let values = |page: RangePage| page.entries.into_iter().map(|entry| entry.value).collect::<Vec<_>>();
    assert_eq!(values(store.range(at(second)).await.unwrap()), ["2"]);
    let mut watch = store.watch("k", second).await.unwrap();
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("no changes") };
    assert_eq!(revision, third);
    store.compact(third).await.unwrap();
    let fourth = commit(&store, vec![], vec![put("k", "4")]).await;
    let Ok(WatchEvent::Changes { revision, .. }) = watch.next().await else { panic!("no changes") };
    assert_eq!(revision, fourth, "a watch that has returned everything is not affected");
}

async fn leases_end_unless_they_are_kept_alive(store: Store) {
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let bound = |key: &str| Op::Put { key: key.to_owned(), value: "1".into(), lease: Some(lease) };
    let revision = commit(&store, vec![], vec![bound("l/1"), put("l/2", "1")]).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(value(&store, "l/1").await.is_some());
    let mut watch = store.watch("l/", revision).await.unwrap();
    let Ok(WatchEvent::Changes { changes, .. }) = watch.next().await else { panic!("the lease did not end") };
    assert_eq!(changes, [Change::Delete { key: "l/1".into() }]);
    assert!(value(&store, "l/2").await.is_some());
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoLease(_))));
    let late = store.transact(Txn { compares: vec![], ops: vec![bound("l/3")] }).await;
    assert!(matches!(late, Err(StoreError::NoLease(_))));
}

async fn elections_have_one_leader_at_a_time(store: Store) {
    let first = store.grant(Duration::from_secs(60)).await.unwrap();
    let second = store.grant(Duration::from_secs(60)).await.unwrap();
    let leader = store.campaign("controller", "one", first).await.unwrap();
    let candidate = Arc::clone(&store);
    let waiting = tokio::spawn(async move { candidate.campaign("controller", "two", second).await.unwrap() });
    commit(&store, vec![Compare::CreatedAt(leader.key.clone(), leader.epoch)], vec![put("by", "one")]).await;
    assert!(!waiting.is_finished());
    store.revoke(first).await.unwrap();
    let successor = waiting.await.unwrap();
    assert!(successor.epoch > leader.epoch);
    let fenced = Txn { compares: vec![Compare::CreatedAt(leader.key, leader.epoch)], ops: vec![put("by", "one")] };
    assert!(
        matches!(store.transact(fenced).await.unwrap(), Outcome::Conflict { .. }),
        "a deposed leader writes nothing"
    );
}

/// A store that answers transactions and watches with faults, as often as it is told.
#[derive(Debug)]
struct Faulty {
    inner: Store,
    /// Transactions that are carried out and whose outcome is said to be unknown.
    unknown: AtomicUsize,
    /// Transactions that are refused.
    unavailable: AtomicUsize,
    /// Watches that end at once.
    broken_watches: AtomicUsize,
    /// Told of every watch.
    watched: Notify,
}

#[derive(Debug)]
struct BrokenWatch;

#[async_trait]
impl Watch for BrokenWatch {
    async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        Err(WatchError::Unavailable("as the test asked".to_owned()))
    }
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl Faulty {
    fn new(inner: &Store) -> Self {
        let (unknown, unavailable, broken_watches, watched) = Default::default();
        Self { inner: Arc::clone(inner), unknown, unavailable, broken_watches, watched }
    }
}

#[async_trait]
impl Metastore for Faulty {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        self.inner.range(request).await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        if take(&self.unavailable) {
            return Err(StoreError::Unavailable("as the test asked".to_owned()));
        }
        let outcome = self.inner.transact(txn).await;
        if take(&self.unknown) { Err(StoreError::Unknown("as the test asked".to_owned())) } else { outcome }
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        self.inner.raise_revision(floor).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch: Box<dyn Watch> =
            if take(&self.broken_watches) { Box::new(BrokenWatch) } else { self.inner.watch(prefix, after).await? };
        self.watched.notify_one();
        Ok(watch)
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }
}

async fn a_candidate_recognises_its_own_key(store: Store) {
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let faulty = Faulty { unknown: AtomicUsize::new(1), ..Faulty::new(&store) };
    let leader = faulty.campaign("own", "one", lease).await.unwrap();
    let (entry, _) = store.get(&leader.key).await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.create_revision, entry.lease), (leader.epoch, lease));
    assert_eq!(faulty.unknown.load(Ordering::Relaxed), 0, "the first answer was lost");
    assert_eq!(store.campaign("own", "one", lease).await.unwrap(), leader, "again, without a new epoch");
}

async fn a_candidate_waits_for_its_key_of_another_lease(store: Store) {
    let old = store.grant(Duration::from_secs(60)).await.unwrap();
    let new = store.grant(Duration::from_secs(60)).await.unwrap();
    let before = store.campaign("again", "one", old).await.unwrap();
    let faulty = Arc::new(Faulty::new(&store));
    let waiting = tokio::spawn({
        let faulty = Arc::clone(&faulty);
        async move { faulty.campaign("again", "one", new).await.unwrap() }
    });
    faulty.watched.notified().await;
    assert!(!waiting.is_finished());
    store.revoke(old).await.unwrap();
    assert!(waiting.await.unwrap().epoch > before.epoch);
}

async fn a_campaign_survives_a_store_that_does_not_answer(store: Store) {
    let first = store.grant(Duration::from_secs(60)).await.unwrap();
    let second = store.grant(Duration::from_secs(60)).await.unwrap();
    let before = store.campaign("away", "one", first).await.unwrap();
    let (unavailable, broken_watches) = (AtomicUsize::new(2), AtomicUsize::new(2));
    let faulty = Arc::new(Faulty { unavailable, broken_watches, ..Faulty::new(&store) });
    let waiting = tokio::spawn({
        let faulty = Arc::clone(&faulty);
        async move { faulty.campaign("away", "two", second).await.unwrap() }
    });
    while faulty.broken_watches.load(Ordering::Relaxed) > 0 {
        faulty.watched.notified().await;
    }
    store.revoke(first).await.unwrap();
    assert!(waiting.await.unwrap().epoch > before.epoch);
    assert_eq!(faulty.unavailable.load(Ordering::Relaxed), 0);
}

macro_rules! suite {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;

            suite!(@case $open, transactions_compare_and_put);
            suite!(@case $open, ranges_are_ordered_and_bounded_by_the_prefix);
            suite!(@case $open, pages_show_one_revision_whatever_changes_meanwhile);
            suite!(@case $open, watches_give_every_change_once_and_in_order);
            suite!(@case $open, old_history_is_compacted_and_says_so);
            suite!(@case $open, history_is_forgotten_when_that_is_asked_for);
            suite!(@case $open, leases_end_unless_they_are_kept_alive);
            suite!(@case $open, elections_have_one_leader_at_a_time);
            suite!(@case $open, a_candidate_recognises_its_own_key);
            suite!(@case $open, a_candidate_waits_for_its_key_of_another_lease);
            suite!(@case $open, a_campaign_survives_a_store_that_does_not_answer);
            suite!(@case $open, a_raised_revision_is_never_gone_below);
        }
    };
    (@case $open:expr, $case:ident) => {
        #[tokio::test(start_paused = true)]
        async fn $case() {
            let (store, _keep) = $open;
            super::$case(store).await;
        }
    };
}

fn memory() -> (Store, ()) {
    (Arc::new(Memory::new()), ())
}

fn embedded() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(Embedded::open(&dir.path().join("metadata.redb")).unwrap()), dir)
}

suite!(in_memory, memory());
suite!(on_a_file, embedded());

#[tokio::test]
async fn a_raised_revision_survives_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    let store: Store = Arc::new(Embedded::open(&path).unwrap());
    store.raise_revision(7_000).await.unwrap();
    drop(store);
    let store: Store = Arc::new(Embedded::open(&path).unwrap());
    assert!(commit(&store, vec![], vec![put("a", "1")]).await > 7_000);
}

#[tokio::test]
async fn a_file_keeps_everything_but_leases() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    let store: Store = Arc::new(Embedded::open(&path).unwrap());
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let leader = store.campaign("controller", "one", lease).await.unwrap();
    let last = commit(&store, vec![], vec![put("kept", "1")]).await;
    drop(store);
    let store: Store = Arc::new(Embedded::open(&path).unwrap());
    assert_eq!(value(&store, "kept").await.as_deref(), Some("1"));
    let (entry, revision) = store.get(&leader.key).await.unwrap();
    assert_eq!(entry, None);
    assert!(revision > last);
    let mut watch = store.watch("", last).await.unwrap();
    assert!(matches!(watch.next().await, Err(WatchError::Compacted { .. })));
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.redb");
    std::fs::write(&path, b"this is no database, but it is long enough to look at").unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::Format(_))));
}
