//! `FinalizeUpgrade`, and who may work in the cluster until then and after it.

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, FEATURE_LEVELS, FeatureLevels};
use walser_service::Caller;

use super::Controller;
use crate::committer::maybe;
use crate::upgrade;

impl Controller {
    /// Refuses a process that cannot work at the cluster's feature level.
    pub(super) fn check_level(&self, levels: FeatureLevels, who: &str) -> Result<(), ApiError> {
        let view = self.views.load();
        FEATURE_LEVELS.check(view.cluster()?.feature_level, levels, who)
    }

    /// Ends an upgrade: the cluster works at the highest feature level that this version knows.
    pub(super) async fn end_upgrade(
        &self,
        caller: &Caller,
        validate_only: bool,
    ) -> Result<pb::FinalizeUpgradeResponse, ApiError> {
        self.changeable()?;
        // No node registers meanwhile.
        let _turn = self.nodes.turns().next().await?;
        let view = self.views.catch_up().await?;
        let highest = |record: &_| {
            upgrade::check(&view, &self.followers)?;
            Ok(upgrade::at_highest_level(record))
        };
        let (before, after) = self.store.change_cluster(highest, validate_only).await?;
        let (previous_level, feature_level) = (before.feature_level, after.feature_level);
        if !validate_only && previous_level != feature_level {
            self.views.catch_up().await.map_err(|failure| maybe(&failure))?;
            let (client_id, client_address) = (caller.client_id(), caller.address());
            tracing::info!(client_id, client_address, previous_level, feature_level, "the upgrade is ended");
        }
        Ok(pb::FinalizeUpgradeResponse { feature_level, previous_level })
    }
}
