//! Partitions that are with a thread which waits for the disk.
//!
//! While one is away its shard keeps what comes in for it, and carries it out, in order, when it is back. Completions
//! wait with it: nothing is acknowledged meanwhile, and nothing is decided.
//!
//! Invariant: of a partition that is away, the shard has nothing but an [`Away`].

use std::collections::VecDeque;

use walser_log::Log;
use walser_model::TopicPartition;

use super::disk_job::DiskTask;
use super::maintenance::{Maintenance, Outcome, Returned, Task};
use super::{Command, Partition, Settled, Shard};

/// Partitions of a shard that are away at once for what nobody waits for: one thread does that, and those that would only
/// queue for it are better here.
const UPKEEP_AWAY_MAX: usize = 1;

/// What is kept for a partition until it is back.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// It waits here for the end of its flush and its extension, before it is lent.
    parked: Option<(Box<Partition>, Task)>,
    /// It is made ready for writes, for which files may be opened.
    opens_files: bool,
    /// Nobody waits for what is done.
    upkeep: bool,
    /// What is done was not ordered by metadata, and metadata does not wait for it: it may go over a whole log.
    unordered: bool,
    /// Metadata has come in since, which takes effect when it is back.
    ordered: bool,
    /// What came in since. Bounded as the queue of the shard is.
    deferred: VecDeque<Command>,
}

impl Shard {
    /// Has something done with a partition by a thread that waits for the disk; the shard may have none with this id. It
    /// MUST NOT be away.
    pub(super) fn lend(&mut self, id: TopicPartition, task: Task) {
        debug_assert!(!self.away.contains_key(&id), "{id} is lent twice");
        let (opens_files, upkeep) = (matches!(task, Task::Prepare), task.is_upkeep());
        let unordered = upkeep || task.is_of_replica();
        let mut away = Away { opens_files, upkeep, unordered, ..Away::default() };
        self.opening_files += usize::from(opens_files);
        self.upkeep_away += usize::from(upkeep);
        match self.detach(id) {
            Some(partition) if task.needs_idle() && partition.log.is_busy() => away.parked = Some((partition, task)),
            lent => self.hand_over(id, lent, task),
        }
        self.away.insert(id, away);
    }

    fn hand_over(&self, id: TopicPartition, lent: Option<Box<Partition>>, task: Task) {
        let maintenance = Maintenance { id, lent, task, context: self.context.clone() };
        self.submit(DiskTask::Maintain(Box::new(maintenance)));
    }

    /// Has upkeep done, for one partition at a time: one that waits for its turn is here, and not away.
    pub(super) fn lend_for_upkeep(&mut self) {
        if self.context.writes_refused().is_some() {
            self.upkeep_due.clear();
        }
        for _ in 0..self.upkeep_due.len() {
            if self.upkeep_away >= UPKEEP_AWAY_MAX {
                return;
            }
            let Some((id, task)) = self.upkeep_due.pop_front() else { return };
            if self.partitions.contains_key(&id) {
                self.lend(id, task);
            } else if self.away.contains_key(&id) {
                // It is away for something else, and has its turn when it is back.
                self.upkeep_due.push_back((id, task));
            }
        }
    }

    /// Takes a partition out of everything that the shard keeps.
    fn detach(&mut self, id: TopicPartition) -> Option<Box<Partition>> {
        self.incoming.remove(&id);
        self.touched.remove(&id);
        self.ticking.remove(&id);
        self.flushes_due.set(id, None);
        self.short_of_files.retain(|waiting| *waiting != id);
        self.recovery_debt.note(id, 0);
        self.partitions.remove(&id)
    }

    /// Keeps a command for a partition that is away; gives any other one back.
    pub(super) fn defer(&mut self, command: Command) -> Option<Command> {
        let Some(away) = command.partition().and_then(|id| self.away.get_mut(&id)) else { return Some(command) };
        away.ordered |= command.is_of_metadata();
        let Some((mut partition, task)) = away.parked.take() else {
            away.deferred.push_back(command);
            return None;
        };
        let id = partition.log.partition();
        match command {
            Command::Flushed { outcome, .. } => partition.flushed(&outcome, &self.context),
            Command::Extended { extension, outcome, .. } => partition.log.finish_extension(&extension, &outcome),
            other => away.deferred.push_back(other),
        }
        if partition.log.is_busy() {
            away.parked = Some((partition, task));
        } else {
            self.hand_over(id, Some(partition), task);
        }
        None
    }

    /// Keeps something for all partitions that are away.
    pub(super) fn defer_for_all(&mut self, command: impl Fn(TopicPartition) -> Command) {
        for (id, away) in &mut self.away {
            away.deferred.push_back(command(*id));
        }
    }

    /// Has all metadata that came in before take effect, and drops what is given here then. Partitions that are away for
    /// something else keep nothing of it.
    pub(super) fn settle(&mut self, settled: &Settled) {
        for (partition, away) in &mut self.away {
            if away.ordered || !away.unordered {
                away.deferred.push_back(Command::Settled { partition: *partition, settled: settled.clone() });
            }
        }
    }

    /// A partition is back, or gone: what came in for it is carried out. Any of it may lend it again, and then the rest
    /// waits once more.
    pub(super) fn take_back(&mut self, Returned { id, outcome }: Returned) {
        let Some(Away { opens_files, upkeep, deferred, .. }) = self.away.remove(&id) else { return };
        self.opening_files -= usize::from(opens_files);
        self.upkeep_away -= usize::from(upkeep);
        match outcome {
            Outcome::Kept(mut partition) => {
                if let Some(task) = partition.take_left() {
                    self.upkeep_due.push_back((id, task));
                }
                self.attach(id, partition);
            }
            Outcome::Opened { log, metadata } => {
                self.adopt(*log);
                self.install(metadata);
            }
            Outcome::Unopened { metadata, tries, soon } => self.open_later(metadata, tries, soon),
            Outcome::Gone => {}
        }
        for command in deferred {
            self.perform(command);
        }
    }

    /// Takes a log into the shard's care.
    pub(super) fn adopt(&mut self, log: Log) {
        let id = log.partition();
        let partition = Partition::opened(log, self.opened, &self.context);
        self.opened = self.opened.wrapping_add(1);
        self.attach(id, Box::new(partition));
    }

    fn attach(&mut self, id: TopicPartition, partition: Box<Partition>) {
        if partition.ticks() {
            self.ticking.insert(id);
        }
        if partition.has_incoming() {
            self.incoming.insert(id);
        }
        self.touched.insert(id);
        self.partitions.insert(id, partition);
    }
}
