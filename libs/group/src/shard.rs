//! All groups of a coordinator shard: requests and time in, events and answers out.

mod admin;
mod assignments;
mod describe;
mod membership;
mod offsets;
mod removal;
mod sessions;
mod timers;

use std::collections::BTreeMap;
use std::time::Duration;

use walser_model::Timestamp;

use crate::config::Config;
use crate::deadlines::{Deadlines, Timer};
use crate::error::GroupError;
use crate::event::{CurrentAssignment, Event, GroupRecord};
use crate::group::{Group, Member};
use crate::id::{AttachmentNumber, CoordinatorEpoch, GatewayId, GroupId, InstanceId, MemberId, TokenKey};
use crate::rules::GroupRule;
use crate::state::DurableState;
use crate::topics::Topics;

use self::assignments::PatternCache;
use self::sessions::Sessions;

pub use admin::OffsetMove;
pub use describe::{GroupDescription, GroupSummary, MemberDescription};
pub use membership::{Attach, Attached, DetachGrace, Join};
pub use offsets::{Commit, CommitAuthor, OffsetToCommit};
pub use removal::RemovalCause;

/// Attachment numbers that are reserved with one event.
const ATTACHMENTS_PER_EVENT: i64 = 1_000;

/// What time it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since a fixed point of this process: deadlines are in it. Never goes back.
    pub monotonic: Duration,
    /// Milliseconds since the Unix epoch: what is written is stamped with it.
    pub wall: Timestamp,
}

/// What a request leads to besides its answer.
///
/// The coordinator appends `events` as one batch, and releases the answer and the notices once that batch and all before
/// it are replicated. If the append fails it drops the shard, releases nothing, and replays.
#[derive(Debug, Default)]
pub struct Output {
    /// What to append, in this order. All of it is applied already.
    pub events: Vec<Event>,
    /// What gateways are to be told, in this order.
    pub notices: Vec<Notice>,
}

/// What the gateway of a member is told. A notice that is lost is made good by the next heartbeat of the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub gateway: GatewayId,
    pub group: GroupId,
    pub member: MemberId,
    /// The attachment that it is for: a gateway ignores notices to others.
    pub attachment: AttachmentNumber,
    pub content: NoticeContent,
}

/// The content of a [`Notice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeContent {
    /// What the member holds. It reads what is assigned, and releases what is being revoked.
    Assignment(CurrentAssignment),
    /// The member is gone.
    Removed(RemovalCause),
    /// The member has attached anew, and this attachment is over.
    Superseded,
}

/// Names a member on behalf of which a gateway asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRef {
    pub group: GroupId,
    pub member: MemberId,
    /// The instance id of a static member: a fenced instance learns so.
    pub instance: Option<InstanceId>,
    /// The attachment of the gateway: if there is a higher one, the request is refused.
    pub attachment: AttachmentNumber,
}

/// The groups of one shard, of which this process is the coordinator.
///
/// [`GroupShard::replay`] every event of the log, [`GroupShard::start`], and then call one method per request, and
/// [`GroupShard::tick`] when [`GroupShard::next_deadline`] is over.
#[derive(Debug)]
pub struct GroupShard {
    config: Config,
    state: DurableState,
    topics: Topics,
    sessions: Sessions,
    deadlines: Deadlines,
    patterns: PatternCache,
    /// When each group with members was assigned last: the next assignment waits for its interval.
    assigned_at: BTreeMap<GroupId, Duration>,
    next_attachment: AttachmentNumber,
    /// When this coordinator began to serve.
    started: Duration,
}

impl GroupShard {
    /// A shard before its replay.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: DurableState::default(),
            topics: Topics::default(),
            sessions: Sessions::default(),
            deadlines: Deadlines::default(),
            patterns: PatternCache::default(),
            assigned_at: BTreeMap::new(),
            next_attachment: AttachmentNumber(1),
            started: Duration::ZERO,
        }
    }

    /// Applies an event of the log, before [`GroupShard::start`].
    pub fn replay(&mut self, event: Event) {
        self.state.apply(event);
    }

    /// The highest epoch of a coordinator that has written to the log, as far as it was replayed.
    pub fn coordinator_epoch(&self) -> CoordinatorEpoch {
        self.state.coordinator_epoch()
    }

    /// The key that signs the tokens of members. A shard that has none yet takes `fresh`, for good.
    pub fn token_key(&mut self, fresh: TokenKey, out: &mut Output) -> TokenKey {
        self.state.token_key().unwrap_or_else(|| {
            self.emit(Event::TokenKey(fresh), out);
            fresh
        })
    }

    /// Whether both have the same durable state. For tests of replays.
    pub fn same_state(&self, other: &Self) -> bool {
        self.state == other.state
    }

    /// Applies an event, and has it written.
    fn emit(&mut self, event: Event, out: &mut Output) {
        self.state.apply(event.clone());
        out.events.push(event);
    }

    fn rule(&self, rule: GroupRule) -> bool {
        self.config.rules.hold(rule)
    }

    fn group(&self, id: &GroupId) -> Result<&Group, GroupError> {
        let found = self.state.group(id).filter(|group| group.record.is_some());
        found.ok_or_else(|| GroupError::GroupNotFound { group: id.clone() })
    }

    /// The member that a request names, if the request comes from its newest attachment.
    fn member(&self, of: &MemberRef) -> Result<&Member, GroupError> {
        let member = self.known_member(&of.group, &of.member, of.instance.as_ref())?;
        let current = member.attachment_number();
        if of.attachment == current || !self.rule(GroupRule::AttachmentFences) {
            return Ok(member);
        }
        let (group, member) = (of.group.clone(), of.member.clone());
        Err(GroupError::AttachmentFenced { group, member, actual: of.attachment, current })
    }

    fn known_member(
        &self,
        group: &GroupId,
        id: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<&Member, GroupError> {
        let found = self.state.group(group);
        if let Some(member) = found.and_then(|group| group.members.get(id)) {
            return Ok(member);
        }
        match instance.filter(|instance| found.is_some_and(|group| group.instance(instance).is_some())) {
            Some(instance) => Err(GroupError::InstanceFenced { instance: instance.clone() }),
            None => Err(GroupError::SessionExpired { group: group.clone(), member: id.clone() }),
        }
    }

    /// Hands out an attachment number. Those that may have been handed out before are never used again.
    fn number_attachment(&mut self, out: &mut Output) -> AttachmentNumber {
        let number = self.next_attachment;
        self.next_attachment = AttachmentNumber(number.0 + 1);
        if number > self.state.attachments_reserved() && self.rule(GroupRule::AttachmentsAreReserved) {
            self.emit(Event::AttachmentsReserved(AttachmentNumber(number.0 + ATTACHMENTS_PER_EVENT)), out);
        }
        number
    }

    /// Begins a group epoch, unless one has begun whose assignment is still due.
    fn begin_epoch(&mut self, id: &GroupId, out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        let Some(record) = group.record.clone() else { return };
        if record.epoch <= group.assignment_epoch {
            let epoch = group.assignment_epoch.max(record.epoch).next();
            self.emit(Event::Group(id.clone(), Some(GroupRecord { epoch, ..record })), out);
        }
    }

    /// Tells the gateway of a member something.
    fn notify(&self, group: &GroupId, id: &MemberId, member: &Member, content: NoticeContent, out: &mut Output) {
        let Some(record) = &member.attachment else { return };
        let Some(gateway) = record.gateway.clone() else { return };
        let (group, member, attachment) = (group.clone(), id.clone(), record.number);
        out.notices.push(Notice { gateway, group, member, attachment, content });
    }

    /// The epoch and partitions of a member; empty when it does not exist.
    fn current(&self, group: &GroupId, member: &MemberId) -> CurrentAssignment {
        self.state.member(group, member).map(|member| member.current.clone()).unwrap_or_default()
    }

    fn cancel_timers(&mut self, group: &GroupId, member: &MemberId) {
        self.deadlines.cancel(Timer::Session(group.clone(), member.clone()));
        self.deadlines.cancel(Timer::Revocation(group.clone(), member.clone()));
    }
}

#[cfg(test)]
mod tests;
