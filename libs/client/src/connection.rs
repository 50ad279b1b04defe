//! One connection to a gateway, and the generated clients on it.

use std::time::Duration;

use tonic::Code;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::consumer_service_client::ConsumerServiceClient;
use walser_proto::v1::group_service_client::GroupServiceClient;
use walser_proto::v1::operation_service_client::OperationServiceClient;
use walser_proto::v1::producer_service_client::ProducerServiceClient;
use walser_proto::v1::topic_service_client::TopicServiceClient;
use walser_rpc::ApiError;
use walser_tls::{ClientTls, Connector};

/// Windows large enough for a fast link; one connection carries one kind of traffic.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The frame size that costs the fewest system calls per byte.
const FRAME_BYTES: u32 = 256 << 10;
/// Largest message that is received.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// While calls wait, the connection is tried this often, and given up when nothing comes back for so long: a server that
/// is stopped or cut off does not say so.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Call metadata in which a client names itself: servers write it into logs and spans.
const CLIENT_ID: &str = "walser-client-id";
/// Call metadata that carries a trace (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";

/// The address is not one.
#[derive(Debug, thiserror::Error)]
#[error("server address \"{address}\" is not HOST:PORT: {problem}")]
pub struct ConnectError {
    address: String,
    problem: String,
}

/// A client of one gateway. Clones share the connection, which is made with the first call and again when it breaks.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    /// `None`: connections are plain.
    tls: Option<ClientTls>,
    channel: Channel,
    named: Named,
}

/// A channel whose calls carry the client's name.
pub type NamedChannel = InterceptedService<Channel, Named>;

/// Puts the client's name, and the trace that it is in, into the metadata of every call.
#[derive(Debug, Clone)]
pub struct Named {
    name: AsciiMetadataValue,
    traceparent: Option<AsciiMetadataValue>,
}

impl Interceptor for Named {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert(CLIENT_ID, self.name.clone());
        if let Some(traceparent) = &self.traceparent {
            request.metadata_mut().insert(TRACEPARENT, traceparent.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// A client of `server`, written as `HOST:PORT`, without TLS.
    ///
    /// # Errors
    /// When the address cannot be one. Nothing is connected yet.
    pub fn new(server: &str) -> Result<Self, ConnectError> {
        Self::over(server, None)
    }

    /// A client of `server`, written as `HOST:PORT`, over TLS.
    ///
    /// # Errors
    /// When the address cannot be one. Nothing is connected yet.
    pub fn with_tls(server: &str, tls: ClientTls) -> Result<Self, ConnectError> {
        Self::over(server, Some(tls))
    }

    fn over(server: &str, tls: Option<ClientTls>) -> Result<Self, ConnectError> {
        let mut endpoint = Self::endpoint(server)?;
        if tls.is_some() {
            // TLS is the connector's: a channel to this scheme would look for its own.
            let secure = Endpoint::from_shared(format!("https://{server}"));
            let refused = |problem: String| ConnectError { address: server.to_owned(), problem };
            endpoint = endpoint.origin(secure.map_err(|error| refused(error.to_string()))?.uri().clone());
        }
        let named = Named { name: AsciiMetadataValue::from_static("walser"), traceparent: None };
        Ok(Self { channel: channel(&endpoint, tls.as_ref()), endpoint, tls, named })
    }

    /// Checks an address without a client of it.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn check_address(server: &str) -> Result<(), ConnectError> {
        Self::endpoint(server).map(drop)
    }

    fn endpoint(server: &str) -> Result<Endpoint, ConnectError> {
        let refused = |problem: String| ConnectError { address: server.to_owned(), problem };
        let parts = server.rsplit_once(':');
        if parts.is_some_and(|(host, _)| host.is_empty()) {
            return Err(refused("the host is missing".to_owned()));
        }
        match parts.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(1..)) => {}
            Some(_) => return Err(refused("the port is a number from 1 to 65535".to_owned())),
            None => return Err(refused("the port is missing".to_owned())),
        }
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|error| refused(error.to_string()))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        Ok(endpoint)
    }

    /// The same client, whose calls are part of a trace: `traceparent` is a W3C trace context. Plain records that are written
    /// and have none get it, too. What cannot be in call metadata changes nothing.
    #[must_use]
    pub fn in_trace(mut self, traceparent: &str) -> Self {
        self.named.traceparent = AsciiMetadataValue::try_from(traceparent).ok();
        self
    }

    /// The same server over a connection of its own: bulk data should not share one with other calls.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self { channel: channel(&self.endpoint, self.tls.as_ref()), ..self.clone() }
    }

    /// Returns a client of the producer service.
    pub fn producer(&self) -> ProducerServiceClient<NamedChannel> {
        ProducerServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns a client of the consumer service.
    pub fn consumer(&self) -> ConsumerServiceClient<NamedChannel> {
        ConsumerServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns a client of the group service.
    pub fn groups(&self) -> GroupServiceClient<NamedChannel> {
        GroupServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns a client of the topic service.
    pub fn topics(&self) -> TopicServiceClient<NamedChannel> {
        TopicServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns a client of the cluster service.
    pub fn cluster(&self) -> ClusterServiceClient<NamedChannel> {
        ClusterServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns a client of the operation service.
    pub fn operations(&self) -> OperationServiceClient<NamedChannel> {
        OperationServiceClient::with_interceptor(self.channel.clone(), self.named.clone())
    }
}

/// A channel that connects when it is used.
fn channel(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Channel {
    match tls {
        Some(tls) => endpoint.connect_with_connector_lazy(Connector::to_server(tls.clone())),
        None => endpoint.connect_lazy(),
    }
}

/// Whether a stream that has ended so may be opened again later. INTERNAL that is not of a server of ours comes from what lies
/// between: a proxy whose server has gone.
pub(crate) fn may_come_back(failure: &ApiError) -> bool {
    let of_library = matches!(failure.code(), Code::Unknown | Code::Cancelled);
    let of_proxy = failure.code() == Code::Internal && !failure.answered();
    matches!(failure.retry(), pb::RetryAdvice::Backoff | pb::RetryAdvice::Reopen) || of_library || of_proxy
}
