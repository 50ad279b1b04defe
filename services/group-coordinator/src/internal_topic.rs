//! The internal topic: made when it is needed first, with as many copies as the cluster's topics have.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use walser_rpc::{ApiError, ControllerClient, GROUP_SHARDS, GROUPS_TOPIC, RetryAdvice};

use crate::call::not_available;
use crate::metadata::Metadata;

/// How long a caller waits for its leaders.
const LEADERS_PATIENCE: Duration = Duration::from_secs(5);
/// Its settings; the others are those of the cluster. A batch of events is larger than most records: see
/// `shard/gathering.rs`. Small segments are compacted soon, so that a replay is short.
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("max.message.bytes", "15728640"), ("segment.bytes", "67108864")];

/// Makes the topic. Clones share the turn.
#[derive(Debug, Clone)]
pub(crate) struct InternalTopic {
    controller: ControllerClient,
    metadata: Metadata,
    /// One call makes it.
    turn: Arc<Mutex<()>>,
}

// === impl InternalTopic ===

impl InternalTopic {
    pub(crate) fn new(controller: ControllerClient, metadata: Metadata) -> Self {
        Self { controller, metadata, turn: Arc::default() }
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// Nothing is known of the cluster yet.
    pub(crate) fn exists(&self) -> Result<bool, ApiError> {
        let view = self.metadata.view();
        if view.version() == 0 {
            return Err(not_available("is not known yet"));
        }
        Ok(view.topic_named(GROUPS_TOPIC).is_some())
    }

    /// Makes it, unless it is there.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE`: it cannot be made now, for want of nodes for instance.
    pub(crate) async fn ensure(&self) -> Result<(), ApiError> {
        if self.exists()? {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        if self.exists()? {
            return Ok(());
        }
        let created = self.controller.create_internal_topic(GROUPS_TOPIC, GROUP_SHARDS, &SETTINGS).await;
        created.map_err(|failure| {
            let text = format!("has no log yet, topic \"{GROUPS_TOPIC}\" cannot be created: {failure}");
            let missing = not_available(&text).with("cause", failure.reason_name());
            if failure.retry() == RetryAdvice::Never { missing.with("topic", GROUPS_TOPIC) } else { missing }
        })?;
        let led = self.metadata.wait_until(|view| {
            let topic = view.topic_named(GROUPS_TOPIC);
            topic.is_some_and(|topic| topic.leaders().all(|(_, leader, _)| leader.is_some()))
        });
        let late = |_| not_available("has no log yet, its leader is not there");
        tokio::time::timeout(LEADERS_PATIENCE, led).await.map_err(late)
    }
}
