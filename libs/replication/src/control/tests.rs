use walser_model::{LeaderEpoch, Offset};

use super::*;
use crate::{AlterIsr, NodeSet};

fn ids(nodes: &[i32]) -> NodeSet {
    nodes.iter().map(|node| NodeId(*node)).collect()
}

fn node(epoch: i64) -> Node {
    Node { epoch, live_revision: epoch, fenced: false, shutting_down: false }
}

/// Nodes 1 to 4, registered as 11 to 14.
fn view() -> View {
    let nodes = (1..=4).map(|number| (NodeId(number), node(10 + i64::from(number)))).collect();
    View { controller_epoch: 5, revision: 50, nodes, rules: Rules::ALL }
}

fn fenced(view: &mut View, number: i32) {
    let node = view.nodes.get_mut(&NodeId(number)).unwrap();
    (node.fenced, node.live_revision) = (true, 40);
}

fn known(replicas: &[i32], isr: &[i32], min_isr: usize) -> Known<u8> {
    let mut state = PartitionState::new(replicas.iter().map(|node| NodeId(*node)).collect(), min_isr);
    state.isr = ids(isr);
    state.leader = isr.first().map(|node| NodeId(*node));
    state.leader_epoch = LeaderEpoch(7);
    Known { key: 0, state, epoch: 30 }
}

fn written(decision: Decision<u8>) -> PartitionState {
    match decision.puts.into_iter().next() {
        Some(Put::Partition(_, state)) => state,
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
    let mut view = view();
    fenced(&mut view, 1);
    let decision = sweep(&view, &known(&[1, 2, 3], &[1, 2, 3], 2), NodeId(1), Held::Intact).unwrap();
    let compared = [
        Compare::Controller(5),
        Compare::Partition(0, 30),
        Compare::Registration(NodeId(1), 11),
        Compare::Live(NodeId(1), 40),
        Compare::Registration(NodeId(2), 12),
        Compare::Live(NodeId(2), 12),
    ];
    assert_eq!(decision.compares, compared, "everything that was read is compared");
    let state = written(decision);
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(2)), LeaderEpoch(8)));
    assert_eq!((state.isr, state.elr), (ids(&[2, 3]), NodeSet::EMPTY));
}

/// KIP-966, the last replica standing: the last one in sync loses its disk, and one that left before takes over.
#[test]
fn who_left_a_set_that_became_too_small_may_be_elected() {
    let mut view = view();
    let mut known = known(&[1, 2, 3], &[1, 2], 2);
    fenced(&mut view, 2);
    known.state = written(sweep(&view, &known, NodeId(2), Held::Intact).unwrap());
    assert_eq!((known.state.isr.clone(), known.state.elr.clone()), (ids(&[1]), ids(&[2])));
    view.nodes.get_mut(&NodeId(2)).unwrap().fenced = false;
    fenced(&mut view, 1);
    let state = written(sweep(&view, &known, NodeId(1), Held::Unclean).unwrap());
    assert_eq!((state.leader, state.isr, state.elr), (Some(NodeId(2)), ids(&[2]), NodeSet::EMPTY));
    assert_eq!(state.last_known_elr, ids(&[1]), "whose replica is not to be trusted");
}

#[test]
fn nobody_leads_rather_than_somebody_without_proof() {
    let mut view = view();
    (1..=2).for_each(|number| fenced(&mut view, number));
    let mut known = known(&[1, 2, 3], &[1, 2], 2);
    known.state = written(sweep(&view, &known, NodeId(2), Held::Unclean).unwrap());
    known.state = written(sweep(&view, &known, NodeId(1), Held::Unclean).unwrap());
    assert_eq!((known.state.leader, known.state.leader_epoch), (None, LeaderEpoch(8)));
    assert_eq!(known.state.last_known_elr, ids(&[1, 2]));
    assert_eq!(elect_again(&view, &known), None);

    // Node 3 is there, and must not lead: it may have nothing. Once both of the others can be asked, one of them does.
    let candidate = |number, log_end| Candidate {
        last_epoch: LeaderEpoch(7),
        log_end: Offset(log_end),
        node: NodeId(number),
        node_epoch: 10 + i64::from(number),
        partition_epoch: 30,
    };
    let all = [candidate(1, 3), candidate(2, 9), candidate(3, 99)];
    assert_eq!(elect_unclean(&view, &known, &all[..1], Recovery::Balanced), None);
    let behind = Candidate { partition_epoch: 29, ..all[1] };
    assert_eq!(elect_unclean(&view, &known, &[all[0], behind], Recovery::Balanced), None);
    for number in 1..=2 {
        view.nodes.get_mut(&NodeId(number)).unwrap().fenced = false;
    }
    let state = written(elect_unclean(&view, &known, &all[..2], Recovery::Balanced).unwrap());
    assert_eq!((state.leader, state.recovering), (Some(NodeId(2)), true));
    assert_eq!(state.unclean_epoch, state.leader_epoch);
}

#[test]
fn a_proposal_is_written_or_refused_for_a_reason() {
    let view = view();
    let known = known(&[1, 2, 3], &[1, 2], 2);
    let state = written(alter_isr(&view, &known, &proposal(&[(1, 11), (2, 12), (3, 13)])).unwrap());
    assert_eq!(state.isr, ids(&[1, 2, 3]));
    let refused = |change: &dyn Fn(&mut AlterIsr)| {
        let mut asked = proposal(&[(1, 11), (2, 12), (3, 13)]);
        change(&mut asked);
        alter_isr(&view, &known, &asked).unwrap_err()
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
    let mut view = view();
    let known = known(&[1, 2, 3], &[1, 2], 2);
    view.nodes.get_mut(&NodeId(3)).unwrap().shutting_down = true;
    let joins = proposal(&[(1, 11), (2, 12), (3, 13)]);
    assert_eq!(alter_isr(&view, &known, &joins), Err(Refusal::Ineligible(NodeId(3))));
    fenced(&mut view, 1);
    let shrinks = proposal(&[(1, 11)]);
    assert_eq!(alter_isr(&view, &known, &shrinks), Err(Refusal::Ineligible(NodeId(1))));
}

/// A reviewer's find: two that had lost their disks were asked what they had, and one of them was elected, although a
/// third one had nearly everything.
#[test]
fn who_has_nothing_any_more_is_not_asked() {
    let mut view = view();
    let mut known = known(&[1, 2, 3], &[1, 2], 2);
    for number in [1, 2] {
        fenced(&mut view, number);
        known.state = written(sweep(&view, &known, NodeId(number), Held::Gone).unwrap());
    }
    assert_eq!((known.state.leader, to_ask(&known.state)), (None, ids(&[1, 2, 3])));
}

/// A node that runs says itself that a directory is lost.
#[test]
fn a_living_node_can_give_up_a_partition() {
    let known = known(&[1, 2, 3], &[1, 2, 3], 2);
    assert_eq!(sweep(&view(), &known, NodeId(1), Held::Intact), None);
    let state = written(sweep(&view(), &known, NodeId(1), Held::Gone).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[2, 3])));
}

#[test]
fn a_move_to_nowhere_is_refused_and_another_order_is_one() {
    let (view, known) = (view(), known(&[1, 2, 3], &[1, 2, 3], 2));
    let to = |target: &[i32]| reassign(&view, &known, &target.iter().map(|node| NodeId(*node)).collect::<Vec<_>>());
    assert_eq!(to(&[]), Err(BadTarget::Empty));
    assert_eq!(to(&[1, 2, 1]), Err(BadTarget::Twice(NodeId(1))));
    assert_eq!(to(&[1, 9]), Err(BadTarget::Unknown(NodeId(9))));
    assert_eq!(to(&[1, 2, 3]), Ok(None));
    assert_eq!(written(to(&[2, 1, 3]).unwrap().unwrap()).replicas, [2, 1, 3].map(NodeId));
}

#[test]
fn a_node_registers_once_it_is_fenced_and_counts_nowhere() {
    let mut view = view();
    let counts = known(&[1, 2], &[1, 2], 1);
    let free = known(&[1, 2], &[1], 1);
    let can = |view: &View, known: &Known<u8>| can_register(view, NodeId(2), [(known, Held::Intact)].into_iter());
    assert!(!can(&view, &free), "its old process may be alive");
    fenced(&mut view, 2);
    assert!(!can(&view, &counts) && can(&view, &free));
    let mut eligible = free;
    (eligible.state.min_isr, eligible.state.elr) = (2, ids(&[2]));
    assert!(can(&view, &eligible), "what it has is still there");
    assert!(!can_register(&view, NodeId(2), [(&eligible, Held::Unclean)].into_iter()), "what it has is lost");
    let decision: Decision<u8> = register(&view, NodeId(2));
    assert!(decision.compares.contains(&Compare::Live(NodeId(2), 40)));
}

#[test]
fn a_fenced_node_comes_back_once_it_has_seen_that() {
    let mut view = view();
    fenced(&mut view, 2);
    let swept = known(&[1, 2], &[1], 1);
    assert!(!can_unfence(&view, NodeId(2), 39, [&swept].into_iter()));
    assert!(can_unfence(&view, NodeId(2), 40, [&swept].into_iter()));
    assert!(!can_unfence(&view, NodeId(2), 40, [&known(&[1, 2], &[1, 2], 1)].into_iter()), "not swept yet");
}

#[test]
fn who_is_led_is_left_alone_and_who_is_needed_stays() {
    let view = view();
    let led = known(&[1, 2], &[1, 2], 2);
    assert_eq!(elect_again(&view, &led), None);
    // The lead moves, but the node stays in sync: without it there would be too few.
    let state = written(drain(&view, &led, NodeId(1)).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[1, 2])));
}

#[test]
fn who_is_fenced_or_unfenced_is_who_was_read() {
    let mut view = view();
    let on_node =
        |decision: Decision<u8>| decision.compares.into_iter().filter(|c| *c != Compare::Controller(5)).collect();
    let seen: Vec<_> = on_node(fence(&view, NodeId(2)).unwrap());
    assert_eq!(seen, [Compare::Registration(NodeId(2), 12), Compare::Live(NodeId(2), 12)]);
    fenced(&mut view, 2);
    assert_eq!(fence::<u8>(&view, NodeId(2)), None);
    let seen: Vec<_> = on_node(unfence(&view, NodeId(2)));
    assert_eq!(seen, [Compare::Registration(NodeId(2), 12), Compare::Live(NodeId(2), 40)]);
    view.nodes.get_mut(&NodeId(2)).unwrap().shutting_down = true;
    let stays = Put::Live { node: NodeId(2), fenced: false, shutting_down: true };
    assert_eq!(unfence::<u8>(&view, NodeId(2)).puts, [stays]);
}

/// Amendment A3: with fewer wanted, records are committed that the eligible do not have.
#[test]
fn another_min_isr_recomputes_who_is_eligible() {
    let view = view();
    let mut known = known(&[1, 2, 3], &[1], 2);
    known.state.elr = ids(&[2]);
    let state = written(change_min_isr(&view, &known, 1).unwrap());
    assert_eq!((state.min_isr, state.elr), (1, NodeSet::EMPTY));
    assert_eq!(change_min_isr(&view, &known, 2), None);
    assert_eq!(written(change_min_isr(&view, &known, 9).unwrap()).min_isr, 3, "not more than there are replicas");
}

#[test]
fn replicas_move_by_way_of_both_sets() {
    let view = view();
    let mut known = known(&[1, 2, 3], &[1, 2, 3], 2);
    known.state = written(reassign(&view, &known, &[NodeId(4), NodeId(2), NodeId(3)]).unwrap().unwrap());
    assert_eq!(known.state.replicas, [4, 2, 3, 1].map(NodeId));
    assert_eq!((known.state.adding.clone(), known.state.removing.clone()), (ids(&[4]), ids(&[1])));
    assert_eq!(advance_reassignment(&view, &known, 2), None, "node 4 is not in sync");
    known.state.isr = ids(&[1, 2, 3, 4]);
    let state = written(advance_reassignment(&view, &known, 2).unwrap());
    assert_eq!(state.replicas, [4, 2, 3].map(NodeId));
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(4)), LeaderEpoch(8)));
}

/// Seed 3092 of the simulator, at first: the replica that a given-up move had added was the only one with everything.
#[test]
fn a_replica_of_a_given_up_move_stays_while_it_counts() {
    let view = view();
    let mut known = known(&[1, 2, 3], &[3], 1);
    (known.state.adding, known.state.removing) = (ids(&[3]), ids(&[1]));
    let state = written(reassign(&view, &known, &[NodeId(1), NodeId(2)]).unwrap().unwrap());
    assert_eq!((state.replicas.clone(), state.leader), (vec![NodeId(1), NodeId(2), NodeId(3)], Some(NodeId(3))));
    assert_eq!((state.adding, state.removing), (NodeSet::EMPTY, ids(&[3])));
}

/// Seed 7922 of the simulator, at first: the leader remembered what a replica had before it was removed and came back.
#[test]
fn a_leader_epoch_begins_whenever_a_replica_goes() {
    let view = view();
    let mut known = known(&[1, 2, 3], &[1, 2], 1);
    known.state.adding = ids(&[3]);
    let state = written(reassign(&view, &known, &[NodeId(1), NodeId(2)]).unwrap().unwrap());
    assert_eq!((state.replicas, state.leader_epoch), (vec![NodeId(1), NodeId(2)], LeaderEpoch(8)));
}

/// Seed 903 of the simulator, at first: `min_isr` counted a replica that a given-up move was to add.
#[test]
fn fewer_replicas_lower_min_isr() {
    let view = view();
    let mut known = known(&[1, 2, 3], &[1, 2], 3);
    known.state.adding = ids(&[3]);
    assert_eq!(written(reassign(&view, &known, &[NodeId(1), NodeId(2)]).unwrap().unwrap()).min_isr, 2);
}

#[test]
fn a_node_that_wants_to_stop_gives_away_what_others_can_have() {
    let mut view = view();
    assert!(shut_down::<u8>(&view, NodeId(1)).is_some());
    view.nodes.get_mut(&NodeId(1)).unwrap().shutting_down = true;
    let mut known = known(&[1, 2, 3], &[1, 2, 3], 2);
    let may_stop = |known: &Known<u8>, seen| can_stop(NodeId(1), [known].into_iter(), [seen].into_iter());
    assert!(!may_stop(&known, 99));
    known.state = written(drain(&view, &known, NodeId(1)).unwrap());
    known.epoch = 60;
    assert_eq!((known.state.leader, known.state.isr.clone()), (Some(NodeId(2)), ids(&[2, 3])));
    assert!(!may_stop(&known, 59) && may_stop(&known, 60), "the others have to see it first");
    assert_eq!(drain(&view, &known, NodeId(1)), None);
    assert_eq!(elect_preferred(&view, &known), None, "its replica is the first, and about to stop");
}
