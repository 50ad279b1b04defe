//! Who takes part: coordinators, gateways, the sessions of members at gateways, clients, topics.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use walser_group::{
    AttachmentNumber, CurrentAssignment, Event, GatewayId, GroupEpoch, GroupId, GroupShard, InstanceId, MemberId,
    MemberRef, Subscription, TopicChange,
};
use walser_model::{TopicId, TopicPartition};

use super::check::Origin;
use super::message::Reply;

/// A process that coordinates, or believes so.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) epoch: i64,
    /// `None` once it is dead, or knows that it is replaced.
    pub(super) shard: Option<GroupShard>,
    pub(super) paused_until: Duration,
    /// Batches that are not replicated, in order.
    pub(super) pending: VecDeque<Pending>,
    /// How many of them have arrived at the log.
    pub(super) appended: usize,
    pub(super) last_append: Duration,
    pub(super) tick_at: Option<Duration>,
    pub(super) began: Duration,
    /// When gateways and members were heard by this coordinator.
    pub(super) heard: BTreeMap<String, Duration>,
    /// Members whose streams were closed, or whose session may end early for another good reason.
    pub(super) excused: BTreeSet<MemberId>,
}

/// A batch on its way, and what is released with it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) events: Vec<Event>,
    pub(super) origin: Origin,
    pub(super) replies: Vec<Addressed>,
}

/// A reply or notice, and the session that it is for.
#[derive(Debug, Clone)]
pub(super) struct Addressed {
    pub(super) gateway: GatewayId,
    pub(super) member: MemberId,
    /// Notices are for one attachment.
    pub(super) attachment: Option<AttachmentNumber>,
    pub(super) reply: Reply,
}

/// A process of a gateway. One that vanished has a successor under another name.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    pub(super) alive: bool,
    pub(super) paused_until: Duration,
    /// The highest epoch of a coordinator that has answered.
    pub(super) coordinator_epoch: i64,
    pub(super) last_report: Duration,
    /// Messages to a coordinator, and from one, keep their order.
    pub(super) last_request: Duration,
    pub(super) last_reply: Duration,
}

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Joining,
    Attaching,
    Attached,
    /// The gateway has dropped it; with whether the client must join without a token.
    Closed {
        fenced: bool,
    },
}

/// A member at a gateway, on behalf of a client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) gateway: usize,
    pub(super) of: MemberRef,
    pub(super) phase: Phase,
    pub(super) current: CurrentAssignment,
    /// By partition: the epoch in which it was assigned, and the next offset once it is known.
    pub(super) positions: BTreeMap<TopicPartition, (GroupEpoch, Option<i64>)>,
    pub(super) sequence: i64,
    pub(super) unanswered: Option<Unanswered>,
    pub(super) asked_at: Duration,
    pub(super) last_beat: Duration,
    pub(super) revoking_since: Option<Duration>,
}

/// A commit that is not answered.
#[derive(Debug, Clone)]
pub(super) struct Unanswered {
    pub(super) sequence: i64,
    pub(super) epoch: GroupEpoch,
    pub(super) offsets: Vec<(TopicPartition, i64)>,
    pub(super) sent_at: Duration,
}

/// A program that reads.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) group: GroupId,
    pub(super) topics: Vec<usize>,
    pub(super) instance: Option<InstanceId>,
    /// Its topics by name, or by a pattern.
    pub(super) subscription: Subscription,
    /// How long it takes to confirm a revocation.
    pub(super) confirms_after: Duration,
    pub(super) session: Option<usize>,
    pub(super) token: Option<(MemberId, AttachmentNumber)>,
    pub(super) away_until: Duration,
    pub(super) members: usize,
}

/// A topic, which may be away.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) id: TopicId,
    pub(super) partition_count: i32,
    pub(super) exists: bool,
}

impl Topic {
    /// The topic, as metadata has it.
    pub(super) fn change(&self) -> TopicChange {
        let name = self.name.parse().expect("a valid name");
        match self.exists {
            true => TopicChange::Present { name, id: self.id, partition_count: self.partition_count },
            false => TopicChange::Absent { name },
        }
    }
}
