//! A controller, and a storage node that does nothing but register and beat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walser_controller::{Config, Dependencies};
use walser_metadata::View;
use walser_metastore::Metastore;
use walser_model::{SystemClock, SystemRandom, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::topic_service_client::TopicServiceClient;
use walser_rpc::{Connection, ControllerClient, CutOffPatience, FEATURE_LEVELS, MetadataSeen, MetadataStream, Network};
use walser_service::{Metrics, Shutdown};

/// Time within which everything that must happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running controller.
pub(crate) struct Started {
    pub(crate) connection: Connection,
}

/// A registered node that beats with what it has seen.
pub(crate) struct Node {
    connection: Connection,
    pub(crate) epoch: i64,
    seen: Arc<AtomicI64>,
    stats: Arc<Mutex<pb::StorageStats>>,
    /// At the controller at which it has registered.
    pub(crate) quiet: Quiet,
}

/// What a node says with its beats.
struct Said {
    seen: Arc<AtomicI64>,
    quiet: Quiet,
    stats: Arc<Mutex<pb::StorageStats>>,
}

/// Whether a node beats no more at a controller, to which it stays connected. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Quiet(Arc<AtomicBool>);

impl Quiet {
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }
}

pub(crate) fn config() -> Config {
    Config {
        cluster_name: "test".to_owned(),
        replication_factor: 1,
        min_insync_replicas: 1,
        partitions_max: 100_000,
        topic_partitions_max: 20_000,
        session: Duration::from_secs(2),
        beat: Duration::from_millis(200),
        standalone: true,
    }
}

pub(crate) async fn start(store: Arc<dyn Metastore>, config: Config) -> Started {
    let environment = Dependencies {
        store,
        clock: Arc::new(SystemClock::start()),
        random: Arc::new(SystemRandom),
        metrics: Metrics::default(),
    };
    let network = Network::default();
    walser_controller::start(config, environment, &network, Shutdown::new(Duration::ZERO)).await.unwrap();
    Started { connection: network.controller().unwrap() }
}

impl Started {
    pub(crate) fn topics(&self) -> TopicServiceClient<Connection> {
        TopicServiceClient::new(self.connection.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Connection> {
        ClusterServiceClient::new(self.connection.clone())
    }

    pub(crate) fn controller(&self) -> ControllerServiceClient<Connection> {
        ControllerServiceClient::new(self.connection.clone())
    }

    pub(crate) async fn create(&self, name: &str, partition_count: i32) -> pb::Topic {
        let topic = pb::Topic { name: name.to_owned(), partition_count, ..Default::default() };
        let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
        self.topics().create_topic(request).await.unwrap().into_inner().topic.unwrap()
    }

    /// Registers a node; it beats from now on, with the version of the metadata that it follows.
    pub(crate) async fn node(&self, node_id: i32) -> Node {
        self.node_at(node_id, "").await
    }

    /// The same, with an address.
    pub(crate) async fn node_at(&self, node_id: i32, address: &str) -> Node {
        let (incarnation, internal_address) = ("a".to_owned(), address.to_owned());
        let features = Some(FEATURE_LEVELS.into());
        let request =
            pbi::RegisterNodeRequest { node_id, incarnation, internal_address, features, ..Default::default() };
        let epoch = self.controller().register_node(request).await.unwrap().into_inner().node_epoch;
        let seen = Arc::new(AtomicI64::new(0));
        let (following, controller) = (Arc::clone(&seen), ControllerClient::new(self.connection.clone()));
        tokio::spawn(async move {
            let mut stream =
                MetadataStream::open(&controller, MetadataSeen::default(), &CutOffPatience::of(1)).await.unwrap();
            while let Ok(delta) = stream.next_delta().await {
                following.fetch_max(delta.version, Ordering::AcqRel);
            }
        });
        let quiet = Quiet::default();
        // As every node does, it names its disk.
        let disks = vec![pb::DiskStats::default()];
        let stats = pb::StorageStats { disks, set_aside_complete: true, ..Default::default() };
        let node = Node { connection: self.connection.clone(), epoch, seen, stats: Arc::new(Mutex::new(stats)), quiet };
        tokio::spawn(beat(self.controller(), epoch, node.said(node.quiet.clone())));
        node
    }

    /// A node that has registered elsewhere beats here, too.
    pub(crate) async fn hears(&self, node: &Node) -> Quiet {
        let epoch = node.epoch;
        until(&self.connection, |view| view.nodes().any(|(_, known)| known.epoch == epoch)).await;
        let quiet = Quiet::default();
        let first = node.beat_once(self.controller(), Vec::new()).await;
        assert_eq!(first.action, None);
        tokio::spawn(beat(self.controller(), epoch, node.said(quiet.clone())));
        quiet
    }

    /// Waits until this controller leads.
    pub(crate) async fn leads(&self) {
        let leading = async {
            while self.topics().list_topics(pb::ListTopicsRequest::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, leading).await.expect("it never leads")
    }

    /// Waits until the metadata is as it must become.
    pub(crate) async fn until(&self, holds: impl Fn(&View) -> bool) -> View {
        until(&self.connection, holds).await
    }
}

impl Node {
    fn said(&self, quiet: Quiet) -> Said {
        Said { seen: Arc::clone(&self.seen), quiet, stats: Arc::clone(&self.stats) }
    }

    /// It holds so many replicas aside from now on, and whether that is all, and the controller knows it.
    pub(crate) async fn hold_aside(&self, replicas: i32, complete: bool) {
        {
            let mut stats = self.stats.lock();
            (stats.set_aside_count, stats.set_aside_complete) = (replicas, complete);
        }
        self.beat_once(ControllerServiceClient::new(self.connection.clone()), Vec::new()).await;
    }

    /// Beats no more, and waits until the node is fenced.
    pub(crate) async fn leave(&self) {
        self.quiet.begin();
        let epoch = self.epoch;
        until(&self.connection, |view| view.nodes().any(|(_, node)| node.epoch == epoch && node.liveness.fenced)).await;
    }

    /// Waits until the node counts.
    pub(crate) async fn in_service(&self) {
        let epoch = self.epoch;
        until(&self.connection, |view| view.nodes().any(|(_, node)| node.epoch == epoch && !node.liveness.fenced))
            .await;
    }

    /// Confirms that nothing is left of a deleted topic.
    pub(crate) async fn confirm(&self, topic: TopicId) {
        let controller = ControllerServiceClient::new(self.connection.clone());
        self.beat_once(controller, vec![topic]).await;
    }

    async fn beat_once(
        &self,
        mut controller: ControllerServiceClient<Connection>,
        removed: Vec<TopicId>,
    ) -> pbi::NodeSessionResponse {
        let (beats, stream) = mpsc::channel(1);
        let mut answers = controller.node_session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let beat = pbi::NodeSessionRequest {
            node_epoch: self.epoch,
            metadata_version: self.seen.load(Ordering::Acquire),
            removed_topic_ids: removed.into_iter().map(|topic| topic.to_bytes().to_vec().into()).collect(),
            stats: Some(self.stats.lock().clone()),
            ..Default::default()
        };
        beats.send(beat).await.unwrap();
        answers.message().await.unwrap().unwrap()
    }
}

async fn until(connection: &Connection, holds: impl Fn(&View) -> bool) -> View {
    let controller = ControllerClient::new(connection.clone());
    let mut stream = MetadataStream::open(&controller, MetadataSeen::default(), &CutOffPatience::of(1)).await.unwrap();
    let mut view = View::default();
    let waiting = async {
        loop {
            view.apply(stream.next_delta().await.unwrap()).unwrap();
            if holds(&view) {
                return view.clone();
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never becomes so")
}

/// Beats until the controller is gone or does not want it any more.
async fn beat(mut controller: ControllerServiceClient<Connection>, node_epoch: i64, said: Said) {
    let (beats, stream) = mpsc::channel(4);
    let mut answers = controller.node_session(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let Said { seen, quiet, stats } = said;
    loop {
        ticks.tick().await;
        if quiet.0.load(Ordering::Acquire) {
            continue;
        }
        let metadata_version = seen.load(Ordering::Acquire);
        let stats = Some(stats.lock().clone());
        let beat = pbi::NodeSessionRequest { node_epoch, metadata_version, stats, ..Default::default() };
        let sent = beats.send(beat).await;
        match answers.message().await {
            Ok(Some(answer)) if sent.is_ok() && answer.action.is_none() => {}
            _ => return,
        }
    }
}
