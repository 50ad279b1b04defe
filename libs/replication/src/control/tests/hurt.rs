//! Replicas that are damaged, older, away, or that cannot write.

use super::*;

/// What a replica in service would lead with, of the first leader epoch.
fn offer(node: i32, log_end: i64, intact: bool) -> Candidate {
    Candidate {
        last_epoch: LeaderEpoch(1),
        record_epoch: LeaderEpoch(1),
        log_end: Offset(log_end),
        intact,
        node: NodeId(node),
        node_epoch: 10 + i64::from(node),
        partition_epoch: 30,
    }
}

#[test]
fn what_a_damaged_or_older_replica_counts_for_depends_on_the_others() {
    let mut context = context();
    let mut state = PartitionState::new(vec![NodeId(1), NodeId(2)], 2);
    let damaged = ReplicaIntegrity::Damaged;
    assert_eq!(counted(&context, &state, NodeId(1), damaged), damaged, "the other one has everything");
    assert_eq!(counted(&context, &state, NodeId(1), Gone), Gone);
    fenced(&mut context, 2);
    assert_eq!(counted(&context, &state, NodeId(1), damaged), Intact, "nobody who has everything is in service");
    assert_eq!(counted(&context, &state, NodeId(1), Gone), Gone, "the latest copy may come back");
    state.set_isr(ids(&[1]));
    assert!(!is_only_eligible(&state, NodeId(1)), "the other one is eligible");
    state.elr = NodeSet::EMPTY;
    assert!(is_only_eligible(&state, NodeId(1)) && !is_only_eligible(&state, NodeId(2)));
    let only = PartitionState::new(vec![NodeId(1)], 1);
    assert_eq!(counted(&context, &only, NodeId(1), Unclean), Intact, "it has whatever there is");
    assert_eq!(counted(&context, &state, NodeId(1), Unclean), Unclean);
    assert_eq!(counted(&context, &only, NodeId(1), Gone), Intact);
}

#[test]
fn who_gives_up_is_not_proposed_again_on_what_it_has_acknowledged() {
    let context = context();
    let whole = record(&[1, 2, 3], &[1, 2, 3], 2);
    let state = written(give_up(&context, &whole, NodeId(2), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.leader_epoch, state.isr), (Some(NodeId(1)), LeaderEpoch(8), ids(&[1, 3])));
    let state = written(give_up(&context, &whole, NodeId(1), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.leader_epoch, state.isr), (Some(NodeId(2)), LeaderEpoch(8), ids(&[2, 3])));
    assert_eq!(give_up(&context, &whole, NodeId(2), LeaderEpoch(6)), None, "it was said of another epoch");
    let without = record(&[1, 2, 3], &[1, 3], 2);
    let state = written(give_up(&context, &without, NodeId(2), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(1)), LeaderEpoch(8)), "its log is replaced in it");
    assert_eq!(state.isr, ids(&[1, 3]));
    assert_eq!(give_up(&context, &without, NodeId(9), LeaderEpoch(7)), None, "it has no replica");
    let mut others_down = context.clone();
    [2, 3].into_iter().for_each(|node| fenced(&mut others_down, node));
    let state = written(give_up(&others_down, &whole, NodeId(1), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(1)), LeaderEpoch(8)), "nobody could take the lead");
    let alone = record(&[1, 2, 3], &[1], 1);
    let state = written(give_up(&context, &alone, NodeId(1), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.leader_epoch, state.isr), (Some(NodeId(1)), LeaderEpoch(8), ids(&[1])));
}

#[test]
fn a_leader_that_lacks_records_steps_down_where_nobody_has_everything() {
    let mut context = context();
    let mut led = record(&[1, 2, 3], &[1], 2);
    led.state.elr = ids(&[2]);
    led.state.last_known_elr = ids(&[3]);
    assert_eq!(step_down(&context, &led, (Lack::Damaged, None)), None, "node 2 takes the lead");
    fenced(&mut context, 2);
    let state = written(step_down(&context, &led, (Lack::Damaged, None)).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (None, LeaderEpoch(8)));
    assert_eq!((&state.isr, &state.elr, &state.last_known_elr), (&NodeSet::EMPTY, &ids(&[2]), &NodeSet::EMPTY));
    // Whoever has most leads, also where that is the same one again.
    let stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    let of = |end| elect_declared_lost(&context, &stepped, &[offer(1, 5, false), offer(3, end, true)], None);
    assert_eq!(written(of(7).unwrap()).leader, Some(NodeId(3)));
    let state = written(of(3).unwrap());
    assert_eq!((state.leader, state.last_known_elr), (Some(NodeId(1)), ids(&[2])));
    // It comes back before the election: it leads, and nobody who is named does in its place.
    let back = self::context();
    let named = elect_declared_lost(&back, &stepped, &[offer(2, 9, true), offer(3, 7, true)], Some(NodeId(3)));
    assert_eq!(named, None);
    assert_eq!(written(elect_again(&back, &stepped).unwrap()).leader, Some(NodeId(2)));
}

#[test]
fn a_leader_that_has_stepped_down_for_nobody_counts_again_for_what_it_did() {
    let mut context = context();
    let mut led = record(&[1, 2, 3], &[1], 2);
    (led.state.elr, led.state.last_known_elr) = (ids(&[2]), ids(&[3]));
    fenced(&mut context, 2);
    let state = written(step_down(&context, &led, (Lack::Damaged, None)).unwrap());
    let stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    let state = written(lead_again(&context, &stepped).unwrap());
    let expected = PartitionState { leader_epoch: LeaderEpoch(9), ..led.state.clone() };
    assert_eq!(state, expected, "also who is eligible, and that nothing is lost");
    assert_eq!(lead_again(&context, &led), None, "nobody has stepped down");
}

#[test]
fn whoever_has_everything_leads_where_the_leader_that_stepped_down_is_away() {
    let mut context = context();
    let led = record(&[1, 2, 3], &[1, 3], 2);
    let lack = (Lack::Committed(NodeId(2)), Some(NodeId(2)));
    let state = written(step_down(&context, &led, lack).unwrap());
    assert_eq!(state.stepped_down.as_ref().unwrap().named, Some(NodeId(2)), "a successor finds who is to lead");
    let mut stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    assert_eq!(elect_again(&context, &stepped), None, "they are compared with others");
    fenced(&mut context, 1);
    stepped.state = written(reconcile(&context, &stepped, 2).unwrap());
    assert_eq!((&stepped.state.elr, stepped.state.leader), (&ids(&[1]), None), "it leads as soon as it comes back");
    let state = written(lead_again(&context, &stepped).unwrap());
    assert_eq!((state.leader, &state.elr, state.stepped_down), (Some(NodeId(3)), &ids(&[1]), None));
    fenced(&mut context, 3);
    let state = written(lead_again(&context, &stepped).unwrap());
    assert_eq!((state.leader, &state.elr), (None, &ids(&[1, 3])), "as if nobody had been asked");
}

#[test]
fn whoever_loses_records_during_an_election_by_hand_counts_for_what_is_left() {
    let mut context = context();
    let mut led = record(&[1, 2, 3], &[1, 3], 2);
    (led.state.elr, led.state.last_known_elr) = (NodeSet::EMPTY, ids(&[2]));
    let lack = (Lack::Committed(NodeId(2)), Some(NodeId(2)));
    let state = written(step_down(&context, &led, lack).unwrap());
    let mut stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    for (node, held) in [(1, Unclean), (2, Gone)] {
        fenced(&mut context, node);
        assert_eq!(register(&context, NodeId(node), std::iter::once((&stepped, held))), None, "it counts there");
        stepped.state = written(sweep(&context, &stepped, NodeId(node), held).unwrap());
    }
    let state = written(lead_again(&context, &stepped).unwrap());
    assert_eq!((state.leader, &state.elr, &state.last_known_elr), (Some(NodeId(3)), &NodeSet::EMPTY, &ids(&[1])));
}

#[test]
fn one_that_comes_back_after_the_leader_stepped_down_is_compared_like_all_others() {
    let mut away = context();
    let mut led = record(&[1, 2, 3], &[1], 2);
    led.state.last_known_elr = ids(&[3]);
    fenced(&mut away, 3);
    let state = written(step_down(&away, &led, (Lack::Damaged, None)).unwrap());
    let stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    let offers = [offer(1, 6, false), offer(2, 10, true), offer(3, 4, true)];
    let elected = elect_declared_lost(&context(), &stepped, &offers, None).unwrap();
    assert_eq!(written(elected).leader, Some(NodeId(2)));
}

#[test]
fn nobody_is_elected_by_a_policy_while_one_that_has_everything_may_come_back() {
    let mut context = context();
    let mut led = record(&[1, 2, 3], &[1], 2);
    led.state.last_known_elr = ids(&[3]);
    fenced(&mut context, 3);
    let state = written(step_down(&context, &led, (Lack::Damaged, Some(NodeId(2)))).unwrap());
    let mut stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    fenced(&mut context, 1);
    stepped.state = written(lead_again(&context, &stepped).unwrap());
    let mut back = self::context();
    fenced(&mut back, 1);
    assert_eq!(elect_unclean(&back, &stepped, &[offer(3, 4, true)], Recovery::Balanced), None);
}

#[test]
fn a_restore_ends_an_election_during_which_the_copy_was_taken() {
    let context = context();
    let led = record(&[1, 2, 3], &[1], 1);
    let state = written(step_down(&context, &led, (Lack::Damaged, None)).unwrap());
    let copy = PartitionRecord { key: led.key, state, epoch: led.epoch };
    assert_eq!(written(restore(&context, &copy, Some(LeaderEpoch(9)), &NodeSet::EMPTY).unwrap()).stepped_down, None);
}

#[test]
fn a_leader_whose_log_contradicts_another_steps_down_although_others_are_in_sync_with_it() {
    let context = context();
    let mut led = record(&[1, 2, 3], &[1, 3], 2);
    led.state.elr = NodeSet::EMPTY;
    let contradicted = Lack::Committed(NodeId(2));
    assert_eq!(step_down(&context, &led, (Lack::Damaged, None)), None);
    let state = written(step_down(&context, &led, (contradicted, Some(NodeId(2)))).unwrap());
    assert_eq!((state.leader, &state.isr, &state.elr), (None, &NodeSet::EMPTY, &NodeSet::EMPTY));
    let stepped = PartitionRecord { key: led.key, state, epoch: led.epoch };
    let state = written(lead_again(&context, &stepped).unwrap());
    assert_eq!(
        (state.leader, state.isr, state.elr),
        (Some(NodeId(1)), ids(&[1]), ids(&[3])),
        "whoever was in sync is eligible"
    );
}

#[test]
fn those_who_have_everything_are_declared_lost_only_while_they_are_away() {
    let (mut context, mut record) = (context(), record(&[1, 2, 3], &[], 2));
    record.state.elr = ids(&[1]);
    let offers = [offer(2, 5, true), offer(3, 7, true)];
    assert_eq!(elect_declared_lost(&context, &record, &offers, None), None, "it is about to lead");
    fenced(&mut context, 1);
    assert_eq!(elect_declared_lost(&context, &record, &[], None), None);
    assert_eq!(
        elect_declared_lost(&context, &record, &offers[..1], None),
        None,
        "node 3 is in service, and may have more"
    );
    let named = elect_declared_lost(&context, &record, &offers[..1], Some(NodeId(2))).unwrap();
    assert_eq!(written(named).leader, Some(NodeId(2)));
    // The one that has most, also where it is damaged behind that; but only where people have decided it.
    let hurt = [offer(2, 5, true), offer(3, 7, false)];
    assert_eq!(written(elect_declared_lost(&context, &record, &hurt, None).unwrap()).leader, Some(NodeId(3)));
    let mut nobody = record.clone();
    nobody.state.elr = ids(&[]);
    nobody.state.last_known_elr = ids(&[3]);
    assert_eq!(elect_unclean(&context, &nobody, &hurt, Recovery::Balanced), None);
    let decision = elect_declared_lost(&context, &record, &offers, None).unwrap();
    let compared = |comparison: &Comparison<_>| matches!(comparison, Comparison::Live(NodeId(1), _));
    assert!(decision.comparisons.iter().any(compared), "it may come back in this moment");
    let state = written(decision);
    assert_eq!((state.leader, state.elr, state.recovering), (Some(NodeId(3)), NodeSet::EMPTY, true));
    assert_eq!(state.last_known_elr, ids(&[1]));
}

#[test]
fn a_leader_that_cannot_write_is_followed_by_one_in_sync_in_the_epoch_in_which_it_says_so() {
    let context = context();
    let whole = record(&[1, 2, 3], &[1, 2, 3], 2);
    let state = written(hand_over(&context, &whole, NodeId(1), LeaderEpoch(7)).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(2)), ids(&[1, 2, 3])), "the next one may just have gone");
    let mut full = context.clone();
    full.unwritable = ids(&[1, 2]);
    let state = written(hand_over(&full, &whole, NodeId(1), LeaderEpoch(7)).unwrap());
    assert_eq!(state.leader, Some(NodeId(3)), "the other one cannot write either");
    full.unwritable = ids(&[1, 2, 3]);
    assert_eq!(hand_over(&full, &whole, NodeId(1), LeaderEpoch(7)), None, "leads would only go round");
    assert_eq!(elect_preferred(&full, &record(&[2, 1], &[1, 2], 1)), None, "nor does one go back to such a node");
    full.nodes.get_mut(&NodeId(1)).unwrap().drained = true;
    assert_eq!(leave_lead(&full, &whole), None, "nor away from a drained one");
    assert_eq!(hand_over(&context, &whole, NodeId(1), LeaderEpoch(6)), None, "it was said of another epoch");
    assert_eq!(hand_over(&context, &whole, NodeId(2), LeaderEpoch(7)), None, "it does not lead");
    assert_eq!(hand_over(&context, &record(&[1, 2, 3], &[1], 1), NodeId(1), LeaderEpoch(7)), None);
}

#[test]
fn a_node_whose_directory_has_failed_counts_nowhere_where_another_one_has_everything() {
    let mut context = context();
    context.failed = ids(&[3]);
    context.unwritable = ids(&[3]);
    let whole = record(&[3, 1, 2], &[3, 1, 2], 2);
    let state = written(reconcile(&context, &whole, 2).unwrap());
    assert_eq!((state.leader, state.isr), (Some(NodeId(1)), ids(&[1, 2])));
    let mut proposed = record(&[1, 2, 3], &[1, 2], 2);
    let proposal = proposal(&[(1, 11), (2, 12), (3, 13)]);
    assert_eq!(alter_isr(&context, &proposed, &proposal), Err(Refusal::Ineligible(NodeId(3))));
    proposed.state.isr = ids(&[1]);
    assert!(reconcile(&context, &proposed, 2).is_none(), "it does not count");
    // It alone is in sync, and others are eligible: nothing was committed without them.
    let mut alone = record(&[3, 1, 2], &[3], 2);
    alone.state.elr = ids(&[1, 2]);
    let state = written(reconcile(&context, &alone, 2).unwrap());
    assert_eq!((state.leader, &state.isr, &state.elr), (Some(NodeId(1)), &ids(&[1]), &ids(&[2])));
    assert_eq!(state.last_known_elr, ids(&[3]));
    alone.state.leader = None;
    alone.state.isr = ids(&[]);
    alone.state.elr = ids(&[1, 3]);
    let state = written(reconcile(&context, &alone, 2).unwrap());
    assert_eq!(state.leader, Some(NodeId(1)), "of the eligible not the one without a directory");
}

#[test]
fn a_node_whose_directory_has_failed_counts_while_the_others_are_silent() {
    let mut context = context();
    (context.failed, context.unwritable, context.silent) = (ids(&[1]), ids(&[1]), ids(&[2]));
    let led = record(&[1, 2], &[1, 2], 1);
    assert_eq!(reconcile(&context, &led, 1), None, "it may be the only one that is left");
    context.silent = ids(&[]);
    assert_eq!(written(reconcile(&context, &led, 1).unwrap()).leader, Some(NodeId(2)));
}

#[test]
fn a_node_whose_directory_has_failed_goes_on_where_no_other_one_in_service_has_everything() {
    let mut context = context();
    context.failed = ids(&[3]);
    let alone = record(&[3, 1, 2], &[3], 1);
    assert_eq!(reconcile(&context, &alone, 1), None, "the others may have less");
    let mut under = record(&[3, 1, 2], &[3], 2);
    under.state.elr = ids(&[1, 2]);
    fenced(&mut context, 1);
    context.failed = ids(&[2, 3]);
    assert_eq!(reconcile(&context, &under, 2), None, "one is down, the other has failed, too");
    context.failed = ids(&[3]);
    assert_eq!(written(reconcile(&context, &under, 2).unwrap()).leader, Some(NodeId(2)));
}

#[test]
fn a_node_that_is_not_heard_gets_no_lead_that_another_one_can_have() {
    let mut context = context();
    context.silent = ids(&[2]);
    fenced(&mut context, 1);
    let state = written(reconcile(&context, &record(&[1, 2, 3], &[1, 2, 3], 2), 2).unwrap());
    assert_eq!(state.leader, Some(NodeId(3)));
    let state = written(reconcile(&context, &record(&[1, 2, 3], &[1, 2], 2), 2).unwrap());
    assert_eq!(state.leader, Some(NodeId(2)), "better than nobody: it may be there");
    let led = record(&[2, 1, 3], &[2, 3], 2);
    let led = PartitionRecord { state: PartitionState { leader: Some(NodeId(3)), ..led.state }, ..led };
    assert_eq!(elect_preferred(&context, &led), None, "nor does one go back to it");
}

/// Node 1 leads and reaches nobody; nodes 2 and 3 have everything that was committed.
#[test]
fn an_operator_may_name_an_eligible_node_while_a_leader_is_there() {
    let context = context();
    let mut cut_off = record(&[1, 2, 3], &[1], 2);
    cut_off.state.elr = ids(&[2, 3]);
    let state = written(elect_eligible(&context, &cut_off, NodeId(3)).unwrap());
    assert_eq!((state.leader, state.leader_epoch), (Some(NodeId(3)), LeaderEpoch(8)));
    assert_eq!((&state.isr, &state.elr), (&ids(&[3]), &ids(&[1, 2])), "who was in sync has everything, too");
    assert_eq!(elect_eligible(&context, &cut_off, NodeId(1)), None, "it leads already");
    let mut silent = context.clone();
    silent.silent = ids(&[2]);
    assert_eq!(elect_eligible(&silent, &cut_off, NodeId(2)), None);
    cut_off.state.elr = ids(&[3]);
    assert_eq!(elect_eligible(&context, &cut_off, NodeId(2)), None, "it need not have everything");
    cut_off.state.leader = None;
    assert_eq!(elect_eligible(&context, &cut_off, NodeId(3)), None, "nobody is there: it leads by itself");
}

#[test]
fn a_follower_that_cannot_write_is_spared_once_the_others_have_seen_who_leads_and_comes_back_when_it_can() {
    let mut context = context();
    let whole = record(&[1, 2, 3], &[1, 2, 3], 2);
    let relieved = |context: &DecisionContext, record: &PartitionRecord<u8>, node, seen: i64| {
        relieve(context, record, NodeId(node), |_| seen).map(|decision| written(decision).isr)
    };
    assert_eq!(relieved(&context, &whole, 2, 99), None, "it can");
    context.unwritable = ids(&[1, 2]);
    assert_eq!(relieved(&context, &whole, 1, 99), None, "it leads");
    assert_eq!(relieved(&context, &whole, 2, 99), None, "of those who stay only one can");
    context.unwritable = ids(&[2]);
    assert_eq!(relieved(&context, &whole, 2, whole.epoch - 1), None, "who leads may have gone");
    assert_eq!(relieved(&context, &whole, 2, whole.epoch), Some(ids(&[1, 3])));
    assert_eq!(relieved(&context, &record(&[1, 2], &[1, 2], 2), 2, 99), None, "it cannot be spared");
    let mut quiet = context.clone();
    quiet.silent = ids(&[3]);
    assert_eq!(relieved(&quiet, &whole, 2, 99), None, "node 3 may be gone");
    // It has everything that there is, and would hold up what comes.
    let left = record(&[1, 2, 3], &[1, 3], 2);
    let back = proposal(&[(1, 11), (2, 12), (3, 13)]);
    assert_eq!(alter_isr(&context, &left, &back), Err(Refusal::Ineligible(NodeId(2))));
    let short = record(&[1, 2, 3], &[1], 2);
    let back = proposal(&[(1, 11), (2, 12)]);
    assert_eq!(written(alter_isr(&context, &short, &back).unwrap()).isr, ids(&[1, 2]), "better than too few");
    context.unwritable = ids(&[]);
    assert_eq!(written(alter_isr(&context, &short, &back).unwrap()).isr, ids(&[1, 2]));
}

/// What a directory had that has failed need not come back with it.
#[test]
fn where_all_others_are_gone_a_node_whose_directory_has_failed_is_not_the_only_one_that_counts() {
    let recovered = |leader: i32, min_isr: usize| {
        let mut context = context();
        let mut record = record(&[1, 2], &[1, 2], min_isr);
        record.state.leader = Some(NodeId(leader));
        context.failed = ids(&[2]);
        // Node 1 is gone, which is known once it is fenced.
        context.silent = ids(&[1]);
        if let Some(decision) = reconcile(&context, &record, min_isr) {
            record.state = written(decision);
        }
        context.silent = ids(&[]);
        fenced(&mut context, 1);
        while let Some(decision) = reconcile(&context, &record, min_isr) {
            record.state = written(decision);
        }
        assert_eq!((record.state.leader, record.state.isr.is_empty()), (None, true), "{record:?}");
        assert_eq!(record.state.elr, ids(&[1, 2]), "both have everything");
        let mut well = context.clone();
        well.failed = ids(&[]);
        let first = written(reconcile(&well, &record, min_isr).unwrap());
        assert_eq!((first.leader, first.isr), (Some(NodeId(2)), ids(&[2])), "its directory is well again before that");
        context.nodes.get_mut(&NodeId(1)).unwrap().fenced = false;
        written(reconcile(&context, &record, min_isr).unwrap())
    };
    // It may register before anybody has looked.
    let mut context = context();
    context.failed = ids(&[2]);
    fenced(&mut context, 1);
    let mut record = record(&[1, 2], &[1, 2], 1);
    record.state.leader = Some(NodeId(2));
    let decisions = admit(&context, NodeId(1), [(&record, Intact)].into_iter());
    record.state = written(decisions.into_iter().next().unwrap());
    assert_eq!((record.state.isr.is_empty(), record.state.elr.clone()), (true, ids(&[1, 2])), "{record:?}");
    for (leader, min_isr) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        let state = recovered(leader, min_isr);
        assert_eq!((state.leader, state.isr), (Some(NodeId(1)), ids(&[1])), "led by {leader}, {min_isr} at least");
    }
}

/// A reader's find: a directory that had failed for a moment made a whole replica count for nothing, and a shorter log led.
#[test]
fn one_whose_directory_failed_for_a_moment_is_not_forgotten_when_the_others_come_back_with_less() {
    for (replicas, min_isr) in [(vec![1, 2], 1), (vec![1, 2], 2), (vec![1, 2, 3], 2), (vec![1, 2, 3], 1)] {
        let (mut context, mut record) = (context(), record(&replicas, &replicas, min_isr));
        let last = *replicas.last().unwrap();
        record.state.leader = Some(NodeId(last));
        let others = &replicas[..replicas.len() - 1];
        context.failed = ids(others);
        context.silent = ids(&[last]);
        assert_eq!(reconcile(&context, &record, min_isr), None, "a silent one is heard again, or fenced, in a moment");
        context.silent = ids(&[]);
        fenced(&mut context, last);
        while let Some(decision) = reconcile(&context, &record, min_isr) {
            record.state = written(decision);
        }
        assert_eq!((record.state.leader, record.state.elr.clone()), (None, ids(&replicas)));
        // What it had in the page cache is lost; the directories of the others are well again, or not.
        let decisions = admit(&context, NodeId(last), [(&record, Unclean)].into_iter());
        record.state = written(decisions.into_iter().next().unwrap());
        for failed in [others, &[]] {
            context.failed = ids(failed);
            let state = match reconcile(&context, &record, min_isr) {
                Some(decision) => written(decision),
                None => record.state.clone(),
            };
            assert_eq!(state.leader, Some(NodeId(1)), "{replicas:?} {min_isr} {failed:?}");
        }
    }
}

/// Whoever is away is lost for good, and the directory that has failed can be read: people say so.
#[test]
fn one_whose_directory_has_failed_leads_when_those_who_are_away_are_declared_lost() {
    let (mut context, mut record) = (context(), record(&[1, 2], &[], 1));
    record.state.leader = None;
    record.state.elr = ids(&[1, 2]);
    context.failed = ids(&[1]);
    fenced(&mut context, 2);
    assert_eq!(reconcile(&context, &record, 1), None);
    let state = written(elect_declared_lost(&context, &record, &[offer(1, 9, true)], None).unwrap());
    assert_eq!(state.leader, Some(NodeId(1)));
    context.failed = ids(&[]);
    assert_eq!(elect_declared_lost(&context, &record, &[offer(1, 9, true)], None), None, "it is about to lead");
}

/// A log that has failed would lead as soon as its directory is well, and whoever has everything would count no more.
#[test]
fn one_whose_log_has_failed_does_not_stay_eligible_beside_another_one() {
    let (mut context, mut record) = (context(), record(&[1, 2], &[], 1));
    record.state.leader = None;
    record.state.elr = ids(&[1, 2]);
    context.failed = ids(&[1]);
    fenced(&mut context, 2);
    let epoch = record.state.leader_epoch;
    let state = written(give_up(&context, &record, NodeId(1), epoch).unwrap());
    assert_eq!((state.leader, state.elr.clone(), state.last_known_elr.clone()), (None, ids(&[2]), ids(&[1])));
    record.state = state;
    assert_eq!(give_up(&context, &record, NodeId(1), record.state.leader_epoch), None);
    record.state.elr = ids(&[1]);
    record.state.last_known_elr = ids(&[]);
    assert_eq!(give_up(&context, &record, NodeId(1), record.state.leader_epoch), None, "it is all there is");
}
