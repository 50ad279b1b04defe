//! A storage node from its start to its end: what it is made of, and in which order.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;
use walser_log::{BootId, DataDirectory};
use walser_model::{Clock, ClusterId, Random};
use walser_proto::internal::v1::replication_service_server::ReplicationServiceServer;
use walser_proto::internal::v1::storage_service_server::StorageServiceServer;
use walser_rpc::{ApiError, ControllerClient, Network, Reason, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Shutdown, Tasks};

use crate::api::{Api, Links, MESSAGE_BYTES_MAX};
use crate::config::Config;
use crate::contact::Contact;
use crate::disk_watch;
use crate::disposal::Disposal;
use crate::engine::{Engine, EngineThreads};
use crate::error::StartError;
use crate::fetch::Fetcher;
use crate::in_process::InProcessStorage;
use crate::metrics::StorageMetrics;
use crate::node::Membership;
use crate::recovery::{OPENERS, Recovered, recover};
use crate::replica_registry::ReplicaRegistry;
use crate::replication::Outbox;
use crate::settling::Settling;
use crate::space::make_room;

/// What comes in from outside.
#[derive(Debug)]
pub struct Dependencies {
    /// Where the data lies, open and so locked; free again when the node has stopped.
    pub directory: DataDirectory,
    pub clock: Arc<dyn Clock>,
    /// Source of randomness for ids.
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
    /// What recovery has found.
    pub recovered: Recovered,
    /// Why nothing may be written: the controller's metadata is not that of this node.
    pub refused: Option<ApiError>,
    engine: EngineThreads,
    tasks: Tasks,
}

/// Starts a storage node: recovers its logs, registers, and serves what metadata says it leads.
///
/// # Errors
/// [`StartError`]; the directory is free again then.
pub async fn start(
    config: Config,
    dependencies: Dependencies,
    network: &Network,
    shutdown: Shutdown,
) -> Result<Started, StartError> {
    let Dependencies { directory, clock, random, metrics, health } = dependencies;
    make_room(&config, &directory)?;
    directory.begin_run(BootId::of_system())?;
    let (logs, recovered) = tokio::task::block_in_place(|| recover(&directory, clock.now_millis(), OPENERS))?;
    let controller = ControllerClient::new(network.controller().ok_or_else(no_controller)?);
    let metrics = StorageMetrics::new(&metrics);
    let registry = ReplicaRegistry::new(config.node, Contact::new(Arc::clone(&clock)));
    registry.names.set_earlier(directory.topic_names());
    let outbox = Outbox::default();
    let (engine, threads) =
        Engine::start(&config, directory, logs, (&registry, Arc::new(outbox.clone())), (clock, &metrics), &shutdown)?;
    let shards = engine.shards.clone();
    let storage = InProcessStorage {
        fetcher: Fetcher::new(config.node, registry.clone(), metrics.clone(), shards.clone(), engine.directory.disk()),
        shards,
        registry: registry.clone(),
    };
    let (node_epoch, disposal) = (Arc::new(AtomicI64::new(0)), Disposal::default());
    let api = Api {
        node: config.node,
        storage: storage.clone(),
        registry: registry.clone(),
        directory: Arc::clone(&engine.directory),
        controller: controller.clone(),
        node_epoch: Arc::clone(&node_epoch),
        disposal: disposal.clone(),
        shutdown: shutdown.clone(),
    };
    let links = Links {
        node: config.node,
        outbox,
        network: network.clone(),
        controller: controller.clone(),
        engine: engine.clone(),
        registry: registry.clone(),
        node_epoch: Arc::clone(&node_epoch),
        shutdown: shutdown.clone(),
    };
    let routes = services(api, links.clone());
    network.register_storage(config.node, local_connection(routes.clone()), Arc::new(storage));

    let membership = Membership {
        settling: Settling::new(config.node, Arc::clone(&engine.clock), config.ready_wait),
        config,
        controller,
        controllers: network.controllers().into_iter().map(ControllerClient::new).collect(),
        network: network.clone(),
        engine,
        registry: registry.clone(),
        metrics: metrics.clone(),
        unopened: recovered.unopened().collect(),
        new_directory: random.bytes(),
        incarnation: ClusterId::from_random(random.bytes()).to_string(),
        disposal: disposal.clone(),
        health: health.clone(),
        view: Arc::default(),
        applied: Arc::default(),
        beat_now: watch::Sender::default(),
        renewing: Arc::new(Mutex::default()),
        node_epoch,
        shutdown: shutdown.clone(),
        sessions: Arc::default(),
    };
    serve(Serving { routes, membership, links, recovered, threads }, shutdown).await
}

/// What a node consists of, before it takes part in the cluster.
struct Serving {
    routes: Routes,
    membership: Membership,
    links: Links,
    recovered: Recovered,
    threads: EngineThreads,
}

/// Takes part in the cluster; returns once the node leads what it can lead.
async fn serve(serving: Serving, shutdown: Shutdown) -> Result<Started, StartError> {
    let Serving { routes, membership, links, mut recovered, threads } = serving;
    let Membership { disposal, health, registry, metrics, .. } = membership.clone();
    let (begun, begins) = oneshot::channel();
    health.set_problems(vec!["registering with the controller".to_owned()]);
    let disposing = disposal.run(membership.engine.shards.clone(), registry.clone(), shutdown.clone());
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.start("stall watch", membership.engine.stalls.clone().watch(shutdown.clone()));
    tasks.start("cluster membership", membership.clone().run(begun));
    tasks.start("disposal of partitions", disposing);
    tasks.start("replication", links.run());
    let begun = begins.await;
    recovered.report(&registry.names);
    if let Ok(Err(error)) = begun {
        drain(threads, tasks).await;
        return Err(error);
    }
    disk_watch::show(&health, &membership);
    let watching = disk_watch::watch(membership, (health, metrics), shutdown.clone());
    tasks.start("disk watch", watching);
    Ok(Started { routes, recovered, refused: registry.writes_refused(), engine: threads, tasks })
}

/// The services of a node, for a listener.
fn services(api: Api, links: Links) -> Routes {
    let replication = ReplicationServiceServer::new(links)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(StorageServiceServer::new(api).max_decoding_message_size(32 << 20)).add_service(replication)
}

fn no_controller() -> StartError {
    StartError::Registration(ApiError::new(Reason::ControllerNotAvailable, "no controller is known"))
}

/// Makes everything durable and ends all tasks and threads.
async fn drain(engine: EngineThreads, tasks: Tasks) {
    engine.stop_shards().await;
    tasks.drain().await;
    engine.join().await;
}

// === impl Started ===

impl Started {
    /// Makes everything durable and ends all tasks and threads. To be called once the stop has begun and no call runs
    /// any more.
    pub async fn drain(self) {
        drain(self.engine, self.tasks).await;
    }
}
