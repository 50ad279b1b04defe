//! Partitions of a store that was restored from an older copy.

use super::*;

/// Node 1 had seen nothing newer than the copy, came first, and led by it in epoch 8. Nodes 2 and 3 had records committed
/// in epoch 8 that began before, and were refused.
#[test]
fn what_a_node_has_begun_by_a_restored_copy_counts_for_nothing() {
    let context = context();
    let mut known = record(&[1, 2, 3], &[1], 2);
    known.state.leader_epoch = LeaderEpoch(9);
    let all_obeyed = written(restore(&context, &known, Some(LeaderEpoch(8)), &NodeSet::EMPTY).unwrap());
    assert_eq!(all_obeyed.restored.unwrap().obeyed, ids(&[1, 2, 3]));
    known.state = written(restore(&context, &known, Some(LeaderEpoch(8)), &ids(&[2, 3])).unwrap());
    assert_eq!((known.state.leader, known.state.leader_epoch), (None, LeaderEpoch(1_000_009)), "it leads no more");
    let candidate = |number, begun, epoch, log_end| Candidate {
        last_epoch: LeaderEpoch(begun),
        record_epoch: LeaderEpoch(epoch),
        log_end: Offset(log_end),
        intact: true,
        node: NodeId(number),
        node_epoch: 10 + i64::from(number),
        partition_epoch: 30,
    };
    let candidates = [candidate(1, 9, 7, 20), candidate(2, 8, 8, 25), candidate(3, 8, 8, 24)];
    let elected = written(elect_unclean(&context, &known, &candidates, Recovery::Balanced).unwrap());
    assert_eq!((elected.leader, elected.restored), (Some(NodeId(2)), None));
    assert_eq!(restore(&context, &known, Some(LeaderEpoch(9)), &NodeSet::EMPTY), None, "it was taken into use since");
    let again = written(restore(&context, &known, Some(LeaderEpoch(3_000_000)), &NodeSet::EMPTY).unwrap());
    assert_eq!(again.restored.unwrap().obeyed, ids(&[1]), "who was refused before has not obeyed");
}

/// What a restored copy says of in-sync sets was true once.
#[test]
fn a_restored_partition_trusts_no_in_sync_set_but_that_of_its_only_replica() {
    let context = context();
    let known = record(&[1, 2, 3], &[1, 2], 2);
    let state = written(restore(&context, &known, Some(LeaderEpoch(12)), &NodeSet::EMPTY).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (None, LeaderEpoch(1_000_012)));
    assert_eq!((state.isr, state.elr, state.last_known_elr), (NodeSet::EMPTY, NodeSet::EMPTY, ids(&[1, 2, 3])));
    let alone = record(&[1], &[1], 1);
    let obeyed = written(restore(&context, &alone, Some(LeaderEpoch(6)), &NodeSet::EMPTY).unwrap());
    assert_eq!(obeyed.leader_epoch, LeaderEpoch(1_000_007), "what was begun by the copy itself says nothing");
    let state = written(restore(&context, &alone, Some(LeaderEpoch(7)), &NodeSet::EMPTY).unwrap());
    assert_eq!((state.leader, state.leader_epoch, state.isr), (Some(NodeId(1)), LeaderEpoch(1_000_007), ids(&[1])));
    assert_eq!(
        state.unclean_epoch,
        LeaderEpoch(1_000_007),
        "the partition may have been elsewhere since, and have been longer"
    );
}

#[test]
fn the_first_leader_epoch_under_a_start_of_the_controller_is_further_on() {
    let start = ControllerStart { number: 3, epochs_skipped: 40 };
    let context = DecisionContext { start, ..context() };
    let mut known = record(&[1, 2, 3], &[1, 2], 2);
    let before = known.state.leader_epoch.0;
    let moved = written(elect_named(&context, &known, NodeId(2)).unwrap());
    assert_eq!((moved.leader_epoch, moved.start), (LeaderEpoch(before + 41), 3));
    let renewed = renew_epoch(&context, &known, 11, known.state.leader_epoch, LeaderEpoch(60)).unwrap();
    assert_eq!(written(renewed).leader_epoch, LeaderEpoch(101));
    known.state = moved;
    let again = written(elect_named(&context, &known, NodeId(1)).unwrap());
    assert_eq!(again.leader_epoch, LeaderEpoch(before + 42), "by one from then on");
    let made = create(&context, "t", &[NodeId(1)], 1, LeaderEpoch(5)).unwrap();
    assert!(matches!(&made.writes[0], Write::Partition(_, state) if (state.leader_epoch.0, state.start) == (45, 3)));
}

/// The partition was created after an earlier restore, so that its epochs are low; the copy has begun a later one since.
#[test]
fn that_a_partition_was_taken_into_use_is_written_down_and_not_taken_from_the_distance() {
    let start = ControllerStart { number: 9, epochs_skipped: 16_000_000 };
    let context = DecisionContext { start, ..context() };
    let mut known = record(&[1, 2, 3], &[1, 2], 2);
    known.state = written(elect_named(&context, &known, NodeId(2)).unwrap());
    let accepted = written(restore(&context, &known, Some(LeaderEpoch(0)), &ids(&[1, 2, 3])).unwrap());
    assert_eq!((accepted.leader, accepted.accepted_epoch), (None, accepted.leader_epoch));
    known.state = accepted;
    assert_eq!(restore(&context, &known, Some(LeaderEpoch(0)), &ids(&[1, 2, 3])), None);
}
