//! Threads that wait for the disk, so that log shards do not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use walser_log::DiskCalls;
use walser_model::Clock;
use walser_service::{Shutdown, vital};

use crate::metrics::StorageMetrics;

/// Threads for maintenance that somebody waits for: what takes time is the disk, not the processor.
const PREPARE_THREADS: usize = 2;
const MAINTENANCE_THREADS: usize = 4;

/// Which threads do a job: none of these kinds waits behind another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskLane {
    /// Writes wait for it to be durable.
    Flush,
    /// No write does: each may have a second's worth of page cache to write.
    LazyFlush,
    /// Space ahead of a log. Partitions that grow alike need theirs at the same time, and a flush behind a few of them
    /// would wait for a hundred milliseconds.
    Extend,
    /// Logs are made ready for writes that wait.
    Prepare,
    /// A caller waits for it.
    Awaited,
    /// No caller does: it may remove thousands of files.
    Upkeep,
    /// A log is compacted, which takes as long as reading and writing it does.
    Compact,
}

impl DiskLane {
    /// In the order of their numbers.
    const ALL: [Self; 7] =
        [Self::Flush, Self::LazyFlush, Self::Extend, Self::Prepare, Self::Awaited, Self::Upkeep, Self::Compact];

    /// Whether a call to the disk that takes long says that it hangs. Others write what a second of page cache holds, or
    /// more, or remove thousands of files.
    fn ends_soon(self) -> bool {
        !matches!(self, Self::LazyFlush | Self::Upkeep | Self::Compact)
    }

    /// The name of its threads, and how many there are.
    fn threads(self, flush_threads: usize) -> (&'static str, usize) {
        match self {
            Self::Flush => ("flush", flush_threads),
            Self::LazyFlush => ("flush-lazy", 1),
            Self::Extend => ("extend", 1),
            Self::Prepare => ("prepare", PREPARE_THREADS),
            Self::Awaited => ("maintain", MAINTENANCE_THREADS),
            Self::Upkeep => ("upkeep", 1),
            Self::Compact => ("compact", 1),
        }
    }
}

/// Work that waits for the disk.
pub(crate) trait DiskJob: Send + 'static {
    /// What comes of it.
    type Outcome;

    fn lane(&self) -> DiskLane;

    /// Does the work, for as long as the disk takes.
    fn run(self, clock: &dyn Clock, metrics: &StorageMetrics) -> Self::Outcome;

    /// Does the work, and tells the outcome to the shard that has asked for it.
    fn run_and_tell(self, clock: &dyn Clock, metrics: &StorageMetrics);
}

/// A queue of threads. A partition has at most one flush, one extension and one maintenance in all of them.
#[derive(Debug)]
struct Jobs<J> {
    waiting: Mutex<Waiting<J>>,
    wake: Condvar,
}

#[derive(Debug)]
struct Waiting<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        let waiting = Waiting { jobs: VecDeque::new(), closed: false };
        Self { waiting: Mutex::new(waiting), wake: Condvar::new() }
    }
}

/// A handle to the threads. Clones share them.
#[derive(Debug)]
pub(crate) struct DiskThreads<J> {
    /// By lane.
    lanes: Arc<[Jobs<J>; DiskLane::ALL.len()]>,
}

impl<J> Default for DiskThreads<J> {
    fn default() -> Self {
        Self { lanes: Arc::default() }
    }
}

impl<J> Clone for DiskThreads<J> {
    fn clone(&self) -> Self {
        Self { lanes: Arc::clone(&self.lanes) }
    }
}

impl<J: DiskJob> DiskThreads<J> {
    /// Starts the threads; `flush_threads` of them for flushes.
    pub(crate) fn start(
        flush_threads: usize,
        (clock, metrics): (&Arc<dyn Clock>, &StorageMetrics),
        shutdown: &Shutdown,
    ) -> io::Result<(Self, Vec<std::thread::JoinHandle<()>>)> {
        let disk_threads = Self::default();
        let mut threads = Vec::new();
        for lane in DiskLane::ALL {
            let (name, count) = lane.threads(flush_threads);
            for number in 0..count {
                let (lanes, clock, metrics) = (disk_threads.clone(), Arc::clone(clock), metrics.clone());
                let run = move || {
                    if !lane.ends_soon() {
                        DiskCalls::of_this_thread_may_last();
                    }
                    lanes.jobs(lane).run(&*clock, &metrics);
                };
                threads.push(vital::thread(format!("{name}-{number}"), shutdown, run)?);
            }
        }
        Ok((disk_threads, threads))
    }

    /// Hands over work. Work that comes after [`DiskThreads::close`] is given back.
    pub(crate) fn submit(&self, job: J) -> Option<J> {
        let jobs = self.jobs(job.lane());
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
        for jobs in &*self.lanes {
            jobs.waiting.lock().closed = true;
            jobs.wake.notify_all();
        }
    }

    fn jobs(&self, lane: DiskLane) -> &Jobs<J> {
        &self.lanes[lane as usize]
    }
}

impl<J: DiskJob> Jobs<J> {
    fn next(&self) -> Option<J> {
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
            job.run_and_tell(clock, metrics);
        }
    }
}

#[cfg(test)]
impl<J: DiskJob> DiskThreads<J> {
    /// Jobs that no thread has taken.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.iter().map(|jobs| jobs.waiting.lock().jobs.len()).sum()
    }

    /// Looks at the extensions that no thread has taken.
    pub(crate) fn waiting_extensions<T>(&self, look: impl Fn(&J) -> Option<T>) -> Vec<T> {
        self.jobs(DiskLane::Extend).waiting.lock().jobs.iter().filter_map(look).collect()
    }

    /// Runs one of the waiting jobs on this thread, and returns the outcome.
    pub(crate) fn run_one(&self, mut number: usize, clock: &dyn Clock, metrics: &StorageMetrics) -> Option<J::Outcome> {
        let job = self.lanes.iter().find_map(|jobs| {
            let jobs = &mut jobs.waiting.lock().jobs;
            let job = jobs.remove(number);
            number = number.saturating_sub(jobs.len());
            job
        });
        Some(job?.run(clock, metrics))
    }

    /// Runs the maintenance that waited longest on this thread, and returns the outcome.
    pub(crate) fn maintain_one(&self, clock: &dyn Clock, metrics: &StorageMetrics) -> Option<J::Outcome> {
        let next = |jobs: &Jobs<J>| jobs.waiting.lock().jobs.pop_front();
        let lanes = [DiskLane::Prepare, DiskLane::Awaited, DiskLane::Upkeep, DiskLane::Compact];
        let job = lanes.into_iter().find_map(|lane| next(self.jobs(lane)));
        Some(job?.run(clock, metrics))
    }
}
