//! A log shard: the one owner of its partitions.
//!
//! [`Shard::turn`] is synchronous and never waits for a disk: it takes what is in the queue, groups appends by
//! partition, writes each group at once, hands flushes to other threads, and answers what is committed. Batching
//! follows from load: while a flush runs, the next group gathers. A thread drives it in production.

mod deadlines;
mod files;
mod partition;
mod queue;
mod recovery_debt;
#[cfg(test)]
mod simulation;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use walser_log::{DataDirectory, Log, LogConfig, LogError, out_of_files};
use walser_model::{Clock, NodeId, TopicPartition};
use walser_replication::Role;

use crate::board::{Board, ShownReplica};
use crate::error::{cannot_open_text, deleted, moved_aside, not_leader};
use crate::flush::{Flusher, Work};
use crate::metrics::StorageMetrics;
use crate::space::SpaceGuard;
use crate::tail::Budget;
use crate::topic_names::NamedPartition;

use deadlines::Deadlines;
use files::{Unopened, Written};
pub(crate) use partition::{Partition, PartitionMetadata, Released};
pub(crate) use queue::{AppendJob, Command, Queue};
use recovery_debt::RecoveryDebt;

/// What a shard shares with the rest of the node.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) node: NodeId,
    pub(crate) directory: Arc<DataDirectory>,
    pub(crate) board: Board,
    pub(crate) flusher: Flusher,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: StorageMetrics,
    pub(crate) space: SpaceGuard,
    pub(crate) retention_check: Duration,
    pub(crate) idle: Duration,
    /// Bytes of log behind the recovery points of one shard's partitions; a restart reads them all.
    pub(crate) recovery_bytes_max: u64,
}

impl Surroundings {
    /// A partition with the name of its topic, for logs.
    pub(crate) fn named(&self, id: TopicPartition) -> NamedPartition {
        self.board.names.partition(id)
    }
}

/// Hashed alike in every run: so is the order in which they are gone through, and a simulation can be replayed.
type Partitions = HashMap<TopicPartition, Partition, BuildHasherDefault<DefaultHasher>>;

/// The owner of some partitions.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) queue: Arc<Queue>,
    around: Surroundings,
    partitions: Partitions,
    /// Partitions with appends that are not written yet.
    incoming: BTreeSet<TopicPartition>,
    /// Partitions that may need a flush or an extension.
    touched: BTreeSet<TopicPartition>,
    /// When partitions are flushed by themselves.
    flushes_due: Deadlines,
    /// Partitions that wait for others, and to whom time matters.
    ticking: BTreeSet<TopicPartition>,
    /// Partitions whose writes wait for other files to be closed, in the order in which they began to.
    short_of_files: VecDeque<TopicPartition>,
    /// Partitions that this node is to lead and whose log could not be opened; they are opened again.
    unopened: BTreeMap<TopicPartition, Unopened>,
    tail_budget: Budget,
    upkeep: upkeep::Schedule,
    recovery_debt: RecoveryDebt,
}

/// What to do until the next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Wait for a command, at most this long.
    For(Duration),
    /// The shard has stopped.
    Stopped,
}

impl Shard {
    pub(crate) fn new(around: Surroundings, tail_bytes: usize, logs: Vec<Log>) -> Self {
        let upkeep = upkeep::Schedule::new(around.clock.now_millis(), around.clock.monotonic(), around.retention_check);
        let mut shard = Self {
            queue: Arc::default(),
            around,
            partitions: Partitions::default(),
            incoming: BTreeSet::new(),
            touched: BTreeSet::new(),
            flushes_due: Deadlines::default(),
            ticking: BTreeSet::new(),
            short_of_files: VecDeque::new(),
            unopened: BTreeMap::new(),
            tail_budget: Budget::new(tail_bytes),
            upkeep,
            recovery_debt: RecoveryDebt::default(),
        };
        for log in logs {
            shard.touched.insert(log.partition());
            shard.adopt(log);
        }
        shard
    }

    /// Runs until the shard is stopped.
    pub(crate) fn run(mut self) {
        loop {
            match self.turn() {
                Wait::For(limit) => self.queue.wait(limit),
                Wait::Stopped => return,
            }
        }
    }

    /// Does everything that can be done now.
    pub(crate) fn turn(&mut self) -> Wait {
        let mut stop = None;
        for command in self.queue.take() {
            match command {
                Command::Append(job) => self.enqueue(job),
                Command::Stop(done) => stop = Some(done),
                other => self.control(other),
            }
        }
        let waiting = self.take_waiting_for_files();
        for partition in waiting.into_iter().chain(std::mem::take(&mut self.incoming)) {
            self.write(partition);
        }
        for partition in std::mem::take(&mut self.touched) {
            self.hand_out_work(partition);
        }
        if let Some(done) = stop {
            self.stop();
            let _ = done.send(());
            return Wait::Stopped;
        }
        self.limit_files();
        if !self.incoming.is_empty() {
            return Wait::For(Duration::ZERO);
        }
        let limit = if self.short_of_files.is_empty() { Duration::MAX } else { files::RETRY };
        let wait = self.keep_up(self.around.clock.monotonic()).min(limit);
        Wait::For(if self.touched.is_empty() { wait } else { Duration::ZERO })
    }

    fn adopt(&mut self, log: Log) {
        let id = log.partition();
        let shown = Arc::new(ShownReplica::new(log.reader(), self.around.metrics.partitions()));
        self.around.board.insert(id, Arc::clone(&shown));
        self.partitions.insert(id, Partition::new(log, shown, self.around.node));
    }

    fn enqueue(&mut self, job: AppendJob) {
        match self.partitions.get_mut(&job.partition) {
            Some(partition) => {
                self.incoming.insert(job.partition);
                partition.incoming.push_back(job);
            }
            None => {
                let refusal = self.around.board.refusal(job.partition);
                job.refuse(refusal, &self.around.metrics);
            }
        }
    }

    fn control(&mut self, command: Command) {
        match command {
            Command::Append(_) | Command::Stop(_) => {}
            Command::Barrier(done) => {
                let _ = done.send(());
            }
            Command::CloseFiles => drop(self.close_files()),
            Command::Install(metadata) => self.install(metadata),
            Command::Resign(id) => self.resign(id),
            Command::Remove { partition, done } => {
                let removed = self.remove(partition);
                let _ = done.send(removed);
            }
            Command::SetAside { partition, done } => {
                let moved = self.set_aside(partition);
                let _ = done.send(moved);
            }
            Command::ServeReads => {
                for partition in self.partitions.values() {
                    partition.shown.serve_reads(partition.log.durable());
                }
            }
            Command::DeleteRecords { partition, before, reply } => {
                if let Some(refused) = self.around.board.writes_refused() {
                    let _ = reply.send(Err(refused));
                    return;
                }
                self.write(partition);
                let board = &self.around.board;
                let outcome = self.partitions.get_mut(&partition).ok_or_else(|| board.refusal(partition));
                let _ = reply.send(outcome.and_then(|found| found.delete_records(before, &self.around)));
                self.touched.insert(partition);
            }
            Command::Damaged { partition, from } => {
                if let Some(found) = self.partitions.get_mut(&partition) {
                    found.note_damage(from, &self.around);
                }
            }
            Command::Repair { partition, reply } => {
                if let Some(refused) = self.around.board.writes_refused() {
                    let _ = reply.send(Err(refused));
                    return;
                }
                let board = &self.around.board;
                let outcome = self.partitions.get_mut(&partition).ok_or_else(|| board.refusal(partition));
                let _ = reply.send(outcome.and_then(|found| found.repair(&self.around)));
                self.touched.insert(partition);
            }
            Command::Flushed { partition, outcome } => {
                if let Some(found) = self.partitions.get_mut(&partition) {
                    found.flushed(&outcome, &self.around);
                    self.touched.insert(partition);
                }
            }
            Command::Extended { partition, extension, outcome } => {
                if let Some(found) = self.partitions.get_mut(&partition) {
                    found.log.finish_extension(&extension, &outcome);
                    self.touched.insert(partition);
                    self.incoming.insert(partition);
                }
            }
        }
    }

    /// Takes what the metadata says of a partition. A log is opened, or begun, for one that this node is to lead.
    fn install(&mut self, metadata: Box<PartitionMetadata>) {
        let id = metadata.partition;
        let tries = self.unopened.remove(&id).map_or(0, |unopened| unopened.tries);
        if !self.partitions.contains_key(&id) {
            if metadata.role(self.around.node) != Role::Lead {
                return;
            }
            if let Err(error) = self.around.directory.take_back(id) {
                tracing::error!(partition = %self.around.named(id), %error, "partition cannot be taken back");
                self.around.board.set_unusable(id, error.to_string());
                self.open_later(metadata, tries, out_of_files(&error));
                return;
            }
            let config = LogConfig::from(&metadata.settings.config);
            let dir = self.around.directory.partition_dir(id);
            let (disk, checkpoint) = (self.around.directory.disk(), self.around.directory.checkpoint());
            let now = self.around.clock.now_millis();
            match Log::open(disk, dir, id, config, checkpoint, now) {
                Ok((log, _)) => self.adopt(log),
                Err(error) => {
                    tracing::error!(partition = %self.around.named(id), %error, "partition cannot be opened");
                    self.around.board.set_unusable(id, cannot_open_text(&error));
                    let soon = matches!(&error, LogError::Io(error) if out_of_files(error));
                    self.open_later(metadata, tries, soon);
                    return;
                }
            }
        }
        let partition = self.partitions.get_mut(&id).expect("it was just adopted");
        partition.install(*metadata, &self.around);
        self.touched.insert(id);
        if partition.ticks() {
            self.ticking.insert(id);
        } else {
            self.ticking.remove(&id);
        }
    }

    fn resign(&mut self, id: TopicPartition) {
        self.unopened.remove(&id);
        self.ticking.remove(&id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.resign(&not_leader(self.around.node), &self.around);
        }
    }

    /// Moves a partition aside with its data, once nothing is in flight for it.
    fn set_aside(&mut self, id: TopicPartition) -> std::io::Result<()> {
        let now = self.around.clock.now_millis();
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.resign(&moved_aside(id), &self.around);
            if partition.log.flush_running() || partition.log.extension_running() {
                return Err(std::io::ErrorKind::ResourceBusy.into());
            }
            if let Ok(Some(job)) = partition.log.begin_flush() {
                partition.flushed(&job.run(), &self.around);
            }
            if partition.log.dirty() && *partition.log.condition() == walser_log::Condition::Healthy {
                return Err(std::io::ErrorKind::ResourceBusy.into());
            }
        }
        let found = self.forget(id);
        match found {
            Some(partition) => self.around.directory.set_aside(partition.log, now),
            None => self.around.directory.set_aside_closed(id, now),
        }
    }

    /// Takes a partition out of everything that the shard keeps.
    fn forget(&mut self, id: TopicPartition) -> Option<Partition> {
        self.unopened.remove(&id);
        self.around.board.remove(id);
        self.incoming.remove(&id);
        self.touched.remove(&id);
        self.ticking.remove(&id);
        self.flushes_due.set(id, None);
        self.short_of_files.retain(|waiting| *waiting != id);
        self.recovery_debt.note(id, 0);
        self.partitions.remove(&id)
    }

    /// Removes a partition with its data, wherever it lies.
    fn remove(&mut self, id: TopicPartition) -> std::io::Result<()> {
        self.around.directory.delete_set_aside(id)?;
        match self.forget(id) {
            Some(mut partition) => {
                partition.resign(&deleted(id), &self.around);
                partition.log.remove()
            }
            None => self.around.directory.remove_partition(id),
        }
    }

    fn write(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        match partition.write(&self.around, &mut self.tail_budget) {
            Written::All => {}
            Written::More => drop(self.incoming.insert(id)),
            Written::ShortOfFiles => self.short_of_files.push_back(id),
        }
        self.touched.insert(id);
    }

    /// Hands flushes and extensions of a partition to the flush threads, and notes when it is to be looked at again. Whatever
    /// changes that MUST put the partition into `touched`.
    fn hand_out_work(&mut self, id: TopicPartition) {
        self.limit_recovery(id);
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if let Some(job) = partition.flush_due(&self.around) {
            let lazy = partition.flushes_lazily();
            self.around.flusher.submit(id, Work::Flush { job, lazy }, &self.queue);
        }
        self.flushes_due.set(id, partition.lazy_flush_at());
        if let Some(extension) = partition.log.begin_extension() {
            // Space that is filled ahead of need must not use up the reserve.
            if !self.around.space.take(extension.len(), &self.around.directory) {
                partition.log.finish_extension(&extension, &Err(std::io::ErrorKind::StorageFull.into()));
                return;
            }
            self.around.flusher.submit(id, Work::Extend(extension), &self.queue);
        }
    }
}

#[cfg(test)]
mod tests;
