//! Finding topics: from the view, else from the controller, else by creating them.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{TopicId, TopicName, TopicNameError, TopicPartition, suggest};
use walser_rpc::{ApiError, ControllerClient, Reason};
use walser_service::{Caller, Shutdown};

use crate::error::recreated;
use crate::leaders::Leaders;
use crate::metadata::{Metadata, TopicView, View};
use crate::reading::PartitionName;
use crate::retry::PATIENCE;
use crate::router::checked_partition;

/// Time between two looks at leaders that begin; it doubles up to the other one, since each costs a call to every leader.
const LEADER_CHECK: Duration = Duration::from_millis(1);
/// See [`LEADER_CHECK`].
const LEADER_CHECK_MAX: Duration = Duration::from_millis(500);

/// Reads a topic name from a request.
pub(crate) fn name(text: &str) -> Result<TopicName, ApiError> {
    text.parse().map_err(|error: TopicNameError| {
        let failure = ApiError::new(Reason::TopicNameInvalid, format!("topic name {text:?}: {error}"));
        failure.with("topic", text.escape_debug()).with("pattern", walser_model::TOPIC_NAME_PATTERN)
    })
}

/// Reads the name of a topic that is to be made or written: those of Walser itself are refused.
pub(crate) fn own_name(text: &str) -> Result<TopicName, ApiError> {
    let name = name(text)?;
    if name.reserved() {
        let prefix = walser_model::RESERVED_PREFIX;
        let text = format!("topic name \"{name}\": names that begin with \"{prefix}\" belong to Walser itself");
        return Err(ApiError::new(Reason::TopicNameInvalid, text).with("topic", name).with("rule", "reserved-prefix"));
    }
    Ok(name)
}

/// Finds topics, for everything that reads or writes. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    controller: ControllerClient,
    metadata: Metadata,
    leaders: Leaders,
    /// Partitions of a topic that is created for a write; `None`: none is.
    created_with: Option<i32>,
    shutdown: Shutdown,
}

impl Topics {
    /// `created_with`: partitions of a topic that is created for a write; `None`: none is.
    pub(crate) fn new(
        controller: ControllerClient,
        metadata: Metadata,
        leaders: Leaders,
        created_with: Option<i32>,
        shutdown: Shutdown,
    ) -> Self {
        Self { controller, metadata, leaders, created_with, shutdown }
    }

    /// The controller, as long as it is that of this cluster.
    pub(crate) fn controller(&self) -> Result<&ControllerClient, ApiError> {
        self.metadata.obeyed()?;
        Ok(&self.controller)
    }

    /// A topic for reading.
    pub(crate) async fn find(&self, text: &str) -> Result<Arc<TopicView>, ApiError> {
        let name = name(text)?;
        if let Some(topic) = self.metadata.topic(name.as_str()) {
            return Ok(topic);
        }
        match self.controller()?.topic(text).await {
            Ok(_) => self.arrived(name.as_str()).await,
            Err(failure) if failure.reason() == Reason::TopicNotFound => Err(self.not_found(name.as_str())),
            Err(failure) => Err(failure),
        }
    }

    /// A topic for writing: a missing one may be created on behalf of `create_for`, and nothing without one. An explicit
    /// partition beyond the count creates nothing. True: it was created.
    pub(crate) async fn to_write(
        &self,
        text: &str,
        partition: Option<i32>,
        create_for: Option<&Caller>,
    ) -> Result<(Arc<TopicView>, bool), ApiError> {
        let name = own_name(text)?;
        let missing = match self.find(text).await {
            Ok(topic) => return Ok((topic, false)),
            Err(failure) if failure.reason() == Reason::TopicNotFound => failure,
            Err(failure) => return Err(failure),
        };
        let (Some(caller), Some(partitions)) = (create_for, self.created_with) else { return Err(missing) };
        if partition.is_some_and(|partition| !(0..partitions).contains(&partition)) {
            return Err(missing);
        }
        // Rare, and large: most writes should not carry it.
        Box::pin(self.create_missing(&name, partitions, caller)).await
    }

    async fn create_missing(
        &self,
        name: &TopicName,
        partition_count: i32,
        caller: &Caller,
    ) -> Result<(Arc<TopicView>, bool), ApiError> {
        let controller = self.controller()?;
        match controller.create_topic(name.as_str(), partition_count, |request| caller.relay(request)).await {
            Ok(()) => Ok((self.arrived(name.as_str()).await?, true)),
            // Somebody else was faster.
            Err(failure) if failure.reason() == Reason::TopicExists => Ok((self.arrived(name.as_str()).await?, false)),
            Err(failure) => Err(failure),
        }
    }

    /// The topic with a partition that a caller names: one that was added a moment ago may not have arrived here.
    pub(crate) async fn with_partition(
        &self,
        topic: Arc<TopicView>,
        partition: i32,
    ) -> Result<Arc<TopicView>, ApiError> {
        let Err(missing) = checked_partition(&topic, partition) else { return Ok(topic) };
        if partition < 0 {
            return Err(missing);
        }
        let Ok(found) = self.controller()?.topic(&topic.name).await else { return Err(missing) };
        if found.partition_count <= partition {
            return Err(missing);
        }
        let has = |view: &View| {
            view.topic_named(&topic.name).is_some_and(|found| checked_partition(found, partition).is_ok())
        };
        self.metadata.wait_until(PATIENCE, has).await;
        self.metadata.topic(&topic.name).filter(|found| checked_partition(found, partition).is_ok()).ok_or(missing)
    }

    /// The partition that a caller names, of the topic that it means.
    pub(crate) async fn partition(&self, of: &PartitionName, id: Option<TopicId>) -> Result<TopicPartition, ApiError> {
        own_name(&of.topic)?;
        let topic = self.find(&of.topic).await?;
        if let Some(id) = id {
            self.check_id(&topic, id).await?;
        }
        let topic = self.with_partition(topic, of.partition).await?;
        Ok(TopicPartition::new(topic.id, checked_partition(&topic, of.partition)?))
    }

    /// Checks that a topic is the one that a caller means. This gateway may not have heard yet that it was created again.
    pub(crate) async fn check_id(&self, topic: &TopicView, id: TopicId) -> Result<(), ApiError> {
        if id == topic.id {
            return Ok(());
        }
        if self.controller()?.topic(&topic.name).await?.id == Some(id) {
            let text = format!("topic \"{}\" was created again, this gateway has not heard of it yet", topic.name);
            return Err(ApiError::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name));
        }
        Err(recreated(topic, id))
    }

    async fn arrived(&self, name: &str) -> Result<Arc<TopicView>, ApiError> {
        let ready = |view: &View| {
            view.topic_named(name).is_some_and(|topic| topic.leaders().all(|(_, leader, _)| leader.is_some()))
        };
        self.metadata.wait_until(PATIENCE, ready).await;
        self.leaders_serve(name).await;
        self.metadata.topic(name).ok_or_else(|| {
            let text = format!("topic \"{name}\" exists, but this gateway has not heard of it yet");
            ApiError::new(Reason::LeaderNotAvailable, text).with("topic", name)
        })
    }

    /// The answer for a topic that is missing, with one of a similar name, if there is one.
    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        let view = self.metadata.view();
        // This gateway may not have heard yet that it is gone.
        let others = view.topics().map(|topic| &*topic.name).filter(|other| *other != name);
        let similar = suggest(name, others).unwrap_or_default();
        let hint = if similar.is_empty() { String::new() } else { format!("; did you mean \"{similar}\"?") };
        let failure = ApiError::new(Reason::TopicNotFound, format!("topic \"{name}\" does not exist{hint}"));
        failure.with("topic", name).with("didYouMean", similar)
    }

    /// Waits until this gateway knows a change of a topic, by its version, and its leaders serve.
    pub(crate) async fn see_change(&self, version: Option<i64>, name: &str) {
        if let Some(version) = version {
            self.metadata.reached(version, PATIENCE).await;
        }
        self.leaders_serve(name).await;
    }

    /// Waits until every leader of a topic serves: a write that came before would be refused and tried again, and
    /// one behind it could overtake it.
    async fn leaders_serve(&self, name: &str) {
        let serving = async {
            let mut pause = LEADER_CHECK;
            loop {
                // Nobody is waited for who does not lead, does not answer, or cannot serve.
                let Some(topic) = self.metadata.topic(name) else { return };
                if !self.leaders.figures(std::slice::from_ref(&topic)).await.any_awaited() {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LEADER_CHECK_MAX);
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(PATIENCE, serving) => {}
            () = self.shutdown.wait() => {}
        }
    }
}
