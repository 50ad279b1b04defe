//! Who is where: services register and dial each other by role.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use walser_metadata::{Changes, View};
use walser_model::NodeId;
use walser_proto::v1::Effect;
use walser_tls::{Connector, ProcessTls, ServiceRole};

use crate::Reason;
use crate::any_controller::any_of;
use crate::api_error::ApiError;
use crate::grpc_storage::GrpcStorage;
use crate::storage_client::StorageClient;

/// Windows large enough for a fast link.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The frame size that costs the fewest system calls per byte.
const FRAME_BYTES: u32 = 256 << 10;
/// A peer that says nothing for this long is sent a ping, and one that does not answer it in time is gone: its calls fail
/// instead of waiting for ever. Together no longer than the session of a storage node, after which another one leads.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// What generated clients call through: a channel over TCP, or the callee's routes in this process.
pub type Connection = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, ConnectionError>;

/// The callee could not be reached, or its address is none.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ConnectionError {
    text: String,
    /// What a generated client gives its caller.
    #[source]
    status: Status,
}

/// The services that can be reached.
#[derive(Debug, Clone, Default)]
pub struct Network {
    known: Arc<Mutex<Peers>>,
    dialling: Dialling,
}

/// How other processes are dialled.
#[derive(Debug, Clone, Default)]
struct Dialling {
    /// Where connections come from; `None`: the system chooses.
    from: Option<IpAddr>,
    /// `None`: connections are plain.
    tls: Option<ProcessTls>,
    /// What the headers of calls get that go on with a trace.
    carry: Option<CarriesTrace>,
}

/// Adds the trace that the caller is in to the headers of a call.
pub type CarriesTrace = fn(&mut http::HeaderMap);

#[derive(Default)]
struct Peers {
    controllers: Vec<Controller>,
    /// Whichever of them leads.
    controller: Option<Connection>,
    storage: HashMap<NodeId, Storage>,
    coordinators: Coordinators,
}

/// Group coordinators, and which of them has which shard.
#[derive(Default)]
struct Coordinators {
    /// Of this process.
    local: Option<Connection>,
    by_address: HashMap<String, Connection>,
    /// Addresses by shards; empty: this process.
    shards: HashMap<i32, String>,
}

/// A controller, which leads or stands by.
struct Controller {
    /// `None`: in this process.
    address: Option<String>,
    connection: Connection,
}

/// A storage node.
struct Storage {
    /// `None`: in this process.
    address: Option<String>,
    connection: Connection,
    client: Arc<dyn StorageClient>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<_> = self.storage.keys().collect();
        f.debug_struct("Peers").field("controller", &self.controller.is_some()).field("storage", &nodes).finish()
    }
}

/// A connection to services of this process: a call is a function call, nothing is encoded into HTTP/2.
pub fn local_connection(routes: Routes) -> Connection {
    let service = ServiceExt::<http::Request<Body>>::map_err(routes.prepare(), |never: Infallible| match never {});
    BoxCloneSyncService::new(service)
}

/// Whether a process answers anything at all within `limit`.
pub async fn answers(connection: Connection, limit: Duration) -> bool {
    let call = connection.oneshot(http::Request::new(Body::empty()));
    tokio::time::timeout(limit, call).await.is_ok_and(|answer| answer.is_ok())
}

// === impl Dialling ===

impl Dialling {
    /// A way to open channels to a process of this role, each a connection of its own, whose errors have a reason.
    fn to(&self, role: ServiceRole, address: &str) -> Result<impl Fn() -> Connection + use<>, ConnectionError> {
        let wrong = |error: &dyn std::fmt::Display| {
            let problem = format!("\"{address}\" is not HOST:PORT: {error}");
            ConnectionError::new(ApiError::field("address", problem))
        };
        // TLS is the connector's: with another scheme the channel would look for its own.
        let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| wrong(&error))?
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .local_address(self.from);
        let tls = self.tls.clone().map(|tls| Connector::to_cluster(tls, role, self.from));
        if tls.is_some() {
            endpoint = endpoint.origin(format!("https://{address}").parse().map_err(|error| wrong(&error))?);
        }
        let (address, carry) = (address.to_owned(), self.carry);
        Ok(move || {
            let channel = match &tls {
                Some(connector) => endpoint.connect_with_connector_lazy(connector.clone()),
                None => endpoint.connect_lazy(),
            };
            let address = address.clone();
            let failed = move |error| unreachable(role, &address, &error);
            let carried = move |mut request: http::Request<Body>| {
                carry.iter().for_each(|carry| carry(request.headers_mut()));
                request
            };
            let channel = ServiceExt::<http::Request<Body>>::map_err(channel, failed);
            BoxCloneSyncService::new(channel.map_request(carried))
        })
    }
}

/// A call that got no answer: it had no effect when there was no connection, and may have had one otherwise.
fn unreachable(role: ServiceRole, address: &str, error: &tonic::transport::Error) -> ConnectionError {
    use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut connected = !walser_tls::nothing_begun(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let refused = [AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut];
        connected &= !kind.is_some_and(|kind| refused.contains(&kind));
        cause = error.source();
    }
    let (reason, who) = match role {
        ServiceRole::Controller => (Reason::ControllerNotAvailable, "the controller"),
        ServiceRole::GroupCoordinator => (Reason::CoordinatorNotAvailable, "the group coordinator"),
        ServiceRole::StorageNode | ServiceRole::Gateway => (Reason::LeaderNotAvailable, "the storage node"),
    };
    let what = if connected { "broke the connection" } else { "does not answer" };
    let failure = ApiError::new(reason, format!("{who} at {address} {what}: {}", root_cause(error)));
    ConnectionError::new(if connected { failure.with_effect(Effect::Maybe) } else { failure })
}

impl ConnectionError {
    pub(crate) fn new(failure: ApiError) -> Self {
        Self { text: failure.message().to_owned(), status: failure.into() }
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }
}

/// The innermost cause of an error: those around it only say that there was one.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(words) = walser_tls::in_words(error) {
        return words;
    }
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

// === impl Network ===

impl Network {
    /// A network whose connections come from this address of the machine, and are encrypted with this.
    pub fn new(dial_from: Option<IpAddr>, tls: Option<ProcessTls>) -> Self {
        Self { dialling: Dialling { from: dial_from, tls, carry: None }, ..Self::default() }
    }

    /// The same, whose calls go on with the trace that their caller is in.
    #[must_use]
    pub fn carrying(mut self, carry: CarriesTrace) -> Self {
        self.dialling.carry = Some(carry);
        self
    }

    /// Makes the controller known, in place of those that were.
    pub fn register_controller(&self, connection: Connection) {
        self.register_controllers(vec![Controller { address: None, connection }]);
    }

    fn register_controllers(&self, controllers: Vec<Controller>) {
        let connections: Vec<_> = controllers.iter().map(|controller| controller.connection.clone()).collect();
        let mut known = self.known.lock();
        known.controller = any_of(&connections);
        known.controllers = controllers;
    }

    /// Makes the group coordinator of this process known.
    pub fn register_coordinator(&self, connection: Connection) {
        self.known.lock().coordinators.local = Some(connection);
    }

    /// The coordinator of a shard of groups, once the shard was given to one.
    pub fn coordinator(&self, shard: i32) -> Option<Connection> {
        let known = self.known.lock();
        let address = known.coordinators.shards.get(&shard)?;
        if address.is_empty() {
            return known.coordinators.local.clone();
        }
        known.coordinators.by_address.get(address).cloned()
    }

    /// Makes the coordinators known to which shards of groups were given.
    fn dial_coordinators<T>(&self, view: &View<T>, changes: &Changes) {
        if changes.group_shards.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        let coordinators = &mut known.coordinators;
        coordinators.shards = view.group_shards().map(|(shard, given)| (shard, given.value.address.clone())).collect();
        let Coordinators { by_address, shards, .. } = coordinators;
        by_address.retain(|address, _| shards.values().any(|used| used == address));
        for address in shards.values().filter(|address| !address.is_empty()) {
            if by_address.contains_key(address) {
                continue;
            }
            match self.dialling.to(ServiceRole::GroupCoordinator, address) {
                Ok(dial) => drop(by_address.insert(address.clone(), dial())),
                Err(error) => tracing::error!(%error, "a group coordinator's address cannot be used"),
            }
        }
    }

    /// Makes a storage node known.
    pub fn register_storage(&self, node: NodeId, connection: Connection, client: Arc<dyn StorageClient>) {
        self.known.lock().storage.insert(node, Storage { address: None, connection, client });
    }

    /// Makes a storage node in another process known, by its internal address. One of this process is left alone.
    ///
    /// # Errors
    /// When the address cannot be one; what was known before stays.
    pub fn dial_storage(&self, node: NodeId, address: &str) -> Result<(), ConnectionError> {
        let mut known = self.known.lock();
        let same = |found: &Storage| found.address.as_deref().is_none_or(|known| known == address);
        if known.storage.get(&node).is_some_and(same) {
            return Ok(());
        }
        let dial = self.dialling.to(ServiceRole::StorageNode, address)?;
        let (connection, client) = (dial(), Arc::new(GrpcStorage::new(node, dial)));
        known.storage.insert(node, Storage { address: Some(address.to_owned()), connection, client });
        Ok(())
    }

    /// Makes the storage nodes and group coordinators known that have changed in the metadata, and gives up waiting for
    /// storage nodes that are fenced: one that hangs answers nothing, and others lead its partitions now. Those of this process
    /// are left alone.
    pub fn dial_changed<T>(&self, view: &View<T>, changes: &Changes) {
        self.dial_coordinators(view, changes);
        for (id, node) in changes.nodes.iter().filter_map(|id| Some((*id, view.node(*id)?))) {
            let address = &node.registration.internal_address;
            if !address.is_empty()
                && let Err(error) = self.dial_storage(id, address)
            {
                tracing::error!(node = %id, %error, "a storage node's address cannot be used");
            }
        }
        if changes.nodes.is_empty() && changes.partitions.is_empty() {
            return;
        }
        self.forget_storage(changes.nodes.iter().copied().filter(|id| view.node(*id).is_none()));
        // Also with every change of partitions: what was sent to it before its leads had gone is sent to others then.
        let fenced = view.nodes().filter(|(_, node)| node.liveness.fenced).map(|(id, _)| id);
        let given_up: Vec<_> = {
            let known = self.known.lock();
            fenced.filter_map(|id| known.storage.get(&id).map(|found| Arc::clone(&found.client))).collect()
        };
        given_up.iter().for_each(|client| client.give_up());
    }

    /// Forgets storage nodes of other processes that are not registered any more, and gives up waiting for them.
    fn forget_storage(&self, gone: impl Iterator<Item = NodeId>) {
        let forgotten: Vec<_> = {
            let mut known = self.known.lock();
            let dialed: Vec<_> =
                gone.filter(|id| known.storage.get(id).is_some_and(|found| found.address.is_some())).collect();
            dialed.into_iter().filter_map(|id| known.storage.remove(&id)).collect()
        };
        forgotten.iter().for_each(|found| found.client.give_up());
    }

    /// Makes the controllers known that are in other processes, by their addresses with commas between them: one of them
    /// leads.
    ///
    /// # Errors
    /// When one of the addresses cannot be one.
    pub fn dial_controllers(&self, addresses: &str) -> Result<(), ConnectionError> {
        let dialed = addresses.split(',').map(str::trim).map(|address| {
            let connection = self.dialling.to(ServiceRole::Controller, address)?();
            Ok(Controller { address: Some(address.to_owned()), connection })
        });
        self.register_controllers(dialed.collect::<Result<_, ConnectionError>>()?);
        Ok(())
    }

    /// The controller that leads, once any is known: for calls of one request.
    pub fn controller(&self) -> Option<Connection> {
        self.known.lock().controller.clone()
    }

    /// Every controller that is known.
    pub fn controllers(&self) -> Vec<Connection> {
        self.known.lock().controllers.iter().map(|controller| controller.connection.clone()).collect()
    }

    /// The controllers of other processes, with their addresses.
    pub fn controllers_elsewhere(&self) -> Vec<(String, Connection)> {
        let known = self.known.lock();
        let elsewhere = |controller: &Controller| Some((controller.address.clone()?, controller.connection.clone()));
        known.controllers.iter().filter_map(elsewhere).collect()
    }

    /// The group coordinators of other processes, by address, and how many shards were given to each.
    pub fn coordinators_elsewhere(&self) -> Vec<(String, Connection, usize)> {
        let known = self.known.lock();
        let Coordinators { by_address, shards, .. } = &known.coordinators;
        let count = |address: &String| shards.values().filter(|given| *given == address).count();
        let elsewhere = by_address.iter();
        let elsewhere = elsewhere.map(|(address, connection)| (address.clone(), connection.clone(), count(address)));
        let mut elsewhere: Vec<_> = elsewhere.collect();
        elsewhere.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        elsewhere
    }

    /// A storage node for calls about records as a whole.
    pub fn storage(&self, node: NodeId) -> Option<Connection> {
        self.known.lock().storage.get(&node).map(|found| found.connection.clone())
    }

    /// Every storage node that was made known, in ascending order.
    pub fn storage_nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.known.lock().storage.keys().copied().collect();
        nodes.sort_unstable();
        nodes
    }

    /// A storage node for record data.
    pub fn storage_client(&self, node: NodeId) -> Option<Arc<dyn StorageClient>> {
        self.known.lock().storage.get(&node).map(|found| Arc::clone(&found.client))
    }
}

#[cfg(test)]
mod tests {
    use walser_metadata::value::NodeRegistration;
    use walser_metadata::{Delta, MetadataChange};
    use walser_proto::internal::v1 as pbi;
    use walser_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;

    use super::*;

    /// Nobody waits for its answer any more, such as a list of what nodes hold.
    #[tokio::test]
    async fn a_storage_node_that_is_not_registered_any_more_is_forgotten() {
        let network = Network::default();
        let mut view = View::<()>::default();
        let registered = |node| MetadataChange::Registration {
            node: NodeId(node),
            value: Box::new(NodeRegistration { internal_address: format!("127.0.0.1:{node}"), ..Default::default() }),
            revision: 1,
        };
        let changes = view.apply(Delta { version: 1, snapshot: true, changes: vec![registered(1), registered(2)] });
        network.dial_changed(&view, &changes.unwrap());
        assert_eq!(network.storage_nodes(), [NodeId(1), NodeId(2)]);
        let deltas = [
            Delta { version: 2, snapshot: false, changes: vec![MetadataChange::NodeRemoved(NodeId(1))] },
            // Whoever was away for a while is not told of each change.
            Delta { version: 3, snapshot: true, changes: Vec::new() },
        ];
        for (delta, left) in deltas.into_iter().zip([&[NodeId(2)][..], &[]]) {
            let changes = view.apply(delta).unwrap();
            network.dial_changed(&view, &changes);
            assert_eq!(network.storage_nodes(), left);
        }
    }

    #[tokio::test]
    async fn a_callee_that_is_not_there_is_told_without_the_words_of_the_library() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let connection = Dialling::default().to(ServiceRole::GroupCoordinator, &address).unwrap()();
        let called =
            CoordinatorServiceClient::new(connection).describe_group(pbi::DescribeGroupRequest::default()).await;
        let failure = ApiError::from(called.unwrap_err());
        assert_eq!((failure.reason(), failure.effect()), (Reason::CoordinatorNotAvailable, Effect::None));
        let text = failure.message();
        assert!(text.starts_with(&format!("the group coordinator at {address} does not answer: ")), "{text}");
        assert!(!text.contains("transport") && !text.contains("connect error"), "{text}");
    }
}
