//! A log in memory, for tests: it acknowledges at once, or when the test says so.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use walser_model::{LeaderEpoch, Offset};
use walser_record_batch::{BatchHeader, stamp_position};
use walser_rpc::{ApiError, Reason};

use super::{AppendAck, LogBatch, LogChunk, ShardLog};

/// Clones share the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog(Arc<Mutex<State>>);

type Told = oneshot::Sender<Result<(), ApiError>>;

#[derive(Debug, Default)]
struct State {
    batches: Vec<Bytes>,
    end: Offset,
    /// Acknowledgements wait for the test.
    held: Option<Vec<Option<Told>>>,
    /// So many appends are refused.
    refused: usize,
    /// How often its end was asked for.
    opened: usize,
}

// === impl MemoryLog ===

impl MemoryLog {
    /// Holds acknowledgements from here on.
    pub(crate) fn hold(&self) {
        self.0.lock().held = Some(Vec::new());
    }

    /// Acknowledges the held append of this number, from 0; with a failure the writer does not learn that it was written.
    pub(crate) fn tell(&self, number: usize, outcome: Result<(), ApiError>) {
        let told = self.0.lock().held.as_mut().and_then(|held| held.get_mut(number)?.take());
        let _ = told.expect("the append is held").send(outcome);
    }

    /// Acknowledges everything from here on, and what is held.
    pub(crate) fn go_on(&self) {
        for told in self.0.lock().held.take().into_iter().flatten().flatten() {
            let _ = told.send(Ok(()));
        }
    }

    /// Appends that are held.
    pub(crate) fn held(&self) -> usize {
        self.0.lock().held.as_ref().map_or(0, Vec::len)
    }

    /// The numbers of appends that wait to be acknowledged.
    pub(crate) fn untold(&self) -> Vec<usize> {
        let state = self.0.lock();
        let held = state.held.iter().flatten().enumerate();
        held.filter_map(|(number, told)| told.is_some().then_some(number)).collect()
    }

    /// Refuses so many appends.
    pub(crate) fn refuse(&self, appends: usize) {
        self.0.lock().refused = appends;
    }

    /// Batches in the log.
    pub(crate) fn batch_count(&self) -> usize {
        self.0.lock().batches.len()
    }

    /// How often it was replayed.
    pub(crate) fn opened(&self) -> usize {
        self.0.lock().opened
    }
}

#[async_trait]
impl ShardLog for MemoryLog {
    async fn wait_until_there(&self) {}

    async fn end(&self) -> Result<Offset, ApiError> {
        let mut state = self.0.lock();
        state.opened += 1;
        Ok(state.end)
    }

    async fn read(&self, from: Offset) -> Result<LogChunk, ApiError> {
        let state = self.0.lock();
        let next = |batch: &&Bytes| BatchHeader::parse(batch).expect("it was built here").next_offset() > from;
        let mut run = BytesMut::new();
        for batch in state.batches.iter().filter(next) {
            if !run.is_empty() && run.len() + batch.len() > 64 << 10 {
                break;
            }
            run.extend_from_slice(batch);
        }
        Ok(LogChunk { record_batches: run.freeze() })
    }

    async fn append(&self, batch: LogBatch) -> AppendAck {
        let (told, ack) = oneshot::channel();
        let mut state = self.0.lock();
        let refused = std::mem::take(&mut state.refused);
        state.refused = refused.saturating_sub(1);
        let failure = if refused > 0 {
            Some(Reason::NotEnoughReplicas)
        } else if batch.expected_offset.is_some_and(|expected| expected != state.end) {
            Some(Reason::OffsetMismatch)
        } else {
            None
        };
        if let Some(reason) = failure {
            let _ = told.send(Err(ApiError::new(reason, "refused")));
            return ack;
        }
        let mut stamped = batch.record_batch.to_vec();
        stamp_position(&mut stamped, state.end, LeaderEpoch(1));
        let header = BatchHeader::parse(&stamped).expect("the driver builds whole batches");
        state.end = header.next_offset();
        state.batches.push(stamped.into());
        match &mut state.held {
            Some(held) => held.push(Some(told)),
            None => drop(told.send(Ok(()))),
        }
        ack
    }
}
