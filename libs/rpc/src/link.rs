//! The link on which record data travels to a storage node.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use walser_proto::internal::v1::{
    AppendStreamRequest, AppendStreamResponse, FetchStreamRequest, FetchStreamResponse, PartitionRef,
};

use crate::{Failure, Reason};

/// Room for the bytes of one append at a storage node; freed when it is dropped.
#[derive(Debug, Default)]
pub struct AppendPermit {
    held: Option<Held>,
    /// Of other rooms, or of other partitions.
    others: Vec<Held>,
}

/// Of a partition's part, and of the whole room.
type Held = [OwnedSemaphorePermit; 2];

/// Tells whoever waits for an append what became of it, once, on any thread. One that is dropped before it has told
/// says that nothing is known: nobody is left waiting, whichever way a request is lost.
pub struct AppendReply {
    correlation_id: i64,
    tell: Option<Box<dyn FnOnce(AppendStreamResponse) + Send>>,
}

/// A storage node as gateways see it: `AppendStream` and `FetchStream`, whole messages.
///
/// Inside a process the messages are handed over as they are, sharing the memory of their batches; between processes
/// the same messages travel over gRPC. Appends to one partition MUST be carried out in the order of the calls.
#[async_trait]
pub trait StorageLink: Send + Sync + Debug {
    /// Waits until the node has room for `bytes` of one more append to a partition.
    async fn admit(&self, partition: &PartitionRef, bytes: usize) -> AppendPermit;

    /// Hands over an append. The reply is told once, also when the node goes away.
    fn append(&self, permit: AppendPermit, request: AppendStreamRequest, reply: AppendReply);

    /// Reads; waits up to the request's `max_wait` for data. Dropping the future ends the wait.
    async fn fetch(&self, request: FetchStreamRequest) -> FetchStreamResponse;
}

// === impl AppendReply ===

impl AppendReply {
    /// A reply to the request of this number. `tell` MUST NOT block.
    pub fn new(correlation_id: i64, tell: impl FnOnce(AppendStreamResponse) + Send + 'static) -> Self {
        Self { correlation_id, tell: Some(Box::new(tell)) }
    }

    /// Answers, with the number of the request.
    pub fn answer(mut self, answer: AppendStreamResponse) {
        self.tell(answer);
    }

    /// Answers that the batch is refused, or that nothing is known of it.
    pub fn fail(self, failure: Failure) {
        self.answer(AppendStreamResponse { error: Some(failure.into()), ..AppendStreamResponse::default() });
    }

    fn tell(&mut self, answer: AppendStreamResponse) {
        if let Some(tell) = self.tell.take() {
            tell(AppendStreamResponse { correlation_id: self.correlation_id, ..answer });
        }
    }
}

impl Drop for AppendReply {
    fn drop(&mut self) {
        if self.tell.is_some() {
            let failure = Failure::new(Reason::LeaderLostAfterAppend, "the request was lost on its way");
            let error = Some(failure.with("appended", "unknown").into());
            self.tell(AppendStreamResponse { error, ..AppendStreamResponse::default() });
        }
    }
}

impl Debug for AppendReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppendReply").field("correlation_id", &self.correlation_id).finish_non_exhaustive()
    }
}

// === impl AppendPermit ===

impl AppendPermit {
    /// A permit that returns what it holds.
    pub(crate) fn holding(permits: Held) -> Self {
        Self { held: Some(permits), others: Vec::new() }
    }

    /// A permit that was never counted.
    pub fn uncounted() -> Self {
        Self::default()
    }

    /// Takes over what another permit holds: for appends that leave as one.
    pub fn join(&mut self, other: Self) {
        for more in other.held.into_iter().chain(other.others) {
            match &mut self.held {
                Some(held) if can_merge(held, &more) => {
                    held.iter_mut().zip(more).for_each(|(held, more)| held.merge(more));
                }
                Some(_) => self.others.push(more),
                held => *held = Some(more),
            }
        }
    }
}

/// Whether permits are of the same room and partition, and can be counted as one.
fn can_merge(held: &Held, more: &Held) -> bool {
    let counted = |permit: &OwnedSemaphorePermit| u32::try_from(permit.num_permits()).unwrap_or(u32::MAX);
    held.iter().zip(more).all(|(held, more)| {
        Arc::ptr_eq(held.semaphore(), more.semaphore()) && counted(held).checked_add(counted(more)).is_some()
    })
}
