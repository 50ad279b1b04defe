//! What surrounds a shard that is driven by hand: an in-memory disk, and nothing that is due by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use walser_log::{DataDirectory, MemoryDisk};
use walser_model::{Clock, NodeId};
use walser_service::Metrics;

use super::ShardContext;
use super::watched_disk::WatchedDisk;
use crate::compactor::{CompactionLimits, Compactor};
use crate::contact::Contact;
use crate::directory_problem::DirectoryProblem;
use crate::metrics::StorageMetrics;
use crate::replica_registry::ReplicaRegistry;
use crate::replication::Peers;
use crate::retention_clock::RetentionClock;
use crate::space::SpaceGuard;

impl ShardContext {
    pub(super) fn of_test(
        node: NodeId,
        disk: &MemoryDisk,
        clock: Arc<dyn Clock>,
        peers: Arc<dyn Peers>,
        metrics: &Metrics,
    ) -> Self {
        let disk = Arc::new(WatchedDisk(disk.clone()));
        let directory = Arc::new(DataDirectory::open(disk, Path::new("/data"), "test").unwrap());
        let retention_clock = RetentionClock::start(&directory, &*clock);
        let contact = Contact::new(Arc::clone(&clock));
        // The controller is never out of reach.
        contact.set_session(Duration::MAX);
        Self {
            node,
            directory,
            registry: ReplicaRegistry::new(node, contact),
            peers,
            clock,
            metrics: StorageMetrics::new(metrics),
            space: SpaceGuard::new(Some(0)),
            misplaced: DirectoryProblem::default(),
            retention_clock,
            retention_check: Duration::from_secs(3600),
            compactor: Compactor::new(CompactionLimits { memory_bytes: 0, bytes_per_second: 0 }),
            idle: Duration::from_secs(3600),
            recovery_bytes_max: 1 << 30,
        }
    }
}
