//! `ListClusterConfigs` and `UpdateClusterConfig`.

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, after_token, page, page_size};
use walser_service::Caller;

use super::Controller;
use crate::cluster_settings::{ClusterChange, ClusterSetting, SETTINGS};
use crate::committer::maybe;
use crate::config::Config;
use crate::keys::cluster::ClusterRecord;

fn entry(setting: &ClusterSetting, record: &ClusterRecord, config: &Config) -> pb::ConfigEntry {
    let (value, default) = (setting.value(record), setting.default(config));
    let source = if value == default { pb::ConfigSource::Default } else { pb::ConfigSource::Cluster };
    pb::ConfigEntry {
        name: setting.name.to_owned(),
        value: value.to_string(),
        default_value: default.to_string(),
        source: source.into(),
        r#type: pb::ConfigType::Int.into(),
        documentation: setting.documentation.to_owned(),
        ..Default::default()
    }
}

impl Controller {
    /// The settings of the cluster, by name, page by page.
    pub(super) fn cluster_configs(
        &self,
        request: &pb::ListClusterConfigsRequest,
    ) -> Result<pb::ListClusterConfigsResponse, ApiError> {
        let size = page_size(request.page_size, usize::MAX, usize::MAX)?;
        let query = format!("cluster-configs/{}", request.overrides_only);
        let after = after_token(&request.page_token, &query)?;
        let view = self.views.load();
        let record = view.cluster()?;
        let wanted = SETTINGS.iter().filter(|setting| setting.name > after);
        let wanted =
            wanted.filter(|setting| !request.overrides_only || setting.value(record) != setting.default(&self.config));
        let configs = wanted.map(|setting| entry(setting, record, &self.config)).collect();
        let (configs, next_page_token) = page(configs, size, &query, |config: &pb::ConfigEntry| config.name.clone());
        Ok(pb::ListClusterConfigsResponse { configs, next_page_token })
    }

    /// Changes settings of the cluster. Answers with those that are different then.
    pub(super) async fn change_cluster_config(
        &self,
        caller: &Caller,
        request: pb::UpdateClusterConfigRequest,
    ) -> Result<pb::UpdateClusterConfigResponse, ApiError> {
        self.changeable()?;
        let pb::UpdateClusterConfigRequest { updates, reset_names, validate_only } = request;
        let change = ClusterChange { updates: updates.into_iter().collect(), resets: reset_names };
        let nodes = self.views.load().metadata.nodes().filter(|(_, node)| node.epoch > 0).count();
        let apply = |record: &ClusterRecord| change.applied(record, &self.config, nodes);
        let (before, after) = self.store.change_cluster(apply, validate_only).await?;
        let changed = SETTINGS.iter().filter(|setting| setting.value(&before) != setting.value(&after));
        let changed: Vec<_> = changed.collect();
        if !validate_only && !changed.is_empty() {
            // Partitions follow: the duties see it in the view.
            self.views.catch_up().await.map_err(|failure| maybe(&failure))?;
            for setting in &changed {
                let (from, to) = (setting.value(&before), setting.value(&after));
                let (client_id, client_address) = (caller.client_id(), caller.address());
                tracing::info!(client_id, client_address, setting = setting.name, from, to, "cluster setting changed");
            }
        }
        let configs = changed.into_iter().map(|setting| entry(setting, &after, &self.config)).collect();
        Ok(pb::UpdateClusterConfigResponse { configs })
    }
}
