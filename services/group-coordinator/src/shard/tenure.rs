//! The time for which this process coordinates a shard: from the moment in which the controller gives it to it, until the
//! controller gives it to another one, or another one has begun to write.
//!
//! A coordinator begins by writing its epoch to the log, wherever that ends, and reads the log then, beyond that. Everything
//! else that it writes names the offset that it must get. So one that came before it, whatever it still believes, is
//! refused with the next thing that it writes, reads the higher epoch, and is no coordinator of the shard any more.

use tokio::sync::watch;
use walser_group::{Config, CoordinatorEpoch, Event, GroupShard};
use walser_model::{Clock, Compression, Offset};
use walser_record_batch::{BatchBuilder, Producer, RecordFields};
use walser_rpc::ApiError;

use super::replay::replay;
use crate::call::not_available;
use crate::log::{LogBatch, ShardLog, lost};

/// In which epoch the controller has given a shard to this process, if it has.
pub(crate) type GivenEpoch = watch::Receiver<Option<CoordinatorEpoch>>;

/// Waits until `epoch` is not the one in which the shard is given to this process.
pub(super) async fn ends(given: &mut GivenEpoch, epoch: CoordinatorEpoch) -> ApiError {
    // Also when nothing is given any more: the process stops.
    let _ = given.wait_for(|given| *given != Some(epoch)).await;
    not_available("moves to another coordinator")
}

/// What the driver of a shard has done of its tenure.
#[derive(Debug)]
pub(super) struct Tenure {
    shard: i32,
    given: GivenEpoch,
    /// The epoch that is in the log.
    announced: Option<CoordinatorEpoch>,
    /// The epoch that another one has ended.
    over: Option<CoordinatorEpoch>,
    /// Told the highest epoch in the log when that is above the one that was given: see [`Tenure::load`].
    outdated: watch::Sender<Option<CoordinatorEpoch>>,
}

// === impl Tenure ===

impl Tenure {
    pub(super) fn new(shard: i32, given: GivenEpoch, outdated: watch::Sender<Option<CoordinatorEpoch>>) -> Self {
        Self { shard, given, announced: None, over: None, outdated }
    }

    /// Waits until the shard is given to this process, in an epoch that is not over. `None`: nothing will be.
    pub(super) async fn begins(&mut self) -> Option<CoordinatorEpoch> {
        let over = self.over;
        *self.given.wait_for(|given| given.is_some() && *given != over).await.ok()?
    }

    /// Whether the shard is this process's in an epoch, as far as is known.
    pub(super) fn lasts(&self, epoch: CoordinatorEpoch) -> bool {
        *self.given.borrow() == Some(epoch) && self.over != Some(epoch)
    }

    /// Writes the epoch, unless it is written, and reads the log.
    ///
    /// # Errors
    /// The log does not answer, or has a higher epoch. That one is told with the next sign of life: where the controller still
    /// means this process, its own number has fallen behind that of the log, in an older copy of the metadata, and grows
    /// beyond it.
    pub(super) async fn load(
        &mut self,
        epoch: CoordinatorEpoch,
        log: &dyn ShardLog,
        clock: &dyn Clock,
        config: Config,
    ) -> Result<(GroupShard, Offset), ApiError> {
        log.wait_until_there().await;
        if self.announced != Some(epoch) {
            announce(epoch, log, clock).await?;
            self.announced = Some(epoch);
        }
        let (shard, end) = replay(self.shard, log, config).await?;
        let written = shard.coordinator_epoch();
        self.outdated.send_replace(Some(written).filter(|written| *written > epoch));
        if written > epoch {
            self.over = Some(epoch);
            return Err(not_available("has another coordinator").with("epoch", epoch).with("currentEpoch", written));
        }
        if written < epoch {
            // One that was late has written a lower epoch behind it, and compaction has kept that: it is written again.
            self.announced = None;
            return Err(not_available("is being loaded"));
        }
        Ok((shard, end))
    }
}

/// Writes an epoch behind whatever the log has.
async fn announce(epoch: CoordinatorEpoch, log: &dyn ShardLog, clock: &dyn Clock) -> Result<(), ApiError> {
    let encoded = Event::Coordinator(epoch).encode();
    let (key, value) = (Some(&*encoded.key), encoded.value.as_deref());
    let mut batch = BatchBuilder::new(Compression::None, 0);
    batch.append(&RecordFields { timestamp: clock.now_millis(), key, value, headers: &[] });
    let batch = LogBatch { expected_offset: None, record_batch: batch.build(Producer::NONE) };
    log.append(batch).await.await.unwrap_or_else(|_| Err(lost()))
}
