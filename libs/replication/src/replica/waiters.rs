//! Writes that are in the leader's log, or were refused behind such, and wait for their answers.
//!
//! Those that wait for other replicas, and those that do not, are answered in order each: a replica that is away holds up nobody
//! who does not ask for it.

use std::collections::VecDeque;
use std::time::Duration;

use walser_model::{Acks, Offset};

use crate::{Leader, NotEnoughReplicas, ReplicaLog};

/// A write whose outcome is not known yet.
#[derive(Debug, Clone)]
pub enum Write<W> {
    /// Its records are in the log, now or from before.
    Appended {
        /// What the shell keeps for it.
        write: W,
        /// Where its records end. Exclusive.
        end: Offset,
        /// What it waits for.
        acks: Acks,
        /// They were there before it came.
        repeated: bool,
    },
    /// It was refused; its answer does not overtake those before it that wait for the same.
    Refused {
        /// What the shell keeps for it, with the reason.
        write: W,
        /// What it would have waited for.
        acks: Acks,
    },
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It counts: with `acks=all` it is committed, with `acks=leader` it is as durable here as its topic asks.
    Acknowledged,
    /// It was refused before anything was appended.
    Refused,
    /// It is in the log, but the in-sync set has become too small since (rule R25).
    NotEnoughReplicas(NotEnoughReplicas),
    /// It is in the log, and other replicas did not confirm it in time.
    TimedOut,
    /// It is in the log, and this node leads no more.
    LeaderLost,
    /// It is in the log, which has failed since.
    LogFailed,
}

/// Whether a write has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEffect {
    /// It has not, and will not.
    None,
    /// It may have, or still may.
    Maybe,
    /// The write has been applied.
    Applied,
}

/// All of them, of one partition.
#[derive(Debug, Clone)]
pub(super) struct Waiters<W> {
    /// With `acks=all`.
    for_all: Line<W>,
    for_leader: Line<W>,
}

/// Those that are answered in order.
#[derive(Debug, Clone)]
struct Line<W> {
    /// Since when they wait, in monotonic time.
    queue: VecDeque<(Duration, Write<W>)>,
    /// So many of the first ones are released.
    released: usize,
}

// === impl WriteOutcome ===

impl WriteOutcome {
    /// Whether the write has happened.
    pub fn effect(self) -> WriteEffect {
        match self {
            Self::Acknowledged => WriteEffect::Applied,
            Self::Refused => WriteEffect::None,
            Self::NotEnoughReplicas(_) | Self::TimedOut | Self::LeaderLost | Self::LogFailed => WriteEffect::Maybe,
        }
    }
}

// === impl Waiters ===

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        let line = || Line { queue: VecDeque::new(), released: 0 };
        Self { for_all: line(), for_leader: line() }
    }
}

impl<W> Waiters<W> {
    pub(super) fn push(&mut self, now: Duration, write: Write<W>) {
        let (Write::Appended { acks, .. } | Write::Refused { acks, .. }) = &write;
        let line = if *acks == Acks::All { &mut self.for_all } else { &mut self.for_leader };
        line.queue.push_back((now, write));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.for_all.queue.is_empty() && self.for_leader.queue.is_empty()
    }

    /// All of them, and how many are released.
    pub(super) fn counts(&self) -> (usize, usize) {
        let Self { for_all, for_leader } = self;
        (for_all.queue.len() + for_leader.queue.len(), for_all.released + for_leader.released)
    }

    /// A write with what became of it, once that is known of the first one of a line. `overdue`: those that came before have
    /// waited for too long.
    pub(super) fn next_answer(
        &mut self,
        leader: &Leader,
        log: &impl ReplicaLog,
        overdue: Option<Duration>,
    ) -> Option<(W, WriteOutcome)> {
        let [for_all, for_leader] = self.lines();
        for_all.next_answer(leader, log, overdue).or_else(|| for_leader.next_answer(leader, log, overdue))
    }

    /// The first write of a line, which hears that the others do not matter any more.
    pub(super) fn pop(&mut self, outcome: WriteOutcome) -> Option<(W, WriteOutcome)> {
        self.lines().into_iter().find_map(|line| line.pop(outcome))
    }

    /// See [`super::Replica::release`].
    pub(super) fn release(&mut self, leader: &Leader, log: &impl ReplicaLog, mut release: impl FnMut(&mut W)) {
        self.lines().into_iter().for_each(|line| line.release(leader, log, &mut release));
    }

    fn lines(&mut self) -> [&mut Line<W>; 2] {
        [&mut self.for_all, &mut self.for_leader]
    }
}

// === impl Line ===

impl<W> Line<W> {
    fn next_answer(
        &mut self,
        leader: &Leader,
        log: &impl ReplicaLog,
        overdue: Option<Duration>,
    ) -> Option<(W, WriteOutcome)> {
        let (since, first) = self.queue.front()?;
        let outcome = match first {
            Write::Refused { .. } => WriteOutcome::Refused,
            Write::Appended { end, acks, repeated, .. } => {
                if leader.answerable(log, *acks, *end, *repeated) {
                    WriteOutcome::Acknowledged
                } else if let Err(missing) = leader.admit(*acks) {
                    WriteOutcome::NotEnoughReplicas(missing)
                } else if overdue.is_some_and(|limit| *since <= limit) {
                    WriteOutcome::TimedOut
                } else {
                    return None;
                }
            }
        };
        self.pop(outcome)
    }

    fn pop(&mut self, outcome: WriteOutcome) -> Option<(W, WriteOutcome)> {
        let (_, first) = self.queue.pop_front()?;
        self.released = self.released.saturating_sub(1);
        Some(match first {
            Write::Appended { write, .. } => (write, outcome),
            Write::Refused { write, .. } => (write, WriteOutcome::Refused),
        })
    }

    fn release(&mut self, leader: &Leader, log: &impl ReplicaLog, mut release: impl FnMut(&mut W)) {
        for (_, waiting) in self.queue.iter_mut().skip(self.released) {
            match waiting {
                Write::Appended { write, end, repeated, .. } => {
                    if !leader.answerable(log, Acks::Leader, *end, *repeated) {
                        return;
                    }
                    release(write);
                }
                Write::Refused { write, .. } => release(write),
            }
            self.released += 1;
        }
    }
}
