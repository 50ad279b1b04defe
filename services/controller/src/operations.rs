//! Operations: long-running ones from the store, ended ones from memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use walser_model::Timestamp;
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use crate::keys::decode;
use crate::keys::topic::{DELETING_PREFIX, Deleting};
use crate::store::Store;

/// Ended operations that are remembered.
const ENDED_MAX: usize = 1000;

/// Operations that ended while this process ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    ended: Arc<Mutex<VecDeque<pb::Operation>>>,
    /// Held while an operation moves from the store to memory, so that nobody misses it on the way.
    ending: Arc<tokio::sync::Mutex<()>>,
}

/// Milliseconds as a timestamp message.
pub(crate) fn time(millis: Timestamp) -> pbjson_types::Timestamp {
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    pbjson_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

/// The operation that a deletion is.
pub(crate) fn deletion(deleting: &Deleting, ended: Option<Timestamp>) -> pb::Operation {
    let total = i64::from(deleting.partition_count);
    let state = if ended.is_some() { pb::OperationState::Succeeded } else { pb::OperationState::Running };
    let done = if ended.is_some() { total } else { 0 };
    let message = match ended {
        Some(_) => format!("deleted topic {}", deleting.name),
        None => format!("removing the data of topic {}", deleting.name),
    };
    pb::Operation {
        id: deleting.operation.clone(),
        kind: "DELETE_TOPIC".to_owned(),
        target: format!("topics/{}", deleting.name),
        state: state.into(),
        message,
        progress: Some(pb::Progress { done, total, unit: "PARTITIONS".to_owned() }),
        error: None,
        create_time: Some(time(deleting.started_ms)),
        end_time: ended.map(time),
    }
}

impl Operations {
    /// Runs `step`, which may take an operation out of the store, and remembers that it ended.
    pub(crate) async fn end_with<E>(
        &self,
        step: impl Future<Output = Result<Option<pb::Operation>, E>>,
    ) -> Result<(), E> {
        let _ending = self.ending.lock().await;
        if let Some(operation) = step.await? {
            self.remember(operation);
        }
        Ok(())
    }

    fn remember(&self, operation: pb::Operation) {
        let mut ended = self.ended.lock();
        if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(operation);
    }

    fn remembered(&self, id: &str) -> Option<pb::Operation> {
        self.ended.lock().iter().rev().find(|operation| operation.id == id).cloned()
    }

    /// Finds an operation.
    pub(crate) async fn find(&self, store: &Store, id: &str) -> Result<pb::Operation, Failure> {
        if let Some(operation) = self.remembered(id) {
            return Ok(operation);
        }
        for entry in store.range(DELETING_PREFIX).await? {
            let deleting: Deleting = decode(&entry)?;
            if deleting.operation == id {
                return Ok(deletion(&deleting, None));
            }
        }
        let _ending = self.ending.lock().await;
        if let Some(operation) = self.remembered(id) {
            return Ok(operation);
        }
        let text = format!("operation \"{id}\" does not exist, or ended before the controller started");
        Err(Failure::new(Reason::OperationNotFound, text).with("operation", id))
    }
}
