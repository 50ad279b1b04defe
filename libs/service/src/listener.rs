//! The gRPC listener: limits on connections, and HTTP/2 as it was measured to be fastest.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::try_join_all;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use walser_tls::ProcessTls;

use crate::door::Door;
use crate::metrics::Metrics;
use crate::socket::{Opened, Socket};

/// The frame size that costs the fewest system calls per byte.
const FRAME_BYTES: u32 = 256 << 10;
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Calls of a connection that the client has given up before they were begun: with more the connection is closed. The cluster's
/// own processes give up many at once, when a node is fenced or a deadline is over.
pub(crate) const PENDING_RESETS_MAX: usize = 20;
pub(crate) const PENDING_RESETS_OF_CLUSTER_MAX: usize = 1_024;
/// Ages that connections get in turn where they are limited: those that were opened together, as after a restart, do not
/// all come back together.
const AGES: u32 = 32;
/// A client is told that a connection takes no more calls before the streams on it end: it opens them again on another.
const TOLD_BEFORE: Duration = Duration::from_secs(1);

/// How long connections live, so that clients spread over gateways that came later.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionAge {
    /// Each gets an age of its own, from 90 % to 110 % of this.
    pub max: Duration,
    /// Calls that still run so long after that are cut.
    pub grace: Duration,
}

/// Limits on connections, and windows.
#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// Largest number of connections in all.
    pub connections_max: usize,
    /// Connections from one address; loopback is not counted.
    pub connections_per_address_max: usize,
    /// Largest number of streams per connection.
    pub streams_max: u32,
    /// Time for the HTTP/2 preface and the first request.
    pub first_request: Duration,
    /// A client from which nothing came for so long is sent a ping.
    pub ping_interval: Duration,
    /// A client that does not answer a ping for so long is gone.
    pub ping_timeout: Duration,
    /// Calls that a client may give up before they are begun.
    pub pending_resets_max: usize,
    /// Flow-control window of a stream, in bytes.
    pub stream_window: u32,
    /// Flow-control window of a connection, in bytes.
    pub connection_window: u32,
    /// `None`: for as long as the client likes.
    pub connection_age: Option<ConnectionAge>,
}

/// Who may connect to a listener.
#[derive(Debug, Clone)]
pub enum Exposure {
    /// Only this machine, without TLS: other addresses are refused at start.
    LoopbackOnly,
    /// Anyone who reaches it, without TLS; somebody said so.
    Insecure,
    /// Whoever TLS lets in.
    Encrypted(ProcessTls),
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The port is taken.
    #[error("{address} is already in use; stop that process, or choose another address")]
    InUse {
        /// As asked.
        address: SocketAddr,
    },
    /// Without TLS the world could connect.
    #[error(
        "{address} can be reached from other machines and there is no TLS: give the process certificates (settings \
         tls.cert.file and tls.key.file, or internal.tls.*), or say --insecure to allow that"
    )]
    Exposed {
        /// As asked.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("{address}: {source}")]
    Bind {
        /// As asked.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A bound port that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    pub(crate) limits: ListenerLimits,
    tls: Option<ProcessTls>,
    metrics: ConnectionMetrics,
}

/// What a listener counts.
#[derive(Debug, Clone)]
struct ConnectionMetrics {
    open: IntGauge,
    refused: IntCounter,
    no_agreement: IntCounter,
}

/// Connections of one age.
struct AgeClass {
    age: Option<Duration>,
    sockets: mpsc::Sender<std::io::Result<Socket<ConnectionSlot>>>,
}

/// Connections by address.
type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Counts connections by address; gives a place back when it is dropped.
#[derive(Debug)]
struct ConnectionSlot {
    open: IntGauge,
    _total: OwnedSemaphorePermit,
    counted: Option<(IpAddr, Counts)>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 256,
            streams_max: 1000,
            first_request: Duration::from_secs(10),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(3),
            pending_resets_max: PENDING_RESETS_MAX,
            stream_window: 2 << 20,
            connection_window: 8 << 20,
            connection_age: None,
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.dec();
        if let Some((address, counts)) = &self.counted {
            let mut counts = counts.lock();
            if let Some(count) = counts.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(address);
                }
            }
        }
    }
}

/// A service that answers calls: what a layer around the routes has to give.
pub trait CallService:
    tower_service::Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> CallService for S where
    S: tower_service::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

// === impl Listener ===

impl Listener {
    /// Binds a port.
    ///
    /// # Errors
    /// [`ListenerError`].
    pub async fn bind(
        address: SocketAddr,
        exposure: Exposure,
        limits: ListenerLimits,
        metrics: &Metrics,
    ) -> Result<Self, ListenerError> {
        let tls = match exposure {
            Exposure::LoopbackOnly if !address.ip().is_loopback() => return Err(ListenerError::Exposed { address }),
            Exposure::LoopbackOnly | Exposure::Insecure => None,
            Exposure::Encrypted(tls) => Some(tls),
        };
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => ListenerError::InUse { address },
            _ => ListenerError::Bind { address, source },
        })?;
        let metrics = ConnectionMetrics {
            open: metrics.gauge("walser_listener_connections", "Connections that are open at the gRPC port."),
            refused: metrics.counter(
                "walser_listener_connections_refused_total",
                "Connections that were closed because too many were open, in all or from one address.",
            ),
            no_agreement: metrics.counter(
                "walser_listener_handshakes_failed_total",
                "Connections that were closed because TLS was not agreed on, or the other side is not one that may connect.",
            ),
        };
        Ok(Self { listener, limits, tls, metrics })
    }

    /// The bound address.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, then lets running calls finish.
    ///
    /// # Errors
    /// When the HTTP/2 server itself fails.
    pub async fn serve<L, S>(
        self,
        routes: Routes,
        layer: L,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error>
    where
        L: tower_layer::Layer<Routes, Service = S> + Clone + Send + Sync + 'static,
        S: CallService,
    {
        let stop = stop.shared();
        let (mut classes, mut servers) = (Vec::new(), Vec::new());
        // An age is a setting of a whole server.
        for age in self.limits.ages() {
            let (sockets, incoming) = mpsc::channel(64);
            classes.push(AgeClass { age, sockets });
            let server = self.limits.server(age).layer(tonic::service::InterceptorLayer::new(note_request));
            let server = server.layer(layer.clone()).add_routes(routes.clone());
            servers.push(server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.clone()));
        }
        let door = Door::new(self.tls, self.metrics.no_agreement.clone());
        let mut accepting = tokio::spawn(accept(self.listener, self.limits, self.metrics, door, classes));
        let mut serving = std::pin::pin!(try_join_all(servers));
        let served = tokio::select! {
            served = &mut serving => served,
            accepted = &mut accepting => {
                // Its panic is one of whoever serves; otherwise it ends when nothing takes connections any more.
                if let Some(panic) = accepted.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
                serving.await
            }
        };
        accepting.abort();
        served.map(drop)
    }
}

// === impl ListenerLimits ===

impl ListenerLimits {
    /// The ages that connections get in turn.
    fn ages(&self) -> Vec<Option<Duration>> {
        let Some(ConnectionAge { max, .. }) = self.connection_age else { return vec![None] };
        let spread = max / 5;
        (0..AGES).map(|number| Some(max - spread / 2 + spread * number / (AGES - 1))).collect()
    }

    /// A server for connections of an age.
    fn server(&self, age: Option<Duration>) -> Server {
        let server = Server::builder()
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(self.streams_max)
            .http2_max_header_list_size(HEADER_LIST_BYTES)
            .http2_max_pending_accept_reset_streams(Some(self.pending_resets_max))
            .http2_keepalive_interval(Some(self.ping_interval))
            .http2_keepalive_timeout(Some(self.ping_timeout));
        // Cutting what still runs then is for the socket: with a grace of its own the server would not tell the client before.
        match age {
            Some(age) => server.max_connection_age(age),
            None => server,
        }
    }
}

/// Tells the connection that it is in use, and the call who makes it.
fn note_request(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    if let Some(opened) = request.extensions().get::<Opened>() {
        opened.note_request();
        if let Some(identity) = opened.identity.clone() {
            request.extensions_mut().insert(identity);
        }
    }
    Ok(request)
}

async fn accept(
    listener: TcpListener,
    limits: ListenerLimits,
    metrics: ConnectionMetrics,
    door: Door,
    classes: Vec<AgeClass>,
) {
    let mut turns = classes.iter().cycle();
    let total = Arc::new(Semaphore::new(limits.connections_max));
    let counts: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
    // Each has a place, which bounds them.
    let mut opening = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(opened) = opening.join_next() => match opened.map_err(tokio::task::JoinError::try_into_panic) {
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                _ => continue,
            },
            () = all_closed(&classes) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: existing connections go on, new ones wait.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(slot) = take_slot(&total, &counts, peer.ip(), limits.connections_per_address_max, &metrics) else {
            metrics.refused.inc();
            tracing::warn!(%peer, "connection refused: too many are open");
            continue;
        };
        let Some(class) = turns.next() else { return };
        let age = class.age.zip(limits.connection_age);
        let age = age.map(|(age, limit)| (Instant::now() + age + TOLD_BEFORE, limit.grace));
        let opened = Opened::new(peer, age);
        let (door, deadline, sockets) = (door.clone(), Instant::now() + limits.first_request, class.sockets.clone());
        opening.spawn(async move {
            // Without this, small answers wait for delayed acknowledgements: 40 ms instead of 0.4.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            if let Ok(Some((wire, opened))) = timeout_at(deadline, door.let_in(stream, opened)).await {
                let _ = sockets.send(Ok(Socket::new(wire, opened, deadline, slot))).await;
            }
        });
    }
}

/// Waits until no server takes connections any more.
async fn all_closed(classes: &[AgeClass]) {
    for class in classes {
        class.sockets.closed().await;
    }
}

fn take_slot(
    total: &Arc<Semaphore>,
    counts: &Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
    per_address_max: usize,
    metrics: &ConnectionMetrics,
) -> Option<ConnectionSlot> {
    let open = || {
        metrics.open.inc();
        metrics.open.clone()
    };
    let permit = Arc::clone(total).try_acquire_owned().ok()?;
    if address.is_loopback() {
        return Some(ConnectionSlot { open: open(), _total: permit, counted: None });
    }
    let mut locked = counts.lock();
    let count = locked.entry(address).or_insert(0);
    if *count >= per_address_max {
        return None;
    }
    *count += 1;
    Some(ConnectionSlot { open: open(), _total: permit, counted: Some((address, Arc::clone(counts))) })
}

#[cfg(test)]
mod tests;
