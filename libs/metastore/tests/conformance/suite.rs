//! The suite that every metadata store passes, with the clock and the revisions of a store that others use, too.
//!
//! A test file includes it with `#[path = "conformance/suite.rs"] mod suite;`, implements [`Fixture`] and writes
//! `suite::conformance!(name, ItsFixture);`. Each case has keys of its own, so that one store can serve all of them. Only
//! compaction concerns the whole store: a fixture over a shared store holds a lock in its guard, so that cases run one
//! after another.

pub(crate) mod elections;
pub(crate) mod faulty;
pub(crate) mod history;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod ranges;
pub(crate) mod transactions;
pub(crate) mod watches;

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use walser_metastore::{
    Change, Compare, LeaseId, Metastore, Op, Outcome, RangeRequest, Revision, Txn, Watch, WatchEvent,
};

pub(crate) type Store = Arc<dyn Metastore>;

/// A case that waits longer than this waits for something that does not come.
const CASE_MAX: Duration = Duration::from_secs(60);

/// What opens the store under test.
pub(crate) trait Fixture {
    /// Held for as long as the case runs.
    type Guard: Send;

    /// A store that answers.
    fn open() -> impl Future<Output = (Store, Self::Guard)> + Send;
}

/// A store, and the keys of one case in it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) store: Store,
    prefix: String,
}

/// Runs one case on a store of the fixture.
pub(crate) async fn run<F: Fixture, R: Future<Output = ()>>(name: &str, body: impl FnOnce(Case) -> R) {
    let (store, _guard) = F::open().await;
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let case = Case { store, prefix: format!("conformance/{random:016x}/{name}/") };
    tokio::time::timeout(CASE_MAX, body(case)).await.expect("the case does not end");
}

/// The revision and the changes of the next event that has some.
pub(crate) async fn next_changes(watch: &mut Box<dyn Watch>) -> (Revision, Vec<Change>) {
    loop {
        if let WatchEvent::Changes { revision, changes } = watch.next().await.unwrap() {
            return (revision, changes);
        }
    }
}

impl Case {
    /// A key of this case.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn put(&self, name: &str, value: &str) -> Op {
        Op::Put { key: self.key(name), value: value.to_owned().into(), lease: None }
    }

    pub(crate) fn bound(&self, name: &str, lease: LeaseId) -> Op {
        Op::Put { key: self.key(name), value: "1".into(), lease: Some(lease) }
    }

    pub(crate) fn delete(&self, name: &str) -> Op {
        Op::Delete { key: self.key(name) }
    }

    pub(crate) fn missing(&self, name: &str) -> Compare {
        Compare::Missing(self.key(name))
    }

    pub(crate) async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Revision {
        match self.store.transact(Txn { compares, ops }).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict { current, .. } => panic!("conflict: {current:?}"),
        }
    }

    pub(crate) async fn value(&self, name: &str) -> Option<String> {
        let (entry, _) = self.store.get(&self.key(name)).await.unwrap();
        entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    pub(crate) async fn watch(&self, name: &str, after: Revision) -> Box<dyn Watch> {
        self.store.watch(&self.key(name), after).await.unwrap()
    }

    /// Asks for the first keys under a prefix.
    pub(crate) fn range(&self, name: &str, limit: usize, revision: Option<Revision>) -> RangeRequest {
        RangeRequest { prefix: self.key(name), after: None, limit, revision }
    }
}

macro_rules! conformance {
    ($name:ident, $fixture:ty) => {
        mod $name {
            use super::*;

            suite::conformance!(@cases $fixture, transactions: [
                transactions_compare_and_put,
                a_conflict_names_the_keys_and_the_revision,
                a_key_is_changed_once_in_a_transaction,
                every_change_has_a_revision_of_its_own,
                a_raised_revision_is_never_gone_below,
                of_many_writers_each_revision_is_given_once,
            ]);
            suite::conformance!(@cases $fixture, ranges: [
                ranges_are_ordered_and_bounded_by_the_prefix,
                pages_show_one_revision_whatever_changes_meanwhile,
                a_revision_that_is_not_there_cannot_be_read,
                one_key_is_read_while_it_changes,
                a_thousand_keys_are_read_while_they_change,
                ten_thousand_keys_are_read_while_they_change,
                reading_starts_anew_after_a_compaction,
                reading_that_is_compacted_every_time_gives_up,
            ]);
            suite::conformance!(@cases $fixture, watches: [
                watches_return_every_change_once_and_in_order,
                progress_is_reported_without_changes,
                changes_never_follow_their_progress,
                a_dropped_wait_loses_nothing,
            ]);
            suite::conformance!(@cases $fixture, history: [
                history_is_forgotten_when_that_is_asked_for,
                a_watch_that_was_away_during_a_compaction_is_told,
            ]);
            suite::conformance!(@cases $fixture, leases: [
                a_lease_ends_unless_it_is_kept_alive,
                a_revoked_lease_takes_its_keys_along,
                a_lease_that_is_not_there_is_refused,
            ]);
            suite::conformance!(@cases $fixture, limits: [
                compares_and_changes_are_limited_each_by_itself,
                bytes_of_a_transaction_are_limited,
                a_range_asks_for_one_entry_at_least,
            ]);
            suite::conformance!(@cases $fixture, elections: [
                elections_have_one_leader_at_a_time,
                a_candidate_recognises_its_own_key,
                a_candidate_waits_for_its_key_of_another_lease,
                a_campaign_survives_a_store_that_does_not_answer,
                a_campaign_wins_when_the_lease_of_the_leader_ends,
                a_candidate_whose_lease_ended_does_not_win,
            ]);
        }
    };
    (@cases $fixture:ty, $module:ident: [$($case:ident),* $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                suite::run::<$fixture, _>(stringify!($case), suite::$module::$case).await;
            }
        )*
    };
}

pub(crate) use conformance;
