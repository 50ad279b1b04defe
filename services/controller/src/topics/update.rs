//! Changes of settings, labels and descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walser_metadata::TopicEntry;
use walser_metadata::value::TopicValue;
use walser_metastore::Compare;
use walser_replication::control::{self, Decision};
use walser_rpc::ApiError;

use super::{
    ATTEMPTS_MAX, Topics, canonical, check_etag, check_texts, config_failure, contended, effective, find, own_name,
};
use crate::committer::{Committed, Extra};
use crate::keys::put;
use crate::keys::topic;

/// Most labels and settings in one request.
const CHANGES_MAX: usize = 1000;

/// What is to change in a topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicUpdate {
    pub(crate) name: String,
    /// Empty: whatever was changed since.
    pub(crate) etag: String,
    pub(crate) config_updates: BTreeMap<String, String>,
    pub(crate) config_resets: BTreeSet<String>,
    pub(crate) label_updates: BTreeMap<String, String>,
    pub(crate) label_removals: BTreeSet<String>,
    pub(crate) description: Option<String>,
    pub(crate) validate_only: bool,
}

impl TopicUpdate {
    /// Whether it names anything to change, and nothing twice.
    fn check(&self) -> Result<(), ApiError> {
        let Self { config_updates, config_resets, label_updates, label_removals, .. } = self;
        let changes = config_updates.len() + config_resets.len() + label_updates.len() + label_removals.len();
        if changes == 0 && self.description.is_none() {
            return Err(ApiError::field("config_updates", "the request names nothing to change"));
        }
        if changes > CHANGES_MAX {
            let text = format!("{changes} changes exceed the limit of {CHANGES_MAX}");
            return Err(ApiError::field("config_updates", text));
        }
        if let Some(both) = config_resets.iter().find(|name| config_updates.contains_key(*name)) {
            return Err(ApiError::field("config_resets", format!("\"{both}\" is in config_updates, too")));
        }
        match label_removals.iter().find(|name| label_updates.contains_key(*name)) {
            Some(both) => Err(ApiError::field("label_removals", format!("\"{both}\" is in label_updates, too"))),
            None => Ok(()),
        }
    }

    /// The topic with the changes.
    fn applied(&self, topic: &TopicValue, level: i32) -> Result<TopicValue, ApiError> {
        let mut topic = topic.clone();
        topic.config.extend(canonical(&self.config_updates, level)?);
        for name in &self.config_resets {
            // It exists, or is one that another version has set.
            if topic.config.remove(name).is_none() {
                walser_model::Setting::require(name).map_err(config_failure)?;
            }
        }
        topic.labels.extend(self.label_updates.clone());
        topic.labels.retain(|name, _| !self.label_removals.contains(name));
        if let Some(description) = &self.description {
            topic.description.clone_from(description);
        }
        check_texts(&topic.labels, &topic.description)?;
        Ok(topic)
    }
}

impl Topics {
    /// Changes settings, labels or description. Returns the topic as it was, and as it is, or would be with
    /// `validate_only`.
    pub(crate) async fn update(&self, update: &TopicUpdate) -> Result<(Arc<TopicEntry>, Arc<TopicValue>), ApiError> {
        update.check()?;
        own_name(&update.name)?;
        let _turn = self.turns.next_about(&update.name).await?;
        let mut attempted = None;
        for _ in 0..ATTEMPTS_MAX {
            let (view, context) = self.committer.context()?;
            let topic = find(&view, &update.name)?;
            if let Err(stale) = check_etag(&update.etag, topic) {
                // Written by this very call, although the outcome was not known.
                return attempted.filter(|(_, value)| *value == topic.value).ok_or(stale);
            }
            let mut value = update.applied(&topic.value, view.cluster()?.feature_level)?;
            let config = effective(&value.config, value.replication_factor)?;
            // Of settings that cannot be read it is not known.
            let same = topic.settings.unreadable.is_none() && config.durability == topic.settings.config.durability;
            value.durability_revision = if same { topic.durability_revision() } else { 0 };
            if update.validate_only {
                return Ok((Arc::clone(topic), Arc::new(value)));
            }
            let compares = vec![Compare::ModifiedAt(topic::key(topic.id), topic.revision)];
            let extra = Extra { compares, ops: vec![put(topic::key(topic.id), &value)], registration: None };
            let value = Arc::new(value);
            attempted = Some((Arc::clone(topic), Arc::clone(&value)));
            if self.committer.commit(&view, &Decision::new(&context), extra).await? != Committed::Again {
                if let Err(failure) = self.apply_min_isr(topic).await {
                    // The duties of the controller finish it.
                    tracing::warn!(topic = %topic.name, %failure, "min.insync.replicas is not applied everywhere yet");
                }
                return Ok((Arc::clone(topic), value));
            }
        }
        Err(contended())
    }

    /// Gives the partitions of a topic the `min.insync.replicas` of its settings: leader and controller use the
    /// partition's own value (amendment A3). What is not finished here, the duties of the controller finish.
    async fn apply_min_isr(&self, topic: &TopicEntry) -> Result<(), ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let (view, context) = self.committer.context()?;
            let Some(topic) = view.metadata.topic(topic.id) else { return Ok(()) };
            let min_isr = view.min_isr(topic)?;
            let partitions = view.metadata.partitions_of(topic.id);
            let decisions: Vec<_> = partitions
                .filter_map(|partition| control::change_min_isr(&context, &partition.record, min_isr))
                .collect();
            if decisions.is_empty() || self.committer.commit_all(&view, decisions, &Extra::default()).await? {
                return Ok(());
            }
        }
        Err(contended())
    }
}
