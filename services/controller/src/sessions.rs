//! What nodes said last: statistics, and when they were heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_model::Timestamp;
use walser_proto::v1 as pb;

/// A node's session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    pub(crate) node_epoch: i64,
    pub(crate) stats: pb::StorageStats,
    /// Monotonic time of the last beat.
    pub(crate) heard: Duration,
    /// The same in wall-clock time, for people.
    pub(crate) heard_ms: Timestamp,
}

/// Sessions by node id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    by_node: Arc<Mutex<HashMap<i32, Session>>>,
}

impl Sessions {
    pub(crate) fn beat(&self, node: i32, session: Session) {
        self.by_node.lock().insert(node, session);
    }

    pub(crate) fn get(&self, node: i32) -> Option<Session> {
        self.by_node.lock().get(&node).cloned()
    }

    /// Nodes whose last beat is older than `limit`.
    pub(crate) fn silent(&self, now: Duration, limit: Duration) -> Vec<(i32, i64)> {
        let sessions = self.by_node.lock();
        let silent = sessions.iter().filter(|(_, session)| now.saturating_sub(session.heard) > limit);
        silent.map(|(node, session)| (*node, session.node_epoch)).collect()
    }

    pub(crate) fn end(&self, node: i32, node_epoch: i64) {
        let mut sessions = self.by_node.lock();
        if sessions.get(&node).is_some_and(|session| session.node_epoch == node_epoch) {
            sessions.remove(&node);
        }
    }
}
