mod hurt;
mod restored;

use walser_model::{LeaderEpoch, Offset};

use super::ReplicaIntegrity::{Gone, Intact, Unclean};
use super::*;
use crate::{AlterIsr, NodeSet};

fn ids(nodes: &[i32]) -> NodeSet {
    nodes.iter().map(|node| NodeId(*node)).collect()
}

fn node(epoch: i64) -> NodeRecord {
    NodeRecord { epoch, live_revision: epoch, fenced: false, shutting_down: false, drained: false }
}

/// Nodes 1 to 4, registered as 11 to 14.
fn context() -> DecisionContext {
    let nodes = (1..=4).map(|number| (NodeId(number), node(10 + i64::from(number)))).collect();
    DecisionContext { controller_epoch: 5, revision: 50, nodes, ..DecisionContext::default() }
}

#[test]
fn a_drained_node_leads_only_where_nobody_else_can() {
    let mut context = context();
    context.nodes.get_mut(&NodeId(1)).unwrap().drained = true;
    let led = record(&[1, 2, 3], &[1, 3], 2);
    let state = written(reconcile(&context, &led, 2).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(3)), LeaderEpoch(8)));
    let mut back = led;
    back.state.leader = Some(NodeId(3));
    assert_eq!(elect_preferred(&context, &back), None, "it gets no lead back");
    fenced(&mut context, 3);
    let state = written(reconcile(&context, &back, 2).unwrap());
    assert_eq!(state.leader, Some(NodeId(1)), "better than nobody");
    let alone = record(&[1, 2, 3], &[1], 2);
    assert_eq!(reconcile(&context, &alone, 2), None);
}

fn fenced(context: &mut DecisionContext, number: i32) {
    let node = context.nodes.get_mut(&NodeId(number)).unwrap();
    (node.fenced, node.live_revision) = (true, 40);
}

fn record(replicas: &[i32], isr: &[i32], min_isr: usize) -> PartitionRecord<u8> {
    let mut state = PartitionState::new(replicas.iter().map(|node| NodeId(*node)).collect(), min_isr);
    state.isr = ids(isr);
    state.leader = isr.first().map(|node| NodeId(*node));
    state.leader_epoch = LeaderEpoch(7);
    PartitionRecord { key: 0, state, epoch: 30 }
}

fn written(decision: Decision<u8>) -> PartitionState {
    match decision.writes.into_iter().next() {
        Some(Write::Partition(_, state)) => state,
        other => panic!("not a partition: {other:?}"),
    }
}

fn proposal(isr: &[(i32, i64)]) -> AlterIsr {
    AlterIsr {
        leader: NodeId(1),
        node_epoch: 11,
        leader_epoch: LeaderEpoch(7),
        partition_epoch: 30,
        isr: isr.iter().map(|(node, epoch)| (NodeId(*node), *epoch)).collect(),
    }
}

#[test]
fn a_fenced_leader_is_followed_by_one_in_sync() {
    let mut context = context();
    fenced(&mut context, 1);
    let decision = sweep(&context, &record(&[1, 2, 3], &[1, 2, 3], 2), NodeId(1), Intact).unwrap();
    let compared = [
        Comparison::Controller(5),
        Comparison::Partition(0, 30),
        Comparison::Registration(NodeId(1), 11),
        Comparison::Live(NodeId(1), 40),
        Comparison::Registration(NodeId(2), 12),
        Comparison::Live(NodeId(2), 12),
    ];
    assert_eq!(decision.comparisons, compared, "everything that was read is compared");
    let state = written(decision);
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(2)), LeaderEpoch(8)));
    assert_eq!((state.isr, state.elr), (ids(&[2, 3]), NodeSet::EMPTY));
}

/// KIP-966, the last replica standing: the last one in sync loses its disk, and one that left before takes over.
#[test]
fn who_left_a_set_that_became_too_small_may_be_elected() {
    let mut context = context();
    let mut record = record(&[1, 2, 3], &[1, 2], 2);
    fenced(&mut context, 2);
    record.state = written(sweep(&context, &record, NodeId(2), Intact).unwrap());
    assert_eq!((record.state.isr.clone(), record.state.elr.clone()), (ids(&[1]), ids(&[2])));
    context.nodes.get_mut(&NodeId(2)).unwrap().fenced = false;
    fenced(&mut context, 1);
    let state = written(sweep(&context, &record, NodeId(1), Unclean).unwrap());
    assert_eq!((state.leader, state.isr, state.elr), (Some(NodeId(2)), ids(&[2]), NodeSet::EMPTY));
    assert_eq!(state.last_known_elr, ids(&[1]), "whose replica is not to be trusted");
}

#[test]
fn nobody_leads_rather_than_somebody_without_proof() {
    let mut context = context();
    (1..=2).for_each(|number| fenced(&mut context, number));
    let mut record = record(&[1, 2, 3], &[1, 2], 2);
    record.state = written(sweep(&context, &record, NodeId(2), Unclean).unwrap());
    record.state = written(sweep(&context, &record, NodeId(1), Unclean).unwrap());
    assert_eq!((record.state.leader, record.state.leader_epoch), (None, LeaderEpoch(8)));
    assert_eq!(record.state.last_known_elr, ids(&[1, 2]));
    assert_eq!(elect_again(&context, &record), None);

    // NodeRecord 3 is there, and must not lead: it may have nothing. Once both of the others can be asked, one of them does.
    let candidate = |number, log_end| Candidate {
        last_epoch: LeaderEpoch(7),
        record_epoch: LeaderEpoch(7),
        log_end: Offset(log_end),
        intact: true,
        node: NodeId(number),
        node_epoch: 10 + i64::from(number),
        partition_epoch: 30,
    };
    let all = [candidate(1, 3), candidate(2, 9), candidate(3, 99)];
    assert_eq!(elect_unclean(&context, &record, &all[..1], Recovery::Balanced), None);
    let behind = Candidate { partition_epoch: 29, ..all[1] };
    assert_eq!(elect_unclean(&context, &record, &[all[0], behind], Recovery::Balanced), None);
    for number in 1..=2 {
        context.nodes.get_mut(&NodeId(number)).unwrap().fenced = false;
    }
    let state = written(elect_unclean(&context, &record, &all[..2], Recovery::Balanced).unwrap());
    assert_eq!((state.leader, state.recovering), (Some(NodeId(2)), true));
    assert_eq!(state.unclean_epoch, state.leader_epoch);
}

#[test]
fn a_proposal_is_written_or_refused_for_a_reason() {
    let context = context();
    let record = record(&[1, 2, 3], &[1, 2], 2);
    let state = written(alter_isr(&context, &record, &proposal(&[(1, 11), (2, 12), (3, 13)])).unwrap());
    assert_eq!(state.isr, ids(&[1, 2, 3]));
    let refused = |change: &dyn Fn(&mut AlterIsr)| {
        let mut asked = proposal(&[(1, 11), (2, 12), (3, 13)]);
        change(&mut asked);
        alter_isr(&context, &record, &asked).unwrap_err()
    };
    assert_eq!(refused(&|asked| asked.partition_epoch = 31), Refusal::Behind);
    assert_eq!(refused(&|asked| asked.leader_epoch = LeaderEpoch(8)), Refusal::Behind);
    assert_eq!(refused(&|asked| asked.leader_epoch = LeaderEpoch(6)), Refusal::NotLeader);
    assert_eq!(refused(&|asked| asked.leader = NodeId(2)), Refusal::NotLeader);
    assert_eq!(refused(&|asked| asked.node_epoch = 10), Refusal::StaleNode);
    assert_eq!(refused(&|asked| asked.partition_epoch = 29), Refusal::StalePartition);
    assert_eq!(refused(&|asked| asked.isr.remove(0).1 = 0), Refusal::WithoutLeader);
    assert_eq!(refused(&|asked| asked.isr[2].1 = 9), Refusal::Ineligible(NodeId(3)), "another incarnation");
    assert_eq!(refused(&|asked| asked.isr[2] = (NodeId(4), 14)), Refusal::Ineligible(NodeId(4)), "no replica");
}

#[test]
fn a_fenced_leader_changes_nothing_and_a_stopping_node_joins_nothing() {
    let mut context = context();
    let record = record(&[1, 2, 3], &[1, 2], 2);
    context.nodes.get_mut(&NodeId(3)).unwrap().shutting_down = true;
    let joins = proposal(&[(1, 11), (2, 12), (3, 13)]);
    assert_eq!(alter_isr(&context, &record, &joins), Err(Refusal::Ineligible(NodeId(3))));
    fenced(&mut context, 1);
    let shrinks = proposal(&[(1, 11)]);
    assert_eq!(alter_isr(&context, &record, &shrinks), Err(Refusal::Ineligible(NodeId(1))));
}

/// A reviewer's find: two that had lost their disks were asked what they had, and one of them was elected, although a
/// third one had nearly everything.
#[test]
fn who_has_nothing_any_more_is_not_asked() {
    let mut context = context();
    let mut record = record(&[1, 2, 3], &[1, 2], 2);
    for number in [1, 2] {
        fenced(&mut context, number);
        record.state = written(sweep(&context, &record, NodeId(number), Gone).unwrap());
    }
    assert_eq!((record.state.leader, recovery_candidates(&record.state)), (None, ids(&[1, 2, 3])));
}

/// A node that runs says itself that a directory is lost.
#[test]
fn a_living_node_can_give_up_a_partition() {
    let record = record(&[1, 2, 3], &[1, 2, 3], 2);
    assert_eq!(sweep(&context(), &record, NodeId(1), Intact), None);
    let state = written(sweep(&context(), &record, NodeId(1), Gone).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[2, 3])));
}

#[test]
fn a_move_to_nowhere_is_refused_and_another_order_is_one() {
    let (context, record) = (context(), record(&[1, 2, 3], &[1, 2, 3], 2));
    let to = |target: &[i32]| reassign(&context, &record, &target.iter().map(|node| NodeId(*node)).collect::<Vec<_>>());
    assert_eq!(to(&[]), Err(BadTarget::Empty));
    assert_eq!(to(&[1, 2, 1]), Err(BadTarget::Twice(NodeId(1))));
    assert_eq!(to(&[1, 9]), Err(BadTarget::Unknown(NodeId(9))));
    assert_eq!(to(&[1, 2, 3]), Ok(None));
    assert_eq!(written(to(&[2, 1, 3]).unwrap().unwrap()).replicas, [2, 1, 3].map(NodeId));
}

#[test]
fn a_node_registers_once_it_is_fenced_and_counts_nowhere() {
    let mut context = context();
    let counts = record(&[1, 2], &[1, 2], 1);
    let free = record(&[1, 2], &[1], 1);
    let registered = |context: &DecisionContext, record: &PartitionRecord<u8>, integrity| {
        register(context, NodeId(2), [(record, integrity)].into_iter())
    };
    assert_eq!(registered(&context, &free, Intact), None, "its old process may be alive");
    fenced(&mut context, 2);
    assert_eq!(registered(&context, &counts, Intact), None);
    let decision = registered(&context, &free, Intact).unwrap();
    assert!(decision.comparisons.contains(&Comparison::Live(NodeId(2), 40)));
    let mut eligible = free;
    (eligible.state.min_isr, eligible.state.elr) = (2, ids(&[2]));
    assert!(registered(&context, &eligible, Intact).is_some(), "what it has is still there");
    assert_eq!(registered(&context, &eligible, Unclean), None, "what it has is lost");
}

#[test]
fn a_node_is_admitted_step_by_step() {
    let mut context = context();
    let mut known = record(&[1, 2], &[1, 2], 1);
    let other = PartitionRecord { key: 1, ..record(&[1, 3], &[1, 3], 1) };
    let next = |context: &DecisionContext, known: &PartitionRecord<u8>| {
        admit(context, NodeId(2), [(known, Intact), (&other, Intact)].into_iter())
    };
    let is_fence = |decision: &Decision<u8>| matches!(decision.writes[..], [Write::Live { fenced: true, .. }]);
    let step = next(&context, &known);
    assert!(step.len() == 1 && is_fence(&step[0]), "{step:?}");
    fenced(&mut context, 2);
    let sweeps = next(&context, &known);
    assert_eq!(sweeps.len(), 1, "only where it is a replica");
    known.state = written(sweeps.into_iter().next().unwrap());
    let step = next(&context, &known);
    assert!(matches!(step[0].writes[..], [Write::Registration(_), Write::Live { fenced: true, .. }]), "{step:?}");
    let unknown = admit::<u8>(&context, NodeId(9), std::iter::empty());
    assert!(unknown[0].comparisons.contains(&Comparison::Registration(NodeId(9), 0)), "nobody registers it meanwhile");
}

#[test]
fn a_fenced_node_comes_back_once_it_has_seen_that() {
    let mut context = context();
    fenced(&mut context, 2);
    let swept = record(&[1, 2], &[1], 1);
    assert_eq!(unfence(&context, NodeId(2), 39, [&swept].into_iter()), None);
    assert!(unfence(&context, NodeId(2), 40, [&swept].into_iter()).is_some());
    assert_eq!(unfence(&context, NodeId(2), 40, [&record(&[1, 2], &[1, 2], 1)].into_iter()), None, "not swept yet");
}

#[test]
fn who_is_led_is_left_alone_and_who_is_needed_stays() {
    let context = context();
    let led = record(&[1, 2], &[1, 2], 2);
    assert_eq!(elect_again(&context, &led), None);
    // The lead moves, but the node stays in sync: without it there would be too few.
    let state = written(drain(&context, &led, NodeId(1), |_| 99).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[1, 2])));
}

#[test]
fn who_is_fenced_or_unfenced_is_who_was_read() {
    let mut context = context();
    let on_node =
        |decision: Decision<u8>| decision.comparisons.into_iter().filter(|c| *c != Comparison::Controller(5)).collect();
    let seen: Vec<_> = on_node(fence(&context, NodeId(2)).unwrap());
    assert_eq!(seen, [Comparison::Registration(NodeId(2), 12), Comparison::Live(NodeId(2), 12)]);
    fenced(&mut context, 2);
    assert_eq!(fence::<u8>(&context, NodeId(2)), None);
    let unfenced = |context: &DecisionContext| unfence(context, NodeId(2), 60, std::iter::empty()).unwrap();
    let seen: Vec<_> = on_node(unfenced(&context));
    assert_eq!(seen, [Comparison::Registration(NodeId(2), 12), Comparison::Live(NodeId(2), 40)]);
    context.nodes.get_mut(&NodeId(2)).unwrap().shutting_down = true;
    let stays = Write::Live { node: NodeId(2), fenced: false, shutting_down: true };
    assert_eq!(unfenced(&context).writes, [stays]);
}

/// Amendment A3: with fewer wanted, records are committed that the eligible do not have.
#[test]
fn another_min_isr_recomputes_who_is_eligible() {
    let context = context();
    let mut record = record(&[1, 2, 3], &[1], 2);
    record.state.elr = ids(&[2]);
    let state = written(change_min_isr(&context, &record, 1).unwrap());
    assert_eq!((state.min_isr, state.elr), (1, NodeSet::EMPTY));
    assert_eq!(change_min_isr(&context, &record, 2), None);
    assert_eq!(written(change_min_isr(&context, &record, 9).unwrap()).min_isr, 3, "not more than there are replicas");
}

#[test]
fn replicas_move_by_way_of_both_sets() {
    let context = context();
    let mut record = record(&[1, 2, 3], &[1, 2, 3], 2);
    record.state = written(reassign(&context, &record, &[NodeId(4), NodeId(2), NodeId(3)]).unwrap().unwrap());
    assert_eq!(record.state.replicas, [4, 2, 3, 1].map(NodeId));
    assert_eq!((record.state.adding.clone(), record.state.removing.clone()), (ids(&[4]), ids(&[1])));
    assert_eq!(advance_reassignment(&context, &record, 2), None, "node 4 is not in sync");
    record.state.isr = ids(&[1, 2, 3, 4]);
    let state = written(advance_reassignment(&context, &record, 2).unwrap());
    assert_eq!(state.replicas, [4, 2, 3].map(NodeId));
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(4)), LeaderEpoch(8)));
}

/// Seed 3092 of the simulator, at first: the replica that a given-up move had added was the only one with everything.
#[test]
fn a_replica_of_a_given_up_move_stays_while_it_counts() {
    let context = context();
    let mut record = record(&[1, 2, 3], &[3], 1);
    (record.state.adding, record.state.removing) = (ids(&[3]), ids(&[1]));
    let state = written(reassign(&context, &record, &[NodeId(1), NodeId(2)]).unwrap().unwrap());
    assert_eq!((state.replicas.clone(), state.leader), (vec![NodeId(1), NodeId(2), NodeId(3)], Some(NodeId(3))));
    assert_eq!((state.adding, state.removing), (NodeSet::EMPTY, ids(&[3])));
}

/// Seed 7922 of the simulator, at first: the leader remembered what a replica had before it was removed and came back.
#[test]
fn a_leader_epoch_begins_whenever_a_replica_goes() {
    let context = context();
    let mut record = record(&[1, 2, 3], &[1, 2], 1);
    record.state.adding = ids(&[3]);
    let state = written(reassign(&context, &record, &[NodeId(1), NodeId(2)]).unwrap().unwrap());
    assert_eq!((state.replicas, state.leader_epoch), (vec![NodeId(1), NodeId(2)], LeaderEpoch(8)));
}

/// Seed 903 of the simulator, at first: `min_isr` counted a replica that a given-up move was to add.
#[test]
fn fewer_replicas_lower_min_isr() {
    let context = context();
    let mut record = record(&[1, 2, 3], &[1, 2], 3);
    record.state.adding = ids(&[3]);
    assert_eq!(written(reassign(&context, &record, &[NodeId(1), NodeId(2)]).unwrap().unwrap()).min_isr, 2);
}

#[test]
fn a_node_that_wants_to_stop_gives_away_what_others_can_have() {
    let mut context = context();
    assert!(shut_down::<u8>(&context, NodeId(1)).is_some());
    context.nodes.get_mut(&NodeId(1)).unwrap().shutting_down = true;
    let mut record = record(&[1, 2, 3], &[1, 2, 3], 2);
    let may_stop =
        |record: &PartitionRecord<u8>, seen| can_stop(&context, NodeId(1), [record].into_iter(), [seen].into_iter());
    let drained = |record: &PartitionRecord<u8>, seen| drain(&context, record, NodeId(1), |_| seen).map(written);
    assert!(!may_stop(&record, 99));
    record.state = drained(&record, 0).unwrap();
    record.epoch = 60;
    assert_eq!((record.state.leader, record.state.isr.clone()), (Some(NodeId(2)), ids(&[1, 2, 3])));
    assert_eq!(drained(&record, 59), None, "whoever leads now may be gone");
    assert!(!may_stop(&record, 60));
    record.state = drained(&record, 60).unwrap();
    record.epoch = 61;
    assert_eq!((record.state.leader, record.state.isr.clone()), (Some(NodeId(2)), ids(&[2, 3])));
    assert!(!may_stop(&record, 60) && may_stop(&record, 61), "the others have to see it first");
    assert_eq!(drained(&record, 61), None);
    assert_eq!(elect_preferred(&context, &record), None, "its replica is the first, and about to stop");
}

#[test]
fn a_node_that_wants_to_stop_leaves_nothing_to_others_that_are_silent() {
    let mut context = context();
    context.silent = ids(&[2, 3]);
    let led = record(&[1, 2, 3], &[1, 2, 3], 2);
    assert_eq!(drain(&context, &led, NodeId(1), |_| 99), None, "it leads on");
    let followed = record(&[2, 1, 3], &[2, 1, 3], 2);
    assert_eq!(drain(&context, &followed, NodeId(1), |_| 99), None, "it has everything, and may be the only one");
    assert!(can_stop(&context, NodeId(1), [&led, &followed].into_iter(), std::iter::empty()));
    context.silent = ids(&[2]);
    let state = written(drain(&context, &led, NodeId(1), |_| 99).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(3)), ids(&[1, 2, 3])));
}

/// A sweep of the node that lists what it counts in is complete only with the partitions that were created meanwhile.
#[test]
fn a_partition_is_created_on_nodes_that_are_compared() {
    let mut context = context();
    let decision = create(&context, 7, &[NodeId(2), NodeId(3)], 9, LeaderEpoch(0)).unwrap();
    let compared = [
        Comparison::Controller(5),
        Comparison::Missing(7),
        Comparison::Registration(NodeId(2), 12),
        Comparison::Live(NodeId(2), 12),
        Comparison::Registration(NodeId(3), 13),
        Comparison::Live(NodeId(3), 13),
    ];
    assert_eq!(decision.comparisons, compared);
    let state = written(decision);
    assert_eq!((state.leader, state.isr, state.min_isr), (Some(NodeId(2)), ids(&[2, 3]), 2));
    fenced(&mut context, 3);
    let state = written(create(&context, 7, &[NodeId(2), NodeId(3)], 1, LeaderEpoch(0)).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[2])), "the other one follows when it is back");
    assert_eq!(create(&context, 7, &[NodeId(3)], 1, LeaderEpoch(0)), None);
    assert_eq!(create(&context, 7, &[], 1, LeaderEpoch(0)), None);
    assert_eq!(create(&context, 7, &[NodeId(9)], 1, LeaderEpoch(0)), None, "a node that never registered");
    let gone = delete(&context, &record(&[1], &[1], 1));
    assert_eq!(gone.comparisons, [Comparison::Controller(5), Comparison::Partition(0, 30)]);
    assert_eq!(gone.writes, [Write::Delete(0)]);
}

#[test]
fn a_leader_gets_a_higher_epoch_and_nobody_else_does() {
    let mut context = context();
    let led = record(&[1, 2], &[1, 2], 1);
    let renewed = |context: &DecisionContext, node_epoch, epoch, above| {
        renew_epoch(context, &led, node_epoch, LeaderEpoch(epoch), LeaderEpoch(above)).map(written)
    };
    assert_eq!(renewed(&context, 11, 7, 3).unwrap().leader_epoch, LeaderEpoch(8));
    let above = renewed(&context, 11, 7, 40).unwrap();
    assert_eq!((above.leader_epoch, above.unclean_epoch, above.isr.len()), (LeaderEpoch(41), LeaderEpoch::NONE, 2));
    assert_eq!(renewed(&context, 11, 6, 3), Err(Refusal::NotLeader));
    assert_eq!(renewed(&context, 10, 7, 3), Err(Refusal::StaleNode));
    fenced(&mut context, 1);
    assert_eq!(renewed(&context, 11, 7, 3), Err(Refusal::StaleNode));
}

#[test]
fn where_records_are_given_up_nobody_else_counts_any_more() {
    let mut context = context();
    let mut led = record(&[1, 2, 3], &[1], 2);
    led.state.elr = NodeSet::from_iter([NodeId(2)]);
    led.state.last_known_elr = NodeSet::from_iter([NodeId(3)]);
    let given_up = |context: &DecisionContext| give_up_records(context, &led, 11, LeaderEpoch(7)).map(written);
    assert_eq!(given_up(&context), Err(Refusal::Needless(NodeId(2))), "it is about to lead");
    fenced(&mut context, 2);
    let state = given_up(&context).unwrap();
    assert_eq!((state.leader_epoch, state.unclean_epoch), (LeaderEpoch(8), LeaderEpoch(8)));
    assert_eq!((state.isr.len(), state.elr.len(), state.last_known_elr.len()), (1, 0, 0));
    assert!(state.recovering, "fewer than two have what is left");
    fenced(&mut context, 1);
    assert_eq!(given_up(&context), Err(Refusal::StaleNode));
}

#[test]
fn a_partition_gets_what_it_needs_whatever_happened_to_it() {
    let mut context = context();
    let mut known = record(&[1, 2, 3], &[1, 2, 3], 2);
    let next = |context: &DecisionContext, known: &PartitionRecord<u8>| reconcile(context, known, 2).map(written);
    assert_eq!(next(&context, &known), None);
    (1..=3).for_each(|number| fenced(&mut context, number));
    for _ in 0..3 {
        known.state = next(&context, &known).unwrap();
    }
    assert_eq!((known.state.leader, known.state.isr.clone(), next(&context, &known)), (None, NodeSet::EMPTY, None));
    for number in 1..=3 {
        context.nodes.get_mut(&NodeId(number)).unwrap().fenced = false;
    }
    known.state = next(&context, &known).unwrap();
    assert!(known.state.leader.is_some());
    let changed = reconcile(&context, &known, 1).map(written).unwrap();
    assert_eq!(changed.min_isr, 1, "what the topic wants is applied");
}

/// Node 1 led in epoch 6 and had records of epoch 2 committed, and none of its own. Node 2 had led in epoch 4, alone, and
/// has more, of which nothing was.
#[test]
fn an_epoch_that_was_begun_counts_more_than_records_of_an_earlier_one() {
    let context = context();
    let mut known = record(&[1, 2, 3], &[1, 2], 2);
    known.state = written(restore(&context, &known, Some(LeaderEpoch(7)), &ids(&[1, 2, 3])).unwrap());
    let candidate = |number, epoch, log_end| Candidate {
        last_epoch: LeaderEpoch(epoch),
        record_epoch: LeaderEpoch(epoch.min(4)),
        log_end: Offset(log_end),
        intact: true,
        node: NodeId(number),
        node_epoch: 10 + i64::from(number),
        partition_epoch: 30,
    };
    let candidates = [candidate(1, 6, 20), candidate(2, 4, 25), candidate(3, 2, 20)];
    let state = written(elect_unclean(&context, &known, &candidates, Recovery::Balanced).unwrap());
    assert_eq!(state.leader, Some(NodeId(1)));
}
