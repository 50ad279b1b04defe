//! The names of topics, so that logs, probes and reports can show them beside the ids.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use walser_log::NamesById;
use walser_model::{TopicId, TopicPartition};
use walser_proto::internal::v1::WatchMetadataResponse;

/// Names by id. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicNames(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// Of the topics in the metadata that was applied last.
    current: HashMap<TopicId, Arc<str>>,
    /// As the data directory had them at the start: for reports before there is metadata, and for topics that it does
    /// not know.
    earlier: NamesById,
}

/// A partition as people read it: `orders/3 (0191…-3)`, or its id alone while the name is not known.
#[derive(Debug, Clone)]
pub(crate) struct NamedPartition {
    id: TopicPartition,
    name: Option<Arc<str>>,
}

// === impl TopicNames ===

impl TopicNames {
    /// Names that were known before.
    pub(crate) fn set_earlier(&self, earlier: NamesById) {
        self.0.write().earlier = earlier;
    }

    /// Applies a committed group of messages as a whole.
    pub(crate) fn apply(&self, group: &[WatchMetadataResponse]) {
        let mut names = self.0.write();
        if group.iter().any(|message| message.reset) {
            names.current.clear();
        }
        for message in group {
            for topic in &message.topics {
                if let Ok(id) = topic.id.parse() {
                    names.current.insert(id, topic.name.as_str().into());
                }
            }
            for id in message.removed_topic_ids.iter().filter_map(|raw| raw.as_ref().try_into().ok()) {
                names.current.remove(&TopicId::from_bytes(id));
            }
        }
    }

    /// A partition with the name of its topic.
    pub(crate) fn partition(&self, id: TopicPartition) -> NamedPartition {
        NamedPartition { id, name: self.0.read().get(id.topic).cloned() }
    }

    /// The names of these topics, as far as they are known.
    pub(crate) fn of(&self, topics: &BTreeSet<TopicId>) -> NamesById {
        let names = self.0.read();
        topics.iter().filter_map(|id| Some((*id, Arc::clone(names.get(*id)?)))).collect()
    }
}

// === impl Names ===

impl Names {
    fn get(&self, id: TopicId) -> Option<&Arc<str>> {
        self.current.get(&id).or_else(|| self.earlier.get(&id))
    }
}

// === impl NamedPartition ===

impl fmt::Display for NamedPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}/{} ({})", self.id.partition, self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::PartitionIndex;
    use walser_proto::v1::Topic;

    use super::*;

    #[test]
    fn a_partition_is_shown_with_the_name_of_its_topic_while_that_is_known() {
        let topic = TopicId::from_bytes([7; 16]);
        let named = Topic { id: topic.to_string(), name: "orders".to_owned(), ..Default::default() };
        let created = WatchMetadataResponse { topics: vec![named], ..Default::default() };
        let removed_topic_ids = vec![topic.to_bytes().to_vec().into()];
        let removed = WatchMetadataResponse { removed_topic_ids, ..Default::default() };
        let snapshot = WatchMetadataResponse { reset: true, ..Default::default() };
        let (names, id) = (TopicNames::default(), TopicPartition::new(topic, PartitionIndex(3)));
        let shown = || names.partition(id).to_string();
        assert_eq!(shown(), id.to_string());
        for end in [removed, snapshot] {
            names.apply(std::slice::from_ref(&created));
            assert_eq!(shown(), format!("orders/3 ({id})"));
            names.apply(&[end]);
            assert_eq!(shown(), id.to_string());
        }
        names.set_earlier(NamesById::from([(topic, "before".into())]));
        assert_eq!(shown(), format!("before/3 ({id})"));
        let other = TopicId::from_bytes([8; 16]);
        assert_eq!(names.of(&[topic, other].into()), NamesById::from([(topic, "before".into())]));
    }
}
