//! Room for writes that wait: in the gateway, and at the leader that they go to.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use walser_model::{Clock, NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_rpc::{ApiError, AppendBudget, AppendPermit, Effect, Reason};

use crate::metadata::TopicView;
use crate::router::Router;
use crate::within::{at_once, within};

use super::part_plan::PartPlan;

/// Partitions without a leader share the room of one, however many they are: what waits for them is not kept from others.
const AWAY: TopicPartition = TopicPartition::new(TopicId::from_bytes([0xff; 16]), PartitionIndex(-1));

/// Room for one part of a write.
pub(crate) struct Admitted {
    /// In the gateway, for as long as the batch exists.
    pub(crate) room: AppendPermit,
    /// At the leader, for the first attempt.
    pub(crate) leader_room: LeaderRoom,
}

/// Room at a leader. It counts for an attempt that goes there, and for no other.
#[derive(Debug, Default)]
pub(crate) struct LeaderRoom {
    /// Where it is; `None`: there was no leader.
    node: Option<NodeId>,
    permit: AppendPermit,
}

impl LeaderRoom {
    /// Takes over what another one holds, for appends that leave as one. What is held at another leader is free again.
    pub(crate) fn join(&mut self, other: Self) {
        if self.node == other.node {
            self.permit.join(other.permit);
        } else if self.node.is_none() {
            *self = other;
        }
    }

    /// The permit for an attempt that goes to a leader.
    pub(crate) fn take(&mut self, leader: NodeId) -> AppendPermit {
        let Self { node, permit } = std::mem::take(self);
        if node == Some(leader) { permit } else { AppendPermit::uncounted() }
    }
}

/// Who waits while a part waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The caller of the write.
    Caller,
    /// Everything behind it on a stream, too: what would wait for a leader is refused.
    Stream,
}

/// The answer of a write whose time was over before it was with a writer.
pub(crate) fn out_of_time(stage: &str) -> ApiError {
    let text = match stage {
        "admission" => "too much is waiting to be written: the write did not leave in time; nothing is written",
        _ => "the topic was not found in time; nothing is written",
    };
    let failure = ApiError::new(Reason::RequestTimedOut, text).with_effect(Effect::None);
    failure.with("stage", stage).with("appended", false)
}

fn no_room(topic: &TopicView, partition: i32) -> ApiError {
    let text = format!(
        "partition {partition} of topic \"{}\" has no leader now, and as much as may is waiting for leaders already",
        topic.name
    );
    ApiError::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name).with("partition", partition)
}

/// Gives writes their room. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    router: Router,
    /// For writes that are not completed.
    room: AppendBudget,
    clock: Arc<dyn Clock>,
}

impl Admission {
    pub(crate) fn new(router: Router, room: AppendBudget, clock: Arc<dyn Clock>) -> Self {
        Self { router, room, clock }
    }

    /// Waits until there is room for a part.
    ///
    /// # Errors
    /// There is none in time, or none for a partition without a leader; nothing was sent.
    pub(crate) async fn admit(
        &self,
        topic: &TopicView,
        plan: &PartPlan,
        (deadline, waiting): (Duration, Waiting),
    ) -> Result<Admitted, ApiError> {
        let left = deadline.saturating_sub(self.clock.monotonic());
        let admitted = async {
            loop {
                if let Some(admitted) = self.admit_to_leader(topic, plan, waiting).await? {
                    return Ok(admitted);
                }
            }
        };
        within(left, pin!(admitted)).await.unwrap_or_else(|_elapsed| Err(out_of_time("admission")))
    }

    /// Waits for room for as long as the leader stays the same. `None`: it moved, what was taken is free again.
    async fn admit_to_leader(
        &self,
        topic: &TopicView,
        plan: &PartPlan,
        waiting: Waiting,
    ) -> Result<Option<Admitted>, ApiError> {
        let (partition, bytes) = (plan.partition, plan.size.bytes);
        let asked = self.router.led_by(topic, partition);
        let route = self.router.route(topic, partition).ok();
        let id = match &route {
            Some(route) => route.partition.id,
            None => AWAY,
        };
        let mut admitted = pin!(async {
            let room = self.room.admit(id, bytes).await;
            let leader_room = match &route {
                Some(route) => LeaderRoom { node: Some(route.node), permit: route.storage.admit(id, bytes).await },
                None => LeaderRoom::default(),
            };
            Admitted { room, leader_room }
        });
        if let Some(admitted) = at_once(admitted.as_mut()).await {
            return Ok(Some(admitted));
        }
        if route.is_none() && waiting == Waiting::Stream {
            return Err(no_room(topic, partition));
        }
        tokio::select! {
            admitted = admitted => Ok(Some(admitted)),
            () = self.router.leader_changes(topic, partition, asked) => Ok(None),
        }
    }
}
