//! What a wish asks of partitions.

use walser_metadata::value::UnknownFields;
use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use walser_replication::control::{NodeRecord, PartitionRecord, Write};

use super::*;

fn context() -> DecisionContext {
    let node = |epoch| NodeRecord { epoch, live_revision: epoch, fenced: false, shutting_down: false, drained: false };
    let nodes = (1..=3).map(|number| (NodeId(number), node(10 + i64::from(number)))).collect();
    DecisionContext { controller_epoch: 1, revision: 50, nodes, ..DecisionContext::default() }
}

/// Led by node 1, which alone is in sync, in leader epoch 8.
fn led() -> PartitionEntry {
    let replicas = (1..=3).map(NodeId).collect();
    let (isr, leader_epoch) = (std::iter::once(NodeId(1)).collect(), LeaderEpoch(8));
    let state = PartitionState { isr, leader_epoch, ..PartitionState::new(replicas, 1) };
    let key = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0));
    PartitionEntry { record: PartitionRecord { key, state, epoch: 30 }, unknown: UnknownFields::default() }
}

/// Node 1 has begun to lead in epoch 8, at 60; node 2 has seen that everything below 100 was committed.
fn offers() -> [Candidate; 3] {
    [(1, 8, 60), (2, 7, 100), (3, 7, 60)].map(|(number, epoch, end)| Candidate {
        last_epoch: LeaderEpoch(epoch),
        record_epoch: LeaderEpoch(7),
        log_end: Offset(end),
        intact: true,
        node: NodeId(number),
        node_epoch: 10 + i64::from(number),
        partition_epoch: 30,
    })
}

fn step(node: Option<i32>, found: &PartitionEntry, lack: Option<Lack>) -> Step {
    Wish { node: node.map(NodeId), unclean: true }.step(&context(), found, (&offers(), lack))
}

fn written(decision: &Decision<TopicPartition>) -> &PartitionState {
    let [Write::Partition(_, state)] = &decision.writes[..] else { panic!("{decision:?}") };
    state
}

#[test]
fn whose_records_stay_is_said_where_two_logs_contradict_each_other() {
    let lack = Some(Lack::Committed(NodeId(2)));
    let Step::Over(Err(unnamed)) = step(None, &led(), lack) else { panic!("whoever has led later would win") };
    assert!(unnamed.to_string().contains("`--node 2` or `--node 1`"), "{unnamed}");
    for named in [1, 2] {
        let Step::Depose(decision) = step(Some(named), &led(), lack) else { panic!("node {named} is named") };
        let mut stepped = led();
        stepped.record.state = written(&decision).clone();
        let Step::ElectUnproven(decision) = step(Some(named), &stepped, None) else {
            panic!("it has said what it has")
        };
        assert_eq!(written(&decision).leader, Some(NodeId(named)));
    }
}

#[test]
fn a_leader_steps_down_for_whoever_can_lead_in_its_place() {
    let lack = Some(Lack::Damaged);
    assert!(matches!(step(None, &led(), lack), Step::Depose(_)));
    assert!(matches!(step(Some(3), &led(), lack), Step::Depose(_)));
    assert!(matches!(step(Some(1), &led(), lack), Step::Over(Ok(Some(NodeId(1))))), "it leads already");
    assert!(matches!(step(None, &led(), None), Step::Over(Err(_))), "nothing is known to be lacking");
    assert!(matches!(step(Some(2), &led(), None), Step::Over(Err(_))));
    let mut gone = led();
    (gone.record.state.leader, gone.record.state.isr) = (None, walser_replication::NodeSet::EMPTY);
    let contradicted = Some(Lack::Committed(NodeId(2)));
    assert!(matches!(step(None, &gone, contradicted), Step::Over(Err(_))), "also when the leader is gone");
    assert!(matches!(step(Some(2), &gone, contradicted), Step::ElectUnproven(_)));
    let Step::Over(Err(stranger)) = step(Some(7), &led(), lack) else { panic!("it has no replica") };
    assert!(stranger.to_string().contains("nodes 1, 2, 3 have"), "{stranger}");
}

#[test]
fn an_eligible_node_gets_the_lead_of_another_one_only_where_loss_is_accepted() {
    let asked = |unclean| Wish { node: Some(NodeId(2)), unclean };
    let refused =
        |context: &DecisionContext, found: &PartitionEntry| match asked(false).step(context, found, (&[], None)) {
            Step::Over(Err(error)) => error.to_string(),
            _ => panic!("node 2 gets the lead"),
        };
    let mut found = led();
    found.record.state.min_isr = 2;
    assert!(refused(&context(), &found).contains("is not in sync; node 1 goes on"));
    found.record.state.elr = [NodeId(2), NodeId(3)].into_iter().collect();
    assert!(refused(&context(), &found).contains("`--unclean --accept-loss` elects it"));
    let Step::ElectUnproven(decision) = asked(true).step(&context(), &found, (&[], None)) else {
        panic!("it was accepted")
    };
    assert_eq!(written(&decision).leader, Some(NodeId(2)));
    let (mut silent, mut stops) = (context(), context());
    silent.silent = std::iter::once(NodeId(2)).collect();
    let Step::Over(Err(error)) = asked(true).step(&silent, &found, (&[], None)) else { panic!("it may have stopped") };
    assert_eq!(error.reason(), Reason::EligibleLeadersNotAvailable, "which passes by itself");
    assert!(error.to_string().contains("has not been heard for a moment"), "{error}");
    found.record.state.isr.insert(NodeId(2));
    assert!(refused(&silent, &found).contains("has not been heard for a moment"), "in sync or not");
    assert!(matches!(asked(true).step(&context(), &found, (&[], None)), Step::Elect(_)), "it is in sync by now");
    stops.nodes.get_mut(&NodeId(2)).unwrap().shutting_down = true;
    assert!(refused(&stops, &found).contains("is about to stop"));
}

#[test]
fn an_only_replica_that_is_damaged_is_repaired_not_elected() {
    let mut only = led();
    (only.record.state.replicas, only.record.state.isr) = (vec![NodeId(1)], std::iter::once(NodeId(1)).collect());
    for named in [None, Some(1)] {
        let Step::Over(Err(error)) = step(named, &only, Some(Lack::Damaged)) else { panic!("nothing is gained by it") };
        assert!(error.to_string().contains("walser partition repair"), "{error}");
    }
}
