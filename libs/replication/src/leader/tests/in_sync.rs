//! Who leaves the in-sync set, and who is proposed for it again.

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

/// A reviewer's find: a follower that had died was proposed for ever, and everything waited for it.
#[test]
fn who_was_refused_is_not_proposed_again_before_it_is_heard() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 3], 2), Durability::Fsync);
    step(&mut leader, open(3, 1, 10, 3));
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 10, 3))), Some(vec![1, 2, 3]));
    // Node 2 is fenced: it died right after it had opened. Its position must stop to count.
    step(&mut leader, Event::ProposalOver { ineligible: Some(NodeId(2)) });
    assert_eq!(proposed(&step(&mut leader, tick(1000))), Some(vec![1, 3]), "so that the other one cannot be written");
    let installed = Event::Installed { partition: partition(&[1, 2, 3], &[1, 3], 2), partition_epoch: 101 };
    step(&mut leader, installed);
    assert!(!leader.maximal_isr().contains(NodeId(2)));
    assert_eq!(proposed(&step(&mut leader, tick(3000))), None);
    appended(&mut leader, 11);
    flushed(&mut leader, 11);
    step(&mut leader, sent(3, 1, 11));
    assert_eq!(step(&mut leader, ack(3, 1, 11, 11)), [commit(11)]);
    // It is heard again: it was only cut off.
    step(&mut leader, sent(2, 1, 11));
    assert_eq!(proposed(&step(&mut leader, ack(2, 1, 11, 11))), Some(vec![1, 2, 3]));
}

/// A node whose disk is full has everything of an idle partition, and would hold up the next record.
#[test]
fn who_is_refused_again_and_again_is_proposed_more_and_more_rarely_until_it_opens_again() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 3], 2), Durability::Fsync);
    step(&mut leader, open(3, 1, 10, 3));
    let opened = proposed(&step(&mut leader, open(2, 1, 10, 3)));
    assert_eq!(opened, Some(vec![1, 2, 3]));
    let (mut asked, mut epoch) = (vec![0], 100);
    step(&mut leader, Event::ProposalOver { ineligible: Some(NodeId(2)) });
    let mut session = 1;
    for millis in (200..=63_000).step_by(200) {
        if millis == 60_000 {
            // It may be another one by now.
            session = 2;
            step(&mut leader, open(2, session, 10, 3));
        }
        let mut actions = step(&mut leader, tick(millis));
        for (node, session) in [(2, session), (3, 1)] {
            step(&mut leader, sent(node, session, 10));
            actions.extend(step(&mut leader, ack(node, session, 10, 10)));
        }
        match proposed(&actions).as_deref() {
            Some([1, 2, 3]) => {
                asked.push(millis);
                step(&mut leader, Event::ProposalOver { ineligible: Some(NodeId(2)) });
            }
            Some(_) => {
                epoch += 1;
                let partition = partition(&[1, 2, 3], &[1, 3], 2);
                step(&mut leader, Event::Installed { partition, partition_epoch: epoch });
            }
            None => {}
        }
    }
    let (before, after): (Vec<_>, Vec<_>) = asked.into_iter().partition(|at| *at < 60_000);
    let pauses: Vec<_> = before.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted() && pauses.last().is_some_and(|last| *last >= 4_000), "{pauses:?}");
    assert!((10..=20).contains(&before.len()), "{before:?}");
    assert!(after.len() > 1, "as often as before, from its open on: {after:?}");
}
