//! The public services: decode, call, encode.

mod cluster;
mod consumer;
mod producer;
mod set_aside;
mod storage_nodes;
mod stream;
mod topic;
mod until_stop;

use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use walser_proto::v1::cluster_service_server::ClusterServiceServer;
use walser_proto::v1::consumer_service_server::ConsumerServiceServer;
use walser_proto::v1::operation_service_server::OperationServiceServer;
use walser_proto::v1::producer_service_server::ProducerServiceServer;
use walser_proto::v1::topic_service_server::TopicServiceServer;

use walser_rpc::{Failure, Reason};

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
            .with_service_name("walser.v1.ProducerService")
            .with_service_name("walser.v1.ConsumerService")
            .with_service_name("walser.v1.TopicService")
            .with_service_name("walser.v1.ClusterService")
            .with_service_name("walser.v1.OperationService")
            .with_service_name("grpc.health.v1.Health")
    };
    let mut routes = Routes::new(ProducerServiceServer::new(gateway.clone()).max_decoding_message_size(receive))
        .add_service(
            ConsumerServiceServer::new(gateway.clone())
                .max_decoding_message_size(receive)
                .max_encoding_message_size(SEND_BYTES_MAX),
        )
        .add_service(TopicServiceServer::new(gateway.clone()).max_decoding_message_size(receive))
        .add_service(ClusterServiceServer::new(gateway.clone()))
        .add_service(OperationServiceServer::new(gateway))
        .add_service(health);
    if let Ok(service) = reflect().build_v1() {
        routes = routes.add_service(UntilStop::new(service, stop.clone()));
    }
    if let Ok(service) = reflect().build_v1alpha() {
        routes = routes.add_service(UntilStop::new(service, stop));
    }
    routes
}
