//! Threads that wait for the disk, so that log shards do not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use walser_log::{Extension, FlushJob};
use walser_model::{Clock, TopicPartition};
use walser_service::{Shutdown, vital};

use crate::metrics::StorageMetrics;
use crate::shard::{Command, Lane, Maintenance, Queue};
use crate::space::SpaceAhead;

/// Threads for maintenance that somebody waits for: what takes time is the disk, not the processor.
const PREPARE_THREADS: usize = 2;
const MAINTENANCE_THREADS: usize = 2;

/// Work for a thread that waits for the disk.
#[derive(Debug)]
pub(crate) enum DiskTask {
    /// Make a log durable. Lazily: no write waits for it.
    Flush { partition: TopicPartition, job: FlushJob, lazy: bool },
    /// Zero-fill space ahead of a log.
    Extend { partition: TopicPartition, extension: Extension, space: SpaceAhead },
    /// Everything else that has to wait.
    Maintain(Box<Maintenance>),
}

/// A task that knows who has to be told.
#[derive(Debug)]
pub(crate) struct Job {
    task: DiskTask,
    shard: Arc<Queue>,
}

/// A queue of threads. A partition has at most one flush, one extension and one maintenance in all of them.
#[derive(Debug, Default)]
struct Jobs {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// A handle to the threads. Flushes for which no write waits have a thread of their own, since each may have a second's
/// worth of page cache to write; so have extensions: partitions that grow alike need them at the same time, and a flush
/// behind a few of them would wait for a hundred milliseconds. Maintenance that makes logs ready for writes has threads that
/// do nothing else, and so has the one that nobody waits for: it may remove thousands of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskThreads {
    flushes: Arc<Jobs>,
    lazy: Arc<Jobs>,
    extensions: Arc<Jobs>,
    prepare: Arc<Jobs>,
    maintenance: Arc<Jobs>,
    upkeep: Arc<Jobs>,
}

impl DiskThreads {
    /// Starts the threads; `flush_threads` of them for flushes.
    pub(crate) fn start(
        flush_threads: usize,
        clock: &Arc<dyn Clock>,
        metrics: &StorageMetrics,
        shutdown: &Shutdown,
    ) -> io::Result<(Self, Vec<std::thread::JoinHandle<()>>)> {
        let disk_threads = Self::default();
        let mut threads = Vec::new();
        for (name, jobs, count) in [
            ("flush", &disk_threads.flushes, flush_threads),
            ("flush-lazy", &disk_threads.lazy, 1),
            ("extend", &disk_threads.extensions, 1),
            ("prepare", &disk_threads.prepare, PREPARE_THREADS),
            ("maintain", &disk_threads.maintenance, MAINTENANCE_THREADS),
            ("upkeep", &disk_threads.upkeep, 1),
        ] {
            for number in 0..count {
                let (jobs, clock, metrics) = (Arc::clone(jobs), Arc::clone(clock), metrics.clone());
                let run = move || jobs.run(&*clock, &metrics);
                threads.push(vital::thread(format!("{name}-{number}"), shutdown, run)?);
            }
        }
        Ok((disk_threads, threads))
    }

    /// Hands over work; the shard is told when it is done. Work that comes after [`DiskThreads::close`] is given back.
    pub(crate) fn submit(&self, task: DiskTask, shard: &Arc<Queue>) -> Option<Job> {
        let jobs = match &task {
            DiskTask::Flush { lazy: false, .. } => &self.flushes,
            DiskTask::Flush { lazy: true, .. } => &self.lazy,
            DiskTask::Extend { .. } => &self.extensions,
            DiskTask::Maintain(maintenance) => match maintenance.lane() {
                Lane::Prepare => &self.prepare,
                Lane::Awaited => &self.maintenance,
                Lane::Upkeep => &self.upkeep,
            },
        };
        let job = Job { task, shard: Arc::clone(shard) };
        let mut waiting = jobs.waiting.lock();
        if waiting.closed {
            return Some(job);
        }
        // First come, first served: any other order starves somebody while load lasts.
        waiting.jobs.push_back(job);
        drop(waiting);
        jobs.wake.notify_one();
        None
    }

    /// Ends the threads once their queues are empty.
    pub(crate) fn close(&self) {
        for jobs in self.all() {
            jobs.waiting.lock().closed = true;
            jobs.wake.notify_all();
        }
    }

    fn all(&self) -> [&Jobs; 6] {
        [&self.flushes, &self.lazy, &self.extensions, &self.prepare, &self.maintenance, &self.upkeep]
    }
}

impl Jobs {
    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
    }

    fn run(&self, clock: &dyn Clock, metrics: &StorageMetrics) {
        while let Some(job) = self.next() {
            let shard = Arc::clone(&job.shard);
            shard.push(job.run(clock, metrics));
        }
    }
}

impl Job {
    /// Does the work, for as long as the disk takes, and returns what the shard is told of it.
    pub(crate) fn run(self, clock: &dyn Clock, metrics: &StorageMetrics) -> Command {
        match self.task {
            DiskTask::Flush { partition, job, .. } => {
                let start = clock.monotonic();
                let outcome = job.run();
                metrics.flushed(clock.monotonic().saturating_sub(start));
                Command::Flushed { partition, outcome }
            }
            DiskTask::Extend { partition, extension, space } => {
                let outcome = extension.run();
                // From now on the disk says itself that it is taken.
                drop(space);
                Command::Extended { partition, extension, outcome }
            }
            DiskTask::Maintain(maintenance) => Command::Returned(maintenance.run()),
        }
    }
}

#[cfg(test)]
impl DiskThreads {
    /// Jobs that no thread has taken.
    pub(crate) fn waiting(&self) -> usize {
        self.all().iter().map(|jobs| jobs.waiting.lock().jobs.len()).sum()
    }

    /// Extensions that no thread has taken.
    pub(crate) fn waiting_extensions(&self) -> Vec<(TopicPartition, Extension)> {
        let waiting = self.extensions.waiting.lock();
        let extension = |job: &Job| match &job.task {
            DiskTask::Extend { partition, extension, .. } => Some((*partition, extension.clone())),
            DiskTask::Flush { .. } | DiskTask::Maintain(_) => None,
        };
        waiting.jobs.iter().filter_map(extension).collect()
    }

    /// Runs one of the waiting jobs on this thread; returns what its shard has to be told.
    pub(crate) fn run_one(&self, mut number: usize, clock: &dyn Clock, metrics: &StorageMetrics) -> Option<Command> {
        let job = self.all().iter().find_map(|jobs| {
            let jobs = &mut jobs.waiting.lock().jobs;
            let job = jobs.remove(number);
            number = number.saturating_sub(jobs.len());
            job
        });
        Some(job?.run(clock, metrics))
    }

    /// Runs the maintenance that waited longest on this thread; returns what its shard has to be told.
    pub(crate) fn maintain_one(&self, clock: &dyn Clock, metrics: &StorageMetrics) -> Option<Command> {
        let next = |jobs: &Jobs| jobs.waiting.lock().jobs.pop_front();
        let job = [&self.prepare, &self.maintenance, &self.upkeep].into_iter().find_map(|jobs| next(jobs));
        Some(job?.run(clock, metrics))
    }
}
