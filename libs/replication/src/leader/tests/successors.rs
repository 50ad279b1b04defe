//! Who leads next, as far as a leader knows.

use super::*;

/// Amendment A4: with all of them following in this epoch, nobody else leads.
#[test]
fn successors_are_those_in_sync_or_eligible_and_each_of_them_has_to_follow() {
    let (leader, _) = start(partition(&[1], &[1], 1), Durability::Fsync);
    assert_eq!(leader.successors(), Some(NodeSet::EMPTY), "there is nobody else");

    let state = PartitionState { elr: [NodeId(2)].into_iter().collect(), ..partition(&[1, 2, 3, 4], &[1, 3], 3) };
    let (mut leader, _) = start(state, Durability::Fsync);
    assert_eq!(leader.successors(), None, "nobody has opened");
    step(&mut leader, open(3, 1, 10, 3));
    assert_eq!(leader.successors(), None, "the eligible one could be elected, too");
    step(&mut leader, open(2, 1, 9, 3));
    assert_eq!(leader.successors(), Some([NodeId(2), NodeId(3)].into_iter().collect()));
    step(&mut leader, Event::Closed { follower: NodeId(3), open: id(3, 1) });
    assert_eq!(leader.successors(), None, "it may lead");
}
