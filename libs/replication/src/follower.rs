//! A follower of a partition: what it asks for, what it appends, and what it must forget.
//!
//! It opens the partition at its leader and takes what is pushed (amendment A1). Every doubt ends the open and begins
//! another: a new leader epoch, a broken connection, a log that is not a part of the leader's. Whatever belongs to an
//! earlier open is dropped, so nothing that was on its way can arrive late and count (rule R14).

use walser_model::{LeaderEpoch, NodeId, Offset};

use crate::wire::{Ack, Diverging, Frame, ReplicationSession, ReplicationSessionId};
use crate::{ReplicaLog, Rule, Rules};

/// What a follower starts from.
#[derive(Debug, Clone)]
pub struct FollowerStart {
    pub node: NodeId,
    /// Incarnation of this node.
    pub node_epoch: i64,
    /// The leader that it follows.
    pub leader: NodeId,
    /// Leader epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// The sequence of the latest open of this incarnation; 0 at first.
    pub open_sequence: u64,
    /// The high watermark that this node has seen. Exclusive.
    pub high_watermark: Offset,
    /// The epoch in which it saw that, or [`LeaderEpoch::NONE`].
    pub high_watermark_epoch: LeaderEpoch,
    /// Of the metadata: see [`crate::PartitionState::unclean_epoch`].
    pub unclean_epoch: LeaderEpoch,
    /// Whether an unclean stop of this node will be told for this partition: see [`FollowerEvent::Configured`].
    pub lazy: bool,
    pub rules: Rules,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerEvent {
    /// The leader's log and this one have parted.
    Diverged(Diverging),
    /// The leader pushed records.
    Pushed(Frame),
    /// Pushed records were checked and are in the log.
    Appended {
        /// Of the frame that they came in.
        open: ReplicationSessionId,
    },
    /// More of the log is on stable storage.
    Flushed,
    /// The topic's durability changed. With page cache, an unclean stop MUST be told from now on (rule R20); it MUST be
    /// told on after that, too, until everything that is in the log then is flushed.
    Configured {
        /// With page cache.
        lazy: bool,
    },
    /// The leader has segments to offer in place of this log: the two cannot be compared.
    CopyOffered {
        /// Of the leader.
        leader_epoch: LeaderEpoch,
        /// The open that it answers.
        open: ReplicationSessionId,
    },
    /// The cut or the copy that was asked for is on stable storage.
    WorkDone,
    /// The connection broke, no answer came in time, the open was refused, or what was pushed was damaged.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerAction {
    /// Open the partition at the leader; the open before is over.
    Open(ReplicationSession),
    /// Check the pushed records and append them.
    Append(Frame),
    /// Cut the log here and make that durable, then say [`FollowerEvent::WorkDone`].
    Truncate {
        /// New end. Exclusive.
        to: Offset,
    },
    /// Take the leader's segments in place of the log, durably and all at once, then say [`FollowerEvent::WorkDone`].
    Copy,
    /// Delete what lies below: the leader has deleted it.
    Trim {
        /// The new log start. Inclusive, never beyond the log end.
        before: Offset,
    },
    /// Acknowledge what the log has.
    Acknowledge(Ack),
    /// The high watermark is here now, as far as this node knows.
    Commit {
        /// Exclusive.
        high_watermark: Offset,
    },
    /// The leader wants records gone that were committed: this replica stops, the process does not (rule R13).
    Inconsistent {
        /// Where the leader wants the log to end.
        at: Offset,
    },
}

/// What a follower waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// An answer to its open, or frames.
    Open,
    /// Its own log to be cut.
    Cutting,
    /// The leader's segments in place of its own.
    Copying,
    /// Nothing: it has stopped.
    Stopped,
}

#[derive(Debug, Clone)]
pub struct Follower {
    rules: Rules,
    node: NodeId,
    leader: NodeId,
    leader_epoch: LeaderEpoch,
    open: ReplicationSessionId,
    stage: Stage,
    /// Epoch of the last record, after the leader's answer to the last open: a later one that was begun has none.
    last_epoch: Option<LeaderEpoch>,
    /// End of what was handed out to be appended.
    taken: Offset,
    /// What of the log was on stable storage when that was told last.
    told_durable: Offset,
    /// Where the log began then.
    told_start: Offset,
    high_watermark: Offset,
    /// Where the leader's log starts, as told last. Inclusive.
    leader_log_start: Offset,
    /// As told on this open. Exclusive.
    tombstone_floor: Offset,
    lazy: bool,
    /// Its log is damaged: it has opened to say what it has, and to be offered a copy.
    asks_for_copy: bool,
}

impl Follower {
    /// Begins to follow a leader.
    pub fn start(start: FollowerStart, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) -> Self {
        // After an election without proof, what was committed before it need not be (rule R21).
        let known = start.high_watermark_epoch >= start.unclean_epoch;
        let high_watermark = if known { start.high_watermark.min(log.end()) } else { Offset::ZERO };
        let mut follower = Self {
            rules: start.rules,
            node: start.node,
            leader: start.leader,
            leader_epoch: start.leader_epoch,
            open: ReplicationSessionId { node_epoch: start.node_epoch, sequence: start.open_sequence },
            stage: Stage::Open,
            last_epoch: None,
            taken: log.end(),
            told_durable: log.durable(),
            told_start: log.start(),
            high_watermark,
            leader_log_start: Offset::ZERO,
            tombstone_floor: Offset::ZERO,
            lazy: start.lazy,
            asks_for_copy: false,
        };
        if log.damaged() || follower.rules.hold(Rule::NoCutToHighWatermark) || follower.high_watermark == log.end() {
            follower.begin(log, actions);
        } else {
            follower.cut(follower.high_watermark, actions);
        }
        follower
    }

    /// Takes an event; adds what is to be done.
    pub fn step(&mut self, event: FollowerEvent, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        if self.stage == Stage::Stopped {
            return;
        }
        match event {
            FollowerEvent::Diverged(answer) => self.diverged(answer, log, actions),
            FollowerEvent::Pushed(frame) => self.pushed(frame, log, actions),
            FollowerEvent::Appended { open } => {
                self.last_epoch = None;
                if open == self.open {
                    self.acknowledge(log, actions);
                    self.trim(log, actions);
                } else if self.stage == Stage::Open {
                    // It was on its way when the open began, which said another log end.
                    self.begin(log, actions);
                }
            }
            FollowerEvent::Flushed => {
                if log.durable() > self.told_durable || log.start() > self.told_start {
                    self.acknowledge(log, actions);
                }
            }
            FollowerEvent::Configured { lazy } => {
                let before = std::mem::replace(&mut self.lazy, lazy);
                // An acknowledgement from before may be on its way: what it allowed ends with the open.
                if before && !lazy && self.stage == Stage::Open {
                    self.begin(log, actions);
                } else {
                    self.acknowledge(log, actions);
                }
            }
            FollowerEvent::CopyOffered { leader_epoch, open } => {
                if self.current(leader_epoch, open) {
                    self.copy(actions);
                }
            }
            FollowerEvent::WorkDone => {
                if self.stage == Stage::Copying {
                    self.last_epoch = None;
                }
                match self.stage {
                    Stage::Cutting | Stage::Copying => self.begin(log, actions),
                    Stage::Open | Stage::Stopped => {}
                }
            }
            FollowerEvent::Broken if self.stage == Stage::Open => self.begin(log, actions),
            FollowerEvent::Broken => {}
        }
    }

    /// Opens the partition at the leader. A damaged log does not follow; the leader is told all the same what it has, and
    /// offers a copy.
    fn begin(&mut self, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        let damaged = log.damaged();
        let (last_epoch, log_end) = if damaged { log.readable() } else { (log.latest_epoch(), log.end()) };
        self.asks_for_copy = damaged;
        self.open.sequence += 1;
        self.stage = Stage::Open;
        self.taken = log.end();
        self.told_durable = log.durable();
        self.tombstone_floor = Offset::ZERO;
        actions.push(FollowerAction::Open(ReplicationSession {
            follower: self.node,
            id: self.open,
            leader_epoch: self.leader_epoch,
            log_end,
            durable: log.durable().min(log_end),
            lazy: self.lazy,
            last_epoch: self.last_epoch.filter(|_| !damaged).unwrap_or(last_epoch),
            damaged,
        }));
    }

    /// Whether a message belongs to what is open now.
    pub fn current(&self, leader_epoch: LeaderEpoch, open: ReplicationSessionId) -> bool {
        let same_epoch = leader_epoch == self.leader_epoch || !self.rules.hold(Rule::EpochFence);
        let same_open = self.open.names(open, self.rules);
        self.stage == Stage::Open && same_epoch && same_open
    }

    /// Rule R13: what the leader does not have is forgotten, but nothing that was committed.
    fn diverged(&mut self, answer: Diverging, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        if !self.current(answer.leader_epoch, answer.open) {
            return;
        }
        let (own_epoch, own_end) = log.end_of(answer.epoch).unwrap_or_else(|| (LeaderEpoch::NONE, log.start()));
        let shared = own_end.min(answer.end);
        // What both have is deleted here, if they have anything: nothing is left that could be compared.
        let own_epoch = if shared < log.start() { LeaderEpoch::NONE } else { own_epoch };
        let to = shared.max(log.start());
        if to < self.high_watermark {
            self.stage = Stage::Stopped;
            return actions.push(FollowerAction::Inconsistent { at: to });
        }
        // What is left is of this epoch and earlier ones, also where a later one was begun and has no records.
        self.last_epoch = Some(own_epoch);
        if to == log.end() {
            return self.begin(log, actions);
        }
        self.cut(to, actions);
    }

    fn cut(&mut self, to: Offset, actions: &mut Vec<FollowerAction>) {
        self.work(Stage::Cutting);
        actions.push(FollowerAction::Truncate { to });
    }

    /// Asks for the leader's log in place of this one.
    fn copy(&mut self, actions: &mut Vec<FollowerAction>) {
        self.work(Stage::Copying);
        actions.push(FollowerAction::Copy);
    }

    /// Whether the leader's log is about to take the place of this one, or is asked for.
    pub fn replaces_log(&self) -> bool {
        self.stage == Stage::Copying || self.stage == Stage::Open && self.asks_for_copy
    }

    /// Whatever is on its way for the open before finds nobody.
    fn work(&mut self, stage: Stage) {
        self.stage = stage;
        self.open.sequence += 1;
    }

    /// Rules R14 and R16: only what continues this log, on the latest open. Behind a gap everything would be dropped: it
    /// is asked for again.
    fn pushed(&mut self, frame: Frame, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        if !self.current(frame.leader_epoch, frame.open) {
            return;
        }
        if frame.base != self.taken {
            return if frame.base > self.taken {
                self.begin(log, actions)
            };
        }
        if frame.end > frame.base {
            self.taken = frame.end;
            actions.push(FollowerAction::Append(frame));
        } else {
            self.acknowledge(log, actions);
        }
        self.leader_log_start = frame.log_start;
        self.tombstone_floor = frame.tombstone_floor;
        self.trim(log, actions);
        let high_watermark = frame.high_watermark.min(frame.end);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            actions.push(FollowerAction::Commit { high_watermark });
        }
    }

    /// Retention and deletions of the leader, in this log as far as it reaches: the rest when it has grown.
    fn trim(&self, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        let before = self.leader_log_start.min(log.end());
        if before > log.start() {
            actions.push(FollowerAction::Trim { before });
        }
    }

    fn acknowledge(&mut self, log: &impl ReplicaLog, actions: &mut Vec<FollowerAction>) {
        if self.stage != Stage::Open || self.asks_for_copy {
            return;
        }
        (self.told_durable, self.told_start) = (log.durable(), log.start());
        actions.push(FollowerAction::Acknowledge(Ack {
            follower: self.node,
            leader_epoch: self.leader_epoch,
            open: self.open,
            log_start: log.start(),
            log_end: log.end(),
            durable: log.durable(),
            lazy: self.lazy,
        }));
    }

    /// The leader that it follows.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// The epoch in which it follows.
    pub fn epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Returns the id of the latest session.
    pub fn open(&self) -> ReplicationSessionId {
        self.open
    }

    /// The high watermark, as far as this node knows. Exclusive.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Below this compaction may drop tombstones: all replicas have them. Exclusive.
    pub fn tombstone_floor(&self, log: &impl ReplicaLog) -> Offset {
        if self.stage == Stage::Open { self.tombstone_floor.min(log.durable()) } else { Offset::ZERO }
    }

    /// Whether it has stopped for good: see [`FollowerAction::Inconsistent`].
    pub fn stopped(&self) -> bool {
        self.stage == Stage::Stopped
    }
}

#[cfg(test)]
mod tests;
