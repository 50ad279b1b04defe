//! The public services: decode, call, encode.

mod change_log;
mod cluster;
mod consumer;
mod figures;
mod producer;
mod set_aside;
mod storage_nodes;
mod stream;
mod topic;
mod until_stop;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use walser_proto::v1::cluster_service_server::ClusterServiceServer;
use walser_proto::v1::consumer_service_server::ConsumerServiceServer;
use walser_proto::v1::operation_service_server::OperationServiceServer;
use walser_proto::v1::producer_service_server::ProducerServiceServer;
use walser_proto::v1::topic_service_server::TopicServiceServer;

use walser_rpc::{AcceptCompressed, Failure, Reason};

use crate::Gateway;
use until_stop::UntilStop;

/// What the health service has a status of; the empty name is the gateway itself.
const HEALTH_NAMES: [&str; 5] = [
    "",
    <ProducerServiceServer<Gateway> as NamedService>::NAME,
    <ConsumerServiceServer<Gateway> as NamedService>::NAME,
    <TopicServiceServer<Gateway> as NamedService>::NAME,
    <ClusterServiceServer<Gateway> as NamedService>::NAME,
];

/// Largest message that the gateway sends: a chunk for a client that takes more than the default.
const SEND_BYTES_MAX: usize = 64 << 20;

/// An answer of another service as the caller gets it: always with details, also when the connection made the error.
fn relayed(status: Status) -> Status {
    // Without details nobody has answered: the connection is gone.
    if status.code() == Code::Unavailable && status.details().is_empty() {
        let text = "the controller does not answer; topics that are open go on";
        return Failure::new(Reason::ControllerNotAvailable, text).into();
    }
    Failure::from(status).into()
}

/// The end of a stream that is not complete because the gateway stops.
pub(crate) fn draining() -> Failure {
    let text = "the gateway stops; open the stream again and go on where it ended";
    Failure::new(Reason::GatewayDraining, text)
}

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

/// Every public service, with health and reflection.
pub(crate) async fn routes(gateway: Gateway) -> Routes {
    let receive = gateway.config.message_bytes_max;
    let (mut reporter, health) = tonic_health::server::health_reporter();
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let (stop, shutdown) = (gateway.shutdown.clone(), gateway.shutdown.clone());
    tokio::spawn(async move {
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
            .with_service_name("walser.v1.TopicService")
            .with_service_name("walser.v1.ClusterService")
            .with_service_name("walser.v1.OperationService")
            .with_service_name("grpc.health.v1.Health")
    };
    let producer = ProducerServiceServer::new(gateway.clone()).max_decoding_message_size(receive);
    let consumer = ConsumerServiceServer::new(gateway.clone()).max_decoding_message_size(receive);
    let consumer = consumer.max_encoding_message_size(SEND_BYTES_MAX);
    let topic = TopicServiceServer::new(gateway.clone()).max_decoding_message_size(receive);
    let cluster = ClusterServiceServer::new(gateway.clone()).max_decoding_message_size(receive);
    let operation = OperationServiceServer::new(gateway).max_decoding_message_size(receive);
    // Answers are not compressed: records already are, and the rest is small.
    let mut routes = Routes::new(AcceptCompressed::new(producer, receive))
        .add_service(AcceptCompressed::new(consumer, receive))
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
