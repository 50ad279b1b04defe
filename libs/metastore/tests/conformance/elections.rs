//! Elections.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use walser_metastore::{Compare, Leadership, LeaseId, Metastore as _, Outcome, StoreError, Txn};

use super::Case;
use super::faulty::Faulty;

const LONG: Duration = Duration::from_secs(60);
/// Longer than the shortest that etcd grants, 2 s, so that the others begin while it lasts.
const SHORT: Duration = Duration::from_secs(3);

type Campaign = JoinHandle<Result<Leadership, StoreError>>;

/// Campaigns, and returns when the campaign has seen that another candidate leads.
async fn waiting(case: &Case, candidate: &'static str, lease: LeaseId) -> Campaign {
    let faulty = Arc::new(Faulty::new(&case.store));
    let (name, campaigning) = (case.key("leader"), Arc::clone(&faulty));
    let waiting = tokio::spawn(async move { campaigning.campaign(&name, candidate, lease).await });
    faulty.watched().await;
    assert!(!waiting.is_finished());
    waiting
}

pub(crate) async fn elections_have_one_leader_at_a_time(case: Case) {
    let first = case.store.grant(LONG).await.unwrap();
    let second = case.store.grant(LONG).await.unwrap();
    let leader = case.store.campaign(&case.key("leader"), "one", first).await.unwrap();
    let waiting = waiting(&case, "two", second).await;
    let fence = || vec![Compare::CreatedAt(leader.key.clone(), leader.epoch)];
    case.commit(fence(), vec![case.put("by", "one")]).await;
    assert!(!waiting.is_finished());
    case.store.revoke(first).await.unwrap();
    let successor = waiting.await.unwrap().unwrap();
    assert!(successor.epoch > leader.epoch);
    let fenced = case.store.transact(Txn { compares: fence(), ops: vec![case.put("by", "one")] }).await;
    assert!(matches!(fenced, Ok(Outcome::Conflict { .. })), "a deposed leader wrote: {fenced:?}");
    case.store.revoke(second).await.unwrap();
}

pub(crate) async fn a_candidate_recognises_its_own_key(case: Case) {
    let (lease, name) = (case.store.grant(LONG).await.unwrap(), case.key("leader"));
    let faulty = Faulty::new(&case.store).with_unknown(1);
    let leader = faulty.campaign(&name, "one", lease).await.unwrap();
    let (entry, _) = case.store.get(&leader.key).await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((entry.create_revision, entry.lease), (leader.epoch, lease));
    assert!(faulty.is_used_up(), "the first answer was lost");
    assert_eq!(case.store.campaign(&name, "one", lease).await.unwrap(), leader, "again, without a new epoch");
    case.store.revoke(lease).await.unwrap();
}

pub(crate) async fn a_candidate_waits_for_its_key_of_another_lease(case: Case) {
    let old = case.store.grant(LONG).await.unwrap();
    let new = case.store.grant(LONG).await.unwrap();
    let before = case.store.campaign(&case.key("leader"), "one", old).await.unwrap();
    let waiting = waiting(&case, "one", new).await;
    case.store.revoke(old).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().epoch > before.epoch);
    case.store.revoke(new).await.unwrap();
}

pub(crate) async fn a_campaign_survives_a_store_that_does_not_answer(case: Case) {
    let first = case.store.grant(LONG).await.unwrap();
    let second = case.store.grant(LONG).await.unwrap();
    let before = case.store.campaign(&case.key("leader"), "one", first).await.unwrap();
    let faulty = Arc::new(Faulty::new(&case.store).with_unavailable(2).with_broken_watches(2));
    let (name, campaigning) = (case.key("leader"), Arc::clone(&faulty));
    let waiting = tokio::spawn(async move { campaigning.campaign(&name, "two", second).await });
    for _ in 0..3 {
        faulty.watched().await;
    }
    case.store.revoke(first).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().epoch > before.epoch);
    assert!(faulty.is_used_up());
    case.store.revoke(second).await.unwrap();
}

pub(crate) async fn a_campaign_wins_when_the_lease_of_the_leader_ends(case: Case) {
    let short = case.store.grant(SHORT).await.unwrap();
    let long = case.store.grant(LONG).await.unwrap();
    let leader = case.store.campaign(&case.key("leader"), "one", short).await.unwrap();
    let successor = waiting(&case, "two", long).await.await.unwrap().unwrap();
    assert!(successor.epoch > leader.epoch);
    assert_eq!(case.store.keep_alive(short).await, Err(StoreError::NoLease(short)));
    case.store.revoke(long).await.unwrap();
}

pub(crate) async fn a_candidate_whose_lease_ended_does_not_win(case: Case) {
    let long = case.store.grant(LONG).await.unwrap();
    let ended = case.store.grant(LONG).await.unwrap();
    let leader = case.store.campaign(&case.key("leader"), "one", long).await.unwrap();
    let waiting = waiting(&case, "two", ended).await;
    case.store.revoke(ended).await.unwrap();
    case.store.revoke(long).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(StoreError::NoLease(ended)));
    assert_eq!(case.store.get(&leader.key).await.unwrap().0, None);
}
