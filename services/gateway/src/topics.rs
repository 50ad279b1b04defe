//! Finding topics: from the view, else from the controller, else by creating them.

use std::sync::Arc;

use walser_model::{PartitionIndex, TopicId, TopicName, TopicNameError, suggest};
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_client::TopicServiceClient;
use walser_rpc::{Failure, Reason};
use walser_service::Caller;

use crate::Gateway;
use crate::metadata::TopicView;
use crate::produce::Write;
use crate::retry::PATIENCE;
use crate::router::{Route, recreated};

/// Reads a topic name from a request.
pub(crate) fn name(text: &str) -> Result<TopicName, Failure> {
    text.parse().map_err(|error: TopicNameError| {
        let failure = Failure::new(Reason::TopicNameInvalid, format!("topic name {text:?}: {error}"));
        failure.with("topic", text.escape_debug()).with("pattern", walser_model::TOPIC_NAME_PATTERN)
    })
}

/// Reads the name of a topic that is to be made from a request: names of Walser itself are refused.
pub(crate) fn name_to_create(text: &str) -> Result<TopicName, Failure> {
    let name = name(text)?;
    if name.reserved() {
        let prefix = walser_model::RESERVED_PREFIX;
        let text = format!("topic name \"{name}\": names that begin with \"{prefix}\" belong to Walser itself");
        return Err(Failure::new(Reason::TopicNameInvalid, text).with("topic", name).with("rule", "reserved-prefix"));
    }
    Ok(name)
}

/// The answer for a partition that a topic does not have.
pub(crate) fn partition_missing(topic: &str, partition: i32, count: usize) -> Failure {
    let text = format!("topic \"{topic}\" has no partition {partition}, it has {count} (from 0)");
    let failure = Failure::new(Reason::PartitionNotFound, text).with("topic", topic);
    failure.with("partition", partition).with("partitionCount", count)
}

/// The partition's number, if the topic has it.
pub(crate) fn checked_partition(topic: &TopicView, partition: i32) -> Result<PartitionIndex, Failure> {
    let found = (0..topic.value.partition_count).contains(&partition).then_some(PartitionIndex(partition));
    found.ok_or_else(|| partition_missing(&topic.name, partition, topic.partition_count()))
}

impl Gateway {
    /// A topic for reading.
    pub(crate) async fn topic(&self, text: &str) -> Result<Arc<TopicView>, Failure> {
        let name = name(text)?;
        if let Some(topic) = self.metadata.topic(name.as_str()) {
            return Ok(topic);
        }
        let mut client = TopicServiceClient::new(self.controller.clone());
        let found = client.get_topic(pb::GetTopicRequest { name: text.to_owned() }).await;
        match found.map_err(Failure::from) {
            Ok(_) => self.arrived(name.as_str()).await,
            Err(failure) if failure.reason() == Reason::TopicNotFound => Err(self.not_found(name.as_str())),
            Err(failure) => Err(failure),
        }
    }

    /// A topic for writing: a missing one may be created. An explicit partition beyond the count creates nothing.
    pub(crate) async fn topic_to_write(&self, write: &Write) -> Result<(Arc<TopicView>, bool), Failure> {
        self.topic_to_write_for(&write.topic, write.partition, write.create_for.as_deref()).await
    }

    /// The same for a caller; without one, nothing is created.
    pub(crate) async fn topic_to_write_for(
        &self,
        text: &str,
        partition: Option<i32>,
        create_for: Option<&Caller>,
    ) -> Result<(Arc<TopicView>, bool), Failure> {
        let (missing, caller) = match (self.topic(text).await, create_for.filter(|_| self.config.auto_create)) {
            (Ok(topic), _) => return Ok((topic, false)),
            (Err(failure), Some(caller)) if failure.reason() == Reason::TopicNotFound => (failure, caller),
            (Err(failure), _) => return Err(failure),
        };
        let name = name_to_create(text)?;
        if partition.is_some_and(|partition| !(0..self.config.partitions).contains(&partition)) {
            return Err(missing);
        }
        // Rare, and large: most writes should not carry it.
        Box::pin(self.create_missing(&name, caller)).await
    }

    async fn create_missing(&self, name: &TopicName, caller: &Caller) -> Result<(Arc<TopicView>, bool), Failure> {
        let topic =
            pb::Topic { name: name.as_str().to_owned(), partition_count: self.config.partitions, ..Default::default() };
        let request = caller.relay(pb::CreateTopicRequest { topic: Some(topic), ..Default::default() });
        let created = TopicServiceClient::new(self.controller.clone()).create_topic(request).await;
        match created.map_err(Failure::from) {
            Ok(_) => Ok((self.arrived(name.as_str()).await?, true)),
            // Somebody else was faster.
            Err(failure) if failure.reason() == Reason::TopicExists => Ok((self.arrived(name.as_str()).await?, false)),
            Err(failure) => Err(failure),
        }
    }

    /// The topic with a partition that a caller names: one that was added a moment ago may not have arrived here.
    pub(crate) async fn topic_with(&self, topic: Arc<TopicView>, partition: i32) -> Result<Arc<TopicView>, Failure> {
        let Err(missing) = checked_partition(&topic, partition) else { return Ok(topic) };
        if partition < 0 {
            return Err(missing);
        }
        let mut client = TopicServiceClient::new(self.controller.clone());
        let request = pb::GetTopicRequest { name: topic.name.to_string() };
        let Ok(found) = client.get_topic(request).await else { return Err(missing) };
        let count = found.into_inner().topic.map_or(0, |found| found.partition_count);
        if count <= partition {
            return Err(missing);
        }
        let has = |view: &crate::metadata::View| {
            view.topic_named(&topic.name).is_some_and(|found| checked_partition(found, partition).is_ok())
        };
        self.metadata.wait_until(PATIENCE, has).await;
        self.metadata.topic(&topic.name).filter(|found| checked_partition(found, partition).is_ok()).ok_or(missing)
    }

    /// Checks that a topic is the one that a caller means. This gateway may not have heard yet that it was created again.
    pub(crate) async fn check_topic_id(&self, topic: &TopicView, id: TopicId) -> Result<(), Failure> {
        if id == topic.id {
            return Ok(());
        }
        let mut client = TopicServiceClient::new(self.controller.clone());
        let found = client.get_topic(pb::GetTopicRequest { name: topic.name.to_string() }).await?.into_inner().topic;
        if found.is_some_and(|found| found.id == id.to_string()) {
            let text = format!("topic \"{}\" was created again, this gateway has not heard of it yet", topic.name);
            return Err(Failure::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name));
        }
        Err(recreated(topic, id))
    }

    async fn arrived(&self, name: &str) -> Result<Arc<TopicView>, Failure> {
        let ready = |view: &crate::metadata::View| {
            view.topic_named(name).is_some_and(|topic| topic.leaders().all(|(_, leader, _)| leader.is_some()))
        };
        self.metadata.wait_until(PATIENCE, ready).await;
        self.leaders_serve(name).await;
        self.metadata.topic(name).ok_or_else(|| {
            let text = format!("topic \"{name}\" exists, but this gateway has not heard of it yet");
            Failure::new(Reason::LeaderNotAvailable, text).with("topic", name)
        })
    }

    /// The answer for a topic that is missing, with one of a similar name, if there is one.
    pub(crate) fn not_found(&self, name: &str) -> Failure {
        let view = self.metadata.view();
        // This gateway may not have heard yet that it is gone.
        let others = view.topics().map(|topic| &*topic.name).filter(|other| *other != name);
        let similar = suggest(name, others).unwrap_or_default();
        let hint = if similar.is_empty() { String::new() } else { format!("; did you mean \"{similar}\"?") };
        let failure = Failure::new(Reason::TopicNotFound, format!("topic \"{name}\" does not exist{hint}"));
        failure.with("topic", name).with("didYouMean", similar)
    }

    /// The way to a partition's leader.
    pub(crate) fn route(&self, topic: &TopicView, partition: i32) -> Result<Route, Failure> {
        self.router.route(topic, partition)
    }
}
