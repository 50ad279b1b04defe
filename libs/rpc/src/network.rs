//! Who is where: services register and dial each other by role.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use walser_model::NodeId;

use crate::link::StorageLink;

/// What generated clients call through: a channel over TCP, or the callee's routes in this process.
pub type Connection = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, ConnectionError>;

/// The callee could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionError(String);

/// The services that can be reached.
#[derive(Debug, Clone, Default)]
pub struct Network {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    controller: Option<Connection>,
    storage: HashMap<NodeId, (Connection, Arc<dyn StorageLink>)>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<_> = self.storage.keys().collect();
        f.debug_struct("Known").field("controller", &self.controller.is_some()).field("storage", &nodes).finish()
    }
}

/// A connection to services of this process: a call is a function call, nothing is encoded into HTTP/2.
pub fn local_connection(routes: Routes) -> Connection {
    let service = ServiceExt::<http::Request<Body>>::map_err(routes.prepare(), |never: Infallible| match never {});
    BoxCloneSyncService::new(service)
}

// === impl Network ===

impl Network {
    /// Makes the controller known.
    pub fn register_controller(&self, connection: Connection) {
        self.known.lock().controller = Some(connection);
    }

    /// Makes a storage node known.
    pub fn register_storage(&self, node: NodeId, connection: Connection, link: Arc<dyn StorageLink>) {
        self.known.lock().storage.insert(node, (connection, link));
    }

    /// The controller, once it is known.
    pub fn controller(&self) -> Option<Connection> {
        self.known.lock().controller.clone()
    }

    /// A storage node for calls about records as a whole.
    pub fn storage(&self, node: NodeId) -> Option<Connection> {
        self.known.lock().storage.get(&node).map(|(connection, _)| connection.clone())
    }

    /// A storage node for record data.
    pub fn storage_link(&self, node: NodeId) -> Option<Arc<dyn StorageLink>> {
        self.known.lock().storage.get(&node).map(|(_, link)| Arc::clone(link))
    }
}
