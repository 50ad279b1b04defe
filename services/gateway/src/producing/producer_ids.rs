//! Producer ids: blocks of them from the controller, and whether an id of a client was ever issued.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use walser_model::{ProducerEpoch, ProducerId};
use walser_rpc::{ApiError, ControllerClient};

use crate::metadata::{Metadata, View};

/// Pause before the first block is asked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How long one look for a storage node in service lasts.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Hands out producer ids. Clones share the blocks.
#[derive(Debug, Clone)]
pub(crate) struct ProducerIds {
    controller: ControllerClient,
    metadata: Metadata,
    /// For clients.
    block: Arc<Mutex<Range<i64>>>,
    /// For the gateway's own writes.
    own: Arc<Mutex<Range<i64>>>,
    /// Ids below it were issued, as far as this gateway knows.
    issued_below: Arc<AtomicI64>,
}

impl ProducerIds {
    pub(crate) fn new(controller: ControllerClient, metadata: Metadata) -> Self {
        let (block, own) = (Arc::new(Mutex::new(0..0)), Arc::new(Mutex::new(0..0)));
        Self { controller, metadata, block, own, issued_below: Arc::default() }
    }

    /// The controller, as long as it is that of this cluster: another one knows nothing of the ids that were issued here.
    fn controller(&self) -> Result<&ControllerClient, ApiError> {
        self.metadata.obeyed()?;
        Ok(&self.controller)
    }

    /// An id for the gateway's own writes: clients cannot use it, or they could fence everybody else.
    pub(crate) async fn next_own(&self) -> Result<ProducerId, ApiError> {
        let mut block = self.own.lock().await;
        if block.is_empty() {
            *block = self.allocate(true).await?;
        }
        block.next().map(ProducerId).ok_or_else(empty_block)
    }

    /// Takes the first blocks before there is a write, and tries until it has them: without them the first write, or the
    /// first producer, would need the controller, and records are to flow while it is away.
    pub(crate) async fn prefetch(self) {
        let in_service = |view: &View| view.nodes().any(|(_, node)| !node.liveness.fenced);
        while !self.metadata.wait_until(LOOK_AGAIN, in_service).await {}
        for (block, internal) in [(&self.own, true), (&self.block, false)] {
            while !self.fill(block, internal).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Takes a block where there is none. False: the controller did not give one.
    async fn fill(&self, block: &Mutex<Range<i64>>, internal: bool) -> bool {
        let mut block = block.lock().await;
        // A writer that asks meanwhile would get the same answer.
        if block.is_empty()
            && let Ok(first) = self.allocate(internal).await
        {
            *block = first;
        }
        !block.is_empty()
    }

    /// An id that nobody else has or had.
    pub(crate) async fn next(&self) -> Result<ProducerId, ApiError> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            *block = self.allocate(false).await?;
        }
        block.next().map(ProducerId).ok_or_else(empty_block)
    }

    async fn allocate(&self, internal: bool) -> Result<Range<i64>, ApiError> {
        let block = self.controller()?.allocate_producer_ids(internal).await?;
        if !internal {
            self.issued_below.fetch_max(block.end, Ordering::Relaxed);
        }
        Ok(block)
    }

    /// Checks the id of a client's session: one of a gateway, or one that was never issued, is refused.
    pub(crate) async fn check_issued(&self, id: ProducerId) -> Result<(), ApiError> {
        let bad = |problem: &str| Err(ApiError::field("producer.producer_id", problem));
        if id >= ProducerId::INTERNAL_FIRST {
            return bad("belongs to the server; take one from InitProducer");
        }
        if id.0 < self.issued_below.load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = self.controller()?.producer_id_end().await?;
        self.issued_below.fetch_max(end.0, Ordering::Relaxed);
        if id < end { Ok(()) } else { bad("was never issued; take one from InitProducer") }
    }

    /// The session that replaces a client's: the next epoch of its id, or another id when there is none left.
    pub(crate) async fn next_epoch(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), ApiError> {
        self.check_issued(id).await?;
        if epoch.0 == i16::MAX {
            return Ok((self.next().await?, ProducerEpoch(0)));
        }
        Ok((id, self.controller()?.raise_producer_epoch(id, epoch).await?))
    }
}

fn empty_block() -> ApiError {
    ApiError::internal("the controller gave an empty block of ids")
}
