//! The leader of a partition: when an offset is committed, when a write may be answered, and who is in sync.
//!
//! ```text
//!   log start        durable (self)      log end
//!      |------------------|-----------------|
//!                    ^ high watermark = min over the maximal in-sync set of the position that counts:
//!                      durable with fsync, log end with page-cache
//! ```
//!
//! The *maximal* in-sync set is the one in the metadata and every one that was proposed since: a proposal may be
//! written at any time, however long its answer takes, so all of its members must have what is committed.

mod followers;
mod giving_up;
mod in_sync;
mod lag;

use std::time::Duration;

use walser_model::{Acks, Durability, LeaderEpoch, NodeId, Offset};

use crate::wire::{Ack, AlterIsr, Diverging, ReplicationSession, ReplicationSessionId};
use crate::{NodeSet, PartitionState, ReplicaLog, Rule, Rules};
use followers::{FollowerProgress, Followers};
pub use giving_up::Objection;
use in_sync::Samples;
pub use lag::FollowerLag;

/// What a leader starts from.
#[derive(Debug, Clone)]
pub struct Start {
    pub node: NodeId,
    /// Incarnation of this node.
    pub node_epoch: i64,
    /// The partition as the metadata has it; this node leads it there.
    pub partition: PartitionState,
    /// Mod revision of that.
    pub partition_epoch: i64,
    /// What counts as a position.
    pub durability: Durability,
    /// The high watermark that this node has seen so far. Exclusive.
    pub high_watermark: Offset,
    /// The epoch in which it saw that, or [`LeaderEpoch::NONE`].
    pub high_watermark_epoch: LeaderEpoch,
    /// Monotonic time of the start.
    pub now: Duration,
    /// A replica that does not catch up for this long leaves the in-sync set.
    pub lag_max: Duration,
    pub rules: Rules,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The log has grown, more of it is on stable storage, or it begins later.
    LogChanged,
    /// The topic's durability changed. To page cache: an unclean stop MUST be told from now on. From it: until everything
    /// that is in the log now is flushed.
    Configured {
        /// What counts from now on.
        durability: Durability,
    },
    /// A follower opens the partition.
    Opened(ReplicationSession),
    /// Records up to here are about to be sent to a follower: this MUST come before the first byte leaves, or an
    /// acknowledgement that is faster does not count.
    Sent {
        /// To whom.
        follower: NodeId,
        /// On which open.
        open: ReplicationSessionId,
        /// Exclusive.
        end: Offset,
    },
    /// A follower tells its positions; also in answer to a frame without records.
    Acked(Ack),
    /// A follower's node is heard, on whatever partition: an idle one has nothing else to tell that it is there.
    Heard {
        /// Who.
        follower: NodeId,
        /// Its incarnation.
        node_epoch: i64,
    },
    /// The connection on which a follower had opened is gone.
    Closed {
        /// Whose.
        follower: NodeId,
        /// Which open.
        open: ReplicationSessionId,
    },
    /// New metadata of the partition, in the same leader epoch.
    Installed {
        /// The value.
        partition: PartitionState,
        /// Its mod revision.
        partition_epoch: i64,
    },
    /// The controller refused the proposal, or nobody knows what became of it.
    ProposalOver {
        /// The node because of which it was refused ([`crate::control::Refusal::Ineligible`]).
        ineligible: Option<NodeId>,
    },
    Tick {
        /// Monotonic.
        now: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Readers may see everything below, and writes that wait for it can be answered.
    Commit {
        /// The new high watermark. Exclusive.
        high_watermark: Offset,
    },
    /// Push records to a follower, from here on.
    Push {
        /// To whom.
        follower: NodeId,
        /// On which open.
        open: ReplicationSessionId,
        /// Inclusive.
        from: Offset,
    },
    /// The follower's log cannot be compared with this one, whose records of that time are deleted: it takes this log's
    /// segments in place of its own, all at once, and then opens again.
    Copy {
        /// To whom.
        follower: NodeId,
        /// On which open.
        open: ReplicationSessionId,
    },
    /// The follower's log is not a part of this one.
    Diverged {
        /// To whom.
        follower: NodeId,
        /// What to tell it.
        answer: Diverging,
    },
    /// The open belongs to another leader epoch: older or newer metadata is on its way to one of the two, and the
    /// follower opens again when it has come.
    Refuse {
        /// Whom.
        follower: NodeId,
        /// Which open.
        open: ReplicationSessionId,
    },
    /// Ask the controller for another in-sync set.
    Propose(AlterIsr),
}

/// Why a node cannot lead, although the metadata says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The controller never decides that (invariant I8).
    #[error("the leader is not in its own in-sync set")]
    NotInSync,
    /// The metadata store was set back (invariant I13).
    #[error("the log has records of leader epoch {log}, the metadata is of {metadata}")]
    LaterEpoch {
        /// Of the log.
        log: LeaderEpoch,
        /// Of the metadata.
        metadata: LeaderEpoch,
    },
}

/// Too few replicas are in sync for `acks=all` (rule R25).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("replicas in sync: {isr}, and {min_isr} are needed")]
pub struct NotEnoughReplicas {
    /// Number of replicas in sync.
    pub isr: usize,
    /// Number of replicas that are needed.
    pub min_isr: usize,
}

#[derive(Debug, Clone)]
pub struct Leader {
    rules: Rules,
    node: NodeId,
    node_epoch: i64,
    partition: PartitionState,
    partition_epoch: i64,
    /// Members of every set that may be in force.
    maximal: NodeSet,
    /// When the proposal was sent that is not answered.
    proposing: Option<Duration>,
    /// A proposal may still be written although nobody waits for it.
    stale_proposal: bool,
    /// When a larger in-sync set was proposed last.
    expanded: Option<Duration>,
    durability: Durability,
    high_watermark: Offset,
    /// Where this leader epoch began.
    epoch_start: Offset,
    /// What lies below was deleted, and whoever has asked for that was told so: no later leader may have it. Exclusive.
    deleted: Offset,
    followers: Followers,
    samples: Samples,
    /// Of the last tick.
    now: Duration,
    lag_max: Duration,
}

/// What counts of a log, of its end and what of it is on stable storage: with fsync the latter; with page cache the
/// former, but only where an unclean stop will be told (`lazy`): a follower that has not heard of page cache yet would
/// come back after a loss of power as if it had everything.
fn counted(rules: Rules, durability: Durability, (log_end, durable, lazy): (Offset, Offset, bool)) -> Offset {
    match durability {
        Durability::Fsync if rules.hold(Rule::DurablePositions) => durable,
        Durability::PageCache if !lazy && rules.hold(Rule::LazyIsTold) => durable,
        Durability::Fsync | Durability::PageCache => log_end,
    }
}

// === impl Leader ===

impl Leader {
    /// Starts leading (rule R2): the epoch begins at the log end, and its start MUST be on stable storage before anything
    /// is acknowledged in it. What is there already may be committed: [`Event::LogChanged`] tells.
    ///
    /// # Errors
    /// [`Contradiction`], when metadata and log cannot both be right: then nobody may act on either.
    pub fn start(start: Start, log: &impl ReplicaLog) -> Result<Self, Contradiction> {
        let Start { node, partition, .. } = start;
        let log_end = log.end();
        if !partition.isr.contains(node) {
            return Err(Contradiction::NotInSync);
        }
        let latest = log.latest_epoch();
        if latest > partition.leader_epoch {
            return Err(Contradiction::LaterEpoch { log: latest, metadata: partition.leader_epoch });
        }
        // After an election without proof, what was committed before it need not be (rule R21).
        let known = start.high_watermark_epoch >= partition.unclean_epoch;
        let high_watermark = if known { start.high_watermark.min(log_end) } else { Offset::ZERO };
        let followers = Followers::new(node, &partition, start.now);
        Ok(Self {
            rules: start.rules,
            node,
            node_epoch: start.node_epoch,
            maximal: partition.isr.clone(),
            partition,
            partition_epoch: start.partition_epoch,
            proposing: None,
            stale_proposal: false,
            expanded: None,
            durability: start.durability,
            high_watermark,
            epoch_start: log_end,
            deleted: log.start(),
            followers,
            samples: Samples::new(start.now, log_end),
            now: start.now,
            lag_max: start.lag_max,
        })
    }

    /// Takes an event; adds what is to be done.
    pub fn step(&mut self, event: Event, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        debug_assert!(log.durable() <= log.end(), "nothing is durable beyond the log end");
        match event {
            Event::LogChanged => {}
            Event::Configured { durability } => self.durability = durability,
            Event::Opened(open) => return self.opened(open, log, actions),
            Event::Sent { follower, open, end } => return self.followers.sent(follower, open, end),
            Event::Heard { follower, node_epoch } => return self.followers.heard(follower, node_epoch, self.now),
            Event::Closed { follower, open } => return self.followers.closed(follower, open),
            Event::Acked(ack) => return self.acked(ack, log, actions),
            Event::Installed { partition, partition_epoch } => self.install(partition, partition_epoch),
            Event::ProposalOver { ineligible } => self.proposal_over(ineligible),
            Event::Tick { now } => return self.tick(now, log, actions),
        }
        self.advance(log, actions);
    }

    /// Rule R3: the high watermark follows the lowest position of the maximal in-sync set, while enough are in sync and
    /// all of them follow in this epoch. Rule R4: it never goes back.
    fn advance(&mut self, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        if self.partition.is_under_min_isr() && self.rules.hold(Rule::HighWatermarkNeedsMinIsr) {
            return;
        }
        // What is damaged may be given up, and nobody must take it for committed.
        if log.damaged() && self.partition.replicas.len() > 1 {
            return;
        }
        // Rule R2; an only replica has nobody who could contradict it.
        if self.partition.replicas.len() > 1 && log.begun() < self.epoch() && self.rules.hold(Rule::EpochStartIsDurable)
        {
            return;
        }
        let counted = if self.rules.hold(Rule::MaximalIsr) { &self.maximal } else { &self.partition.isr };
        let mut committed = self.position(log);
        for node in counted.iter().filter(|node| *node != self.node) {
            let Some(follower) = self.followers.following(node) else { return };
            committed = committed.min(self.follower_position(follower));
        }
        if committed > self.high_watermark {
            self.high_watermark = committed;
            actions.push(Action::Commit { high_watermark: committed });
        }
    }

    /// Below this every replica that can lead next has deleted its records: those that are in sync, or may be, and the
    /// eligible ones.
    pub fn deleted_below(&self, log: &impl ReplicaLog) -> Offset {
        let next = self.maximal.union(&self.partition.elr);
        let others = next.iter().filter(|node| *node != self.node);
        let starts = others.map(|node| self.followers.following(node).map_or(Offset::ZERO, |known| known.log_start));
        starts.fold(log.start(), Offset::min)
    }

    /// Below this compaction may drop tombstones: every replica, in sync or not, follows and has them on stable storage.
    /// One that is away may have what they delete, and get them when it comes back. Exclusive.
    pub fn tombstone_floor(&self, log: &impl ReplicaLog) -> Offset {
        let others = self.partition.replicas.iter().filter(|node| **node != self.node);
        let durable = others.map(|node| self.followers.following(*node).map_or(Offset::ZERO, |known| known.durable));
        durable.fold(log.durable().min(self.high_watermark), Offset::min)
    }

    /// A deletion is answered.
    pub fn deletion_answered(&mut self, before: Offset) {
        self.deleted = self.deleted.max(before);
    }

    /// Whether somebody eligible has opened in this epoch: it has everything, and may lead. Where this log is damaged it
    /// need not be able to follow.
    pub fn eligible_opened(&self) -> bool {
        self.followers.iter().any(|known| self.partition.elr.contains(known.node) && known.has_opened())
    }

    /// This node's own position: what counts of its log.
    fn position(&self, log: &impl ReplicaLog) -> Offset {
        counted(self.rules, self.durability, (log.end(), log.durable(), true))
    }

    /// What counts of a follower's log.
    fn follower_position(&self, known: &FollowerProgress) -> Offset {
        counted(self.rules, self.durability, (known.log_end, known.durable, known.lazy))
    }

    /// A follower opens: rules R11, R12 and amendment A1.
    fn opened(&mut self, open: ReplicationSession, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        let ReplicationSession { follower, id, .. } = open;
        if open.leader_epoch != self.partition.leader_epoch && self.rules.hold(Rule::EpochFence) {
            return actions.push(Action::Refuse { follower, open: id });
        }
        // Metadata that names it may be on its way here: it opens again.
        if !self.followers.knows(follower) {
            return actions.push(Action::Refuse { follower, open: id });
        }
        if !self.followers.begin(&open, self.now, self.rules) {
            return;
        }
        if open.damaged {
            return actions.push(Action::Copy { follower, open: id });
        }
        // What lies below the log start cannot be compared any more, and what lies before every epoch that is known here
        // cannot be either.
        let known = log.end_of(open.last_epoch);
        let empty = open.last_epoch == LeaderEpoch::NONE && open.log_end == log.retained();
        let Some((epoch, end)) = known.or_else(|| empty.then_some((open.last_epoch, log.retained()))) else {
            return actions.push(Action::Copy { follower, open: id });
        };
        let tombstones_gone = open.log_end < log.tombstone_floor() && self.rules.hold(Rule::TombstonesAreThere);
        if open.log_end < log.retained() || tombstones_gone {
            return actions.push(Action::Copy { follower, open: id });
        }
        if epoch < open.last_epoch || end < open.log_end {
            let answer = Diverging { leader_epoch: self.partition.leader_epoch, open: id, epoch, end };
            self.followers.part(follower);
            return actions.push(Action::Diverged { follower, answer });
        }
        self.followers.connect(&open);
        actions.push(Action::Push { follower, open: id, from: open.log_end });
        self.followed(follower, log, actions);
    }

    fn acked(&mut self, ack: Ack, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        if ack.leader_epoch != self.partition.leader_epoch && self.rules.hold(Rule::EpochFence) {
            return;
        }
        if self.followers.acked(&ack, self.now, self.rules) {
            self.followed(ack.follower, log, actions);
        }
    }

    fn followed(&mut self, follower: NodeId, log: &impl ReplicaLog, actions: &mut Vec<Action>) {
        self.advance(log, actions);
        self.propose_to_add(follower, log, actions);
    }

    /// Whether a write may be appended at all.
    ///
    /// # Errors
    /// [`NotEnoughReplicas`] for `acks=all` while the in-sync set is too small.
    pub fn admit(&self, acks: Acks) -> Result<(), NotEnoughReplicas> {
        let (isr, min_isr) = (self.partition.isr.len(), self.partition.min_isr);
        if acks == Acks::All && isr < min_isr {
            return Err(NotEnoughReplicas { isr, min_isr });
        }
        Ok(())
    }

    /// Whether a write that ends at `next_offset` (exclusive) may be answered (rules R25, R26). One that is in the log
    /// already is answered when the first one would be (amendment A2).
    pub fn answerable(&self, log: &impl ReplicaLog, acks: Acks, next_offset: Offset, repeated: bool) -> bool {
        if repeated && !self.rules.hold(Rule::RepeatWaits) {
            return true;
        }
        match acks {
            Acks::None => true,
            Acks::Leader => self.position(log) >= next_offset,
            Acks::All => self.high_watermark >= next_offset,
        }
    }

    /// End of what readers may see. Exclusive.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The end of what readers may see, once it is known: what an earlier leader had committed may lie above the high
    /// watermark until this epoch has committed everything from before it (rule R4).
    pub fn latest(&self) -> Option<Offset> {
        (self.high_watermark >= self.epoch_start).then_some(self.high_watermark)
    }

    /// Where this leader epoch began: before the high watermark is there, it is not known what is committed (rule R4).
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// The epoch in which this node leads.
    pub fn epoch(&self) -> LeaderEpoch {
        self.partition.leader_epoch
    }

    /// What counts as a position.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The partition as this leader knows it.
    pub fn partition(&self) -> &PartitionState {
        &self.partition
    }

    /// Mod revision of that.
    pub fn partition_epoch(&self) -> i64 {
        self.partition_epoch
    }

    /// Returns the incarnation of this node.
    pub fn node_epoch(&self) -> i64 {
        self.node_epoch
    }

    /// Members of every in-sync set that may be in force.
    pub fn maximal_isr(&self) -> &NodeSet {
        &self.maximal
    }

    /// The other nodes one of which leads next, unless somebody elects without proof (amendment A4): those that are in sync,
    /// or may be by now, and the eligible ones. `None`: one of them does not follow in this epoch, and may lead already.
    pub fn successors(&self) -> Option<NodeSet> {
        let mut successors = self.maximal.union(&self.partition.elr);
        successors.remove(self.node);
        let all_follow = successors.iter().all(|node| self.followers.following(node).is_some());
        all_follow.then_some(successors)
    }

    /// How many copies an acknowledgement rests on.
    pub fn copies(&self, acks: Acks) -> usize {
        match acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => self.partition.isr.len(),
        }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }
}

#[cfg(test)]
mod tests;
