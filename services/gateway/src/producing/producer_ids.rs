//! Producer ids: blocks of them from the controller, and whether an id of a client was ever issued.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use walser_model::ProducerId;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_rpc::{Connection, Failure};

use crate::metadata::{Metadata, View};

/// Pause before the first block is asked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How long one look for a storage node in service lasts.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Hands out producer ids. Clones share the blocks.
#[derive(Debug, Clone)]
pub(crate) struct ProducerIds {
    controller: Connection,
    metadata: Metadata,
    /// For clients.
    block: Arc<Mutex<Range<i64>>>,
    /// For the gateway's own writes.
    own: Arc<Mutex<Range<i64>>>,
    /// Ids below it were issued, as far as this gateway knows.
    issued_below: Arc<AtomicI64>,
}

impl ProducerIds {
    pub(crate) fn new(controller: Connection, metadata: Metadata) -> Self {
        let (block, own) = (Arc::new(Mutex::new(0..0)), Arc::new(Mutex::new(0..0)));
        Self { controller, metadata, block, own, issued_below: Arc::default() }
    }

    /// The controller, as long as it is that of this cluster: another one knows nothing of the ids that were issued here.
    fn client(&self) -> Result<ControllerServiceClient<Connection>, Failure> {
        self.metadata.obeyed()?;
        Ok(ControllerServiceClient::new(self.controller.clone()))
    }

    /// An id for the gateway's own writes: clients cannot use it, or they could fence everybody else.
    pub(crate) async fn next_own(&self) -> Result<ProducerId, Failure> {
        let mut block = self.own.lock().await;
        if block.is_empty() {
            *block = self.allocate(true).await?;
        }
        block.next().map(ProducerId).ok_or_else(empty_block)
    }

    /// Takes the first block for the gateway's own writes before there is one, and tries until it has: without one, the
    /// first write would need the controller, and records are to flow while it is away.
    pub(crate) async fn prefetch(self) {
        let in_service = |view: &View| view.nodes().any(|(_, node)| !node.liveness.fenced);
        while !self.metadata.wait_until(LOOK_AGAIN, in_service).await {}
        loop {
            {
                let mut block = self.own.lock().await;
                if !block.is_empty() {
                    return;
                }
                // A writer that asks meanwhile would get the same answer.
                if let Ok(first) = self.allocate(true).await {
                    *block = first;
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// An id that nobody else has or had.
    pub(crate) async fn next(&self) -> Result<ProducerId, Failure> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            *block = self.allocate(false).await?;
        }
        block.next().map(ProducerId).ok_or_else(empty_block)
    }

    async fn allocate(&self, internal: bool) -> Result<Range<i64>, Failure> {
        let request = pbi::AllocateProducerIdsRequest { internal, ..Default::default() };
        let answer = self.client()?.allocate_producer_ids(request).await?.into_inner();
        let block = answer.first_id..answer.first_id + i64::from(answer.count);
        if !internal {
            self.issued_below.fetch_max(block.end, Ordering::Relaxed);
        }
        Ok(block)
    }

    /// Checks the id of a client's session: one of a gateway, or one that was never issued, is refused.
    pub(crate) async fn check_issued(&self, id: ProducerId) -> Result<(), Failure> {
        let bad = |problem: &str| Err(Failure::field("producer.producer_id", problem));
        if id >= ProducerId::INTERNAL_FIRST {
            return bad("belongs to the server; take one from InitProducer");
        }
        if id.0 < self.issued_below.load(Ordering::Relaxed) {
            return Ok(());
        }
        let answer = self.client()?.get_producer_id_end(pbi::GetProducerIdEndRequest {}).await?.into_inner();
        self.issued_below.fetch_max(answer.end_id, Ordering::Relaxed);
        if id.0 < answer.end_id { Ok(()) } else { bad("was never issued; take one from InitProducer") }
    }

    /// The session that replaces a client's: the next epoch of its id, or another id when there is none left.
    pub(crate) async fn next_epoch(&self, previous: pb::ProducerIdentity) -> Result<pb::ProducerIdentity, Failure> {
        let pb::ProducerIdentity { producer_id, producer_epoch } = previous;
        if producer_id < 0 || !(0..=i32::from(i16::MAX)).contains(&producer_epoch) {
            return Err(Failure::field("previous", "is not a producer session"));
        }
        self.check_issued(ProducerId(producer_id)).await?;
        if producer_epoch == i32::from(i16::MAX) {
            return Ok(pb::ProducerIdentity { producer_id: self.next().await?.0, producer_epoch: 0 });
        }
        let request = pbi::RaiseProducerEpochRequest { producer_id, producer_epoch };
        let answer = self.client()?.raise_producer_epoch(request).await?.into_inner();
        Ok(pb::ProducerIdentity { producer_id, producer_epoch: answer.producer_epoch })
    }
}

fn empty_block() -> Failure {
    Failure::internal("the controller gave an empty block of ids")
}
