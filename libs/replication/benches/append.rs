//! What an append costs in decisions: three replicas in sync, with everything that is sent and acknowledged.
//!
//! `cargo bench -p walser-replication`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures, and says what it found")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use walser_model::{Acks, Durability, LeaderEpoch, NodeId, Offset};
use walser_replication::{
    Ack, Action, Event, Leader, PartitionState, ReplicaLog, ReplicationSession, ReplicationSessionId, Rules, Start,
};

/// Appends of a round.
const APPENDS: i64 = 1_000_000;
/// Rounds; the median counts.
const ROUNDS: usize = 9;
/// Of both followers.
const OPEN: ReplicationSessionId = ReplicationSessionId { node_epoch: 12, sequence: 1 };

/// A log of one epoch that consists of its ends.
struct Ends {
    end: Offset,
    durable: Offset,
}

impl ReplicaLog for Ends {
    fn start(&self) -> Offset {
        Offset(0)
    }

    fn end(&self) -> Offset {
        self.end
    }

    fn durable(&self) -> Offset {
        self.durable
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(0)
    }

    fn begun(&self) -> LeaderEpoch {
        LeaderEpoch(0)
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        (epoch >= LeaderEpoch(0)).then_some((LeaderEpoch(0), self.end))
    }
}

fn main() {
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_unstable();
    let nanos = rounds[ROUNDS / 2].as_nanos() / u128::from(APPENDS.unsigned_abs());
    println!("an append with three replicas in sync: {nanos} ns of decisions (median of {ROUNDS} rounds)");
    assert!(nanos <= 2000, "more than the 2 us that are promised");
}

fn round() -> Duration {
    let mut actions = Vec::new();
    let mut log = Ends { end: Offset(0), durable: Offset(0) };
    let mut leader = leader(&log);
    for follower in [2, 3] {
        leader.step(Event::Opened(open(follower)), &log, &mut actions);
    }
    actions.clear();
    let begun = Instant::now();
    for end in 1..=APPENDS {
        append(&mut leader, &mut log, Offset(end), &mut actions);
        assert_eq!(actions.len(), 1, "committed once, with the last acknowledgement");
        actions.clear();
    }
    begun.elapsed()
}

/// The leader appends and flushes; both followers get it, and tell of it when it is in their log and when it is flushed.
fn append(leader: &mut Leader, log: &mut Ends, end: Offset, actions: &mut Vec<Action>) {
    black_box(leader.admit(Acks::All)).expect("enough are in sync");
    log.end = end;
    leader.step(Event::LogChanged, log, actions);
    for follower in [2, 3] {
        leader.step(Event::Sent { follower: NodeId(follower), open: OPEN, end }, log, actions);
    }
    log.durable = end;
    leader.step(Event::LogChanged, log, actions);
    for follower in [2, 3] {
        leader.step(Event::Acked(ack(follower, end, end.plus(-1))), log, actions);
        leader.step(Event::Acked(ack(follower, end, end)), log, actions);
    }
    assert!(black_box(leader.answerable(log, Acks::All, end, false)));
}

fn leader(log: &Ends) -> Leader {
    let start = Start {
        node: NodeId(1),
        node_epoch: 11,
        partition: PartitionState::new(vec![NodeId(1), NodeId(2), NodeId(3)], 2),
        partition_epoch: 20,
        durability: Durability::Fsync,
        high_watermark: Offset(0),
        high_watermark_epoch: LeaderEpoch::NONE,
        now: Duration::ZERO,
        lag_max: Duration::from_secs(4),
        rules: Rules::ALL,
    };
    Leader::start(start, log).expect("metadata and log agree")
}

fn open(follower: i32) -> ReplicationSession {
    ReplicationSession {
        follower: NodeId(follower),
        id: OPEN,
        leader_epoch: LeaderEpoch(0),
        log_end: Offset(0),
        durable: Offset(0),
        lazy: false,
        last_epoch: LeaderEpoch::NONE,
        damaged: false,
    }
}

fn ack(follower: i32, log_end: Offset, durable: Offset) -> Ack {
    Ack {
        follower: NodeId(follower),
        leader_epoch: LeaderEpoch(0),
        open: OPEN,
        log_start: Offset::ZERO,
        log_end,
        durable,
        lazy: false,
    }
}
