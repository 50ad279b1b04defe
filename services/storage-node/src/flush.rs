//! Threads that wait for the disk, so that log shards do not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use walser_log::{Extension, FlushJob};
use walser_model::{Clock, TopicPartition};

use crate::metrics::StorageMetrics;
use crate::shard::{Command, Queue};

/// Work for a flush thread.
#[derive(Debug)]
pub(crate) enum Work {
    /// Make a log durable.
    Flush(FlushJob),
    /// Zero-fill space ahead of a log.
    Extend(Extension),
}

#[derive(Debug)]
struct Job {
    partition: TopicPartition,
    work: Work,
    shard: Arc<Queue>,
}

/// The threads' queue: at most one flush and one extension per partition are in it.
#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

/// A handle to the threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flusher {
    jobs: Arc<(Mutex<Jobs>, Condvar)>,
}

impl Flusher {
    /// Starts the threads.
    pub(crate) fn start(
        count: usize,
        clock: &Arc<dyn Clock>,
        metrics: &StorageMetrics,
    ) -> io::Result<(Self, Vec<std::thread::JoinHandle<()>>)> {
        let flusher = Self::default();
        let mut threads = Vec::new();
        for number in 0..count {
            let (flusher, clock, metrics) = (flusher.clone(), Arc::clone(clock), metrics.clone());
            let builder = std::thread::Builder::new().name(format!("flush-{number}"));
            threads.push(builder.spawn(move || flusher.run(&*clock, &metrics))?);
        }
        Ok((flusher, threads))
    }

    /// Hands over work; the shard is told when it is done.
    pub(crate) fn submit(&self, partition: TopicPartition, work: Work, shard: &Arc<Queue>) {
        let (jobs, wake) = &*self.jobs;
        let job = Job { partition, work, shard: Arc::clone(shard) };
        let mut jobs = jobs.lock();
        // First come, first served: any other order starves somebody while load lasts.
        jobs.waiting.push_back(job);
        drop(jobs);
        wake.notify_one();
    }

    /// Ends the threads once the queue is empty.
    pub(crate) fn close(&self) {
        self.jobs.0.lock().closed = true;
        self.jobs.1.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let (jobs, wake) = &*self.jobs;
        let mut jobs = jobs.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            wake.wait(&mut jobs);
        }
    }

    fn run(&self, clock: &dyn Clock, metrics: &StorageMetrics) {
        while let Some(Job { partition, work, shard }) = self.next() {
            let done = match work {
                Work::Flush(job) => {
                    let start = clock.monotonic();
                    let outcome = job.run();
                    metrics.flushed(clock.monotonic().saturating_sub(start));
                    Command::Flushed { partition, outcome }
                }
                Work::Extend(extension) => {
                    let outcome = extension.run();
                    Command::Extended { partition, extension, outcome }
                }
            };
            shard.push(done);
        }
    }
}
