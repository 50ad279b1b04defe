//! Operations: long-running ones from the metadata, ended ones from memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use walser_metadata::value::TombstoneValue;
use walser_model::Timestamp;
use walser_rpc::{ApiError, Reason};

use crate::views::Views;

/// Ended operations that are remembered.
const ENDED_MAX: usize = 1000;

/// The deletion of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) partition_count: i32,
    pub(crate) started_ms: Timestamp,
    /// `None`: it is running.
    pub(crate) ended_ms: Option<Timestamp>,
}

/// Operations that ended while this process ran. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    ended: Arc<Mutex<VecDeque<Operation>>>,
    /// Held while operations move from the metadata to memory, so that nobody misses them on the way.
    ending: Arc<AsyncMutex<()>>,
}

impl Operation {
    /// The operation that a tombstone stands for.
    pub(crate) fn deletion(tombstone: &TombstoneValue, ended_ms: Option<Timestamp>) -> Self {
        Self {
            id: tombstone.operation.clone(),
            topic: tombstone.name.clone(),
            partition_count: tombstone.partition_count,
            started_ms: tombstone.started_ms,
            ended_ms,
        }
    }
}

impl Operations {
    /// To be held from before operations leave the metadata until they are remembered.
    pub(crate) async fn ending(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.ending).lock_owned().await
    }

    /// Remembers operations that have ended.
    pub(crate) fn remember(&self, operations: impl IntoIterator<Item = Operation>) {
        let mut ended = self.ended.lock();
        for operation in operations {
            if ended.len() == ENDED_MAX {
                ended.pop_front();
            }
            ended.push_back(operation);
        }
    }

    fn remembered(&self, id: &str) -> Option<Operation> {
        self.ended.lock().iter().rev().find(|operation| operation.id == id).cloned()
    }

    /// Finds an operation.
    pub(crate) async fn find(&self, views: &Views, id: &str) -> Result<Operation, ApiError> {
        let view = views.load();
        let running = view.metadata.tombstones().find(|(_, tombstone)| tombstone.value.operation == id);
        if let Some((_, tombstone)) = running {
            return Ok(Operation::deletion(&tombstone.value, None));
        }
        let _ending = self.ending().await;
        self.remembered(id).ok_or_else(|| {
            let text = format!("operation \"{id}\" does not exist, or ended before the controller started");
            ApiError::new(Reason::OperationNotFound, text).with("operation", id)
        })
    }
}
