//! Look-ups of many places at once.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use walser_rpc::ApiError;

use crate::error::no_answer;
use crate::retry::{PATIENCE, while_moved};

use super::Reading;
use super::answer::LookedUp;
use super::request::ReadTarget;
use super::target::Target;

/// Look-ups of one call that are under way together.
pub(crate) const LOOK_UPS_AT_ONCE: usize = 32;

impl Reading {
    /// Finds the start of each target, in order. `limit`: the caller's time.
    pub(crate) async fn list_offsets(
        &self,
        targets: &[ReadTarget],
        limit: Option<Duration>,
    ) -> Result<Vec<LookedUp>, ApiError> {
        let targets = self.positions.targets(targets).await?;
        // One time for all: however many partitions have no leader, or one that does not answer, the call ends.
        let until = Instant::now() + limit.map_or(PATIENCE, |limit| PATIENCE.min(limit / 4));
        let end = until + limit.map_or(PATIENCE, |limit| limit / 2);
        let look_up = async |target: &Target| {
            let found = while_moved(until, || self.positions.find(&target.topic, target.partition, target.start));
            let found = tokio::time::timeout_at(end, found).await;
            let found = found.unwrap_or_else(|_elapsed| Err(no_answer(&target.topic, target.partition)));
            LookedUp { of: target.name(), found }
        };
        let look_ups: Vec<_> = targets.iter().map(look_up).collect();
        let found: Vec<_> = futures::stream::iter(look_ups).buffered(LOOK_UPS_AT_ONCE).collect().await;
        match found.iter().all(|one| one.found.is_err()).then(|| found.first()).flatten() {
            // Nothing worked: a client that looks only at the status must not take this for an empty answer.
            Some(LookedUp { found: Err(failure), .. }) => Err(failure.clone()),
            _ => Ok(found),
        }
    }
}
