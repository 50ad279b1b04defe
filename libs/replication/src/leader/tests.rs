mod deletions;
mod giving_up;
mod in_sync;
mod lags;
mod successors;

use proptest::prelude::*;

use super::*;
use crate::test_log::TestLog;

const SELF: NodeId = NodeId(1);

fn partition(replicas: &[i32], isr: &[i32], min_isr: usize) -> PartitionState {
    let mut state = PartitionState::new(replicas.iter().map(|node| NodeId(*node)).collect(), min_isr);
    state.isr = isr.iter().map(|node| NodeId(*node)).collect();
    state.leader = Some(SELF);
    state.leader_epoch = LeaderEpoch(4);
    state
}

/// A leader and its log.
#[derive(Debug, Clone)]
struct Led {
    leader: Leader,
    log: TestLog,
}

impl std::ops::Deref for Led {
    type Target = Leader;

    fn deref(&self) -> &Leader {
        &self.leader
    }
}

impl Led {
    fn answerable(&self, acks: Acks, next_offset: i64, repeated: bool) -> bool {
        self.leader.answerable(&self.log, acks, Offset(next_offset), repeated)
    }
}

fn start(partition: PartitionState, durability: Durability) -> (Led, Vec<Action>) {
    let start = Start {
        node: SELF,
        node_epoch: 11,
        partition,
        partition_epoch: 100,
        durability,
        high_watermark: Offset(0),
        high_watermark_epoch: LeaderEpoch::NONE,
        now: Duration::ZERO,
        lag_max: Duration::from_secs(4),
        rules: Rules::ALL,
    };
    let mut actions = Vec::new();
    let mut log = TestLog::new(10, 10);
    let mut leader = Leader::start(start, &log).unwrap();
    log.epochs.assign(leader.epoch(), Offset(10));
    leader.step(Event::LogChanged, &log, &mut actions);
    (Led { leader, log }, actions)
}

fn step(led: &mut Led, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    led.leader.step(event, &led.log, &mut actions);
    actions
}

fn appended(led: &mut Led, end: i64) -> Vec<Action> {
    led.log.end = end;
    step(led, Event::LogChanged)
}

fn flushed(led: &mut Led, durable: i64) -> Vec<Action> {
    led.log.durable = durable;
    step(led, Event::LogChanged)
}

fn id(follower: i32, sequence: u64) -> ReplicationSessionId {
    ReplicationSessionId { node_epoch: 20 + i64::from(follower), sequence }
}

fn open(follower: i32, open_seq: u64, log_end: i64, last_epoch: i32) -> Event {
    Event::Opened(ReplicationSession {
        follower: NodeId(follower),
        id: id(follower, open_seq),
        leader_epoch: LeaderEpoch(4),
        log_end: Offset(log_end),
        durable: Offset(log_end),
        lazy: true,
        last_epoch: LeaderEpoch(last_epoch),
        damaged: false,
    })
}

fn ack(follower: i32, open_seq: u64, log_end: i64, durable: i64) -> Event {
    Event::Acked(Ack {
        follower: NodeId(follower),
        leader_epoch: LeaderEpoch(4),
        open: id(follower, open_seq),
        log_start: Offset::ZERO,
        log_end: Offset(log_end),
        durable: Offset(durable),
        lazy: true,
    })
}

fn sent(follower: i32, open_seq: u64, end: i64) -> Event {
    Event::Sent { follower: NodeId(follower), open: id(follower, open_seq), end: Offset(end) }
}

fn commit(high_watermark: i64) -> Action {
    Action::Commit { high_watermark: Offset(high_watermark) }
}

fn proposed(actions: &[Action]) -> Option<Vec<i32>> {
    actions.iter().find_map(|action| match action {
        Action::Propose(proposal) => Some(proposal.isr.iter().map(|(node, _)| node.0).collect()),
        _ => None,
    })
}

#[test]
fn alone_and_with_fsync_only_durable_offsets_are_committed() {
    let (mut leader, first) = start(partition(&[1], &[1], 1), Durability::Fsync);
    assert_eq!(first, [commit(10)]);
    assert_eq!(appended(&mut leader, 15), []);
    assert!(!leader.answerable(Acks::All, 15, false) && !leader.answerable(Acks::Leader, 15, false));
    assert!(leader.answerable(Acks::None, 15, false));
    assert_eq!(flushed(&mut leader, 15), [commit(15)]);
    assert!(leader.answerable(Acks::All, 15, false));
}

#[test]
fn alone_and_with_page_cache_written_offsets_are_committed() {
    let (mut leader, _) = start(partition(&[1], &[1], 1), Durability::PageCache);
    assert_eq!(appended(&mut leader, 15), [commit(15)]);
}

#[test]
fn below_min_isr_nothing_is_committed_or_admitted() {
    let (mut leader, first) = start(partition(&[1, 2], &[1], 2), Durability::Fsync);
    assert_eq!(first, []);
    assert_eq!(leader.admit(Acks::All), Err(NotEnoughReplicas { isr: 1, min_isr: 2 }));
    assert_eq!(leader.admit(Acks::Leader), Ok(()));
    appended(&mut leader, 11);
    assert_eq!(flushed(&mut leader, 11), []);
}

#[test]
fn an_append_is_committed_when_the_last_replica_in_sync_has_flushed_it() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 2, 3], 2), Durability::Fsync);
    for follower in [2, 3] {
        let pushed = Action::Push { follower: NodeId(follower), open: id(follower, 1), from: Offset(10) };
        assert_eq!(step(&mut leader, open(follower, 1, 10, 3))[0], pushed);
    }
    assert_eq!(leader.high_watermark(), Offset(10));
    appended(&mut leader, 12);
    step(&mut leader, sent(2, 1, 12));
    step(&mut leader, sent(3, 1, 12));
    flushed(&mut leader, 12);
    assert_eq!(step(&mut leader, ack(2, 1, 12, 12)), []);
    assert_eq!(step(&mut leader, ack(3, 1, 12, 11)), [commit(11)]);
    assert_eq!(step(&mut leader, ack(3, 1, 12, 12)), [commit(12)]);
}

#[test]
fn acknowledgements_of_an_earlier_open_and_of_what_was_not_sent_do_not_count() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 2), Durability::PageCache);
    step(&mut leader, open(2, 7, 10, 3));
    appended(&mut leader, 12);
    assert_eq!(step(&mut leader, ack(2, 7, 12, 12)), [], "it was not sent");
    step(&mut leader, sent(2, 7, 12));
    assert_eq!(step(&mut leader, ack(2, 6, 12, 12)), [], "an earlier open");
    assert_eq!(step(&mut leader, open(2, 7, 10, 3)), [], "the same open again");
    assert_eq!(step(&mut leader, ack(2, 7, 12, 12)), [commit(12)]);
}

#[test]
fn a_log_that_has_parted_is_told_where() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    let told = |epoch, end| {
        let answer =
            Diverging { leader_epoch: LeaderEpoch(4), open: id(2, 1), epoch: LeaderEpoch(epoch), end: Offset(end) };
        vec![Action::Diverged { follower: NodeId(2), answer }]
    };
    assert_eq!(step(&mut leader.clone(), open(2, 1, 9, 1)), told(1, 6), "epoch 1 ends at 6 here");
    assert_eq!(step(&mut leader.clone(), open(2, 1, 9, 2)), told(1, 6), "epoch 2 is unknown: the largest below it");
    assert_eq!(step(&mut leader, open(2, 1, 12, 3)), told(3, 10), "more records of epoch 3 than here");
}

/// Seed 25 of the simulator, at first: the follower was told to cut where nothing could be compared any more.
#[test]
fn a_log_that_cannot_be_compared_any_more_is_replaced() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    leader.log.trim(8);
    let copied = vec![Action::Copy { follower: NodeId(2), open: id(2, 1) }];
    assert_eq!(step(&mut leader.clone(), open(2, 1, 5, 1)), copied, "its end is deleted here");
    assert_eq!(step(&mut leader.clone(), open(2, 1, 9, 1)), copied, "so is every epoch up to its last one");
    assert_eq!(step(&mut leader.clone(), open(2, 1, 0, -1)), copied, "it is empty");
    let pushed = Action::Push { follower: NodeId(2), open: id(2, 1), from: Offset(8) };
    assert_eq!(step(&mut leader, open(2, 1, 8, -1))[0], pushed, "it is empty, and begins where this one begins");
}

/// A follower that has not heard yet that the topic is page-cache now would come back after a loss of power as if it had
/// everything.
#[test]
fn with_page_cache_a_log_end_counts_only_where_an_unclean_stop_will_be_told() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 2), Durability::PageCache);
    step(&mut leader, open(2, 1, 10, 3));
    appended(&mut leader, 12);
    step(&mut leader, sent(2, 1, 12));
    let Event::Acked(told) = ack(2, 1, 12, 11) else { unreachable!() };
    let Event::Opened(again) = open(2, 2, 10, 3) else { unreachable!() };
    step(&mut leader, Event::Opened(ReplicationSession { lazy: false, ..again }));
    step(&mut leader, sent(2, 2, 12));
    let told = Ack { open: id(2, 2), ..told };
    assert_eq!(step(&mut leader, Event::Acked(Ack { lazy: false, ..told })), [commit(11)]);
    assert_eq!(step(&mut leader, Event::Acked(told)), [commit(12)]);
}

#[test]
fn opens_of_another_leader_epoch_are_refused() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    let Event::Opened(stale) = open(2, 1, 10, 3) else { unreachable!() };
    let stale = Event::Opened(ReplicationSession { leader_epoch: LeaderEpoch(3), ..stale });
    assert_eq!(step(&mut leader, stale), [Action::Refuse { follower: NodeId(2), open: id(2, 1) }]);
}

#[test]
fn whoever_is_no_replica_yet_is_told_to_open_again() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 1), Durability::Fsync);
    let refused = step(&mut leader, open(3, 1, 10, 3));
    assert_eq!(refused, [Action::Refuse { follower: NodeId(3), open: id(3, 1) }]);
}

#[test]
fn who_joins_has_everything_from_before_this_epoch_on_stable_storage() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 9, 3))), None, "one record is missing");
    step(&mut leader, sent(2, 1, 10));
    assert_eq!(proposed(&step(&mut leader, ack(2, 1, 10, 9))), None, "and now it is not flushed");
    assert_eq!(proposed(&step(&mut leader, ack(2, 1, 10, 10))), Some(vec![1, 2]));
    assert!(leader.maximal_isr().contains(NodeId(2)), "from the proposal on its position counts");
}

#[test]
fn a_refusal_leaves_the_maximal_set_as_it_is() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    step(&mut leader, open(2, 1, 10, 3));
    appended(&mut leader, 11);
    step(&mut leader, Event::ProposalOver { ineligible: None });
    assert_eq!(flushed(&mut leader, 11), [], "the proposal may be written yet");
    let state = partition(&[1, 2], &[1], 1);
    step(&mut leader, Event::Installed { partition: state, partition_epoch: 101 });
    assert_eq!(leader.high_watermark(), Offset(11), "after a later revision it can not be");
}

fn tick(millis: u64) -> Event {
    Event::Tick { now: Duration::from_millis(millis) }
}

#[test]
fn older_metadata_and_that_of_another_epoch_change_nothing() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 2], 2), Durability::Fsync);
    let smaller = partition(&[1, 2, 3], &[1], 1);
    for (partition_epoch, leader_epoch) in [(100, 4), (99, 4), (101, 5), (101, 3)] {
        let partition = PartitionState { leader_epoch: LeaderEpoch(leader_epoch), ..smaller.clone() };
        step(&mut leader, Event::Installed { partition, partition_epoch });
        assert_eq!((leader.partition_epoch(), leader.maximal_isr().len()), (100, 2));
    }
    step(&mut leader, Event::Installed { partition: smaller, partition_epoch: 101 });
    assert_eq!((leader.partition_epoch(), leader.maximal_isr().len()), (101, 1));
}

#[test]
fn one_proposal_at_a_time() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1], 1), Durability::Fsync);
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 10, 3))), Some(vec![1, 2]));
    assert_eq!(proposed(&step(&mut leader, open(3, 1, 10, 3))), None);
    assert_eq!(proposed(&step(&mut leader, tick(1000))), None);
}

#[test]
fn a_connected_follower_that_falls_behind_leaves_and_one_that_keeps_up_stays() {
    let (mut leader, _) = start(partition(&[1, 2, 3], &[1, 2, 3], 1), Durability::Fsync);
    step(&mut leader, open(2, 1, 10, 3));
    step(&mut leader, open(3, 1, 10, 3));
    for round in 1..=30_i64 {
        let end = 10 + round;
        appended(&mut leader, end);
        step(&mut leader, sent(2, 1, end));
        step(&mut leader, sent(3, 1, end));
        // Node 2 is always one round behind, node 3 takes everything and flushes nothing.
        step(&mut leader, ack(2, 1, end - 1, end - 1));
        step(&mut leader, ack(3, 1, end, 10));
        let asked = proposed(&step(&mut leader, tick(round.unsigned_abs() * 200)));
        assert_eq!(asked.is_some(), round > 20, "round {round}");
        if let Some(isr) = asked {
            assert_eq!(isr, [1, 2]);
            break;
        }
    }
}

#[test]
fn a_set_grows_once_a_second() {
    let (mut leader, _) = start(partition(&[1, 2, 3, 4], &[1], 1), Durability::Fsync);
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 10, 3))), Some(vec![1, 2]));
    let installed = Event::Installed { partition: partition(&[1, 2, 3, 4], &[1, 2], 1), partition_epoch: 101 };
    step(&mut leader, installed);
    assert_eq!(proposed(&step(&mut leader, open(3, 1, 10, 3))), None);
    assert_eq!(proposed(&step(&mut leader, open(4, 1, 10, 3))), None);
    assert_eq!(proposed(&step(&mut leader, tick(900))), None);
    assert_eq!(proposed(&step(&mut leader, tick(1000))), Some(vec![1, 2, 3, 4]), "all that may, at once");
}

/// The controller had refused it, because its node was cut off. Nothing is written, so that it acknowledges nothing.
#[test]
fn a_follower_of_an_idle_partition_joins_again_once_its_node_is_heard() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 10, 3))), Some(vec![1, 2]));
    step(&mut leader, Event::ProposalOver { ineligible: Some(NodeId(2)) });
    step(&mut leader, Event::Installed { partition: partition(&[1, 2], &[1], 1), partition_epoch: 101 });
    assert_eq!(proposed(&step(&mut leader, tick(3000))), None);
    step(&mut leader, Event::Heard { follower: NodeId(2), node_epoch: 21 });
    assert_eq!(proposed(&step(&mut leader, tick(4000))), None, "an earlier incarnation");
    step(&mut leader, Event::Heard { follower: NodeId(2), node_epoch: 22 });
    assert_eq!(proposed(&step(&mut leader, tick(5000))), Some(vec![1, 2]));
}

#[test]
fn the_latest_offset_is_known_once_everything_from_before_is_committed() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 2), Durability::Fsync);
    step(&mut leader, open(2, 1, 9, 3));
    assert_eq!((leader.high_watermark(), leader.latest()), (Offset(9), None), "an earlier leader may have told 10");
    step(&mut leader, sent(2, 1, 10));
    step(&mut leader, ack(2, 1, 10, 10));
    assert_eq!(leader.latest(), Some(Offset(10)));
}

#[test]
fn who_is_no_replica_any_more_is_forgotten() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    step(&mut leader, open(2, 5, 9, 3));
    let alone = PartitionState { leader_epoch: LeaderEpoch(4), ..partition(&[1], &[1], 1) };
    step(&mut leader, Event::Installed { partition: alone, partition_epoch: 101 });
    step(&mut leader, Event::Installed { partition: partition(&[1, 2], &[1], 1), partition_epoch: 102 });
    step(&mut leader, sent(2, 5, 10));
    assert_eq!(step(&mut leader, ack(2, 5, 10, 10)), [], "it has to open again");
}

#[test]
fn nothing_is_durable_that_is_not_in_the_log() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 2), Durability::Fsync);
    step(&mut leader, open(2, 1, 10, 3));
    appended(&mut leader, 20);
    flushed(&mut leader, 20);
    step(&mut leader, sent(2, 1, 15));
    assert_eq!(step(&mut leader, ack(2, 1, 12, 99)), [commit(12)]);
    assert_eq!(step(&mut leader, sent(2, 2, 20)), [], "another open");
    assert_eq!(step(&mut leader, ack(2, 1, 20, 20)), [commit(15)]);
}

#[test]
fn a_closed_connection_ends_an_open() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    step(&mut leader, open(2, 2, 9, 3));
    step(&mut leader, sent(2, 2, 10));
    step(&mut leader, Event::Closed { follower: NodeId(2), open: id(2, 1) });
    step(&mut leader, Event::Closed { follower: NodeId(2), open: id(2, 2) });
    assert_eq!(step(&mut leader, ack(2, 2, 10, 10)), [], "nothing counts on it any more");
}

#[test]
fn a_lost_answer_is_given_up() {
    let (mut leader, _) = start(partition(&[1, 2], &[1], 1), Durability::Fsync);
    assert_eq!(proposed(&step(&mut leader, open(2, 1, 10, 3))), Some(vec![1, 2]));
    assert_eq!(proposed(&step(&mut leader, tick(1900))), None);
    assert_eq!(proposed(&step(&mut leader, tick(2100))), Some(vec![1, 2]));
}

#[test]
fn a_new_leader_shows_what_it_knows_to_be_committed() {
    let mut state = partition(&[1, 2], &[1], 2);
    let with = |state: &PartitionState| {
        let start = Start {
            node: SELF,
            node_epoch: 11,
            partition: state.clone(),
            partition_epoch: 100,
            durability: Durability::Fsync,
            high_watermark: Offset(7),
            high_watermark_epoch: LeaderEpoch(3),
            now: Duration::ZERO,
            lag_max: Duration::MAX,
            rules: Rules::ALL,
        };
        Leader::start(start, &TestLog::new(10, 10))
    };
    assert_eq!(with(&state).unwrap().high_watermark(), Offset(7), "although too few are in sync for more");
    state.unclean_epoch = LeaderEpoch(4);
    assert_eq!(with(&state).unwrap().high_watermark(), Offset(0), "that was before records were lost");
    state.isr = [NodeId(2)].into_iter().collect();
    assert_eq!(with(&state).unwrap_err(), Contradiction::NotInSync);
    state.isr = [SELF].into_iter().collect();
    state.leader_epoch = LeaderEpoch(2);
    let set_back = Contradiction::LaterEpoch { log: LeaderEpoch(3), metadata: LeaderEpoch(2) };
    assert_eq!(with(&state).unwrap_err(), set_back);
}

#[test]
fn a_repeated_batch_waits_for_what_the_first_one_waited_for() {
    let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 2), Durability::Fsync);
    appended(&mut leader, 11);
    assert!(!leader.answerable(Acks::All, 11, true));
}

proptest! {
    #[test]
    fn the_high_watermark_never_goes_back_nor_beyond_what_counts(
        events in proptest::collection::vec((0..7u8, 0..50i64), 0..200),
    ) {
        let (mut leader, _) = start(partition(&[1, 2], &[1, 2], 1), Durability::Fsync);
        let (mut end, mut durable, mut sequence, mut before) = (10, 10, 1, Offset(0));
        let mut acked = 0;
        for (kind, number) in events {
            let event = match kind {
                0 => { end += number; leader.log.end = end; Event::LogChanged }
                1 => { durable = (durable + number).min(end); leader.log.durable = durable; Event::LogChanged }
                2 => { sequence += 1; acked = acked.max(10); open(2, sequence, 10, 3) }
                3 => sent(2, sequence, end),
                4 => { acked = acked.max(end.min(number)); ack(2, sequence, end.min(number), end.min(number)) }
                5 => Event::Tick { now: Duration::from_millis(number.unsigned_abs() * 40) },
                _ => Event::ProposalOver { ineligible: None },
            };
            step(&mut leader, event);
            prop_assert!(leader.high_watermark() >= before, "it went back");
            prop_assert!(leader.high_watermark() <= Offset(durable.min(acked)).max(before), "nobody has that");
            before = leader.high_watermark();
        }
    }
}

#[test]
fn nothing_counts_before_the_start_of_the_epoch_is_durable() {
    let alone = PartitionState { leader_epoch: LeaderEpoch(4), ..PartitionState::new(vec![SELF], 1) };
    let (mut led, _) = start(alone, Durability::Fsync);
    led.log.begun = LeaderEpoch::NONE;
    assert!(matches!(appended(&mut led, 11)[..], []), "not flushed");
    assert_eq!(flushed(&mut led, 11).len(), 1, "an only replica has nobody who could contradict it");
    let mut state = PartitionState::new(vec![SELF, NodeId(2)], 1);
    state.isr = [SELF].into_iter().collect();
    state.leader_epoch = LeaderEpoch(4);
    let (mut led, _) = start(state, Durability::Fsync);
    led.log.begun = LeaderEpoch(3);
    led.log.end = 12;
    assert_eq!(flushed(&mut led, 12), []);
    led.log.begun = LeaderEpoch(4);
    assert_eq!(step(&mut led, Event::LogChanged), [Action::Commit { high_watermark: Offset(12) }]);
}
