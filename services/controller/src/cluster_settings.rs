//! Settings of the cluster: what topics have that do not say otherwise. Pure.

use std::collections::BTreeMap;

use walser_rpc::{ApiError, Reason};

use crate::config::{Config, REPLICAS_MAX};
use crate::keys::cluster::ClusterRecord;

/// A setting of the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterSetting {
    pub(crate) name: &'static str,
    /// What Kafka calls it; taken as well.
    kafka: &'static str,
    pub(crate) documentation: &'static str,
    field: fn(&mut ClusterRecord) -> &mut i32,
    of_config: fn(&Config) -> i32,
}

/// Every setting, by name.
pub(crate) const SETTINGS: [ClusterSetting; 2] = [
    ClusterSetting {
        name: "cluster.min.insync.replicas",
        kafka: "min.insync.replicas",
        documentation: "min.insync.replicas of topics without it. A change holds for existing topics at once.",
        field: |record| &mut record.min_insync_replicas,
        of_config: |config| config.min_insync_replicas,
    },
    ClusterSetting {
        name: "cluster.replication.factor",
        kafka: "default.replication.factor",
        documentation: "Replicas of topics that ask for no number. A change holds for topics that are created later.",
        field: |record| &mut record.replication_factor,
        of_config: |config| config.replication_factor,
    },
];

/// What is to change.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterChange {
    pub(crate) updates: BTreeMap<String, String>,
    /// Settings that get their default again.
    pub(crate) resets: Vec<String>,
}

// === impl ClusterSetting ===

impl ClusterSetting {
    fn named(name: &str) -> Result<Self, ApiError> {
        let found = SETTINGS.into_iter().find(|setting| setting.name == name || setting.kafka == name);
        found.ok_or_else(|| {
            let known = SETTINGS.map(|setting| setting.name).join(", ");
            let text = format!("there is no cluster setting \"{name}\"; there are: {known}");
            ApiError::new(Reason::ConfigInvalid, text).with("name", name)
        })
    }

    pub(crate) fn value(&self, record: &ClusterRecord) -> i32 {
        *(self.field)(&mut record.clone())
    }

    /// What a cluster has that is made with these settings of a controller.
    pub(crate) fn default(&self, config: &Config) -> i32 {
        (self.of_config)(config)
    }

    fn parse(&self, text: &str) -> Result<i32, ApiError> {
        let number = text.trim().parse().ok().filter(|number| (1..=REPLICAS_MAX).contains(number));
        let invalid = || {
            let text = format!("cluster setting {}: \"{text}\" is not a number from 1 to {REPLICAS_MAX}", self.name);
            ApiError::new(Reason::ConfigInvalid, text).with("name", self.name)
        };
        number.and_then(|number| i32::try_from(number).ok()).ok_or_else(invalid)
    }
}

// === impl ClusterChange ===

impl ClusterChange {
    /// The record with the change. `config` has the defaults. `nodes`: how many storage nodes have registered.
    ///
    /// # Errors
    /// When a setting is unknown or named twice, a value does not fit, or topics with the new defaults could be neither
    /// placed nor written.
    pub(crate) fn applied(
        &self,
        record: &ClusterRecord,
        config: &Config,
        nodes: usize,
    ) -> Result<ClusterRecord, ApiError> {
        let mut changed = record.clone();
        let mut named = Vec::new();
        let updates = self.updates.iter().map(|(name, text)| (name, Some(text)));
        let resets = self.resets.iter().map(|name| (name, None));
        for (name, text) in updates.chain(resets) {
            let setting = ClusterSetting::named(name)?;
            if named.contains(&setting.name) {
                return Err(ApiError::field("updates", format!("{} is named twice", setting.name)));
            }
            named.push(setting.name);
            let value = text.map_or_else(|| Ok(setting.default(config)), |text| setting.parse(text))?;
            *(setting.field)(&mut changed) = value;
        }
        if named.is_empty() {
            return Err(ApiError::field("updates", "the request names nothing to change"));
        }
        let ClusterRecord { replication_factor, min_insync_replicas, .. } = changed;
        if min_insync_replicas > replication_factor {
            let text = format!(
                "cluster.min.insync.replicas={min_insync_replicas} is more than \
                 cluster.replication.factor={replication_factor}: change both"
            );
            return Err(ApiError::new(Reason::ConfigInvalid, text).with("name", "cluster.min.insync.replicas"));
        }
        if replication_factor != record.replication_factor && usize::try_from(replication_factor).unwrap_or(0) > nodes {
            let text = format!(
                "cluster.replication.factor={replication_factor} needs {replication_factor} storage nodes; {nodes} have \
                 registered"
            );
            let failure = ApiError::new(Reason::ReplicationFactorTooHigh, text);
            return Err(failure.with("requested", replication_factor).with("available", nodes));
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use walser_service::Settings;

    use super::*;
    use crate::config::KEYS;

    fn change(updates: &[(&str, &str)], resets: &[&str]) -> ClusterChange {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        ClusterChange {
            updates: updates.iter().map(owned).collect(),
            resets: resets.iter().copied().map(str::to_owned).collect(),
        }
    }

    fn config(replication_factor: i32, min_insync_replicas: i32) -> Config {
        let pairs = [
            format!("cluster.replication.factor={replication_factor}"),
            format!("cluster.min.insync.replicas={min_insync_replicas}"),
        ];
        Config::from_settings(&Settings::load(&[KEYS], None, |_| None, &pairs).unwrap(), false).unwrap()
    }

    #[test]
    fn both_names_are_taken_and_what_could_not_work_is_refused() {
        let record = ClusterRecord::new("c".into(), "walser".into(), 5);
        let applied =
            |updates: &[(&str, &str)], resets: &[&str]| change(updates, resets).applied(&record, &config(1, 1), 3);
        let three =
            applied(&[("default.replication.factor", "3"), ("cluster.min.insync.replicas", " 2 ")], &[]).unwrap();
        assert_eq!((three.replication_factor, three.min_insync_replicas), (3, 2));
        let reset = |config: &Config| change(&[], &["min.insync.replicas"]).applied(&three, config, 3).unwrap();
        assert_eq!(reset(&config(1, 1)).min_insync_replicas, 1);
        assert_eq!(reset(&config(3, 2)).min_insync_replicas, 2, "what the cluster was made with");
        let reason = |updates: &[(&str, &str)], resets: &[&str]| applied(updates, resets).unwrap_err().reason();
        assert_eq!(reason(&[("retention.ms", "3")], &[]), Reason::ConfigInvalid);
        assert_eq!(reason(&[("min.insync.replicas", "0")], &[]), Reason::ConfigInvalid);
        assert_eq!(reason(&[("min.insync.replicas", "2")], &[]), Reason::ConfigInvalid, "of one replica");
        assert_eq!(reason(&[("cluster.replication.factor", "4")], &[]), Reason::ReplicationFactorTooHigh);
        assert_eq!(reason(&[("min.insync.replicas", "1")], &["cluster.min.insync.replicas"]), Reason::FieldInvalid);
        assert_eq!(reason(&[], &[]), Reason::FieldInvalid);
    }
}
