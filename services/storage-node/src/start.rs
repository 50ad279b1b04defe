//! Starting and stopping a storage node.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::service::Routes;
use walser_log::{Checkpoint, DataDirectory, Log};
use walser_model::{Clock, ClusterId, Random};
use walser_proto::internal::v1::storage_service_server::StorageServiceServer;
use walser_rpc::{AppendRoom, Failure, Network, Reason, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, vital};

use crate::api::Api;
use crate::board::Board;
use crate::config::Config;
use crate::disk_watch;
use crate::disposal::Disposal;
use crate::error::StartError;
use crate::fetch::Fetcher;
use crate::flush::Flusher;
use crate::link::LocalLink;
use crate::metrics::StorageMetrics;
use crate::node::Membership;
use crate::recovery::{OPENERS, Recovered, recover};
use crate::shard::{Command, Shard, Surroundings};
use crate::shard_set::{ShardSet, owner};
use crate::space::SpaceGuard;

/// Bytes that a restart reads at most, whatever the number of partitions.
const RECOVERY_BYTES_MAX: u64 = 1 << 30;
/// A shard that does not stop in this time has no thread any more.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What comes in from outside.
#[derive(Debug)]
pub struct Environment {
    /// Where the data lies, open and so locked; free again when the node has stopped.
    pub directory: DataDirectory,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Probes of the process.
    pub health: Health,
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
    let Environment { directory, clock, random, metrics, health } = environment;
    let (logs, mut recovered) = tokio::task::block_in_place(|| recover(&directory, clock.now_millis(), OPENERS))?;
    let controller = network.controller().ok_or_else(no_controller)?;
    let directory = Arc::new(directory);
    let metrics = StorageMetrics::new(&metrics);
    let (flusher, mut threads) = Flusher::start(config.flush_threads, &clock, &metrics, &shutdown)?;
    let around = surroundings(&config, clock, (&directory, &flusher, &metrics))?;
    let (board, space) = (around.board.clone(), around.space.clone());
    board.names.set_earlier(directory.topic_names());
    let shards = start_shards(&config, &around, logs, &mut threads, &shutdown)?;
    let link = LocalLink {
        shards: shards.clone(),
        fetcher: Fetcher::new(config.node, board.clone(), metrics.clone(), shards.clone(), directory.disk()),
    };
    let node_epoch = Arc::new(AtomicI64::new(0));
    let disposal = Disposal::default();
    let api = Api {
        node: config.node,
        link: link.clone(),
        board: board.clone(),
        directory: Arc::clone(&directory),
        controller: controller.clone(),
        node_epoch: Arc::clone(&node_epoch),
        disposal: disposal.clone(),
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(StorageServiceServer::new(api).max_decoding_message_size(32 << 20));
    network.register_storage(config.node, local_connection(routes.clone()), Arc::new(link));

    let membership = Membership {
        config,
        controller,
        shards: shards.clone(),
        board: board.clone(),
        space,
        directory: Arc::clone(&directory),
        metrics: metrics.clone(),
        new_directory: random.bytes(),
        incarnation: ClusterId::from_random(random.bytes()).to_string(),
        disposal: disposal.clone(),
        view: Arc::default(),
        beat_now: Arc::default(),
        renewing: Arc::new(Mutex::default()),
        node_epoch,
    };
    let (begun, begins) = oneshot::channel();
    health.set_problems(vec!["registering with the controller".to_owned()]);
    let disposing = disposal.run(shards.clone(), board.clone(), shutdown.clone());
    let tasks = vec![
        vital::task("cluster membership", &shutdown, membership.clone().run(begun, shutdown.clone())),
        vital::task("disposal of partitions", &shutdown, disposing),
    ];
    let mut stopping = Stopping { shards, flusher, threads, tasks, directory };
    let begun = begins.await;
    recovered.report(&board.names);
    if let Ok(Err(error)) = begun {
        stopping.stop().await;
        return Err(error);
    }
    disk_watch::show(&health, &membership);
    let watching = disk_watch::watch(membership, (health, metrics), shutdown.clone());
    stopping.tasks.push(vital::task("disk watch", &shutdown, watching));
    Ok(Started { routes, recovered, refused: board.writes_refused(), stopping })
}

/// What all shards share.
fn surroundings(
    config: &Config,
    clock: Arc<dyn Clock>,
    (directory, flusher, metrics): (&Arc<DataDirectory>, &Flusher, &StorageMetrics),
) -> Result<Surroundings, StartError> {
    let space = SpaceGuard::new(config.reserve_bytes);
    space.check(directory)?;
    Ok(Surroundings {
        node: config.node,
        directory: Arc::clone(directory),
        board: Board::new(config.node),
        flusher: flusher.clone(),
        clock,
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
