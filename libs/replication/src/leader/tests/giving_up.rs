//! What a leader whose log is damaged must not give up.

use super::*;

#[test]
fn nothing_is_given_up_before_every_replica_has_said_that_it_has_no_more() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    appended(&mut led, 10);
    let objection = |led: &Led| led.leader.objection_to_giving_up(Offset(5));
    step(&mut led, open(2, 1, 4, 4));
    assert_eq!(objection(&led), Some(Objection::NotHeard(NodeId(3))));
    // It has more, whether it can follow from there or not, also when its connection is gone.
    step(&mut led, open(3, 1, 7, 3));
    assert_eq!(objection(&led), Some(Objection::HasMore(NodeId(3))));
    step(&mut led, Event::Closed { follower: NodeId(3), open: id(3, 1) });
    assert_eq!(objection(&led), Some(Objection::HasMore(NodeId(3))));
    let Event::Opened(session) = open(3, 2, 5, 3) else { panic!("it opens") };
    let actions = step(&mut led, Event::Opened(ReplicationSession { damaged: true, ..session }));
    assert_eq!(actions, [Action::Copy { follower: NodeId(3), open: id(3, 2) }], "a damaged log does not follow");
    assert_eq!(objection(&led), None, "and is heard");
    assert_eq!(led.leader.node_beyond(Offset(4)), Some(NodeId(3)));
}

#[test]
fn whose_log_has_parted_is_an_objection_until_it_opens_again_and_the_later_epoch_comes_first() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    appended(&mut led, 10);
    let objection = |led: &Led| led.leader.objection_to_giving_up(Offset(8));
    step(&mut led, open(3, 1, 8, 3));
    let told = step(&mut led, open(2, 1, 8, 9));
    assert!(matches!(told[..], [Action::Diverged { .. }]), "{told:?}");
    assert_eq!(objection(&led), Some(Objection::Parted(NodeId(2))), "it may have stopped, and have what was committed");
    step(&mut led, open(2, 2, 6, 3));
    assert_eq!(objection(&led), None);
    step(&mut led, open(2, 3, 100, 1));
    step(&mut led, open(3, 2, 80, 3));
    assert_eq!(led.leader.node_beyond(Offset(8)), Some(NodeId(3)), "what is of an older epoch need not be committed");
}
