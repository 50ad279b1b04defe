use super::*;
use crate::test_log::TestLog;

/// A follower and its log.
#[derive(Debug, Clone)]
struct Following {
    follower: Follower,
    log: TestLog,
}

impl std::ops::Deref for Following {
    type Target = Follower;

    fn deref(&self) -> &Follower {
        &self.follower
    }
}

fn parameters(high_watermark: i64) -> FollowerStart {
    FollowerStart {
        node: NodeId(2),
        node_epoch: 22,
        leader: NodeId(1),
        leader_epoch: LeaderEpoch(4),
        open_sequence: 8,
        high_watermark: Offset(high_watermark),
        high_watermark_epoch: LeaderEpoch(3),
        unclean_epoch: LeaderEpoch::NONE,
        lazy: false,
        rules: Rules::ALL,
    }
}

fn start(log_end: i64, durable: i64, high_watermark: i64) -> (Following, Vec<FollowerAction>) {
    let log = TestLog::new(log_end, durable);
    let mut actions = Vec::new();
    let follower = Follower::start(parameters(high_watermark), &log, &mut actions);
    (Following { follower, log }, actions)
}

fn step(following: &mut Following, event: FollowerEvent) -> Vec<FollowerAction> {
    let mut actions = Vec::new();
    following.follower.step(event, &following.log, &mut actions);
    actions
}

/// Records that came on an open are in the log.
fn appended(following: &mut Following, open_seq: u64, end: i64) -> Vec<FollowerAction> {
    following.log.end = end;
    step(following, FollowerEvent::Appended { open: id(open_seq) })
}

fn flushed(following: &mut Following, durable: i64) -> Vec<FollowerAction> {
    following.log.durable = durable;
    step(following, FollowerEvent::Flushed)
}

fn cut(following: &mut Following, end: i64) -> Vec<FollowerAction> {
    following.log.cut(end);
    step(following, FollowerEvent::WorkDone)
}

fn id(sequence: u64) -> ReplicationSessionId {
    ReplicationSessionId { node_epoch: 22, sequence }
}

fn frame(open_seq: u64, base: i64, end: i64, high_watermark: i64) -> Frame {
    Frame {
        leader_epoch: LeaderEpoch(4),
        open: id(open_seq),
        base: Offset(base),
        end: Offset(end),
        high_watermark: Offset(high_watermark),
        log_start: Offset(0),
        tombstone_floor: Offset(0),
    }
}

fn open(open_seq: u64, log_end: i64, durable: i64, last_epoch: i32) -> FollowerAction {
    FollowerAction::Open(ReplicationSession {
        follower: NodeId(2),
        id: id(open_seq),
        leader_epoch: LeaderEpoch(4),
        log_end: Offset(log_end),
        durable: Offset(durable),
        lazy: false,
        last_epoch: LeaderEpoch(last_epoch),
        damaged: false,
    })
}

fn acknowledged(open_seq: u64, log_end: i64, durable: i64) -> FollowerAction {
    acknowledged_from(0, open_seq, log_end, durable)
}

fn acknowledged_from(log_start: i64, open_seq: u64, log_end: i64, durable: i64) -> FollowerAction {
    FollowerAction::Acknowledge(Ack {
        follower: NodeId(2),
        leader_epoch: LeaderEpoch(4),
        open: id(open_seq),
        log_start: Offset(log_start),
        log_end: Offset(log_end),
        durable: Offset(durable),
        lazy: false,
    })
}

fn diverging(open_seq: u64, epoch: i32, end: i64) -> FollowerEvent {
    FollowerEvent::Diverged(Diverging {
        leader_epoch: LeaderEpoch(4),
        open: id(open_seq),
        epoch: LeaderEpoch(epoch),
        end: Offset(end),
    })
}

#[test]
fn it_opens_with_what_it_has_and_acknowledges_what_it_gets() {
    let (mut follower, first) = start(10, 9, 5);
    assert_eq!(first, [open(9, 10, 9, 3)]);
    let pushed = frame(9, 10, 12, 11);
    let taken = step(&mut follower, FollowerEvent::Pushed(pushed));
    assert_eq!(taken, [FollowerAction::Append(pushed), FollowerAction::Commit { high_watermark: Offset(11) }]);
    follower.log.epochs.assign(LeaderEpoch(4), Offset(10));
    assert_eq!(appended(&mut follower, 9, 12), [acknowledged(9, 12, 9)]);
    assert_eq!(flushed(&mut follower, 12), [acknowledged(9, 12, 12)]);
    assert_eq!(flushed(&mut follower, 12), [], "that was told");
    assert_eq!(step(&mut follower, FollowerEvent::Broken), [open(10, 12, 12, 4)]);
}

#[test]
fn only_what_continues_the_log_on_the_latest_open_is_taken() {
    let (mut follower, _) = start(10, 10, 0);
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(frame(8, 10, 12, 0))), [], "an earlier open");
    let earlier = Frame { open: ReplicationSessionId { node_epoch: 21, sequence: 9 }, ..frame(9, 10, 12, 0) };
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(earlier)), [], "an earlier incarnation");
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(frame(9, 8, 12, 0))), [], "again");
    assert_eq!(step(&mut follower.clone(), FollowerEvent::Pushed(frame(9, 11, 12, 0))), [open(10, 10, 10, 3)], "a gap");
    let stale = Frame { leader_epoch: LeaderEpoch(3), ..frame(9, 10, 12, 0) };
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(stale)), [], "another epoch");
}

#[test]
fn frames_follow_each_other_before_they_are_appended_and_a_beat_is_answered() {
    let (mut follower, _) = start(10, 10, 0);
    for (base, end) in [(10, 12), (12, 15)] {
        let pushed = frame(9, base, end, 0);
        assert_eq!(step(&mut follower, FollowerEvent::Pushed(pushed)), [FollowerAction::Append(pushed)]);
    }
    assert_eq!(appended(&mut follower, 9, 15), [acknowledged(9, 15, 10)]);
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(frame(9, 15, 15, 0))), [acknowledged(9, 15, 10)]);
    // What was still being appended when the connection broke makes the log longer than the open said.
    step(&mut follower, FollowerEvent::Broken);
    assert_eq!(appended(&mut follower, 9, 17), [open(11, 17, 10, 3)]);
}

#[test]
fn it_forgets_what_the_leader_does_not_have_and_opens_again() {
    let (mut follower, _) = start(10, 10, 5);
    // The leader knows epoch 1 up to 6, and no epoch 3: this log's epoch 1 ends at 6 too.
    assert_eq!(step(&mut follower, diverging(9, 1, 8)), [FollowerAction::Truncate { to: Offset(6) }]);
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(frame(9, 10, 12, 0))), [], "it is cutting its log");
    assert_eq!(cut(&mut follower, 6), [open(11, 6, 6, 1)], "it has no record of epoch 3 any more");
}

/// Seed 31346 of the simulator: leader and follower told each other the same for ever.
#[test]
fn a_log_of_which_nothing_can_be_compared_says_so() {
    let (mut follower, _) = start(10, 10, 0);
    follower.log.trim(10);
    assert_eq!(step(&mut follower, diverging(9, 3, 8)), [open(10, 10, 10, -1)], "the leader will have it copied");
}

#[test]
fn it_deletes_what_the_leader_has_deleted() {
    let (mut follower, _) = start(10, 10, 10);
    let beat = Frame { log_start: Offset(4), ..frame(9, 10, 10, 10) };
    let trim = FollowerAction::Trim { before: Offset(4) };
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(beat)), [acknowledged(9, 10, 10), trim]);
    follower.log.trim(4);
    let told = [acknowledged_from(4, 9, 10, 10)];
    assert_eq!(step(&mut follower, FollowerEvent::Flushed), told, "the leader waits for that");
    assert_eq!(step(&mut follower, FollowerEvent::Flushed), []);
    assert_eq!(step(&mut follower, FollowerEvent::Pushed(beat)), told);
    // What comes with the frame is not in the log yet.
    let ahead = Frame { log_start: Offset(11), ..frame(9, 10, 12, 10) };
    let taken = step(&mut follower, FollowerEvent::Pushed(ahead));
    assert_eq!(taken, [FollowerAction::Append(ahead), FollowerAction::Trim { before: Offset(10) }]);
    follower.log.trim(10);
    assert_eq!(
        appended(&mut follower, 9, 12)[1..],
        [FollowerAction::Trim { before: Offset(11) }],
        "the rest, without another frame"
    );
}

/// It had begun to lead in epoch 7, and got nothing: there is nothing to be cut, and nothing to be said again and again.
#[test]
fn an_epoch_without_records_parts_no_logs() {
    let (mut follower, _) = start(10, 10, 5);
    follower.log.epochs.assign(LeaderEpoch(7), Offset(10));
    assert_eq!(step(&mut follower, FollowerEvent::Broken), [open(10, 10, 10, 7)]);
    assert_eq!(step(&mut follower, diverging(10, 5, 12)), [open(11, 10, 10, 3)], "its last record is of epoch 3");
    assert_eq!(follower.log.latest_epoch(), LeaderEpoch(7), "an election that asks goes by that");
}

#[test]
fn it_never_cuts_before_its_start_nor_claims_what_it_does_not_have() {
    let (mut follower, _) = start(10, 10, 0);
    follower.log.trim(8);
    assert_eq!(step(&mut follower, diverging(9, 1, 6)), [FollowerAction::Truncate { to: Offset(8) }]);
    let (follower, first) = start(10, 10, 99);
    assert_eq!((follower.high_watermark(), first), (Offset(10), vec![open(9, 10, 10, 3)]));
}

#[test]
fn it_tells_whether_its_page_cache_may_count() {
    let (mut follower, _) = start(10, 9, 5);
    let actions = step(&mut follower, FollowerEvent::Configured { lazy: true });
    let FollowerAction::Acknowledge(ack) = acknowledged(9, 10, 9) else { unreachable!() };
    assert_eq!(actions, [FollowerAction::Acknowledge(Ack { lazy: true, ..ack })]);
    let ended = step(&mut follower, FollowerEvent::Configured { lazy: false });
    assert_eq!(ended, [open(10, 10, 9, 3)], "what is on its way must not count any more");
}

#[test]
fn it_stops_rather_than_forget_what_was_committed() {
    let (mut follower, _) = start(10, 10, 8);
    assert_eq!(step(&mut follower, diverging(9, 1, 6)), [FollowerAction::Inconsistent { at: Offset(6) }]);
    assert!(follower.stopped());
    assert_eq!(step(&mut follower, FollowerEvent::Broken), []);
}

#[test]
fn after_an_election_without_proof_nothing_from_before_is_taken_for_committed() {
    let (follower, _) = start(10, 10, 8);
    assert_eq!(follower.high_watermark(), Offset(8));
    let start = FollowerStart { unclean_epoch: LeaderEpoch(4), ..parameters(8) };
    let follower = Follower::start(start, &TestLog::new(10, 10), &mut Vec::new());
    assert_eq!(follower.high_watermark(), Offset(0));
}

#[test]
fn a_copy_takes_the_place_of_the_log() {
    let (mut follower, _) = start(3, 3, 0);
    assert_eq!(step(&mut follower, FollowerEvent::WorkDone), [], "nothing was asked for");
    let offered = |sequence| FollowerEvent::CopyOffered { leader_epoch: LeaderEpoch(4), open: id(sequence) };
    assert_eq!(step(&mut follower, offered(8)), [], "on an open that is over");
    assert_eq!(step(&mut follower, offered(9)), [FollowerAction::Copy]);
    assert_eq!(step(&mut follower, FollowerEvent::Broken), [], "it opens again when the copy is there");
    let mut epochs = walser_model::LeaderEpochs::default();
    epochs.assign(LeaderEpoch(4), Offset(20));
    follower.log = TestLog { start: 20, end: 25, durable: 25, epochs, ..TestLog::new(0, 0) };
    assert_eq!(step(&mut follower, FollowerEvent::WorkDone), [open(11, 25, 25, 4)]);
}
