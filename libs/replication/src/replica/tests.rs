use walser_model::Acks;

use super::*;
use crate::NotEnoughReplicas;
use crate::test_log::TestLog;

const SELF: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const EPOCH: i64 = 50;
const WAIT_MAX: Duration = Duration::from_secs(10);

type Act = ReplicaAction<u32>;

struct Tested {
    replica: Replica<u32>,
    log: TestLog,
    now: Duration,
}

/// Of a process that has not registered.
fn starting(log: TestLog) -> Tested {
    let start = ReplicaStart {
        first_open: 0,
        node: SELF,
        integrity: ReplicaIntegrity::Intact,
        lazy: false,
        high_watermark: Offset::ZERO,
        high_watermark_epoch: LeaderEpoch::NONE,
        lag_max: Duration::from_secs(4),
        wait_max: WAIT_MAX,
        rules: Rules::ALL,
    };
    Tested { replica: Replica::new(start), log, now: Duration::ZERO }
}

fn step(tested: &mut Tested, event: ReplicaEvent) -> Vec<Act> {
    let mut out = ReplicaActions::new();
    tested.replica.step(tested.now, event, &tested.log, &mut out);
    out.into()
}

/// Of both nodes, in this leader epoch.
fn partition(leader: NodeId, leader_epoch: i32) -> PartitionState {
    let leader_epoch = LeaderEpoch(leader_epoch);
    PartitionState { leader: Some(leader), leader_epoch, ..PartitionState::new(vec![SELF, OTHER], 1) }
}

fn install(tested: &mut Tested, partition: PartitionState, partition_epoch: i64) -> Vec<Act> {
    step(tested, ReplicaEvent::Installed { partition, partition_epoch })
}

/// Registered, and told everything.
fn told(leader: NodeId) -> Tested {
    let mut tested = starting(TestLog::new(10, 10));
    assert_eq!(install(&mut tested, partition(leader, 4), 60), []);
    assert_eq!(step(&mut tested, ReplicaEvent::Observed { revision: 60 }), []);
    let became = step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH });
    match leader {
        SELF => assert_eq!(became, [lead(4)]),
        _ => assert_eq!(became[0], follow(4)),
    }
    tested
}

fn lead(epoch: i32) -> Act {
    Act::Lead { epoch: LeaderEpoch(epoch), high_watermark: Offset::ZERO }
}

fn follow(epoch: i32) -> Act {
    Act::Follow { leader: OTHER, epoch: LeaderEpoch(epoch) }
}

fn append(tested: &mut Tested, write: u32, acks: Acks) {
    tested.log.end += 1;
    let end = Offset(tested.log.end);
    tested.replica.wait(tested.now, Write::Appended { write, end, acks, repeated: false });
}

/// Whether a write with acks=all may be appended. `None`: the node does not lead.
fn admitted(tested: &Tested) -> Option<Result<(), NotEnoughReplicas>> {
    tested.replica.leader().map(|leader| leader.admit(Acks::All))
}

fn answers(actions: &[Act]) -> Vec<(u32, WriteOutcome)> {
    let answer = |action: &Act| match action {
        Act::Answer { write, outcome } => Some((*write, *outcome)),
        _ => None,
    };
    actions.iter().filter_map(answer).collect()
}

#[test]
fn it_acts_only_on_metadata_that_includes_its_registration() {
    let mut tested = starting(TestLog::new(10, 10));
    assert_eq!(step(&mut tested, ReplicaEvent::Observed { revision: EPOCH - 1 }), []);
    assert_eq!(step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH }), []);
    assert_eq!(install(&mut tested, partition(SELF, 4), 40), [], "that may have been true before it died");
    assert_eq!(step(&mut tested, ReplicaEvent::Observed { revision: EPOCH }), [lead(4)]);
    assert_eq!(install(&mut tested, partition(OTHER, 3), 39), [], "older metadata changes nothing");
    assert!(tested.replica.leader().is_some());
}

#[test]
fn an_epoch_is_led_once_by_an_incarnation() {
    let mut tested = told(SELF);
    let mut gone = partition(SELF, 4);
    gone.leader = None;
    assert_eq!(install(&mut tested, gone, 61), [Act::Rest]);
    assert_eq!(install(&mut tested, partition(SELF, 4), 62), [Act::GiveUp], "it has led in that epoch");
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [Act::GiveUp], "nobody need have heard it");
    assert_eq!(install(&mut tested, partition(SELF, 5), 63), [lead(5)]);
    assert_eq!(step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH }), []);
    let again = step(&mut tested, ReplicaEvent::Registered { node_epoch: 70 });
    assert_eq!(again, [Act::Rest], "of the new incarnation nothing is known yet");
    assert_eq!(step(&mut tested, ReplicaEvent::Observed { revision: 70 }), [lead(5)]);
}

#[test]
fn a_change_of_roles_waits_for_a_cut() {
    let mut tested = told(OTHER);
    let open = tested.replica.follower().unwrap().open();
    let answer = Diverging { leader_epoch: LeaderEpoch(4), open, epoch: LeaderEpoch(1), end: Offset(6) };
    let cut = step(&mut tested, ReplicaEvent::Diverged(answer));
    let [Act::Truncate { work, to: Offset(6) }] = cut[..] else { panic!("{cut:?}") };
    assert_eq!(tested.replica.candidate(&tested.log), None, "its log is about to end elsewhere");
    assert_eq!(install(&mut tested, partition(SELF, 5), 61), []);
    assert_eq!(step(&mut tested, ReplicaEvent::WorkDone { work: WorkId(77) }), []);
    tested.log.cut(6);
    let became = step(&mut tested, ReplicaEvent::WorkDone { work });
    assert_eq!(became, [Act::Rest, lead(5)]);
    assert_eq!(tested.replica.leader().unwrap().epoch_start(), Offset(6));
    assert_eq!(step(&mut tested, ReplicaEvent::WorkDone { work }), [], "it ends once");
}

#[test]
fn every_write_has_one_answer_in_order_with_those_that_wait_for_the_same() {
    let mut tested = told(SELF);
    append(&mut tested, 1, Acks::All);
    tested.replica.wait(tested.now, Write::Refused { write: 2, acks: Acks::All });
    append(&mut tested, 3, Acks::Leader);
    assert_eq!(answers(&step(&mut tested, ReplicaEvent::LogChanged)), [], "the first one waits for the other replica");
    tested.log.durable = 12;
    let alone = [(3, WriteOutcome::Acknowledged)];
    assert_eq!(answers(&step(&mut tested, ReplicaEvent::LogChanged)), alone, "it waits for this replica only");
    assert_eq!(tested.replica.waiting(), (2, 0));
    let mut released = Vec::new();
    tested.replica.release(&tested.log, |write| released.push(*write));
    tested.replica.release(&tested.log, |_| panic!("each of them once"));
    assert_eq!((released, tested.replica.waiting()), (vec![1, 2], (2, 2)));
    let mut alone = partition(SELF, 4);
    alone.isr.remove(OTHER);
    let all = [(1, WriteOutcome::Acknowledged), (2, WriteOutcome::Refused)];
    assert_eq!(answers(&install(&mut tested, alone, 61)), all);
    assert_eq!(tested.replica.waiting(), (0, 0));
}

#[test]
fn a_write_that_meets_no_leader_is_answered() {
    let mut tested = told(OTHER);
    tested.replica.wait(tested.now, Write::Refused { write: 1, acks: Acks::All });
    append(&mut tested, 2, Acks::Leader);
    let answered = answers(&step(&mut tested, ReplicaEvent::LogChanged));
    assert_eq!(answered, [(1, WriteOutcome::Refused), (2, WriteOutcome::LeaderLost)]);
}

#[test]
fn a_registration_that_is_over_ends_what_it_was() {
    let mut tested = told(OTHER);
    let before = tested.replica.follower().unwrap().open();
    assert_eq!(step(&mut tested, ReplicaEvent::Unregistered), [Act::Rest]);
    assert_eq!(step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH }), [], "it was that already");
    install(&mut tested, partition(OTHER, 5), 61);
    let open = tested.replica.follower().unwrap().open();
    assert!(open > before, "nothing that was on its way counts: {before:?}, {open:?}");
}

#[test]
fn a_write_that_cannot_be_confirmed_is_answered_without() {
    let tick = |tested: &mut Tested, seconds| {
        tested.now = Duration::from_secs(seconds);
        answers(&step(tested, ReplicaEvent::Tick))
    };
    let mut tested = told(SELF);
    assert_eq!(tick(&mut tested, 1), []);
    append(&mut tested, 1, Acks::All);
    assert_eq!(tick(&mut tested, 10), []);
    assert_eq!(tick(&mut tested, 11), [(1, WriteOutcome::TimedOut)]);
    append(&mut tested, 2, Acks::All);
    let mut few = partition(SELF, 4);
    (few.isr, few.min_isr) = ([SELF].into_iter().collect(), 2);
    let missing = NotEnoughReplicas { isr: 1, min_isr: 2 };
    assert_eq!(answers(&install(&mut tested, few, 61)), [(2, WriteOutcome::NotEnoughReplicas(missing))]);
    assert_eq!(admitted(&tested), Some(Err(missing)), "and none is appended any more");
    append(&mut tested, 3, Acks::Leader);
    assert_eq!(answers(&install(&mut tested, partition(OTHER, 5), 62)), [(3, WriteOutcome::LeaderLost)]);
    assert_eq!(admitted(&tested), None);
    assert_eq!(WriteOutcome::LeaderLost.effect(), WriteEffect::Maybe);
}

#[test]
fn a_log_that_fails_gives_up_the_lead() {
    let mut tested = told(SELF);
    append(&mut tested, 1, Acks::All);
    let failed = step(&mut tested, ReplicaEvent::LogFailed);
    assert_eq!(failed, [Act::Answer { write: 1, outcome: WriteOutcome::LogFailed }, Act::GiveUp]);
    assert!(tested.replica.leader().is_some(), "readers are served until there is another one");
    assert_eq!(step(&mut tested, ReplicaEvent::LogFailed), []);
    assert!(step(&mut tested, ReplicaEvent::Tick).contains(&Act::GiveUp), "nobody need have heard it");
    assert_eq!(install(&mut tested, partition(OTHER, 5), 61), [Act::Rest], "and it cannot follow");
    assert_eq!(install(&mut tested, partition(SELF, 6), 62), [lead(6), Act::GiveUp], "readers are served again");
    assert_eq!(tested.replica.candidate(&tested.log), None);
}

/// What a follower has acknowledged from the page cache may be lost when its log fails, with fsync not.
#[test]
fn a_follower_with_page_cache_whose_log_fails_asks_not_to_be_counted() {
    let mut with_fsync = told(OTHER);
    assert_eq!(step(&mut with_fsync, ReplicaEvent::LogFailed), [Act::Rest]);
    assert_eq!(step(&mut with_fsync, ReplicaEvent::Tick), []);
    let mut tested = told(OTHER);
    step(&mut tested, ReplicaEvent::Configured { durability: Durability::PageCache });
    assert_eq!(step(&mut tested, ReplicaEvent::LogFailed), [Act::Rest, Act::GiveUp]);
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [Act::GiveUp], "nobody need have heard it");
    let mut without = partition(OTHER, 5);
    without.set_isr(std::iter::once(OTHER).collect());
    without.elr.remove(SELF);
    assert_eq!(install(&mut tested, without, 61), []);
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [], "nobody counts on it");
}

#[test]
fn what_was_given_up_is_not_acknowledged_by_what_takes_its_place() {
    let mut tested = starting(TestLog::new(10, 10));
    step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH });
    step(&mut tested, ReplicaEvent::Observed { revision: 60 });
    install(&mut tested, PartitionState { leader_epoch: LeaderEpoch(4), ..PartitionState::new(vec![SELF], 1) }, 60);
    append(&mut tested, 1, Acks::All);
    tested.log.cut(8);
    let lost = Act::Answer { write: 1, outcome: WriteOutcome::LeaderLost };
    let led = Act::Lead { epoch: LeaderEpoch(4), high_watermark: Offset(8) };
    assert_eq!(step(&mut tested, ReplicaEvent::Repaired), [Act::Rest, lost, led], "an only replica goes on");
    let mut tested = told(SELF);
    assert_eq!(
        step(&mut tested, ReplicaEvent::Repaired),
        [Act::Rest, Act::GiveUp],
        "others have followed it in this epoch"
    );
    assert_eq!(tested.replica.integrity(), ReplicaIntegrity::Intact);
}

#[test]
fn an_unclean_stop_is_told_until_what_may_have_counted_is_flushed() {
    let mut tested = told(SELF);
    assert!(!tested.replica.lazy());
    step(&mut tested, ReplicaEvent::Configured { durability: Durability::PageCache });
    append(&mut tested, 1, Acks::Leader);
    step(&mut tested, ReplicaEvent::Configured { durability: Durability::Fsync });
    assert!(tested.replica.lazy());
    tested.log.durable = 11;
    step(&mut tested, ReplicaEvent::LogChanged);
    assert!(!tested.replica.lazy());
}

#[test]
fn what_a_registration_has_recorded_is_not_told_again() {
    let of = |integrity| {
        let mut tested = starting(TestLog::new(10, 10));
        tested.replica.integrity = integrity;
        step(&mut tested, ReplicaEvent::Registered { node_epoch: EPOCH });
        tested.replica.integrity()
    };
    assert_eq!(of(ReplicaIntegrity::Unclean), ReplicaIntegrity::Intact);
    assert_eq!(of(ReplicaIntegrity::Gone), ReplicaIntegrity::Intact);
    assert_eq!(of(ReplicaIntegrity::Damaged), ReplicaIntegrity::Damaged, "it still is");
}

#[test]
fn a_replica_that_is_not_named_any_more_remembers_nothing() {
    let mut tested = told(OTHER);
    let removed = PartitionState { leader: Some(OTHER), ..PartitionState::new(vec![OTHER], 1) };
    assert_eq!(install(&mut tested, removed, 61), [Act::Rest, Act::Removed]);
    assert_eq!(tested.replica.high_watermark(), (Offset::ZERO, LeaderEpoch::NONE));
}

#[test]
fn a_damaged_log_is_replaced_once_nobody_counts_on_it() {
    let mut tested = told(OTHER);
    tested.log.damaged = true;
    assert_eq!(step(&mut tested, ReplicaEvent::LogDamaged), [Act::Rest, Act::GiveUp], "it is in sync");
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [Act::GiveUp], "nobody need have heard it");
    let mut without = partition(OTHER, 4);
    without.set_isr(std::iter::once(OTHER).collect());
    without.elr = std::iter::once(SELF).collect();
    assert_eq!(install(&mut tested, without.clone(), 61), [Act::GiveUp], "it is eligible");
    without.elr.remove(SELF);
    let asks = install(&mut tested, without.clone(), 62);
    assert_eq!(asks, [Act::GiveUp], "the leader may count on what was acknowledged before: it asks for another epoch");
    without.leader_epoch = LeaderEpoch(5);
    let opens = install(&mut tested, without.clone(), 63);
    let [Act::Follow { .. }, Act::Follower(FollowerAction::Open(open))] = opens[..] else { panic!("{opens:?}") };
    assert!(open.damaged, "the leader hears what it has");
    assert_eq!(install(&mut tested, without.clone(), 64), [], "it waits for the copy");
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [], "it waits for the copy");
    let offered = ReplicaEvent::CopyOffered { leader_epoch: LeaderEpoch(5), open: open.id };
    let copies = step(&mut tested, offered);
    let [Act::Copy { work }] = copies[..] else { panic!("{copies:?}") };
    let again = step(&mut tested, ReplicaEvent::WorkDone { work });
    let [Act::Follower(FollowerAction::Open(open))] = again[..] else { panic!("no copy came: {again:?}") };
    let copies = step(&mut tested, ReplicaEvent::CopyOffered { leader_epoch: LeaderEpoch(5), open: open.id });
    let [Act::Copy { work }] = copies[..] else { panic!("{copies:?}") };
    tested.log.damaged = false;
    let opens = step(&mut tested, ReplicaEvent::WorkDone { work });
    assert!(matches!(opens[..], [Act::Follower(FollowerAction::Open(_))]), "{opens:?}");
}

#[test]
fn a_follower_that_is_found_damaged_while_nobody_counts_on_it_asks_for_another_leader_epoch() {
    let mut tested = told(OTHER);
    let mut without = partition(OTHER, 4);
    without.set_isr(std::iter::once(OTHER).collect());
    without.elr.remove(SELF);
    install(&mut tested, without.clone(), 61);
    tested.log.damaged = true;
    assert_eq!(step(&mut tested, ReplicaEvent::LogDamaged), [Act::Rest, Act::GiveUp]);
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), [Act::GiveUp], "nobody need have heard it");
    without.leader_epoch = LeaderEpoch(5);
    let opens = install(&mut tested, without, 62);
    let [Act::Follow { .. }, Act::Follower(FollowerAction::Open(open))] = opens[..] else { panic!("{opens:?}") };
    assert!(open.damaged, "the leader sends it a copy");
    assert_eq!(step(&mut tested, ReplicaEvent::Tick), []);
}

#[test]
fn a_damaged_leader_gives_up_the_lead_where_another_is_in_sync() {
    let mut tested = told(SELF);
    append(&mut tested, 1, Acks::All);
    tested.log.damaged = true;
    let given_up = step(&mut tested, ReplicaEvent::LogDamaged);
    assert_eq!(given_up, [Act::Answer { write: 1, outcome: WriteOutcome::LogFailed }, Act::GiveUp]);
    let mut alone = partition(SELF, 4);
    alone.set_isr(std::iter::once(SELF).collect());
    install(&mut tested, alone, 61);
    assert_eq!(step(&mut tested, ReplicaEvent::LogDamaged), [], "people decide");
    assert!(tested.replica.leader().is_some());
}

#[test]
fn a_copy_in_the_place_of_a_log_that_has_failed_follows_again() {
    let mut tested = told(OTHER);
    let opens = install(&mut tested, partition(OTHER, 5), 61);
    let Some(Act::Follower(FollowerAction::Open(open))) = opens.last() else { panic!("{opens:?}") };
    let copies = step(&mut tested, ReplicaEvent::CopyOffered { leader_epoch: LeaderEpoch(5), open: open.id });
    let [Act::Copy { work }] = copies[..] else { panic!("{copies:?}") };
    step(&mut tested, ReplicaEvent::LogFailed);
    assert!(tested.replica.failed(), "the log that is there fails while the copy is made");
    step(&mut tested, ReplicaEvent::Replaced { work: WorkId(77) });
    assert!(tested.replica.failed(), "that was another copy");
    step(&mut tested, ReplicaEvent::Replaced { work });
    assert!(!tested.replica.failed(), "what has failed is not there any more");
    let opens = step(&mut tested, ReplicaEvent::Broken);
    assert!(matches!(opens.last(), Some(Act::Follower(FollowerAction::Open(_)))), "in this leader epoch: {opens:?}");
}

#[test]
fn a_log_that_fails_before_a_copy_comes_to_nothing_follows_nobody() {
    let mut tested = told(OTHER);
    let opens = install(&mut tested, partition(OTHER, 5), 61);
    let Some(Act::Follower(FollowerAction::Open(open))) = opens.last() else { panic!("{opens:?}") };
    let copies = step(&mut tested, ReplicaEvent::CopyOffered { leader_epoch: LeaderEpoch(5), open: open.id });
    let [Act::Copy { work }] = copies[..] else { panic!("{copies:?}") };
    step(&mut tested, ReplicaEvent::LogFailed);
    assert_eq!(step(&mut tested, ReplicaEvent::WorkDone { work }), [Act::Rest], "no copy has come");
    assert_eq!(step(&mut tested, ReplicaEvent::Broken), []);
}
