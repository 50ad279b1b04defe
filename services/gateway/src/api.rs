//! The public services: decode, call, encode.

mod change_log;
mod cluster;
mod consumer;
mod controllers;
mod coordinators;
mod figures;
mod group;
mod group_admin;
mod group_events;
mod group_polls;
mod group_requests;
mod producer;
mod read_answers;
mod reads;
mod set_aside;
mod storage_nodes;
mod stream;
mod topic;
mod truncation;
mod until_stop;
mod wire;

use std::sync::Arc;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use walser_proto::v1::cluster_service_server::ClusterServiceServer;
use walser_proto::v1::consumer_service_server::ConsumerServiceServer;
use walser_proto::v1::group_service_server::GroupServiceServer;
use walser_proto::v1::operation_service_server::OperationServiceServer;
use walser_proto::v1::producer_service_server::ProducerServiceServer;
use walser_proto::v1::topic_service_server::TopicServiceServer;

use walser_model::{Clock, Random};
use walser_rpc::{AcceptCompressed, Connection, Network};
use walser_service::{Shutdown, Tasks};

use crate::config::Config;
use crate::groups::{GroupAdmin, Groups};
use crate::heartbeat::Heartbeats;
use crate::leaders::Leaders;
use crate::metadata::Metadata;
use crate::producing::Producing;
use crate::reading::Reading;
use crate::router::Router;
use crate::topics::Topics;

use self::cluster::ClusterApi;
use self::consumer::ConsumerApi;
use self::group::GroupApi;
use self::group_admin::GroupAdminApi;
use self::producer::ProducerApi;
use self::reads::MESSAGE_BYTES_MAX;
use self::storage_nodes::Backends;
use self::stream::ProduceStreams;
use self::topic::TopicApi;
use self::until_stop::UntilStop;

/// What the health service has a status of; the empty name is the gateway itself.
const HEALTH_NAMES: [&str; 6] = [
    "",
    <ProducerServiceServer<ProducerApi> as NamedService>::NAME,
    <ConsumerServiceServer<ConsumerApi> as NamedService>::NAME,
    <GroupServiceServer<GroupApi> as NamedService>::NAME,
    <TopicServiceServer<TopicApi> as NamedService>::NAME,
    <ClusterServiceServer<ClusterApi> as NamedService>::NAME,
];

/// `google/rpc/status.proto` and `google/rpc/error_details.proto`, for clients that show the details of errors. The
/// descriptors of tonic have the names without the folder; a client that has these files itself would see them twice.
fn error_details() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).expect("tonic's build wrote it");
    for file in &mut set.file {
        if file.package() == "google.rpc" && !file.name().contains('/') {
            file.name = Some(format!("google/rpc/{}", file.name()));
        }
    }
    set
}

/// What the services of the public port work with.
pub(crate) struct PublicParts {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) network: Network,
    pub(crate) controller: Connection,
    pub(crate) metadata: Metadata,
    pub(crate) topics: Topics,
    pub(crate) leaders: Leaders,
    pub(crate) router: Router,
    pub(crate) producing: Producing,
    pub(crate) reading: Reading,
    pub(crate) groups: Groups,
    pub(crate) shutdown: Shutdown,
}

impl PublicParts {
    fn producer(&self) -> ProducerApi {
        let streams = ProduceStreams {
            producing: self.producing.clone(),
            metadata: self.metadata.clone(),
            heartbeats: Heartbeats::new(Arc::clone(&self.clock), Arc::clone(&self.random)),
            clock: Arc::clone(&self.clock),
            config: self.config.clone(),
            shutdown: self.shutdown.clone(),
        };
        ProducerApi { streams }
    }

    fn topic(&self) -> TopicApi {
        TopicApi {
            metadata: self.metadata.clone(),
            topics: self.topics.clone(),
            leaders: self.leaders.clone(),
            router: self.router.clone(),
            positions: self.reading.positions().clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    fn group(&self) -> GroupApi {
        GroupApi {
            groups: self.groups.clone(),
            admin: GroupAdminApi { admin: self.group_admin(), clock: Arc::clone(&self.clock) },
            clock: Arc::clone(&self.clock),
            message_bytes_max: self.config.message_bytes_max,
            shutdown: self.shutdown.clone(),
        }
    }

    fn group_admin(&self) -> GroupAdmin {
        GroupAdmin {
            network: self.network.clone(),
            metadata: self.metadata.clone(),
            topics: self.topics.clone(),
            leaders: self.leaders.clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    fn cluster(&self) -> ClusterApi {
        ClusterApi {
            backends: Backends { network: self.network.clone(), controller: self.controller.clone() },
            metadata: self.metadata.clone(),
            topics: self.topics.clone(),
            leaders: self.leaders.clone(),
            router: self.router.clone(),
        }
    }
}

/// Every public service, with health and reflection.
pub(crate) async fn routes(parts: PublicParts, tasks: &mut Tasks) -> Routes {
    let receive = parts.config.message_bytes_max;
    let (mut reporter, health) = tonic_health::server::health_reporter();
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let (stop, shutdown) = (parts.shutdown.clone(), parts.shutdown.clone());
    tasks.start("health of the services", async move {
        shutdown.wait().await;
        for name in HEALTH_NAMES {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            // Those who watch are told, and their streams end: nobody would end them otherwise.
            reporter.clear_service_status(name).await;
            reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
    });
    let reflect = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(walser_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_file_descriptor_set(error_details())
            .with_service_name("walser.v1.ProducerService")
            .with_service_name("walser.v1.ConsumerService")
            .with_service_name("walser.v1.GroupService")
            .with_service_name("walser.v1.TopicService")
            .with_service_name("walser.v1.ClusterService")
            .with_service_name("walser.v1.OperationService")
            .with_service_name("grpc.health.v1.Health")
    };
    let producer = ProducerServiceServer::new(parts.producer()).max_decoding_message_size(receive);
    let (reading, clock) = (parts.reading.clone(), Arc::clone(&parts.clock));
    let consumer = ConsumerApi { reading, clock, shutdown: parts.shutdown.clone() };
    let consumer = ConsumerServiceServer::new(consumer).max_decoding_message_size(receive);
    let consumer = consumer.max_encoding_message_size(MESSAGE_BYTES_MAX);
    let group = GroupServiceServer::new(parts.group()).max_decoding_message_size(receive);
    let group = group.max_encoding_message_size(MESSAGE_BYTES_MAX);
    let topic = TopicServiceServer::new(parts.topic()).max_decoding_message_size(receive);
    let cluster = ClusterServiceServer::new(parts.cluster()).max_decoding_message_size(receive);
    let operation = OperationServiceServer::new(parts.cluster()).max_decoding_message_size(receive);
    // Answers are not compressed: records already are, and the rest is small.
    let mut routes = Routes::new(AcceptCompressed::new(producer, receive))
        .add_service(AcceptCompressed::new(consumer, receive))
        .add_service(AcceptCompressed::new(group, receive))
        .add_service(AcceptCompressed::new(topic, receive))
        .add_service(AcceptCompressed::new(cluster, receive))
        .add_service(AcceptCompressed::new(operation, receive))
        .add_service(health);
    if let Ok(service) = reflect().build_v1() {
        routes = routes.add_service(UntilStop::new(service, stop.clone()));
    }
    if let Ok(service) = reflect().build_v1alpha() {
        routes = routes.add_service(UntilStop::new(service, stop));
    }
    routes
}
