use std::path::Path;

use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use walser_log::{DataDirectory, MemoryDisk};
use walser_metadata::MetadataChange;
use walser_metadata::value::{NodeLiveness, PartitionValue, TopicValue};
use walser_model::{NodeId, PartitionIndex, SystemClock, TopicId};
use walser_replication::{PartitionState, ReplicationSessionId};
use walser_rpc::{Network, local_connection};
use walser_service::admin::Health;
use walser_service::{Metrics, Settings, Shutdown};

use super::*;
use crate::contact::Contact;
use crate::disposal::Disposal;
use crate::engine::Engine;
use crate::metrics::StorageMetrics;
use crate::replica_registry::ReplicaRegistry;
use crate::replication::Outbox;
use crate::settling::Settling;
use crate::{Config, KEYS};

const OWN: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);
/// At which this node has registered.
const EPOCH: i64 = 10;

/// A node that has just registered, and what waits for its leaders.
fn registered() -> (Membership, Outbox) {
    let config = Config::from_settings(&Settings::load(&[KEYS], None, |_| None, &[]).unwrap(), 1);
    let directory = DataDirectory::open(Arc::new(MemoryDisk::new(1 << 30)), Path::new("/data"), "test").unwrap();
    let clock = Arc::new(SystemClock::start());
    let (registry, outbox) = (ReplicaRegistry::new(OWN, Contact::new(clock.clone())), Outbox::default());
    let (metrics, shutdown) = (StorageMetrics::new(&Metrics::default()), Shutdown::new(Duration::from_secs(1)));
    let peers = Arc::new(outbox.clone());
    let (engine, threads) =
        Engine::start(&config, directory, Vec::new(), (&registry, peers), (clock, &metrics), &shutdown).unwrap();
    std::mem::forget(threads);
    engine.directory.bind(ClusterId::from_random([7; 16]), OWN, [8; 16]).unwrap();
    let membership = Membership {
        config,
        controller: ControllerClient::new(local_connection(Routes::default())),
        controllers: Vec::new(),
        network: Network::default(),
        engine,
        registry,
        unopened: Arc::default(),
        new_directory: [8; 16],
        metrics,
        incarnation: String::new(),
        disposal: Disposal::default(),
        health: Health::default(),
        settling: Settling::new(NodeId(1), Arc::new(SystemClock::start()), Duration::ZERO),
        view: Arc::default(),
        applied: Arc::default(),
        beat_now: watch::Sender::default(),
        renewing: Arc::new(Mutex::default()),
        node_epoch: Arc::new(EPOCH.into()),
        shutdown,
        sessions: Arc::default(),
    };
    (membership, outbox)
}

/// A controller that stands by may have been asked which has not seen the registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_follows_its_leaders_although_the_first_metadata_is_from_before_its_registration() {
    let (membership, outbox) = registered();
    let id = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
    let topic = TopicValue { name: "t".to_owned(), partition_count: 1, replication_factor: 2, ..TopicValue::default() };
    let isr = std::iter::once(LEADER).collect();
    let state = PartitionState { isr, leader_epoch: LeaderEpoch(3), ..PartitionState::new(vec![LEADER, OWN], 1) };
    let behind = vec![
        MetadataChange::Topic { id: id.topic, value: Arc::new(topic), revision: 5 },
        MetadataChange::Partition { id, value: Box::new(PartitionValue::from(state)), revision: 8 },
    ];
    let behind = Delta { version: EPOCH - 1, snapshot: true, changes: behind };
    membership.act_on(vec![behind], &MetadataSeen::default()).await.unwrap();
    assert!(outbox.to_leader(LEADER).take().is_empty(), "what was true before it registered is not acted on");

    let fenced = NodeLiveness { fenced: true, ..NodeLiveness::default() };
    let registration = vec![
        MetadataChange::Registration { node: OWN, value: Box::default(), revision: EPOCH },
        MetadataChange::Liveness { node: OWN, value: fenced, revision: EPOCH },
    ];
    let registration = Delta { version: EPOCH, snapshot: false, changes: registration };
    membership.act_on(vec![registration], &MetadataSeen::default()).await.unwrap();
    let opened = outbox.to_leader(LEADER).take().remove(&id).and_then(|news| news.open);
    let first = ReplicationSessionId { node_epoch: EPOCH, sequence: 1 };
    assert_eq!(opened.map(|session| session.id), Some(first), "nothing else may ever change in the partition");
}
