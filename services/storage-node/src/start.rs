//! Starting and stopping a storage node.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::service::Routes;
use walser_log::{Checkpoint, DataDirectory, Disk, Log, LogConfig};
use walser_model::{Clock, ClusterId, Random, Timestamp, TopicConfig, TopicPartition};
use walser_proto::internal::v1::storage_service_server::StorageServiceServer;
use walser_rpc::{AppendRoom, Failure, Network, Reason, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, vital};

use crate::api::Api;
use crate::board::Board;
use crate::config::Config;
use crate::disposal::Disposal;
use crate::error::StartError;
use crate::fetch::Fetcher;
use crate::flush::Flusher;
use crate::link::LocalLink;
use crate::metrics::StorageMetrics;
use crate::node::Membership;
use crate::shard::{Command, Shard, Surroundings};
use crate::shard_set::{ShardSet, owner};
use crate::space::SpaceGuard;

/// How often the disk is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(1);
/// How often written marks are made durable by themselves.
const MARKS_SYNC: Duration = Duration::from_secs(5);

/// Bytes that a restart reads at most, whatever the number of partitions.
const RECOVERY_BYTES_MAX: u64 = 1 << 30;
/// Logs that are opened at once: what takes time is the disk.
const OPENERS: usize = 8;

/// A shard that does not stop in this time has no thread any more.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What comes in from outside.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Where the data lies.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Probes of the process.
    pub health: Health,
}

/// What the start found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Partitions with data.
    pub partitions: usize,
    /// Records in them.
    pub records: i64,
    /// Segments that had to be read, because the last stop was not clean.
    pub checked_segments: usize,
    /// Torn ends that were cut, in words.
    pub cut: Vec<String>,
    /// Damage, in words.
    pub damaged: Vec<String>,
}

/// A running storage node.
#[derive(Debug)]
pub struct Started {
    /// Its services, for a listener.
    pub routes: Routes,
    /// What it found.
    pub recovered: Recovered,
    /// Why nothing may be written: the controller's metadata is not that of this node.
    pub refused: Option<Failure>,
    /// To stop it.
    pub stopping: Stopping,
}

/// Stops a storage node.
#[derive(Debug)]
pub struct Stopping {
    shards: ShardSet,
    flusher: Flusher,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    directory: Arc<DataDirectory>,
}

/// Starts a storage node: recovers its logs, registers, and serves what metadata says it leads.
///
/// # Errors
/// [`StartError`]; the directory is free again then.
pub async fn start(
    config: Config,
    environment: Environment,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, StartError> {
    let note = format!("pid {} (walser)", std::process::id());
    let directory = DataDirectory::open(Arc::clone(&environment.disk), &config.data, &note)?;
    let (logs, recovered) = tokio::task::block_in_place(|| recover(&directory, environment.clock.now_millis()))?;
    let controller = network.controller().ok_or_else(no_controller)?;
    let directory = Arc::new(directory);
    let metrics = StorageMetrics::new(&environment.metrics);
    let (flusher, mut threads) = Flusher::start(config.flush_threads, &environment.clock, &metrics, &shutdown)?;
    let around = surroundings(&config, &environment, (&directory, &flusher, &metrics))?;
    let (board, space) = (around.board.clone(), around.space.clone());
    let shards = start_shards(&config, &around, logs, &mut threads, &shutdown)?;
    let link = LocalLink {
        shards: shards.clone(),
        fetcher: Fetcher::new(config.node, board.clone(), metrics.clone(), shards.clone(), directory.disk()),
    };
    let node_epoch = Arc::new(AtomicI64::new(0));
    let api = Api {
        node: config.node,
        link: link.clone(),
        board: board.clone(),
        directory: Arc::clone(&directory),
        controller: controller.clone(),
        node_epoch: Arc::clone(&node_epoch),
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(StorageServiceServer::new(api).max_decoding_message_size(32 << 20));
    network.register_storage(config.node, local_connection(routes.clone()), Arc::new(link));

    let disposal = Disposal::default();
    let membership = Membership {
        config,
        controller,
        shards: shards.clone(),
        board: board.clone(),
        space,
        directory: Arc::clone(&directory),
        metrics: metrics.clone(),
        new_directory: environment.random.bytes(),
        incarnation: ClusterId::from_random(environment.random.bytes()).to_string(),
        disposal: disposal.clone(),
        renewing: Arc::new(Mutex::default()),
        node_epoch,
    };
    let (begun, begins) = oneshot::channel();
    environment.health.set_problems(vec!["registering with the controller".to_owned()]);
    let disposing = disposal.run(shards.clone(), board.clone(), shutdown.clone());
    let tasks = vec![
        vital::task("cluster membership", &shutdown, membership.clone().run(begun, shutdown.clone())),
        vital::task("disposal of partitions", &shutdown, disposing),
    ];
    let mut stopping = Stopping { shards, flusher, threads, tasks, directory };
    if let Ok(Err(error)) = begins.await {
        stopping.stop().await;
        return Err(error);
    }
    environment.health.set_problems(problems(&board));
    let watching = watch_disk(membership, (environment.health, metrics), shutdown.clone());
    stopping.tasks.push(vital::task("disk watch", &shutdown, watching));
    Ok(Started { routes, recovered, refused: board.writes_refused(), stopping })
}

/// What all shards share.
fn surroundings(
    config: &Config,
    environment: &Environment,
    (directory, flusher, metrics): (&Arc<DataDirectory>, &Flusher, &StorageMetrics),
) -> Result<Surroundings, StartError> {
    let space = SpaceGuard::new(config.reserve_bytes);
    space.check(directory)?;
    Ok(Surroundings {
        node: config.node,
        directory: Arc::clone(directory),
        board: Board::new(config.node),
        flusher: flusher.clone(),
        clock: Arc::clone(&environment.clock),
        metrics: metrics.clone(),
        space,
        retention_check: config.retention_check,
        idle: config.idle,
        recovery_bytes_max: RECOVERY_BYTES_MAX / config.shards.max(1) as u64,
    })
}

fn no_controller() -> StartError {
    StartError::Registration(Failure::new(Reason::ControllerNotAvailable, "no controller is known"))
}

/// What keeps the node from being ready.
fn problems(board: &Board) -> Vec<String> {
    let refused = board.writes_refused().map(|failure| format!("{}: {failure}", failure.reason_name()));
    let partitions = board.problems().into_iter();
    refused.into_iter().chain(partitions.map(|(id, problem)| format!("partition {id}: {}", problem.text))).collect()
}

/// What became of opening one log.
type Opened = Result<(Log, walser_log::Recovery), walser_log::LogError>;

/// Opens every log that lies in the directory.
pub(crate) fn recover(directory: &DataDirectory, now: Timestamp) -> Result<(Vec<Log>, Recovered), StartError> {
    // Partitions whose directory is gone are found by their marks: that is damage, not an empty log.
    let wanted = directory.partitions_to_open()?;
    let mut recovered = Recovered::default();
    let mut logs = Vec::new();
    for (partition, opened) in open_all(directory, &wanted, now) {
        recovered.partitions += 1;
        match opened {
            Ok((log, found)) => {
                recovered.note(&log, found);
                logs.push(log);
            }
            // The others are served; this one answers with the reason.
            Err(error) => recovered.damaged.push(format!("{partition}: cannot be opened: {error}")),
        }
    }
    Ok((logs, recovered))
}

/// Opens logs on several threads, and returns them in the order of `wanted`.
fn open_all(directory: &DataDirectory, wanted: &[TopicPartition], now: Timestamp) -> Vec<(TopicPartition, Opened)> {
    let open = |partition: TopicPartition| {
        let config = LogConfig::from(&TopicConfig::default());
        let dir = directory.partition_dir(partition);
        Log::open(directory.disk(), dir, partition, config, directory.checkpoint(), now)
    };
    let share = wanted.len().div_ceil(OPENERS).max(1);
    std::thread::scope(|threads| {
        let openers: Vec<_> = wanted
            .chunks(share)
            .map(|chunk| threads.spawn(move || chunk.iter().map(|partition| (*partition, open(*partition))).collect()))
            .collect();
        let joined = openers.into_iter().map(|opener| opener.join());
        joined
            .flat_map(|opened: std::thread::Result<Vec<_>>| match opened {
                Ok(opened) => opened,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

impl Recovered {
    /// Adds a log that was opened.
    fn note(&mut self, log: &Log, found: walser_log::Recovery) {
        let partition = log.partition();
        self.records += log.log_end().since(log.log_start());
        self.checked_segments += found.scanned_segments;
        if found.rebuilt_epochs {
            tracing::warn!(%partition, "the leader epochs were missing or damaged, and were made again");
        }
        if let Some(cut) = found.cut {
            let kept = cut.kept_in.display();
            let text = format!("{partition}: cut {} torn bytes at offset {}, kept in {kept}", cut.bytes, cut.offset);
            tracing::warn!(%partition, offset = %cut.offset, bytes = cut.bytes, "torn end cut");
            self.cut.push(text);
        }
        if let Some(damage) = found.damage {
            let text = format!("{partition}: records from offset {} to {} are damaged", damage.from, damage.durable);
            tracing::error!(%partition, from = %damage.from, durable = %damage.durable, "durable records are damaged");
            self.damaged.push(text);
        }
    }
}

fn start_shards(
    config: &Config,
    around: &Surroundings,
    logs: Vec<Log>,
    threads: &mut Vec<std::thread::JoinHandle<()>>,
    shutdown: &Shutdown,
) -> Result<ShardSet, StartError> {
    let mut by_shard: Vec<Vec<Log>> = (0..config.shards).map(|_| Vec::new()).collect();
    for log in logs {
        by_shard[owner(log.partition(), config.shards)].push(log);
    }
    let mut shards = Vec::new();
    for (number, logs) in by_shard.into_iter().enumerate() {
        let shard = Shard::new(around.clone(), config.tail_bytes / config.shards, logs);
        shards.push((Arc::clone(&shard.queue), AppendRoom::new(config.append_bytes_max)));
        threads.push(vital::thread(format!("log-shard-{number}"), shutdown, move || shard.run())?);
    }
    Ok(ShardSet::new(shards))
}

/// Looks at free space and failed partitions, and makes written marks durable now and then.
async fn watch_disk(membership: Membership, (health, metrics): (Health, StorageMetrics), shutdown: Shutdown) {
    let directory = Arc::clone(&membership.directory);
    if let Err(error) = directory.take_ballast() {
        tracing::warn!(%error, "the ballast could not be taken");
    }
    let mut ticks = tokio::time::interval(SPACE_CHECK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since_sync = Duration::ZERO;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.wait() => return,
        }
        since_sync += SPACE_CHECK;
        let sync = since_sync >= MARKS_SYNC;
        if sync {
            since_sync = Duration::ZERO;
        }
        let (directory, space) = (Arc::clone(&directory), membership.space.clone());
        let checked = tokio::task::spawn_blocking(move || {
            space.check(&directory)?;
            if sync { Checkpoint::sync(&directory.checkpoint()) } else { Ok(()) }
        });
        let checked = checked.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Ok(()),
        });
        let mut problems = problems(&membership.board);
        if let Err(error) = checked {
            tracing::error!(%error, "the data directory cannot be written or looked at");
            problems.push(format!("data directory {}: {error}", membership.directory.path().display()));
        }
        let aside = membership.directory.set_aside_partitions();
        metrics.set_aside(aside.len(), aside.iter().map(|aside| aside.size_bytes).sum());
        health.set_problems(problems);
        metrics.set_disk_full(membership.space.full());
    }
}

// === impl Stopping ===

impl Stopping {
    /// Makes everything durable and ends all threads.
    pub async fn stop(self) {
        let mut stopped = Vec::new();
        for queue in self.shards.queues() {
            let (done, ended) = oneshot::channel();
            queue.push(Command::Stop(done));
            stopped.push(ended);
        }
        for ended in stopped {
            // A shard whose thread is gone cannot answer; the others are stopped all the same.
            let _ = tokio::time::timeout(STOP_LIMIT, ended).await;
        }
        self.flusher.close();
        for task in self.tasks {
            // They end with the stop that has begun.
            let _ = tokio::time::timeout(STOP_LIMIT, task).await;
        }
        let threads = self.threads;
        let directory = self.directory;
        let finished = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
            Checkpoint::sync(&directory.checkpoint())
        });
        if let Ok(Err(error)) = finished.await {
            tracing::error!(%error, "the checkpoint could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use walser_log::MemoryDisk;
    use walser_model::{Compression, LeaderEpoch, Offset, PartitionIndex, TopicId};
    use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields, stamp_position};

    use super::*;

    fn open(disk: &MemoryDisk) -> DataDirectory {
        DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap()
    }

    /// Partitions with one durable record each.
    fn filled(partition_count: i32) -> MemoryDisk {
        let disk = MemoryDisk::simulated(1 << 30);
        let directory = open(&disk);
        let mut builder = BatchBuilder::new(Compression::None, 200);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[7; 100]), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, Offset::ZERO, LeaderEpoch(1));
        let header = BatchHeader::parse(&batch).unwrap();
        for number in 0..partition_count {
            let partition = TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(number));
            let config = LogConfig::from(&TopicConfig::default());
            let dir = directory.partition_dir(partition);
            let opened = Log::open(directory.disk(), dir, partition, config, directory.checkpoint(), 0);
            let (mut log, _) = opened.unwrap();
            log.append(&batch, &[header], 0).map_err(|(_, error)| error).unwrap();
            let job = log.begin_flush().unwrap().unwrap();
            log.finish_flush(&job.run()).unwrap();
        }
        disk
    }

    #[test]
    fn the_syncs_of_a_start_after_a_kill_do_not_grow_with_the_partitions() {
        let syncs = [1, 1_000].map(|partition_count| {
            let disk = filled(partition_count).restart_process();
            let (logs, recovered) = recover(&open(&disk), 0).unwrap();
            assert_eq!(logs.len(), usize::try_from(partition_count).unwrap());
            assert_eq!(recovered.records, i64::from(partition_count));
            assert!(logs.iter().all(|log| log.open_files() == 0 && log.durable() == Offset(1)));
            disk.sync_count()
        });
        assert_eq!(syncs[0], syncs[1]);
    }
}
