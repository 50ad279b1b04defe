//! Rules that are a second line of defence: random seeds hardly ever need them, because another rule has stopped the
//! trouble before. Here each is the only thing between a history and its harm (amendment A9).

use std::time::Duration;

use walser_model::{Durability, LeaderEpoch, Offset};
use walser_replication::control::{
    self, Decision, ReplicaIntegrity, Write, elect_again, elect_preferred, fence, unfence,
};
use walser_replication::{
    Action, AlterIsr, Diverging, Event, Follower, FollowerAction, FollowerEvent, FollowerStart, Frame, Leader, NodeSet,
    PartitionState, ReplicaAction, ReplicaActions, ReplicaEvent, ReplicationSession, ReplicationSessionId, Rule, Rules,
    Start,
};

use crate::controller::Controller;
use crate::key::Key;
use crate::records::Entry;
use crate::replica::{Led, Replica};
use crate::store::{Record, Store, id};

/// Three nodes, one partition, and a controller that has read them.
fn store() -> Store {
    let mut store = Store::new(3, vec![PartitionState::new((0..3).map(id).collect(), 2)], Durability::Fsync);
    store.elect();
    store
}

fn controller(store: &Store, rules: Rules) -> Controller {
    let mut controller = Controller::new(store, rules);
    controller.view.controller_epoch = store.controller;
    controller
}

/// The partition as a controller knows it.
fn record(controller: &Controller) -> &Record {
    controller.partitions[0].as_ref().unwrap()
}

fn with_and_without(rule: Rule) -> [(Rules, bool); 2] {
    [(Rules::ALL, true), (Rules::without(rule), false)]
}

/// Fences and sweeps a node, as a controller that is up to date does.
fn fence_and_sweep(store: &mut Store, node: usize, held: ReplicaIntegrity) {
    let mut controller = controller(store, Rules::ALL);
    if let Some(decision) = fence::<Key>(&controller.view, id(node)) {
        store.transact(&decision).unwrap();
        controller.reload(store);
    }
    if let Some(decision) = controller.decider.sweep(&controller.view, record(&controller), id(node), held) {
        store.transact(&decision).unwrap();
    }
}

/// Unfences a node that has seen everything.
fn unfenced(controller: &Controller, node: usize) -> Decision<Key> {
    unfence(&controller.view, id(node), i64::MAX, controller.partitions.iter().flatten()).unwrap()
}

/// Registers a node whose replicas are intact.
fn registered(controller: &Controller, node: usize) -> Vec<Decision<Key>> {
    let all = controller.partitions.iter().flatten().map(|known| (known, ReplicaIntegrity::Intact));
    controller.decider.admit(&controller.view, id(node), all)
}

/// What a controller writes when node 0 proposes all three, with these incarnations.
fn join(controller: &Controller, epochs: [i64; 3]) -> Decision<Key> {
    let known = record(controller);
    let proposal = AlterIsr {
        leader: id(0),
        node_epoch: controller.view.nodes[&id(0)].epoch,
        leader_epoch: known.state.leader_epoch,
        partition_epoch: known.epoch,
        isr: (0..3).map(id).zip(epochs).collect(),
    };
    controller.decider.comparisons(controller.decider.alter_isr(&controller.view, known, &proposal).unwrap())
}

/// `no_election_guard`: everything that a deposed controller has read is still true, but who it is.
#[test]
fn a_deposed_controller_writes_nothing() {
    for (rules, holds) in with_and_without(Rule::ElectionGuard) {
        let mut store = store();
        store.partitions[0].as_mut().unwrap().state.leader = Some(id(1));
        let deposed = controller(&store, rules);
        store.elect();
        let decision = elect_preferred(&deposed.view, record(&deposed)).unwrap();
        let decision = deposed.decider.comparisons(decision);
        let written = store.transact(&decision).unwrap();
        assert_eq!(written.is_none(), holds);
    }
}

/// `cas_partition_only`: a replica comes back without its disk, and a controller that has not heard of it writes the
/// proposal that its earlier life had earned.
#[test]
fn a_member_that_was_replaced_meanwhile_does_not_join() {
    for (rules, holds) in with_and_without(Rule::CompareNodes) {
        let mut store = store();
        fence_and_sweep(&mut store, 2, ReplicaIntegrity::Intact);
        let current = controller(&store, Rules::ALL);
        store.transact(&unfenced(&current, 2)).unwrap();
        let stale = controller(&store, rules);
        let caught_up = stale.view.nodes[&id(2)].epoch;

        let mut current = controller(&store, Rules::ALL);
        store.transact(&fence::<Key>(&current.view, id(2)).unwrap()).unwrap();
        current.reload(&store);
        store.transact(&registered(&current, 2)[0]).unwrap().unwrap();

        let decision = join(&stale, [-1, -1, caught_up]);
        store.transact(&decision).unwrap();
        let joined = store.partitions[0].as_mut().unwrap().state.isr.contains(id(2));
        assert_eq!(joined, !holds, "the new process has nothing of what the old one had");
    }
}

/// A node that is not fenced may join an in-sync set between the controller's look and the registration.
#[test]
fn a_node_is_fenced_before_it_registers() {
    for (rules, holds) in with_and_without(Rule::FenceBeforeRegistration) {
        let mut store = store();
        store.partitions[0].as_mut().unwrap().state.isr = [0, 1].map(id).into_iter().collect();
        let registrar = controller(&store, rules);
        let registration = registered(&registrar, 2).remove(0);
        let registers = registration.writes.iter().any(|write| matches!(write, Write::Registration(_)));
        assert_eq!(registers, !holds);

        let joins = join(&registrar, [0, 1, 2].map(|node| registrar.view.nodes[&id(node)].epoch));
        store.transact(&joins).unwrap().unwrap();
        let outcome = store.transact(&registration);
        assert_eq!(outcome.is_err_and(|violation| violation.starts_with("I14")), !holds);
    }
}

/// Node 2, registered as 9, begins to follow node 1 in epoch 2: it opens for the first time.
fn following(rules: Rules) -> FollowerStart {
    FollowerStart {
        node: id(2),
        node_epoch: 9,
        leader: id(1),
        leader_epoch: LeaderEpoch(2),
        open_sequence: 0,
        high_watermark: Offset(0),
        high_watermark_epoch: LeaderEpoch::NONE,
        unclean_epoch: LeaderEpoch::NONE,
        lazy: false,
        rules,
    }
}

/// A replica whose log has three records of each of these epochs.
fn with_log(epochs: &[i32]) -> Replica {
    let mut replica = Replica::new(Rules::ALL, id(0), 1);
    for epoch in epochs.iter().flat_map(|epoch| [LeaderEpoch(*epoch); 3]) {
        replica.push(Entry { epoch, producer: 0, sequence: 0 });
    }
    replica.durable = replica.log.len();
    replica
}

/// Node 0 leads, in sync alone; node 1 is a replica.
fn alone_in_sync(rules: Rules) -> (PartitionState, Start) {
    let mut partition = PartitionState::new([0, 1].map(id).into(), 1);
    (partition.leader, partition.isr) = (Some(id(0)), [id(0)].into_iter().collect());
    let start = Start {
        node: id(0),
        node_epoch: 8,
        partition: partition.clone(),
        partition_epoch: 10,
        durability: Durability::Fsync,
        high_watermark: Offset(0),
        high_watermark_epoch: LeaderEpoch::NONE,
        now: Duration::ZERO,
        lag_max: Duration::from_secs(4),
        rules,
    };
    (partition, start)
}

/// Node 1 opens with a log that ends here.
fn opened(log_end: i64, last_epoch: LeaderEpoch) -> ReplicationSession {
    ReplicationSession {
        follower: id(1),
        id: ReplicationSessionId { node_epoch: 9, sequence: 1 },
        leader_epoch: LeaderEpoch(0),
        log_end: Offset(log_end),
        durable: Offset(log_end),
        lazy: false,
        last_epoch,
        damaged: false,
    }
}

/// `tombstones_are_there`: node 1 had everything, and has lost the tombstone at offset 1 to damage. What it deleted has gone on
/// node 0, with the tombstone; were node 1 given only what it lacks, it would have it for ever.
#[test]
fn what_a_tombstone_deleted_that_is_gone_does_not_come_back() {
    for (rules, holds) in with_and_without(Rule::TombstonesAreThere) {
        for (log_end, whole) in [(1, false), (2, true), (3, true)] {
            let (_, start) = alone_in_sync(rules);
            let mut replica = with_log(&[0]);
            replica.tombstone_floor = 2;
            let mut leader = Leader::start(start, &replica.view()).unwrap();
            let mut actions = Vec::new();
            leader.step(Event::Opened(opened(log_end, LeaderEpoch(0))), &replica.view(), &mut actions);
            let copied = actions.iter().any(|action| matches!(action, Action::Copy { .. }));
            assert_eq!(copied, holds && !whole, "{log_end}");
        }
    }
}

/// A follower opens and dies. While it is proposed nothing is committed without it; were it proposed once a second, for
/// as long as it is away, every write would wait again and again.
#[test]
fn a_dead_follower_is_proposed_once() {
    for (rules, holds) in with_and_without(Rule::RefusedIsHeardFirst) {
        let (partition, start) = alone_in_sync(rules);
        let (replica, mut actions) = (with_log(&[]), Vec::new());
        let mut leader = Leader::start(start, &replica.view()).unwrap();
        let open = opened(0, LeaderEpoch::NONE);
        let proposals = |actions: &[Action]| actions.iter().filter(|it| matches!(it, Action::Propose(_))).count();
        let mut proposed = 0;
        leader.step(Event::Opened(open), &replica.view(), &mut actions);
        for second in 1..=10 {
            proposed += proposals(&actions);
            actions.clear();
            leader.step(Event::ProposalOver { ineligible: Some(id(1)) }, &replica.view(), &mut actions);
            let installed = Event::Installed { partition: partition.clone(), partition_epoch: 10 + second };
            leader.step(installed, &replica.view(), &mut actions);
            let now = Duration::from_secs(second.unsigned_abs());
            leader.step(Event::Tick { now }, &replica.view(), &mut actions);
        }
        assert_eq!(proposed == 1, holds, "{proposed}");
    }
}

/// Node 0 has a record of epoch 0 that node 1, which led in epoch 1, does not have: that one has others, which were never
/// committed. In epoch 2 node 0 leads, alone, and has its own committed. Nobody has written in epoch 2 when everything
/// loses power, and all that says that node 0 is ahead of node 1 is the start of its epoch.
#[test]
fn what_is_committed_in_an_epoch_without_records_outlives_a_loss_of_power() {
    for (rules, holds) in with_and_without(Rule::EpochStartIsDurable) {
        let mut partition = PartitionState::new([0, 1].map(id).into(), 1);
        (partition.leader, partition.isr) = (Some(id(0)), [id(0)].into_iter().collect());
        partition.leader_epoch = LeaderEpoch(2);
        let (mut first, mut actions) = (with_log(&[0]), ReplicaActions::new());
        first.crash((rules, id(0)), ReplicaIntegrity::Intact, false);
        for event in [
            ReplicaEvent::Registered { node_epoch: 8 },
            ReplicaEvent::Observed { revision: 10 },
            ReplicaEvent::Installed { partition, partition_epoch: 10 },
        ] {
            first.step(Duration::ZERO, event, &mut actions);
        }
        let committed = |actions: &ReplicaActions<_>| {
            actions.iter().any(|action| matches!(action, ReplicaAction::Commit { high_watermark: Offset(3) }))
        };
        assert_eq!(committed(&actions), !holds);
        first.led = Some(Led { epoch: LeaderEpoch(2), start: 3 });
        if holds {
            first.flush();
            first.flush();
            first.step(Duration::ZERO, ReplicaEvent::LogChanged, &mut actions);
            assert!(committed(&actions));
        }
        first.crash((rules, id(0)), ReplicaIntegrity::Intact, false);
        let mut second = with_log(&[0]);
        second.cut(2);
        second.push(Entry { epoch: LeaderEpoch(1), producer: 0, sequence: 0 });
        let offered = |replica: &Replica| replica.machine.candidate(&replica.view()).unwrap();
        assert_eq!(offered(&first) > offered(&second), holds, "who offers more leads");
    }
}

/// `no_epoch_fence`: a node restarts, and its opens count from 1 again, as they did when it followed a leader that is
/// none any more. What that one still sends fits in every other respect.
#[test]
fn a_frame_of_an_earlier_leader_epoch_is_dropped() {
    for (rules, holds) in with_and_without(Rule::EpochFence) {
        let replica = with_log(&[]);
        let mut follower = Follower::start(following(rules), &replica.view(), &mut Vec::new());
        let frame = Frame {
            leader_epoch: LeaderEpoch(1),
            open: ReplicationSessionId { node_epoch: 9, sequence: 1 },
            base: Offset(0),
            end: Offset(3),
            high_watermark: Offset(0),
            log_start: Offset(0),
            tombstone_floor: Offset(0),
        };
        let mut actions = Vec::new();
        follower.step(FollowerEvent::Pushed(frame), &replica.view(), &mut actions);
        assert_eq!(actions.contains(&FollowerAction::Append(frame)), !holds);
    }
}

/// An earlier process of the node, registered as 8, had parted from the leader at offset 3, was told so, and cut; the
/// node has got the leader's records since. The answer comes once more.
#[test]
fn an_answer_to_an_earlier_process_cuts_nothing() {
    for (rules, holds) in with_and_without(Rule::OpenNamesProcess) {
        let replica = with_log(&[1, 2]);
        let mut follower = Follower::start(following(rules), &replica.view(), &mut Vec::new());
        let open = ReplicationSessionId { node_epoch: 8, sequence: 1 };
        let (epoch, end) = (LeaderEpoch(1), Offset(3));
        let answer = Diverging { leader_epoch: LeaderEpoch(2), open, epoch, end };
        let mut actions = Vec::new();
        follower.step(FollowerEvent::Diverged(answer), &replica.view(), &mut actions);
        assert_eq!(actions.contains(&FollowerAction::Truncate { to: end }), !holds);
    }
}

/// `no_elr`: the last replica in sync dies with its disk. The one that left before it has everything, and is waiting.
#[test]
fn the_last_replica_standing_is_not_the_only_one_that_can_lead() {
    for (rules, holds) in with_and_without(Rule::EligibleLeaders) {
        let mut store = Store::new(2, vec![PartitionState::new((0..2).map(id).collect(), 2)], Durability::Fsync);
        store.elect();
        for (node, held) in [(1, ReplicaIntegrity::Intact), (0, ReplicaIntegrity::Gone)] {
            let mut controller = controller(&store, rules);
            store.transact(&fence::<Key>(&controller.view, id(node)).unwrap()).unwrap();
            controller.reload(&store);
            let Controller { view, partitions, decider, .. } = &controller;
            if let Some(decision) = decider.sweep(view, partitions[0].as_ref().unwrap(), id(node), held) {
                store.transact(&decision).unwrap();
            }
        }
        let mut controller = controller(&store, rules);
        store.transact(&unfenced(&controller, 1)).unwrap();
        controller.reload(&store);
        if let Some(decision) = elect_again(&controller.view, record(&controller)) {
            store.transact(&decision).unwrap();
        }
        assert_eq!(store.partitions[0].as_mut().unwrap().state.leader, holds.then_some(id(1)));
    }
}

/// A partition was on node 0 alone when the store was copied, and has been on node 2 since, where it grew. After the
/// restore it is on node 0 again, with less, and node 2 becomes a replica once more: it has to give up what it took for
/// committed, rather than stop.
#[test]
fn a_replica_from_before_a_restore_can_follow_one_that_has_less() {
    let mut store = Store::new(3, vec![PartitionState::new(vec![id(0)], 1)], Durability::Fsync);
    store.elect();
    let controller = controller(&store, Rules::ALL);
    let decision =
        control::restore(&controller.view, record(&controller), Some(LeaderEpoch(1)), &NodeSet::EMPTY).unwrap();
    store.transact(&decision).unwrap().unwrap();
    let state = &store.partition(0).unwrap().state;
    assert_eq!((state.leader, state.leader_epoch), (Some(id(0)), LeaderEpoch(1_000_001)));

    let replica = with_log(&[0, 1]);
    let start = FollowerStart {
        leader: id(0),
        unclean_epoch: state.unclean_epoch,
        leader_epoch: state.leader_epoch,
        ..following(Rules::ALL)
    };
    let before = FollowerStart { high_watermark: Offset(6), high_watermark_epoch: LeaderEpoch(1), ..start };
    let mut follower = Follower::start(before, &replica.view(), &mut Vec::new());
    let open = ReplicationSessionId { node_epoch: 9, sequence: 1 };
    let (epoch, end) = (LeaderEpoch(0), Offset(3));
    let answer = Diverging { leader_epoch: state.leader_epoch, open, epoch, end };
    let mut actions = Vec::new();
    follower.step(FollowerEvent::Diverged(answer), &replica.view(), &mut actions);
    assert_eq!(actions, [FollowerAction::Truncate { to: end }]);
}

/// `epochs_of_one_start`: node 1 leads after node 0. Then a copy of the store from before that is used again, and node 2, which
/// has seen nothing newer, leads by it.
#[test]
fn leader_epochs_that_two_histories_of_one_store_begin_are_not_the_same() {
    for (rules, holds) in with_and_without(Rule::EpochsOfOneStart) {
        let next_leader = |skipped: i32, gone: &[usize]| {
            let mut store = store();
            for node in gone {
                let mut started = controller(&store, rules);
                started.crash(&store, skipped);
                started.view.controller_epoch = store.controller;
                store.transact(&fence::<Key>(&started.view, id(*node)).unwrap()).unwrap();
                started.follow(&store, usize::MAX);
                let sweep = started.decider.sweep(&started.view, record(&started), id(*node), ReplicaIntegrity::Intact);
                store.transact(&sweep.unwrap()).unwrap();
            }
            let state = &store.partition(0).unwrap().state;
            (state.leader, state.leader_epoch)
        };
        let (first, second) = (next_leader(3, &[0]), next_leader(5, &[1, 0]));
        assert_eq!((first.0, second.0), (Some(id(1)), Some(id(2))));
        assert_eq!(first.1 != second.1, holds, "{first:?} {second:?}");
    }
}

#[test]
fn without_mutations_every_rule_holds() {
    assert!(Rules::ALL.hold(Rule::EpochFence) && !Rules::without(Rule::EpochFence).hold(Rule::EpochFence));
    assert!(Rules::without(Rule::EpochFence).hold(Rule::ElectionGuard));
}
