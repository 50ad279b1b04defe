//! The board: what log shards show to everybody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;
use walser_log::LogReader;
use walser_model::{LeaderEpoch, Offset, TopicPartition};

use crate::tail::Tail;

/// A partition that this node leads, as readers see it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) reader: LogReader,
    pub(crate) tail: Arc<Tail>,
    epoch: AtomicI32,
    /// The high watermark; waiting fetches are woken by it.
    high_watermark: watch::Sender<Offset>,
    failed: AtomicBool,
    serving: AtomicBool,
}

/// Every partition of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    replicas: Arc<RwLock<HashMap<TopicPartition, Arc<Replica>>>>,
}

impl Replica {
    pub(crate) fn new(reader: LogReader) -> Self {
        Self {
            reader,
            tail: Arc::default(),
            epoch: AtomicI32::new(LeaderEpoch::NONE.0),
            high_watermark: watch::Sender::new(Offset::ZERO),
            failed: AtomicBool::new(false),
            serving: AtomicBool::new(false),
        }
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// This node leads in `epoch` from now on; nobody is served before.
    pub(crate) fn lead(&self, epoch: LeaderEpoch) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.serving.store(true, Ordering::Release);
    }

    /// Whether this node leads the partition.
    pub(crate) fn serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Stops serving and wakes everybody who waits.
    pub(crate) fn withdraw(&self) {
        self.serving.store(false, Ordering::Release);
        self.high_watermark.send_modify(|_| {});
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    pub(crate) fn commit(&self, high_watermark: Offset) {
        self.high_watermark.send_replace(high_watermark);
    }

    pub(crate) fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Ordering::Release);
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

impl Board {
    /// A partition that this node leads.
    pub(crate) fn led(&self, partition: TopicPartition) -> Option<Arc<Replica>> {
        self.replicas.read().get(&partition).filter(|replica| replica.serving()).cloned()
    }

    pub(crate) fn insert(&self, partition: TopicPartition, replica: Arc<Replica>) {
        self.replicas.write().insert(partition, replica);
    }

    pub(crate) fn remove(&self, partition: TopicPartition) {
        if let Some(replica) = self.replicas.write().remove(&partition) {
            replica.withdraw();
        }
    }

    /// All partitions, for reports.
    pub(crate) fn all(&self) -> Vec<(TopicPartition, Arc<Replica>)> {
        self.replicas.read().iter().map(|(partition, replica)| (*partition, Arc::clone(replica))).collect()
    }

    /// Partitions held.
    pub(crate) fn len(&self) -> usize {
        self.replicas.read().len()
    }
}
