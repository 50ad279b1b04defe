//! Signs of life, at every controller: the one that leads gives shards to whoever it hears.

use std::time::Duration;

use tokio::sync::watch;
use walser_group::CoordinatorEpoch;
use walser_rpc::{ApiError, ControllerClient, CoordinatorBeat, Outage, Reason};
use walser_service::Shutdown;

/// Time between two signs of life. Whoever is not heard for 1.5 s has no shards any more.
const EVERY: Duration = Duration::from_millis(200);
/// The same, of a coordinator that wants to stop: it waits for an answer.
const EVERY_STOPPING: Duration = Duration::from_millis(20);
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(1);

/// What is told.
#[derive(Debug, Clone)]
pub(crate) struct Beats {
    pub(crate) id: String,
    /// Where gateways reach this coordinator.
    pub(crate) address: String,
    /// By shard: the highest epoch in its log, where that is above the one that was given.
    pub(crate) outdated: Vec<watch::Receiver<Option<CoordinatorEpoch>>>,
    /// Why what the controllers say is not obeyed: shards that they give would not be taken.
    pub(crate) refused: watch::Receiver<Option<ApiError>>,
    pub(crate) shutdown: Shutdown,
}

// === impl Beats ===

impl Beats {
    /// Beats at every controller until the stop. One that is asked for begins once a controller says so.
    pub(crate) async fn run(self, controllers: Vec<ControllerClient>) {
        futures::future::join_all(controllers.iter().map(|controller| self.keep(controller))).await;
    }

    async fn keep(&self, controller: &ControllerClient) {
        let mut outage = Outage::of("the signs of life to a controller");
        while !self.shutdown.begun() {
            let stopping = self.shutdown.is_asked();
            if self.refused.borrow().is_some() && !stopping {
                let _ = tokio::time::timeout(EVERY, self.shutdown.asked()).await;
                continue;
            }
            match self.beat(controller, stopping).await {
                Ok(may_stop) => {
                    outage.ended();
                    if stopping && may_stop {
                        self.shutdown.begin();
                    }
                }
                Err(failure) => outage.failed(&failure),
            }
            let pause = if self.shutdown.is_asked() { EVERY_STOPPING } else { EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.asked(), if !stopping => {}
            }
        }
    }

    async fn beat(&self, controller: &ControllerClient, stopping: bool) -> Result<bool, ApiError> {
        let outdated = (0..).zip(&self.outdated);
        let outdated = outdated.filter_map(|(shard, epoch)| Some((shard, (*epoch.borrow())?))).collect();
        let (id, address) = (self.id.clone(), self.address.clone());
        let beat = CoordinatorBeat { id, address, stopping, outdated };
        let late =
            |_elapsed| ApiError::new(Reason::ControllerNotAvailable, "a controller does not answer a sign of life");
        tokio::time::timeout(LIMIT, controller.coordinator_beat(&beat)).await.map_err(late)?
    }
}
