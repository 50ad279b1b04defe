//! A log shard: the one owner of its partitions.
//!
//! [`Shard::turn`] is synchronous and never waits for a disk, but for the write of an append itself: it takes what is in
//! the queue, groups appends by partition, writes each group at once, hands flushes to other threads, and answers what is
//! committed. Batching follows from load: while a flush runs, the next group gathers. What else has to wait for the disk
//! is done by other threads, to which the partition is lent. A thread drives it in production.

mod compaction;
mod deadlines;
mod disk_job;
mod files;
mod lending;
mod maintenance;
mod partition;
mod peer_messages;
mod queue;
mod recovery_debt;
mod settled;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod test_context;
mod upkeep;
#[cfg(test)]
mod watched_disk;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use walser_log::{DataDirectory, Log};
use walser_model::{Clock, NodeId, TopicPartition};
use walser_replication::Role;
use walser_rpc::ApiError;

use crate::compactor::{CompactionSeat, Compactor};
use crate::directory_problem::DirectoryProblem;
use crate::disk_threads::{DiskJob as _, DiskThreads};
use crate::error::{directory_failed, not_leader};
use crate::metrics::StorageMetrics;
use crate::replica_registry::ReplicaRegistry;
use crate::replication::Peers;
use crate::retention_clock::RetentionClock;
use crate::space::SpaceGuard;
use crate::tail::Budget;
use crate::topic_names::NamedPartition;

use deadlines::Deadlines;
pub(crate) use disk_job::ShardJob;

use self::disk_job::DiskTask;
use self::settled::Settled;
use files::{Unopened, Written};
use lending::Away;
use maintenance::Task;
pub(crate) use partition::{Partition, PartitionMetadata, Repaired};
use peer_messages::ParkedOpens;
pub(crate) use queue::{AppendJob, Command, Queue};
use recovery_debt::RecoveryDebt;

/// What a shard shares with the rest of the node.
#[derive(Debug, Clone)]
pub(crate) struct ShardContext {
    pub(crate) node: NodeId,
    pub(crate) directory: Arc<DataDirectory>,
    pub(crate) registry: ReplicaRegistry,
    /// The other nodes.
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: StorageMetrics,
    pub(crate) space: SpaceGuard,
    /// Why the directory is not where it was opened.
    pub(crate) misplaced: DirectoryProblem,
    pub(crate) retention_clock: RetentionClock,
    pub(crate) retention_check: Duration,
    pub(crate) compactor: Compactor,
    pub(crate) idle: Duration,
    /// Bytes of log behind the recovery points of one shard's partitions; a restart reads them all.
    pub(crate) recovery_bytes_max: u64,
}

impl ShardContext {
    /// A partition with the name of its topic, for logs.
    pub(crate) fn named(&self, id: TopicPartition) -> NamedPartition {
        self.registry.names.partition(id)
    }

    /// Why nothing may be changed on the disk; `None`: it may.
    pub(crate) fn writes_refused(&self) -> Option<ApiError> {
        self.registry.writes_refused().or_else(|| Some(directory_failed(&self.misplaced.get()?, self.node)))
    }
}

/// Hashed alike in every run: so is the order in which they are gone through, and a simulation can be replayed.
type Partitions = HashMap<TopicPartition, Box<Partition>, BuildHasherDefault<DefaultHasher>>;

/// The owner of some partitions.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) queue: Arc<Queue>,
    context: ShardContext,
    disk_threads: DiskThreads<ShardJob>,
    partitions: Partitions,
    /// Partitions that are with a thread which waits for the disk.
    away: BTreeMap<TopicPartition, Away>,
    /// How many logs were opened so far.
    opened: u32,
    /// How many of them may have a file more when they come back.
    opening_files: usize,
    /// How many of them are away for what nobody waits for, and which are to be next.
    upkeep_away: usize,
    upkeep_due: VecDeque<(TopicPartition, Task)>,
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
    /// When they were tried last, in monotonic time.
    files_tried_at: Duration,
    /// Partitions that this node is to lead and whose log could not be opened; they are opened again.
    unopened: BTreeMap<TopicPartition, Unopened>,
    tail_budget: Budget,
    upkeep: upkeep::Schedule,
    /// Has somebody while one of its partitions is compacted.
    compaction_held: Weak<()>,
    compaction_seat: CompactionSeat,
    /// Of which one it is to begin.
    compaction_begins: Option<TopicPartition>,
    /// Which ones are next, as the last look at all of them has found.
    compaction_candidates: VecDeque<TopicPartition>,
    /// Partitions that were tried since the last look, and of which nothing may be compacted.
    vain_compactions: u32,
    recovery_debt: RecoveryDebt,
    /// Opens of followers that know of a leader epoch before this node does.
    parked_opens: ParkedOpens,
    /// Who waits for the end of the shard, once it has begun.
    stopping: Option<oneshot::Sender<()>>,
    /// When it says again what is left to do, in monotonic time.
    stop_report_at: Option<Duration>,
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
    pub(crate) fn new(
        context: ShardContext,
        disk_threads: DiskThreads<ShardJob>,
        tail_bytes: usize,
        logs: Vec<Log>,
    ) -> Self {
        let upkeep = upkeep::Schedule::new(context.clock.monotonic(), context.retention_check);
        let compaction_seat = context.compactor.seat();
        let mut shard = Self {
            queue: Arc::default(),
            context,
            disk_threads,
            partitions: Partitions::default(),
            away: BTreeMap::new(),
            opened: 0,
            opening_files: 0,
            upkeep_away: 0,
            upkeep_due: VecDeque::new(),
            incoming: BTreeSet::new(),
            touched: BTreeSet::new(),
            flushes_due: Deadlines::default(),
            ticking: BTreeSet::new(),
            short_of_files: VecDeque::new(),
            files_tried_at: Duration::ZERO,
            unopened: BTreeMap::new(),
            tail_budget: Budget::new(tail_bytes),
            upkeep,
            compaction_held: Weak::new(),
            compaction_seat,
            compaction_begins: None,
            compaction_candidates: VecDeque::new(),
            vain_compactions: 0,
            recovery_debt: RecoveryDebt::default(),
            parked_opens: ParkedOpens::default(),
            stopping: None,
            stop_report_at: None,
        };
        logs.into_iter().for_each(|log| shard.adopt(log));
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
        for command in self.queue.take() {
            self.perform(command);
        }
        let waiting = self.take_waiting_for_files();
        for partition in waiting.into_iter().chain(std::mem::take(&mut self.incoming)) {
            if self.write(partition) {
                self.incoming.insert(partition);
            }
        }
        for partition in std::mem::take(&mut self.touched) {
            self.submit_disk_jobs(partition);
        }
        if self.stopping.is_some() {
            return self.wind_up();
        }
        self.limit_files();
        let busy = !self.incoming.is_empty();
        let limit = if self.short_of_files.is_empty() { Duration::MAX } else { files::RETRY };
        let wait = self.keep_up(self.context.clock.monotonic()).min(limit);
        Wait::For(if self.touched.is_empty() && !busy { wait } else { Duration::ZERO })
    }

    fn enqueue(&mut self, job: AppendJob) {
        match self.partitions.get_mut(&job.partition) {
            Some(partition) => {
                self.incoming.insert(job.partition);
                partition.incoming.push_back(job);
            }
            None => {
                let refusal = self.context.registry.refusal(job.partition);
                job.refuse(refusal, &self.context.metrics);
            }
        }
    }

    fn perform(&mut self, command: Command) {
        let command = if self.stopping.is_some() { self.finish_command(command) } else { Some(command) };
        let Some(command) = command.and_then(|command| self.defer(command)) else { return };
        match command {
            Command::Append(job) => self.enqueue(job),
            Command::Stop(done) => self.stopping = Some(done),
            Command::Settled { settled, .. } => drop(settled),
            Command::Barrier(done) => self.settle(&Settled::new(done)),
            Command::CloseFiles => drop(self.close_files()),
            Command::Returned(returned) => self.take_back(returned),
            Command::Install(metadata) => self.install(metadata),
            Command::Resign(id) => self.resign(id),
            Command::FromPeer { partition, said } => self.hear(partition, said),
            Command::Heard { node, node_epoch } => self.hear_of(node, node_epoch),
            Command::Remove { done, .. } | Command::SetAside { done, .. } if self.context.misplaced.get().is_some() => {
                // What is at its path now is not what is meant.
                let _ = done.send(Err(std::io::ErrorKind::NotFound.into()));
            }
            Command::Remove { partition, done } => {
                self.unopened.remove(&partition);
                self.lend(partition, Task::Remove { done });
            }
            Command::SetAside { partition, done } => {
                self.unopened.remove(&partition);
                self.lend(partition, Task::SetAside { done });
            }
            Command::ServeReads => {
                self.partitions.values().for_each(|partition| partition.serve_reads());
                self.defer_for_all(Command::ServeReadsOf);
            }
            Command::ServeReadsOf(id) => self.partitions.get(&id).into_iter().for_each(|found| found.serve_reads()),
            Command::CheckRepair { partition: id, reply } => {
                let found = self.partitions.get(&id).ok_or_else(|| self.context.registry.refusal(id));
                drop(reply.send(found.and_then(|found| found.check_repair(&self.context))));
            }
            Command::DeleteRecords { .. } | Command::Repair { .. } => self.change_log(command),
            Command::Damaged { partition, from, generation } => {
                let found = self.partitions.get_mut(&partition).filter(|found| found.log.generation() == generation);
                if found.is_some_and(|found| found.note_damage(from, &self.context)) {
                    self.lend(partition, Task::KeepDamage);
                }
            }
            Command::FileMissing(id) if self.partitions.contains_key(&id) => self.lend(id, Task::LookForFiles),
            Command::FileMissing(_) => {}
            Command::ReadFailed { partition, problem, generation } => {
                let found = self.partitions.get_mut(&partition).filter(|found| found.log.generation() == generation);
                if let Some(found) = found {
                    found.read_failed(&problem, &self.context);
                    self.touched.insert(partition);
                }
            }
            Command::CompactionAdvanced { partition, compacting, step } => {
                self.compaction_advanced(partition, compacting, step);
            }
            Command::Flushed { partition, outcome } => {
                if let Some(found) = self.partitions.get_mut(&partition) {
                    found.flushed(&outcome, &self.context);
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

    /// Has a thread delete records, or give up damaged ones, behind the writes that came before.
    fn change_log(&mut self, command: Command) {
        let Some(id) = command.partition() else { return };
        while self.write(id) {}
        let Some(command) = self.defer(command) else { return };
        let (registry, refused) = (&self.context.registry, self.context.writes_refused());
        let refused = refused.or_else(|| (!self.partitions.contains_key(&id)).then(|| registry.refusal(id)));
        match (command, refused) {
            (Command::DeleteRecords { reply, .. }, Some(refused)) => drop(reply.send(Err(refused))),
            (Command::Repair { reply, .. }, Some(refused)) => drop(reply.send(Err(refused))),
            (Command::DeleteRecords { before, reply, .. }, None) => {
                self.lend(id, Task::DeleteRecords { before, reply });
            }
            (Command::Repair { epoch, reply, .. }, None) => self.lend(id, Task::Repair { epoch, reply }),
            _ => {}
        }
    }

    /// Takes what the metadata says of a partition. A log is opened, or begun, for one that this node is to lead or follow.
    fn install(&mut self, metadata: Box<PartitionMetadata>) {
        let id = metadata.partition;
        let tries = self.unopened.remove(&id).map_or(0, |unopened| unopened.tries);
        let Some(partition) = self.partitions.get_mut(&id) else {
            if matches!(metadata.role(self.context.node), Role::Lead | Role::Follow) {
                self.lend(id, Task::Open { metadata, tries });
            }
            return;
        };
        partition.install(*metadata, &self.context);
        self.touched.insert(id);
        if partition.ticks() {
            self.ticking.insert(id);
        } else {
            self.ticking.remove(&id);
        }
        self.open_parked(id);
    }

    fn resign(&mut self, id: TopicPartition) {
        self.unopened.remove(&id);
        self.ticking.remove(&id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.resign(&not_leader(self.context.node), &self.context);
            self.touched.insert(id);
        }
    }

    /// Writes what has come in for a partition; returns whether more is left that can be written at once.
    fn write(&mut self, id: TopicPartition) -> bool {
        let Some(partition) = self.partitions.get_mut(&id) else { return false };
        let mut written = partition.write(&self.context, &mut self.tail_budget);
        // The other half is also what a flush opens, and without flushes no file could ever be closed.
        let opens = written == Written::Unprepared && partition.log.open_files() == 0;
        if opens && self.context.above_file_share(self.opening_files) {
            written = partition.wait_for_files(&self.context);
        }
        match written {
            Written::All | Written::More => {}
            Written::ShortOfFiles => self.short_of_files.push_back(id),
            Written::Unprepared => {
                self.lend(id, Task::Prepare);
                return false;
            }
        }
        self.touched.insert(id);
        written == Written::More
    }

    /// Hands flushes and extensions of a partition to the flush threads, and notes when it is to be looked at again. Whatever
    /// changes that MUST put the partition into `touched`.
    fn submit_disk_jobs(&mut self, id: TopicPartition) {
        self.limit_recovery(id);
        self.go_on_compacting(id);
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if let Some(task) = partition.next_task(&self.context) {
            return self.lend(id, task);
        }
        let lazy = partition.flushes_lazily();
        let flush = partition.flush_due(&self.context).map(|job| DiskTask::Flush { partition: id, job, lazy });
        self.flushes_due.set(id, partition.lazy_flush_at());
        let extend = partition.log.begin_extension().and_then(|extension| {
            // Space that is filled ahead of need must not use up the reserve.
            let Some(space) = self.context.space.take_ahead(extension.len(), &self.context.directory) else {
                partition.log.finish_extension(&extension, &Err(std::io::ErrorKind::StorageFull.into()));
                return None;
            };
            Some(DiskTask::Extend { partition: id, extension, space })
        });
        flush.into_iter().chain(extend).for_each(|task| self.submit(task));
    }

    /// Hands work to a thread that waits for the disk. Once those have ended, this one does it: the shard stops as well.
    fn submit(&self, task: DiskTask) {
        let shard = Arc::clone(&self.queue);
        if let Some(job) = self.disk_threads.submit(ShardJob { task, shard }) {
            self.queue.push(job.run(&*self.context.clock, &self.context.metrics));
        }
    }
}

#[cfg(test)]
mod tests;
