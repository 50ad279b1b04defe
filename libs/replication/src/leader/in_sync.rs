//! Who is in sync: who may join, who has to leave, and what the controller is asked for.

use std::collections::VecDeque;
use std::time::Duration;

use walser_model::{NodeId, Offset};

use super::{Action, Leader, counted};
use crate::wire::AlterIsr;
use crate::{NodeSet, PartitionState, ReplicaLog, Rule};

/// Time between two samples of the log end (amendment A6).
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Time between two proposals of a larger set: it does not grow and shrink all the time for a replica at the edge.
const EXPAND_EVERY: Duration = Duration::from_secs(1);
/// A proposal without an answer is given up after this long.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a longer time between two ticks this much counts against followers: the rest of it the leader itself has stood, behind
/// a disk for example, and has neither heard acknowledgements nor taken samples that they could have reached.
const TICK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where the log ended, some times ago: a replica had everything at the latest of them that it has reached.
#[derive(Debug, Clone)]
pub(super) struct Samples {
    ends: VecDeque<(Duration, Offset)>,
    /// When the leader had stood, and for how long, less [`TICK_PAUSE_MAX`].
    pauses: VecDeque<(Duration, Duration)>,
}

impl Samples {
    pub(super) fn new(now: Duration, log_end: Offset) -> Self {
        Self { ends: VecDeque::from([(now, log_end)]), pauses: VecDeque::new() }
    }

    /// Takes note of the time between two ticks. `back`: nobody asks for what is longer ago, pauses apart.
    fn note_pause(&mut self, last: Duration, now: Duration, back: Duration) {
        let stood = now.saturating_sub(last).saturating_sub(TICK_PAUSE_MAX);
        if stood == Duration::ZERO {
            return;
        }
        self.pauses.push_back((now, stood));
        // With each of them some time has counted: whoever needs more of them is late all the same.
        while self.pauses.len() as u64 > back.as_secs() + 1 {
            self.pauses.pop_front();
        }
    }

    /// For how long the leader has stood since a time.
    fn stood_since(&self, time: Duration) -> Duration {
        self.pauses.iter().rev().take_while(|(ended, _)| *ended > time).map(|(_, stood)| *stood).sum()
    }

    /// Remembers where the log ends, as far back as anybody asks.
    fn take(&mut self, now: Duration, log_end: Offset, back: Duration) {
        if self.ends.back().is_some_and(|(last, _)| now < last.saturating_add(SAMPLE_EVERY)) {
            return;
        }
        self.ends.push_back((now, log_end));
        // The oldest that is kept lies before the limit: who has reached none later is behind it.
        while self.ends.get(1).is_some_and(|(second, _)| second.saturating_add(back) <= now) {
            self.ends.pop_front();
        }
    }

    /// The latest sample that a position has reached.
    fn reached(&self, position: Offset) -> Option<Duration> {
        self.ends.iter().rev().find(|(_, end)| *end <= position).map(|(at, _)| *at)
    }

    fn now(&self) -> Duration {
        self.ends.back().map_or(Duration::ZERO, |(at, _)| *at)
    }
}

impl Leader {
    /// New metadata: only this makes the maximal set smaller (rule R7). A proposal against older metadata can not be
    /// written any more.
    pub(super) fn install(&mut self, partition: PartitionState, partition_epoch: i64) {
        if partition_epoch <= self.partition_epoch || partition.leader_epoch != self.partition.leader_epoch {
            return;
        }
        self.maximal = partition.isr.clone();
        self.proposing = None;
        self.stale_proposal = false;
        self.partition = partition;
        self.partition_epoch = partition_epoch;
        self.followers.keep(self.node, &self.partition, self.samples.now());
    }

    pub(super) fn proposal_over(&mut self, ineligible: Option<NodeId>) {
        self.stale_proposal |= self.proposing.is_some();
        self.proposing = None;
        if let Some(node) = ineligible {
            self.followers.refused(node, self.now);
        }
        if !self.rules.hold(Rule::RefusalKeepsMaximal) {
            self.maximal = self.partition.isr.clone();
            self.stale_proposal = false;
        }
    }

    fn propose(&mut self, isr: NodeSet, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        self.maximal = self.maximal.union(&isr);
        self.proposing = Some(self.now);
        if !isr.is_subset(&self.partition.isr) {
            self.expanded = Some(self.now);
        }
        let epoch_of = |node: NodeId| {
            let epoch = if node == self.node { self.node_epoch } else { self.followers.node_epoch(node) };
            (node, epoch)
        };
        actions.push(Action::Propose(AlterIsr {
            leader: self.node,
            node_epoch: self.node_epoch,
            leader_epoch: self.partition.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: isr.iter().map(epoch_of).collect(),
        }));
        if !self.rules.hold(Rule::ShrinkIsWritten) && isr.len() < self.partition.isr.len() {
            self.maximal = isr.clone();
            self.partition.isr = isr;
            self.advance(log, actions);
        }
    }

    /// Rule R8: whether a replica follows in this epoch, has everything committed, and everything from before this epoch,
    /// and nothing whose deletion was answered; and the controller, who knows whether it is fenced or about to stop, has not just
    /// refused it.
    fn may_join(&self, node: NodeId) -> bool {
        if self.expanded.is_some_and(|last| self.now < last.saturating_add(EXPAND_EVERY)) {
            return false;
        }
        let Some(follower) = self.followers.following(node).filter(|known| known.may_be_proposed(self.now, self.rules))
        else {
            return false;
        };
        let position =
            if self.rules.hold(Rule::JoinOnDurable) { self.follower_position(follower) } else { follower.log_end };
        let complete = position >= self.epoch_start || !self.rules.hold(Rule::JoinFromEpochStart);
        position >= self.high_watermark && complete && follower.log_start >= self.deleted
    }

    /// Asks for a replica that may join; several at once when they are found at a tick.
    pub(super) fn propose_to_add(&mut self, node: NodeId, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        if self.proposing.is_some() || self.partition.isr.contains(node) || !self.may_join(node) {
            return;
        }
        let mut isr = self.partition.isr.clone();
        isr.insert(node);
        self.propose(isr, log, actions);
    }

    /// Rule R9: whoever has not caught up for too long leaves. A proposal that nobody waits for is overtaken by one
    /// that changes nothing: after that it can not be written any more.
    pub(super) fn tick(&mut self, now: Duration, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        self.samples.note_pause(self.now, now, self.lag_max);
        self.samples.take(now, log.end(), self.lag_max);
        self.note_progress(now, log.end());
        self.now = now;
        match self.proposing {
            Some(since) if now.saturating_sub(since) < PROPOSAL_TIMEOUT => return,
            Some(_) => self.proposal_over(None),
            None => {}
        }
        let mut isr = NodeSet::EMPTY;
        isr.insert(self.node);
        for known in self.followers.iter() {
            let in_sync = self.partition.isr.contains(known.node);
            let stood = self.samples.stood_since(known.caught_up);
            let late = now.saturating_sub(known.caught_up).saturating_sub(stood) > self.lag_max;
            if if in_sync { !late } else { self.may_join(known.node) } {
                isr.insert(known.node);
            }
        }
        if isr != self.partition.isr || self.stale_proposal {
            self.propose(isr, log, actions);
        }
    }

    /// Remembers who has caught up (amendment A6).
    fn note_progress(&mut self, now: Duration, log_end: Offset) {
        let (durability, rules) = (self.durability, self.rules);
        for known in self.followers.iter_mut().filter(|known| known.connected) {
            let position = counted(rules, durability, (known.log_end, known.durable, known.lazy));
            let reached = if position >= log_end { Some(now) } else { self.samples.reached(position) };
            known.caught_up = known.caught_up.max(reached.unwrap_or_default());
        }
    }
}
