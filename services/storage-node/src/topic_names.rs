//! The names of topics, so that logs, probes and reports can show them beside the ids.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use walser_log::NamesById;
use walser_metadata::View;
use walser_model::{TopicId, TopicPartition};

/// Names by id. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicNames(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// The metadata that was applied last.
    current: View,
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

    /// Names come from this metadata from now on.
    pub(crate) fn show(&self, view: &View) {
        self.0.write().current = view.clone();
    }

    /// A partition with the name of its topic.
    pub(crate) fn partition(&self, id: TopicPartition) -> NamedPartition {
        NamedPartition { id, name: self.0.read().get(id.topic).cloned() }
    }

    /// The name of a topic, or its id while the name is not known.
    pub(crate) fn topic(&self, id: TopicId) -> Arc<str> {
        let known = self.0.read().get(id).cloned();
        known.unwrap_or_else(|| id.to_string().into())
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
        self.current.topic(id).map(|topic| &topic.name).or_else(|| self.earlier.get(&id))
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
    use walser_metadata::value::TopicValue;
    use walser_metadata::{Delta, MetadataChange};
    use walser_model::PartitionIndex;

    use super::*;

    #[test]
    fn a_partition_is_shown_with_the_name_of_its_topic_while_that_is_known() {
        let topic = TopicId::from_bytes([7; 16]);
        let value = TopicValue { name: "orders".to_owned(), ..TopicValue::default() };
        let changes = vec![MetadataChange::Topic { id: topic, value: Arc::new(value), revision: 1 }];
        let mut view = View::default();
        view.apply(Delta { version: 1, snapshot: true, changes }).unwrap();
        let (names, id) = (TopicNames::default(), TopicPartition::new(topic, PartitionIndex(3)));
        let handle = || names.partition(id).to_string();
        assert_eq!(handle(), id.to_string());
        names.show(&view);
        assert_eq!(handle(), format!("orders/3 ({id})"));
        names.show(&View::default());
        assert_eq!(handle(), id.to_string());
        names.set_earlier(NamesById::from([(topic, "before".into())]));
        assert_eq!(handle(), format!("before/3 ({id})"));
        let other = TopicId::from_bytes([8; 16]);
        assert_eq!(names.of(&[topic, other].into()), NamesById::from([(topic, "before".into())]));
    }
}
