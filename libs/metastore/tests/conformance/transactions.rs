//! Transactions and revisions.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use walser_metastore::{Compare, Outcome, Revision, StoreError, Txn, WatchEvent};

use super::{Case, next_changes};

pub(crate) async fn transactions_compare_and_put(case: Case) {
    let first = case.commit(vec![case.missing("a")], vec![case.put("a", "1"), case.put("b", "1")]).await;
    let (entry, revision) = case.store.get(&case.key("a")).await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.lease), (first, first, 0));
    assert!(revision >= first);
    let modified = |revision| vec![Compare::ModifiedAt(case.key("a"), revision)];
    let second = case.commit(modified(first), vec![case.put("a", "2")]).await;
    assert!(second > first);
    let stale = Txn { compares: modified(first), ops: vec![case.put("b", "9")] };
    assert!(matches!(case.store.transact(stale).await.unwrap(), Outcome::Conflict { .. }), "a stale compare passed");
    assert_eq!(case.value("b").await.as_deref(), Some("1"));
    case.commit(vec![Compare::CreatedAt(case.key("a"), first)], vec![case.delete("a")]).await;
    let again = case.commit(vec![case.missing("a")], vec![case.put("a", "3")]).await;
    let (entry, _) = case.store.get(&case.key("a")).await.unwrap();
    assert_eq!(entry.unwrap().create_revision, again, "a new life, a new revision");
}

pub(crate) async fn a_conflict_names_the_keys_and_the_revision(case: Case) {
    case.commit(vec![], vec![case.put("a", "1")]).await;
    let last = case.commit(vec![], vec![case.put("b", "1")]).await;
    let compares = vec![case.missing("c"), case.missing("a")];
    let outcome = case.store.transact(Txn { compares, ops: vec![case.put("d", "1")] }).await.unwrap();
    let Outcome::Conflict { current, revision } = outcome else { panic!("the compare passed") };
    assert!(revision >= last, "the store's, not that of the key");
    assert!(current[0].is_none());
    let found = current[1].as_ref().unwrap();
    assert_eq!((found.key.clone(), &found.value[..]), (case.key("a"), b"1".as_slice()));
    // Nothing is missed between the answer and a watch from there.
    let mut watch = case.watch("", revision).await;
    let next = case.commit(vec![], vec![case.put("c", "1")]).await;
    assert_eq!(next_changes(&mut watch).await.0, next);
}

pub(crate) async fn a_key_is_changed_once_in_a_transaction(case: Case) {
    let ops = vec![case.put("x", "1"), case.delete("x")];
    let twice = case.store.transact(Txn { compares: vec![], ops }).await;
    assert!(matches!(twice, Err(StoreError::Invalid(_))), "{twice:?}");
    assert_eq!(case.value("x").await, None);
}

pub(crate) async fn every_change_has_a_revision_of_its_own(case: Case) {
    let mut last = 0;
    for round in 0..20 {
        let revision = case.commit(vec![], vec![case.put("a", &round.to_string()), case.put("b", "1")]).await;
        assert!(revision > last);
        last = revision;
        let (entry, _) = case.store.get(&case.key("a")).await.unwrap();
        assert_eq!(entry.unwrap().mod_revision, revision);
    }
    let nothing = case.commit(vec![], vec![case.delete("missing")]).await;
    assert!(nothing >= last);
}

pub(crate) async fn a_raised_revision_is_never_gone_below(case: Case) {
    let first = case.commit(vec![], vec![case.put("a", "1")]).await;
    let mut watch = case.watch("", first).await;
    let floor = first + 500;
    assert!(case.store.raise_revision(floor).await.unwrap() >= floor);
    assert!(case.store.raise_revision(first).await.unwrap() >= floor, "lower changes nothing");
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Progress { revision } if revision >= floor => break,
            event => assert!(matches!(event, WatchEvent::Progress { .. }), "{event:?}"),
        }
    }
    let next = case.commit(vec![Compare::ModifiedAt(case.key("a"), first)], vec![case.put("a", "2")]).await;
    assert!(next > floor, "{next}");
    assert_eq!(next_changes(&mut watch).await.0, next);
}

/// Adds one to a counter as often as asked; returns the revisions.
async fn count(case: Case, times: usize) -> Vec<Revision> {
    let (mut entry, _) = case.store.get(&case.key("counter")).await.unwrap();
    let mut revisions = Vec::new();
    while revisions.len() < times {
        let found = entry.take().unwrap();
        let number: usize = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
        let compares = vec![Compare::ModifiedAt(found.key, found.mod_revision)];
        let ops = vec![case.put("counter", &(number + 1).to_string())];
        match case.store.transact(Txn { compares, ops }).await.unwrap() {
            Outcome::Committed(revision) => {
                revisions.push(revision);
                entry = case.store.get(&case.key("counter")).await.unwrap().0;
            }
            Outcome::Conflict { mut current, revision } => {
                entry = current.remove(0);
                assert!(revision >= entry.as_ref().unwrap().mod_revision);
            }
        }
    }
    revisions
}

pub(crate) async fn of_many_writers_each_revision_is_given_once(case: Case) {
    const WRITERS: usize = 32;
    const TIMES: usize = 8;
    let start = case.commit(vec![], vec![case.put("counter", "0")]).await;
    let mut watch = case.watch("counter", start).await;
    let mut writers: JoinSet<_> = (0..WRITERS).map(|_| count(case.clone(), TIMES)).collect();
    let mut given = BTreeSet::new();
    while let Some(revisions) = writers.join_next().await {
        let revisions = revisions.unwrap();
        assert!(revisions.is_sorted());
        for revision in revisions {
            assert!(revision > start && given.insert(revision), "{revision} was given twice");
        }
    }
    assert_eq!(given.len(), WRITERS * TIMES);
    assert_eq!(case.value("counter").await, Some(given.len().to_string()));
    for revision in given {
        assert_eq!(next_changes(&mut watch).await.0, revision);
    }
}
