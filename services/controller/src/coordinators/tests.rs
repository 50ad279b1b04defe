//! Beats in, shards out, on a view that has what was written.

use std::collections::HashMap;

use walser_group::CoordinatorEpoch;
use walser_metastore::{Change, KeyValue, Op};

use super::*;

fn beat_of(id: &str) -> CoordinatorBeat {
    CoordinatorBeat { id: id.to_owned(), address: format!("{id}:1"), stopping: false, outdated: Vec::new() }
}

/// Coordinators, and the view of a store that takes what is decided.
#[derive(Default)]
struct Tested {
    coordinators: Coordinators,
    view: ClusterView,
    revision: Revision,
    now: Duration,
}

impl Tested {
    fn beat(&self, id: &str) {
        self.say(id, false, Vec::new());
    }

    fn say(&self, id: &str, stopping: bool, outdated: Vec<(i32, CoordinatorEpoch)>) {
        let beat = CoordinatorBeat { stopping, outdated, ..beat_of(id) };
        self.coordinators.beat(&beat, self.now).unwrap();
    }

    /// Time goes on, and those that speak are heard meanwhile.
    fn later(&mut self, millis: u64, speaking: &[&str]) -> usize {
        self.now += Duration::from_millis(millis);
        speaking.iter().for_each(|id| self.beat(id));
        self.coordinators.forget_silent(self.now);
        self.write()
    }

    /// Writes what is decided; returns how many shards move.
    fn write(&mut self) -> usize {
        let Txn { compares, ops } = self.coordinators.decide(&self.view);
        assert_eq!(compares.len(), ops.len(), "nothing is written over what was not seen");
        let count = ops.len();
        if count > 0 {
            self.revision += 1;
            let mod_revision = self.revision;
            let entry = |op| match op {
                Op::Put { key, value, .. } => {
                    Change::Put(KeyValue { key, value, create_revision: 1, mod_revision, lease: 0 })
                }
                Op::Delete { .. } => panic!("no shard is ever without a coordinator again"),
            };
            let changes: Vec<_> = ops.into_iter().map(entry).collect();
            self.view.apply(&changes, self.revision).unwrap();
        }
        count
    }

    fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for (_, given) in self.view.metadata.group_shards() {
            assert_eq!(given.value.address, format!("{}:1", given.value.coordinator));
            *counts.entry(given.value.coordinator.clone()).or_insert(0) += 1;
        }
        counts
    }

    fn epoch(&self, shard: i32) -> i64 {
        self.view.metadata.group_shard(shard).unwrap().value.epoch
    }
}

#[test]
fn shards_follow_the_living_and_their_epochs_grow() {
    let mut tested = Tested::default();
    assert_eq!(tested.write(), 0, "nobody is there");
    tested.beat("a");
    assert_eq!((tested.write(), tested.write()), (16, 0));
    tested.beat("b");
    assert_eq!(tested.write(), 8);
    assert_eq!(tested.counts(), HashMap::from([("a".to_owned(), 8), ("b".to_owned(), 8)]));
    assert_eq!(tested.later(1_000, &["a"]), 0);
    assert_eq!(tested.later(600, &["a"]), 8, "b was not heard for longer than a session");
    assert_eq!(tested.counts(), HashMap::from([("a".to_owned(), 16)]));
    let epochs: Vec<_> = (0..GROUP_SHARDS).map(|shard| tested.epoch(shard)).collect();
    assert_eq!(epochs.iter().filter(|epoch| **epoch == 3).count(), 8, "of those that were moved twice");
    assert_eq!(tested.later(5_000, &[]), 0, "without anybody they stay");
    assert_eq!(tested.later(1, &["c"]), 16, "a new process is another coordinator");
}

#[test]
fn one_that_wants_to_stop_loses_its_shards_at_once() {
    let mut tested = Tested::default();
    tested.beat("a");
    tested.beat("b");
    tested.write();
    tested.say("a", true, Vec::new());
    assert!(!tested.coordinators.may_stop("a", &tested.view), "it still has them");
    assert_eq!(tested.write(), 8);
    assert!(tested.coordinators.may_stop("a", &tested.view));
    assert_eq!(tested.counts(), HashMap::from([("b".to_owned(), 16)]));
    tested.say("b", true, Vec::new());
    assert_eq!(tested.write(), 0, "there is nobody else");
    assert!(tested.coordinators.may_stop("b", &tested.view));
}

#[test]
fn a_successor_waits_for_those_that_it_has_not_heard() {
    let mut before = Tested::default();
    before.beat("a");
    before.beat("b");
    before.write();
    let mut after = Tested { view: before.view, revision: before.revision, ..Tested::default() };
    after.beat("a");
    after.coordinators.expect(&after.view, after.now);
    assert_eq!(after.write(), 0, "b may live");
    assert_eq!(after.later(1_400, &["a"]), 0);
    assert_eq!(after.later(200, &["a"]), 8);
}

#[test]
fn an_epoch_that_lies_behind_the_log_goes_beyond_it() {
    let mut tested = Tested::default();
    tested.beat("a");
    tested.beat("b");
    tested.write();
    let own = tested.view.metadata.group_shards().find(|(_, given)| given.value.coordinator == "a").unwrap().0;
    // A coordinator that has lost the shard, and has read in its log that another one has it.
    let in_log = tested.epoch(own);
    tested.say("b", false, vec![(own, CoordinatorEpoch(in_log))]);
    assert_eq!(tested.write(), 0);
    tested.say("a", false, vec![(own, CoordinatorEpoch(500))]);
    assert_eq!((tested.write(), tested.epoch(own)), (1, 501));
    assert_eq!(tested.write(), 0);
    tested.say("a", false, vec![(99, CoordinatorEpoch(1))]);
    assert_eq!(tested.write(), 0, "there is no such shard");
}

#[test]
fn there_are_not_too_many() {
    let tested = Tested::default();
    (0..COORDINATORS_MAX).for_each(|number| tested.beat(&format!("c{number}")));
    assert_eq!(tested.coordinators.beat(&beat_of("x"), tested.now).unwrap_err().reason(), Reason::QuotaExceeded);
    tested.beat("c0");
    let nameless = tested.coordinators.beat(&beat_of(""), tested.now);
    assert_eq!(nameless.unwrap_err().reason(), Reason::FieldInvalid);
}

/// Gateways would reach one of them for the groups of both.
#[test]
fn of_two_that_live_at_one_address_the_second_gets_nothing_until_the_first_is_gone() {
    let mut tested = Tested::default();
    let at = |id: &str, stopping| CoordinatorBeat { address: "same:1".to_owned(), stopping, ..beat_of(id) };
    let say = |tested: &Tested, id: &str| tested.coordinators.beat(&at(id, false), tested.now);
    say(&tested, "first").unwrap();
    assert_eq!(tested.later(200, &[]), 16);
    // It may be the same process, started again.
    say(&tested, "second").unwrap();
    for _ in 0..10 {
        tested.later(200, &[]);
        say(&tested, "first").unwrap();
        let refused = say(&tested, "second").unwrap_err();
        assert_eq!(refused.reason(), Reason::NodeAddressInUse);
        assert_eq!(tested.coordinators.refused(), [refused]);
    }
    assert!(tested.view.metadata.group_shards().all(|(_, given)| given.value.coordinator == "first"));
    tested.coordinators.beat(&at("second", true), tested.now).expect("one that stops is in nobody's way");
    for _ in 0..8 {
        tested.later(200, &[]);
        let _ = say(&tested, "second");
    }
    say(&tested, "second").expect("nobody else is there any more");
    assert_eq!((tested.write(), tested.coordinators.refused().len()), (16, 0));
}
