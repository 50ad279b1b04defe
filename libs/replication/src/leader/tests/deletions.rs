//! Deleted records are not shown by a later leader.

use super::*;

/// Of the in-sync set, and of every one that was proposed.
#[test]
fn records_are_deleted_where_every_replica_that_can_be_in_sync_has_deleted_them() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1, 2, 3], 2), Durability::Fsync);
    let deleted = |led: &Led| led.leader.deleted_below(&led.log);
    let told = |follower: i32, log_start: i64| {
        let Event::Acked(ack) = ack(follower, 1, 10, 10) else { unreachable!() };
        Event::Acked(Ack { log_start: Offset(log_start), ..ack })
    };
    led.log.trim(7);
    assert_eq!(deleted(&led), Offset(0), "nobody follows yet");
    for follower in [2, 3] {
        step(&mut led, open(follower, 1, 10, 3));
    }
    step(&mut led, told(2, 9));
    assert_eq!(deleted(&led), Offset(0));
    step(&mut led, told(3, 5));
    assert_eq!(deleted(&led), Offset(5));
    step(&mut led, told(3, 7));
    assert_eq!(deleted(&led), Offset(7));
    step(&mut led, open(3, 2, 10, 3));
    assert_eq!(deleted(&led), Offset(0), "it may have another disk");
}

#[test]
fn whoever_has_not_deleted_what_the_leader_has_does_not_join_and_an_eligible_replica_can_lead() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    led.log.trim(7);
    led.leader.deletion_answered(Offset(7));
    step(&mut led, open(2, 1, 10, 3));
    let Event::Acked(told) = ack(2, 1, 10, 10) else { unreachable!() };
    assert_eq!(step(&mut led, Event::Acked(told)), [], "it could lead, and show deleted records");
    let proposed = step(&mut led, Event::Acked(Ack { log_start: Offset(7), ..told }));
    assert!(matches!(&proposed[..], [Action::Propose(_)]), "{proposed:?}");

    let mut state = partition(&[1, 2, 3], &[1], 2);
    state.elr.insert(NodeId(3));
    let (mut led, _) = start(state, Durability::Fsync);
    led.log.trim(7);
    assert_eq!(led.leader.deleted_below(&led.log), Offset(0));
}

/// What retention removes, and what nobody was answered for, keeps nobody out.
#[test]
fn a_replica_that_is_a_deletion_behind_joins() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    led.log.trim(7);
    let proposed = step(&mut led, open(2, 1, 10, 3));
    assert!(proposed.iter().any(|action| matches!(action, Action::Propose(_))), "{proposed:?}");
    assert_eq!(led.leader.deleted_below(&led.log), Offset(0), "from now on it is waited for");
}

/// A repair has begun an epoch without proof, and has not cut the log yet.
#[test]
fn a_damaged_log_commits_nothing_that_may_be_given_up() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    let before = led.leader.high_watermark();
    led.log.damaged = true;
    assert_eq!(appended(&mut led, 12), []);
    assert_eq!(flushed(&mut led, 12), []);
    assert_eq!(led.leader.high_watermark(), before);
}
