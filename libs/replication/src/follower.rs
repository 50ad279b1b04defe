//! A follower of a partition: what it asks for, what it appends, and what it must forget.
//!
//! It opens the partition at its leader and takes what is pushed (amendment A1). Every doubt ends the open and begins
//! another: a new leader epoch, a broken connection, a log that is not a part of the leader's. Whatever belongs to an
//! earlier open is dropped, so nothing that was on its way can arrive late and count (rule R14).

use walser_model::{LeaderEpoch, LeaderEpochs, NodeId, Offset};

use crate::wire::{Ack, Diverging, Frame, Open, OpenId};
use crate::{Rule, Rules};

/// What a follower starts from.
#[derive(Debug, Clone)]
pub struct FollowerStart {
    /// This node.
    pub node: NodeId,
    /// Its incarnation.
    pub node_epoch: i64,
    /// Whom it follows.
    pub leader: NodeId,
    /// In which epoch.
    pub leader_epoch: LeaderEpoch,
    /// The sequence of the latest open of this incarnation; 0 at first.
    pub open_sequence: u64,
    /// Where the log begins.
    pub log_start: Offset,
    /// End of the log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on stable storage here. Exclusive.
    pub durable: Offset,
    /// The high watermark that this node has seen. Exclusive.
    pub high_watermark: Offset,
    /// The epoch in which it saw that, or [`LeaderEpoch::NONE`].
    pub high_watermark_epoch: LeaderEpoch,
    /// Of the metadata: see [`crate::PartitionState::unclean_epoch`].
    pub unclean_epoch: LeaderEpoch,
    /// Epochs of the log.
    pub epochs: LeaderEpochs,
    /// Whether an unclean stop of this node will be told for this partition: see [`FollowerEvent::Configured`].
    pub lazy: bool,
    /// Which rules hold.
    pub rules: Rules,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerEvent {
    /// The leader's log and this one have parted.
    Diverged(Diverging),
    /// The leader pushed records.
    Pushed(Frame),
    /// Pushed records were checked and appended; the epochs that begin in them, ascending.
    Appended {
        /// Of the frame that they came in.
        open: OpenId,
        /// Exclusive.
        log_end: Offset,
        /// Epoch and first offset.
        epochs: Vec<(LeaderEpoch, Offset)>,
    },
    /// Everything below is on stable storage here. A flush that began before the log was cut MUST NOT be told after it:
    /// other records may have taken the place of those that it covered.
    Flushed {
        /// Exclusive.
        durable: Offset,
    },
    /// The topic's durability changed. With page cache, an unclean stop MUST be told from now on (rule R20); it MUST be
    /// told on after that, too, until everything that is in the log then is flushed.
    Configured {
        /// With page cache.
        lazy: bool,
    },
    /// The log begins here now.
    Trimmed {
        /// Inclusive.
        log_start: Offset,
    },
    /// The log was cut, and the cut is on stable storage.
    Truncated {
        /// Exclusive.
        log_end: Offset,
    },
    /// The log was replaced by a copy of the leader's segments, which are on stable storage.
    Copied {
        /// Inclusive.
        log_start: Offset,
        /// Exclusive.
        log_end: Offset,
        /// Epochs of the copy.
        epochs: LeaderEpochs,
    },
    /// The connection broke, no answer came in time, the open was refused, or what was pushed was damaged.
    Broken,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerAction {
    /// Open the partition at the leader; the open before is over.
    Open(Open),
    /// Check the pushed records and append them.
    Append(Frame),
    /// Cut the log here and make that durable, then say so.
    Truncate {
        /// New end. Exclusive.
        to: Offset,
    },
    /// Tell the leader.
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
    /// Nothing: it has stopped.
    Stopped,
}

/// The follower's state.
#[derive(Debug, Clone)]
pub struct Follower {
    rules: Rules,
    node: NodeId,
    leader: NodeId,
    leader_epoch: LeaderEpoch,
    open: OpenId,
    stage: Stage,
    log_start: Offset,
    log_end: Offset,
    /// End of what was handed out to be appended.
    taken: Offset,
    durable: Offset,
    high_watermark: Offset,
    epochs: LeaderEpochs,
    lazy: bool,
}

impl Follower {
    /// Begins to follow.
    pub fn start(start: FollowerStart, actions: &mut Vec<FollowerAction>) -> Self {
        // After an election without proof, what was committed before it need not be (rule R21).
        let known = start.high_watermark_epoch >= start.unclean_epoch;
        let high_watermark = if known { start.high_watermark.min(start.log_end) } else { Offset::ZERO };
        let mut follower = Self {
            rules: start.rules,
            node: start.node,
            leader: start.leader,
            leader_epoch: start.leader_epoch,
            open: OpenId { node_epoch: start.node_epoch, sequence: start.open_sequence },
            stage: Stage::Open,
            log_start: start.log_start,
            log_end: start.log_end,
            taken: start.log_end,
            durable: start.durable,
            high_watermark,
            epochs: start.epochs,
            lazy: start.lazy,
        };
        if follower.rules.hold(Rule::NoCutToHighWatermark) || follower.high_watermark == follower.log_end {
            follower.begin(actions);
        } else {
            follower.cut(follower.high_watermark, actions);
        }
        follower
    }

    /// Takes an event; adds what is to be done.
    pub fn step(&mut self, event: FollowerEvent, actions: &mut Vec<FollowerAction>) {
        if self.stage == Stage::Stopped {
            return;
        }
        match event {
            FollowerEvent::Diverged(answer) => self.diverged(answer, actions),
            FollowerEvent::Pushed(frame) => self.pushed(frame, actions),
            FollowerEvent::Appended { open, log_end, epochs } => {
                for (epoch, start) in epochs {
                    self.epochs.assign(epoch, start);
                }
                self.log_end = self.log_end.max(log_end);
                if open == self.open {
                    self.acknowledge(actions);
                } else if self.stage == Stage::Open {
                    // It was on its way when the open began, which said another log end.
                    self.begin(actions);
                }
            }
            FollowerEvent::Flushed { durable } => {
                let durable = durable.min(self.log_end);
                if durable > self.durable {
                    self.durable = durable;
                    self.acknowledge(actions);
                }
            }
            FollowerEvent::Configured { lazy } => {
                let before = std::mem::replace(&mut self.lazy, lazy);
                // An acknowledgement from before may be on its way: what it allowed ends with the open.
                if before && !lazy && self.stage == Stage::Open {
                    self.begin(actions);
                } else {
                    self.acknowledge(actions);
                }
            }
            FollowerEvent::Trimmed { log_start } => {
                self.log_start = self.log_start.max(log_start);
                self.epochs.forget_before(self.log_start);
            }
            FollowerEvent::Truncated { log_end } => {
                self.log_end = log_end;
                self.durable = self.durable.min(log_end);
                self.epochs.truncate(log_end);
                self.begin(actions);
            }
            FollowerEvent::Copied { log_start, log_end, epochs } => {
                self.log_start = log_start;
                (self.log_end, self.durable, self.epochs) = (log_end, log_end, epochs);
                self.begin(actions);
            }
            FollowerEvent::Broken if self.stage == Stage::Open => self.begin(actions),
            FollowerEvent::Broken => {}
        }
    }

    fn begin(&mut self, actions: &mut Vec<FollowerAction>) {
        self.open.sequence += 1;
        self.stage = Stage::Open;
        self.taken = self.log_end;
        actions.push(FollowerAction::Open(Open {
            follower: self.node,
            id: self.open,
            leader_epoch: self.leader_epoch,
            log_end: self.log_end,
            durable: self.durable,
            lazy: self.lazy,
            last_epoch: self.epochs.latest(),
        }));
    }

    /// Whether a message belongs to what is open now.
    pub fn current(&self, leader_epoch: LeaderEpoch, open: OpenId) -> bool {
        let same_epoch = leader_epoch == self.leader_epoch || !self.rules.hold(Rule::EpochFence);
        let same_open = self.open.names(open, self.rules);
        self.stage == Stage::Open && same_epoch && same_open
    }

    /// Rule R13: what the leader does not have is forgotten, but nothing that was committed.
    fn diverged(&mut self, answer: Diverging, actions: &mut Vec<FollowerAction>) {
        if !self.current(answer.leader_epoch, answer.open) {
            return;
        }
        let own_end = self.epochs.end_of(answer.epoch, self.log_end).map_or(self.log_start, |(_, end)| end);
        let to = own_end.min(answer.end).max(self.log_start);
        if to < self.high_watermark {
            self.stage = Stage::Stopped;
            return actions.push(FollowerAction::Inconsistent { at: to });
        }
        self.cut(to, actions);
    }

    fn cut(&mut self, to: Offset, actions: &mut Vec<FollowerAction>) {
        self.stage = Stage::Cutting;
        // Whatever is on its way for the open before finds nobody.
        self.open.sequence += 1;
        actions.push(FollowerAction::Truncate { to });
    }

    /// Rules R14 and R16: only what continues this log, on the latest open. Behind a gap everything would be dropped: it
    /// is asked for again.
    fn pushed(&mut self, frame: Frame, actions: &mut Vec<FollowerAction>) {
        if !self.current(frame.leader_epoch, frame.open) {
            return;
        }
        if frame.base != self.taken {
            return if frame.base > self.taken {
                self.begin(actions)
            };
        }
        if frame.end > frame.base {
            self.taken = frame.end;
            actions.push(FollowerAction::Append(frame));
        } else {
            self.acknowledge(actions);
        }
        let high_watermark = frame.high_watermark.min(frame.end);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            actions.push(FollowerAction::Commit { high_watermark });
        }
    }

    fn acknowledge(&mut self, actions: &mut Vec<FollowerAction>) {
        if self.stage != Stage::Open {
            return;
        }
        actions.push(FollowerAction::Acknowledge(Ack {
            follower: self.node,
            leader_epoch: self.leader_epoch,
            open: self.open,
            log_end: self.log_end,
            durable: self.durable,
            lazy: self.lazy,
        }));
    }

    /// Whom it follows.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// The epoch in which it follows.
    pub fn epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The latest open.
    pub fn open(&self) -> OpenId {
        self.open
    }

    /// The high watermark, as far as this node knows. Exclusive.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether it has stopped for good: see [`FollowerAction::Inconsistent`].
    pub fn stopped(&self) -> bool {
        self.stage == Stage::Stopped
    }
}

#[cfg(test)]
mod tests;
