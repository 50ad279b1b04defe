//! Leases, in real time: the shortest that etcd grants is 2 s.

use std::time::Duration;

use walser_metastore::{Change, StoreError, Txn};

use super::{Case, next_changes};

const TTL: Duration = Duration::from_secs(2);

pub(crate) async fn a_lease_ends_unless_it_is_kept_alive(case: Case) {
    let lease = case.store.grant(TTL).await.unwrap();
    let revision = case.commit(vec![], vec![case.bound("l/1", lease), case.put("l/2", "1")]).await;
    let (entry, _) = case.store.get(&case.key("l/1")).await.unwrap();
    assert_eq!(entry.unwrap().lease, lease);
    let mut watch = case.watch("l/", revision).await;
    // Twice its duration: without the answers to `keep_alive` it would have ended.
    let mut ticks = tokio::time::interval(TTL / 8);
    for _ in 0..16 {
        ticks.tick().await;
        case.store.keep_alive(lease).await.unwrap();
    }
    assert!(case.value("l/1").await.is_some());
    let (_, changes) = next_changes(&mut watch).await;
    assert_eq!(changes, [Change::Delete { key: case.key("l/1") }]);
    assert!(case.value("l/2").await.is_some());
    assert_eq!(case.store.keep_alive(lease).await, Err(StoreError::NoLease(lease)));
}

pub(crate) async fn a_revoked_lease_takes_its_keys_along(case: Case) {
    let lease = case.store.grant(Duration::from_secs(60)).await.unwrap();
    let other = case.store.grant(Duration::from_secs(60)).await.unwrap();
    let names = ["a", "b", "kept", "moved"];
    case.commit(vec![], names.iter().map(|name| case.bound(name, lease)).collect()).await;
    // The last put decides.
    let last = case.commit(vec![], vec![case.put("kept", "2"), case.bound("moved", other)]).await;
    let mut watch = case.watch("", last).await;
    case.store.revoke(lease).await.unwrap();
    case.store.revoke(lease).await.unwrap();
    let mut gone: Vec<String> = Vec::new();
    while gone.len() < 2 {
        gone.extend(next_changes(&mut watch).await.1.iter().map(|change| change.key().to_owned()));
    }
    gone.sort();
    assert_eq!(gone, [case.key("a"), case.key("b")]);
    assert_eq!(case.value("kept").await.as_deref(), Some("2"));
    assert!(case.value("moved").await.is_some());
    case.store.revoke(other).await.unwrap();
    assert!(case.value("moved").await.is_none());
}

pub(crate) async fn a_lease_that_is_not_there_is_refused(case: Case) {
    let lease = case.store.grant(Duration::from_secs(60)).await.unwrap();
    case.store.revoke(lease).await.unwrap();
    let ops = vec![case.bound("late", lease)];
    let late = case.store.transact(Txn { compares: vec![], ops }).await;
    assert_eq!(late, Err(StoreError::NoLease(lease)));
    assert_eq!(case.store.keep_alive(lease).await, Err(StoreError::NoLease(lease)));
    assert!(case.value("late").await.is_none());
}
