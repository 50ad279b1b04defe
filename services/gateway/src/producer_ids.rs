//! Producer ids: a block at a time from the controller.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Mutex;
use walser_model::ProducerId;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_rpc::{Connection, Failure};

/// Hands out producer ids. Clones share the block.
#[derive(Debug, Clone)]
pub(crate) struct ProducerIds {
    controller: Connection,
    block: Arc<Mutex<Range<i64>>>,
    /// Ids that this gateway writes with itself.
    own: Arc<parking_lot::Mutex<HashSet<ProducerId>>>,
}

impl ProducerIds {
    pub(crate) fn new(controller: Connection) -> Self {
        Self { controller, block: Arc::new(Mutex::new(0..0)), own: Arc::default() }
    }

    /// An id for the gateway's own writes: clients cannot use it, or they could fence everybody else.
    pub(crate) async fn next_own(&self) -> Result<ProducerId, Failure> {
        let id = self.next().await?;
        self.own.lock().insert(id);
        Ok(id)
    }

    /// Whether the gateway writes with this id itself.
    pub(crate) fn is_own(&self, id: ProducerId) -> bool {
        self.own.lock().contains(&id)
    }

    /// An id that nobody else has or had.
    pub(crate) async fn next(&self) -> Result<ProducerId, Failure> {
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(ProducerId(id));
        }
        let mut client = ControllerServiceClient::new(self.controller.clone());
        let answer = client.allocate_producer_ids(pbi::AllocateProducerIdsRequest::default()).await?.into_inner();
        *block = answer.first_id..answer.first_id + i64::from(answer.count);
        block.next().map(ProducerId).ok_or_else(|| Failure::internal("the controller gave an empty block of ids"))
    }
}
