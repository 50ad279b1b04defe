//! A replica: what a node is to one partition, whatever happens to it.
//!
//! It takes the metadata as it comes, in whatever order, and becomes what the latest of it says: one [`Leader`] or one
//! [`Follower`] for each leader epoch and incarnation, and never the same one twice. What takes time on a disk, a cut
//! of the log or a copy of the leader's, is *work*: it ends later, under its own number, and whatever the metadata says
//! meanwhile waits for it. Writes wait here for their outcome, and every one of them gets one.
//!
//! ```text
//!   Registered, Observed, Installed ──▶ role ──▶ Leads ──▶ Push, Propose, Commit ─▶ answers to writes
//!                                         ├────▶ Follows ─▶ Open, Append, Acknowledge
//!                                         │          └────▶ Truncate, Copy ──(WorkDone)──▶ role again
//!                                         └────▶ Rests
//! ```
//!
//! The shell (a storage node, or the simulator) owns the log. It carries out actions in their order, and tells what
//! happened as events; the log itself is asked at every step, so that nobody has another opinion of it.

mod steps;
mod waiters;

use std::collections::VecDeque;
use std::time::Duration;

use walser_model::{Durability, LeaderEpoch, NodeId, Offset};

use crate::control::ReplicaIntegrity;
use crate::wire::{Ack, Diverging, Frame, ReplicationSession, ReplicationSessionId};
use crate::{Action, Contradiction, Follower, FollowerAction, Leader, PartitionState, ReplicaLog, Role, Rules, role};
use waiters::Waiters;

/// What a replica would lead with. The greater one has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaOffer {
    /// The latest leader epoch of its log, or a later one that it has begun to lead.
    pub last_epoch: LeaderEpoch,
    /// The latest leader epoch of its records alone.
    pub record_epoch: LeaderEpoch,
    /// End of its log, or where its damage begins. Exclusive.
    pub log_end: Offset,
}
pub use waiters::{Write, WriteEffect, WriteOutcome};

/// What a replica starts from, in every process anew.
#[derive(Debug, Clone)]
pub struct ReplicaStart {
    pub node: NodeId,
    /// Its opens and its works are numbered from here on, exclusive: above all of an earlier replica of the partition in this process.
    pub first_open: u64,
    /// What the node has found of it on its disk.
    pub integrity: ReplicaIntegrity,
    /// What is only in its page cache may have counted, as its disk remembers it: see [`Replica::lazy`].
    pub lazy: bool,
    /// The high watermark as its disk remembers it. Exclusive.
    pub high_watermark: Offset,
    /// The leader epoch in which that was seen, or [`LeaderEpoch::NONE`].
    pub high_watermark_epoch: LeaderEpoch,
    /// A replica that does not catch up for this long leaves the in-sync set.
    pub lag_max: Duration,
    /// A write that other replicas do not confirm for this long is answered without them.
    pub wait_max: Duration,
    pub rules: Rules,
}

/// Names a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkId(u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// This process is registered: it is this incarnation of its node. A lower one changes nothing.
    Registered {
        /// Revision of the registration.
        node_epoch: i64,
    },
    /// The registration is over: the controller knows another one, or none. This node rests until the next.
    Unregistered,
    /// All metadata up to this revision has been told. Inclusive.
    Observed {
        /// A lower one changes nothing.
        revision: i64,
    },
    /// The partition, as the metadata has it.
    Installed {
        /// The value.
        partition: PartitionState,
        /// Its mod revision. One that is not higher than what is known changes nothing.
        partition_epoch: i64,
    },
    /// The topic's durability, as the metadata has it.
    Configured {
        /// What counts as a position.
        durability: Durability,
    },
    /// The log has grown, more of it is on stable storage, or it begins later.
    LogChanged,
    /// The log takes nothing any more, before this process ends.
    LogFailed,
    /// Records in the log are found to be damaged, see [`ReplicaLog::damaged`]. Where another one is in sync,
    /// this replica counts no more, and takes the log of the next leader.
    LogDamaged,
    /// An operator has given up a damaged part of the log: it ends earlier now.
    Repaired,
    /// A cut is on stable storage, or no copy has come.
    WorkDone {
        /// As the action named it.
        work: WorkId,
    },
    /// A copy has taken the place of the log, on stable storage: what was wrong with that one is over.
    Replaced {
        /// As the action named it.
        work: WorkId,
    },
    /// A follower opens the partition here.
    Opened(ReplicationSession),
    /// Records up to here are about to be sent to a follower: this MUST come before the first byte leaves.
    Sent {
        /// To whom.
        follower: NodeId,
        /// On which open.
        open: ReplicationSessionId,
        /// Exclusive.
        end: Offset,
    },
    /// A follower tells its positions.
    Acked(Ack),
    /// A follower's node is heard, on whatever partition.
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
    /// The controller refused the proposal, or nobody knows what became of it.
    ProposalOver {
        /// The node because of which it was refused.
        ineligible: Option<NodeId>,
    },
    /// The leader pushed records.
    Pushed(Frame),
    /// Pushed records were checked and are in the log.
    Appended {
        /// Of the frame that they came in.
        open: ReplicationSessionId,
    },
    /// The leader says that the logs have parted.
    Diverged(Diverging),
    /// The leader offers its segments in place of this log.
    CopyOffered {
        /// Of the leader.
        leader_epoch: LeaderEpoch,
        /// The open that it answers.
        open: ReplicationSessionId,
    },
    /// The connection to the leader broke, no answer came in time, the open was refused, or what was pushed was damaged.
    Broken,
    Tick,
}

/// What to do. `W` is what the shell keeps for a write that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaAction<W> {
    /// This node leads from now on. The shell begins the epoch at the log end, on stable storage, and shows readers the
    /// high watermark, which may be lower than what they saw before.
    Lead {
        /// In which epoch.
        epoch: LeaderEpoch,
        /// Exclusive.
        high_watermark: Offset,
    },
    /// This node follows from now on: it serves nobody.
    Follow {
        /// Whom.
        leader: NodeId,
        /// In which epoch.
        epoch: LeaderEpoch,
    },
    /// This node neither leads nor follows from now on.
    Rest,
    /// The metadata does not name this node any more.
    Removed,
    /// The metadata says that this node leads, and its log says that this cannot be: nobody may act on either.
    Contradicted(Contradiction),
    /// The metadata says that this node leads, and it does not, or its log has failed: the controller is to take it out of
    /// the lead and the in-sync set ([`crate::control::sweep`] as unclean); or that it follows, and what it has
    /// acknowledged may be damaged or lost. Told with every tick until it has.
    GiveUp,
    /// A write has its outcome.
    Answer {
        /// What the shell kept for it.
        write: W,
        /// What became of it.
        outcome: WriteOutcome,
    },
    /// What a leader does: see [`Action`]. Never [`Action::Commit`].
    Leader(Action),
    /// What a follower does: see [`FollowerAction`]. Never those that are below.
    Follower(FollowerAction),
    /// Readers may see everything below.
    Commit {
        /// Exclusive.
        high_watermark: Offset,
    },
    /// Cut the log, make that durable, and then say [`ReplicaEvent::WorkDone`].
    Truncate {
        /// The number of the work.
        work: WorkId,
        /// The new end. Exclusive.
        to: Offset,
    },
    /// Take the leader's segments in place of the log, durably and all at once, and then say [`ReplicaEvent::Replaced`].
    Copy {
        /// The number of the work.
        work: WorkId,
    },
}

/// What runs.
#[derive(Debug, Clone, Default)]
enum Machine {
    #[default]
    Rests,
    Leads(Box<Leader>),
    Follows(Box<Follower>),
}

impl Machine {
    /// Whether it follows, and the leader's log is about to take the place of its own.
    fn replaces_log(&self) -> bool {
        matches!(self, Self::Follows(follower) if follower.replaces_log())
    }
}

/// The metadata of the partition.
#[derive(Debug, Clone)]
struct KnownMetadata {
    partition: PartitionState,
    epoch: i64,
}

#[derive(Debug, Clone)]
pub struct Replica<W> {
    rules: Rules,
    node: NodeId,
    /// Of the latest registration of this process.
    node_epoch: Option<i64>,
    /// That is not over.
    registered: bool,
    revision: i64,
    known: Option<KnownMetadata>,
    durability: Durability,
    /// An unclean stop has to be told: what is only in the page cache may have counted.
    lazy: bool,
    /// That ends when everything below is on stable storage.
    lazy_until: Option<Offset>,
    integrity: ReplicaIntegrity,
    failed: bool,
    machine: Machine,
    /// The latest leader epoch, and the incarnation, in which it has led or followed.
    begun: Option<(LeaderEpoch, i64)>,
    work: Option<WorkId>,
    last_work: u64,
    first_open: u64,
    /// Of this incarnation.
    open_sequence: u64,
    high_watermark: Offset,
    high_watermark_epoch: LeaderEpoch,
    waiters: Waiters<W>,
    now: Duration,
    lag_max: Duration,
    wait_max: Duration,
    // Kept to be filled anew at every step.
    leader_actions: Vec<Action>,
    follower_actions: Vec<FollowerAction>,
}

/// A list of actions that are to be carried out, in their order.
pub type ReplicaActions<W> = VecDeque<ReplicaAction<W>>;

// === impl KnownMetadata ===

impl KnownMetadata {
    /// Whether nobody else has a replica.
    fn alone(&self) -> bool {
        self.partition.replicas.len() == 1
    }

    /// Whether a node is counted on to have everything that was committed.
    fn counts(&self, node: NodeId) -> bool {
        self.partition.isr.contains(node) || self.partition.elr.contains(node)
    }

    /// Whether another node is.
    fn others_count(&self, node: NodeId) -> bool {
        self.partition.isr.iter().chain(self.partition.elr.iter()).any(|other| other != node)
    }
}

// === impl Replica ===

impl<W> Replica<W> {
    /// It rests until it is told what it is to be.
    pub fn new(start: ReplicaStart) -> Self {
        Self {
            rules: start.rules,
            node: start.node,
            node_epoch: None,
            registered: false,
            revision: 0,
            known: None,
            durability: Durability::Fsync,
            lazy: start.lazy,
            lazy_until: start.lazy.then_some(Offset::MAX),
            integrity: start.integrity,
            failed: false,
            machine: Machine::Rests,
            begun: None,
            work: None,
            last_work: start.first_open,
            first_open: start.first_open,
            open_sequence: start.first_open,
            high_watermark: start.high_watermark,
            high_watermark_epoch: start.high_watermark_epoch,
            waiters: Waiters::default(),
            now: Duration::ZERO,
            lag_max: start.lag_max,
            wait_max: start.wait_max,
            leader_actions: Vec::new(),
            follower_actions: Vec::new(),
        }
    }

    /// A write waits for its outcome from now on, behind those that came before and wait for the
    /// same. Every answer comes with a later step.
    pub fn wait(&mut self, now: Duration, write: Write<W>) {
        self.waiters.push(now, write);
    }

    /// Calls `release` once for every write that the log holds as durably as its topic asks, and that waits for other
    /// replicas only; also for refusals between such writes.
    pub fn release(&mut self, log: &impl ReplicaLog, release: impl FnMut(&mut W)) {
        if let Machine::Leads(leader) = &self.machine {
            self.waiters.release(leader, log, release);
        }
    }

    /// Writes that wait, and how many of them have been released.
    pub fn waiting(&self) -> (usize, usize) {
        self.waiters.counts()
    }

    /// What it would offer if nobody who is known to have everything is left (rule R21). `None`: it cannot say at present.
    pub fn candidate(&self, log: &impl ReplicaLog) -> Option<ReplicaOffer> {
        let says = self.work.is_none() && !self.failed && self.integrity != ReplicaIntegrity::Gone;
        says.then(|| {
            let (last_epoch, log_end) = log.readable();
            let record_epoch = if log.damaged() { last_epoch } else { log.latest_epoch() };
            ReplicaOffer { last_epoch, record_epoch, log_end }
        })
    }

    /// What the node has of it, for its registration.
    pub fn integrity(&self) -> ReplicaIntegrity {
        self.integrity
    }

    /// Whether the node has to tell an unclean stop for this replica (rule R20).
    pub fn lazy(&self) -> bool {
        self.lazy
    }

    /// The leader, while this node leads.
    pub fn leader(&self) -> Option<&Leader> {
        match &self.machine {
            Machine::Leads(leader) => Some(leader),
            Machine::Rests | Machine::Follows(_) => None,
        }
    }

    /// The follower, while this node follows.
    pub fn follower(&self) -> Option<&Follower> {
        match &self.machine {
            Machine::Follows(follower) => Some(follower),
            Machine::Rests | Machine::Leads(_) => None,
        }
    }

    /// Whether another replica is in sync, and so has everything that was committed.
    pub fn others_in_sync(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.partition.isr.iter().any(|other| other != self.node))
    }

    /// The partition as this node knows it, and its mod revision.
    pub fn partition(&self) -> Option<(&PartitionState, i64)> {
        self.known.as_ref().map(|known| (&known.partition, known.epoch))
    }

    /// A deletion is answered: no replica that has the records joins the in-sync set.
    pub fn deletion_answered(&mut self, before: Offset) {
        if let Machine::Leads(leader) = &mut self.machine {
            leader.deletion_answered(before);
        }
    }

    /// The high watermark as far as this node knows, and the leader epoch in which it saw it. Exclusive.
    pub fn high_watermark(&self) -> (Offset, LeaderEpoch) {
        (self.high_watermark, self.high_watermark_epoch)
    }

    /// Whether its log takes nothing any more.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Work that has not ended.
    pub fn work(&self) -> Option<WorkId> {
        self.work
    }

    /// What it is to be, by what it knows (rule R1).
    fn role(&self) -> Role {
        match (&self.known, self.node_epoch) {
            (Some(known), Some(node_epoch)) if self.registered => {
                role(self.rules, self.node, node_epoch, self.revision, &known.partition)
            }
            _ => Role::Rest,
        }
    }
}

#[cfg(test)]
mod tests;
