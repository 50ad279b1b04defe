//! Threads that wait for the disk, so that log shards do not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use walser_log::{Extension, FlushJob};
use walser_model::{Clock, TopicPartition};
use walser_service::{Shutdown, vital};

use crate::metrics::StorageMetrics;
use crate::shard::{Command, Queue};

/// Work for a flush thread.
#[derive(Debug)]
pub(crate) enum Work {
    /// Make a log durable. Lazily: no write waits for it.
    Flush { job: FlushJob, lazy: bool },
    /// Zero-fill space ahead of a log.
    Extend(Extension),
}

#[derive(Debug)]
struct Job {
    partition: TopicPartition,
    work: Work,
    shard: Arc<Queue>,
}

/// A queue of threads: at most one job per partition is in it.
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
/// behind a few of them would wait for a hundred milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flusher {
    flushes: Arc<Jobs>,
    lazy: Arc<Jobs>,
    extensions: Arc<Jobs>,
}

impl Flusher {
    /// Starts the threads.
    pub(crate) fn start(
        count: usize,
        clock: &Arc<dyn Clock>,
        metrics: &StorageMetrics,
        shutdown: &Shutdown,
    ) -> io::Result<(Self, Vec<std::thread::JoinHandle<()>>)> {
        let flusher = Self::default();
        let mut threads = Vec::new();
        let names = (0..count).map(|number| (format!("flush-{number}"), &flusher.flushes));
        let others = [("flush-lazy".to_owned(), &flusher.lazy), ("extend".to_owned(), &flusher.extensions)];
        for (name, jobs) in names.chain(others) {
            let (jobs, clock, metrics) = (Arc::clone(jobs), Arc::clone(clock), metrics.clone());
            threads.push(vital::thread(name, shutdown, move || jobs.run(&*clock, &metrics))?);
        }
        Ok((flusher, threads))
    }

    /// Hands over work; the shard is told when it is done.
    pub(crate) fn submit(&self, partition: TopicPartition, work: Work, shard: &Arc<Queue>) {
        let jobs = match work {
            Work::Flush { lazy: false, .. } => &self.flushes,
            Work::Flush { lazy: true, .. } => &self.lazy,
            Work::Extend(_) => &self.extensions,
        };
        // First come, first served: any other order starves somebody while load lasts.
        jobs.waiting.lock().jobs.push_back(Job { partition, work, shard: Arc::clone(shard) });
        jobs.wake.notify_one();
    }

    /// Ends the threads once their queues are empty.
    pub(crate) fn close(&self) {
        for jobs in [&self.flushes, &self.lazy, &self.extensions] {
            jobs.waiting.lock().closed = true;
            jobs.wake.notify_all();
        }
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
    fn run(self, clock: &dyn Clock, metrics: &StorageMetrics) -> Command {
        let Self { partition, work, .. } = self;
        match work {
            Work::Flush { job, .. } => {
                let start = clock.monotonic();
                let outcome = job.run();
                metrics.flushed(clock.monotonic().saturating_sub(start));
                Command::Flushed { partition, outcome }
            }
            Work::Extend(extension) => {
                let outcome = extension.run();
                Command::Extended { partition, extension, outcome }
            }
        }
    }
}

#[cfg(test)]
impl Flusher {
    /// Jobs that no thread has taken.
    pub(crate) fn waiting(&self) -> usize {
        self.all().iter().map(|jobs| jobs.waiting.lock().jobs.len()).sum()
    }

    /// Extensions that no thread has taken.
    pub(crate) fn waiting_extensions(&self) -> Vec<(TopicPartition, Extension)> {
        let waiting = self.extensions.waiting.lock();
        let extension = |job: &Job| match &job.work {
            Work::Extend(extension) => Some((job.partition, extension.clone())),
            Work::Flush { .. } => None,
        };
        waiting.jobs.iter().filter_map(extension).collect()
    }

    fn all(&self) -> [&Jobs; 3] {
        [&self.flushes, &self.lazy, &self.extensions]
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
}
