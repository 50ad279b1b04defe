//! Who leaves the in-sync set.

use super::*;

/// Ticks as often as a shard does; what was proposed last.
fn ticking(leader: &mut Led, after: u64, until: u64) -> Option<Vec<i32>> {
    let ticks = (after..=until).step_by(200).skip(1);
    ticks.filter_map(|millis| proposed(&step(leader, tick(millis)))).last()
}

#[test]
fn a_leader_that_has_stood_itself_throws_nobody_out_for_that_time() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 2, 3], 2), Durability::PageCache);
    step(&mut leader, open(2, 1, 10, 3));
    step(&mut leader, open(3, 1, 10, 3));
    assert_eq!(ticking(&mut leader, 0, 10_000), None);
    // It stands behind its disk in an append; what the others have acknowledged waits in its queue.
    appended(&mut leader, 12);
    assert_eq!(proposed(&step(&mut leader, tick(15_000))), None, "nobody could have caught up");
    step(&mut leader, sent(2, 1, 12));
    step(&mut leader, ack(2, 1, 12, 12));
    assert_eq!(ticking(&mut leader, 15_000, 17_800), None, "who has not caught up has three seconds left");
    assert_eq!(ticking(&mut leader, 17_800, 18_400), Some(vec![1, 2]), "and not more");
}

#[test]
fn who_does_not_catch_up_leaves_a_leader_that_always_ticks_late() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 1), Durability::PageCache);
    step(&mut leader, open(2, 1, 10, 3));
    appended(&mut leader, 12);
    let left = (1..100).find(|number| proposed(&step(&mut leader, tick(number * 5_000))).is_some());
    assert!(left.is_some_and(|number| number <= 6), "{left:?}");
}

#[test]
fn who_does_not_catch_up_has_to_leave_and_counts_until_that_is_written() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 2, 3], 2), Durability::Fsync);
    step(&mut leader, open(2, 1, 10, 3));
    assert_eq!(ticking(&mut leader, 0, 3900), None);
    assert_eq!(proposed(&step(&mut leader, tick(4100))), Some(vec![1, 2]));
    assert_eq!(leader.high_watermark(), Offset(0), "node 3 is still in sync, and never opened");
    let state = partition(&[1, 2, 3], &[1, 2], 2);
    let installed = step(&mut leader, Event::Installed { partition: state, partition_epoch: 101 });
    assert_eq!(installed, [commit(10)]);
}
