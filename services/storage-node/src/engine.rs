//! The engine of one data directory: its log shards, the threads that wait for its disk, its checkpoint and its space.
//!
//! Everything that belongs to a disk is in here and nothing of it is shared with another one: a node with several
//! directories has several engines. What the node knows of its partitions is in the registry, and who it is in
//! [`crate::node`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use walser_log::{Checkpoint, DataDirectory, Log};
use walser_model::Clock;
use walser_rpc::AppendBudget;
use walser_service::{Shutdown, vital};

use crate::compactor::Compactor;
use crate::config::Config;
use crate::copy_pace::CopyPace;
use crate::directory_problem::DirectoryProblem;
use crate::disk_threads::DiskThreads;
use crate::metrics::StorageMetrics;
use crate::replica_registry::ReplicaRegistry;
use crate::replication::Peers;
use crate::retention_clock::RetentionClock;
use crate::shard::{Command, Shard, ShardContext, ShardJob};
use crate::shard_set::{ShardSet, owner};
use crate::space::SpaceGuard;
use crate::stalls::Stalls;

/// Bytes that a restart reads at most of one directory, whatever the number of partitions.
const RECOVERY_BYTES_MAX: u64 = 1 << 30;
/// A shard that does not stop in this time has no thread any more.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// One directory and what works on it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) directory: Arc<DataDirectory>,
    pub(crate) shards: ShardSet,
    pub(crate) space: SpaceGuard,
    problem: DirectoryProblem,
    /// Why it is not where it was opened.
    misplaced: DirectoryProblem,
    retention_clock: RetentionClock,
    pub(crate) stalls: Stalls,
    /// Of the copies that it serves.
    pub(crate) copy_pace: CopyPace,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The threads of an engine.
#[derive(Debug)]
pub(crate) struct EngineThreads {
    engine: Engine,
    disk_threads: DiskThreads<ShardJob>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

// === impl Engine ===

impl Engine {
    /// Starts the threads, with the logs that were found in the directory.
    ///
    /// # Errors
    /// When a thread cannot be started, or the disk does not say how much is free.
    pub(crate) fn start(
        config: &Config,
        directory: DataDirectory,
        logs: Vec<Log>,
        (registry, peers): (&ReplicaRegistry, Arc<dyn Peers>),
        (clock, metrics): (Arc<dyn Clock>, &StorageMetrics),
        shutdown: &Shutdown,
    ) -> std::io::Result<(Self, EngineThreads)> {
        let directory = Arc::new(directory);
        let stalls = Stalls::new(directory.disk_calls().clone(), config.disk_stall);
        let (disk_threads, mut threads) = DiskThreads::start(config.flush_threads, (&clock, metrics), shutdown)?;
        let space = SpaceGuard::new(config.reserve_bytes);
        space.check(&directory)?;
        let (problem, misplaced) = (DirectoryProblem::default(), DirectoryProblem::default());
        let retention_clock = RetentionClock::start(&directory, &*clock);
        let context = ShardContext {
            node: config.node,
            directory: Arc::clone(&directory),
            registry: registry.clone(),
            peers,
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            space: space.clone(),
            misplaced: misplaced.clone(),
            retention_clock: retention_clock.clone(),
            retention_check: config.retention_check,
            compactor: Compactor::new(config.compaction),
            idle: config.idle,
            recovery_bytes_max: RECOVERY_BYTES_MAX / config.shards.max(1) as u64,
        };
        let mut by_shard: Vec<Vec<Log>> = (0..config.shards).map(|_| Vec::new()).collect();
        for log in logs {
            by_shard[owner(log.partition(), config.shards)].push(log);
        }
        let mut shards = Vec::new();
        for (number, logs) in by_shard.into_iter().enumerate() {
            let shard = Shard::new(context.clone(), disk_threads.clone(), config.tail_bytes / config.shards, logs);
            shards.push((Arc::clone(&shard.queue), AppendBudget::new(config.append_bytes_max)));
            threads.push(vital::thread(format!("log-shard-{number}"), shutdown, move || shard.run())?);
        }
        let (shards, copy_pace) = (ShardSet::new(shards), CopyPace::new(Arc::clone(&clock), metrics.clone()));
        let engine = Self { directory, shards, space, problem, misplaced, retention_clock, stalls, copy_pace, clock };
        Ok((engine.clone(), EngineThreads { engine, disk_threads, threads }))
    }

    /// Looks whether the directory is there and has space, and makes marks durable with `sync`. What is wrong is
    /// [`Engine::problem`] until a look finds nothing, at the disk and at a sync; while the directory is not there, nothing is
    /// written. Blocks as long as the disk takes.
    pub(crate) fn look(&self, sync: bool) {
        let sync = sync || self.problem().is_some();
        let in_place = self.directory.check_in_place();
        self.misplaced.set(in_place.as_ref().err().map(ToString::to_string));
        if in_place.is_ok()
            && let Err(error) = self.retention_clock.note(&self.directory, &*self.clock)
        {
            // The note before stands, which is on the safe side.
            tracing::debug!(%error, "the wall clock could not be noted");
        }
        let looked = in_place.and_then(|()| self.space.check(&self.directory));
        let looked = looked.and_then(|()| if sync { Checkpoint::sync(&self.directory.checkpoint()) } else { Ok(()) });
        let (before, problem) = (self.problem.get(), looked.err().map(|error| error.to_string()));
        let path = self.directory.path().display();
        match &problem {
            // It is looked at all the time.
            Some(_) if before == problem => {}
            Some(error) => tracing::error!(%path, error, "the data directory cannot be written or looked at"),
            None if before.is_some() => tracing::info!(%path, "the data directory can be used again"),
            None => {}
        }
        self.problem.set(problem);
    }

    /// Why the directory cannot be used; `None`: it can.
    pub(crate) fn problem(&self) -> Option<String> {
        self.stalls.problem().or_else(|| self.problem.get())
    }
}

// === impl EngineThreads ===

impl EngineThreads {
    /// Makes everything durable and has the shards end. Flushes that others wait for are still done.
    pub(crate) async fn stop_shards(&self) {
        let mut stopped = Vec::new();
        for queue in self.engine.shards.queues() {
            let (done, ended) = oneshot::channel();
            queue.push(Command::Stop(done));
            stopped.push(ended);
        }
        for ended in stopped {
            // A shard whose thread is gone cannot answer; the others are stopped all the same.
            let _ = tokio::time::timeout(STOP_LIMIT, ended).await;
        }
        self.disk_threads.close();
    }

    /// Waits for all threads, and gives the directory back. The shards have been stopped.
    pub(crate) async fn join(self) {
        let Self { engine, threads, .. } = self;
        let finished = tokio::task::spawn_blocking(move || {
            let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count() > 0;
            if panicked {
                engine.directory.leave_unflushed();
            }
            Checkpoint::sync(&engine.directory.checkpoint())?;
            engine.directory.end_run()
        });
        if let Ok(Err(error)) = finished.await {
            tracing::error!(%error, "the checkpoint, or that the directory is closed, could not be written");
        }
    }
}
