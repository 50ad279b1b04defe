//! Members: joining, attaching to gateways, staying, releasing partitions, leaving.

use std::collections::BTreeSet;
use std::time::Duration;

use walser_model::TopicPartition;

use super::sessions::Session;
use super::{GroupShard, MemberRef, NoticeContent, Now, Output, RemovalCause};
use crate::deadlines::Timer;
use crate::error::GroupError;
use crate::event::{AssignedPartitions, AttachmentRecord, CurrentAssignment, Event, GroupRecord, MemberRecord};
use crate::group::Member;
use crate::id::{AttachmentNumber, GatewayId, GroupEpoch, GroupId, InstanceId, MemberId, NAME_BYTES_MAX};
use crate::rules::GroupRule;
use crate::subscription::Subscription;

/// A member joins its group.
#[derive(Debug, Clone)]
pub struct Join {
    /// Created if it does not exist.
    pub group: GroupId,
    /// Chosen by the gateway, and the same when it repeats the request.
    pub member: MemberId,
    /// Makes the member static: a later member with the same instance takes its place and its partitions.
    pub instance: Option<InstanceId>,
    /// At most 256 bytes.
    pub client_id: String,
    /// At most 256 bytes.
    pub client_address: String,
    pub subscription: Subscription,
    pub session_timeout: Duration,
    /// How long the member may take to release partitions. Where clients do not confirm revocations the gateway releases
    /// them at once, and this only bounds how long a gateway that does not answer is waited for.
    pub revocation_timeout: Duration,
    /// `None`: the member polls, at any gateway.
    pub gateway: Option<GatewayId>,
}

/// A member attaches to a gateway with the token of its last attachment. One that polls does so with every poll: the token
/// of a poll, or that of the one before if its answer was lost.
#[derive(Debug, Clone)]
pub struct Attach {
    /// With the attachment of the token.
    pub member: MemberRef,
    /// What the member reads from here on; `None` leaves it as it was.
    pub subscription: Option<Subscription>,
    /// How long the member may take to release what it is asked for from here on; `None` leaves it as it was.
    pub revocation_timeout: Option<Duration>,
    /// `None`: the member polls, at any gateway.
    pub gateway: Option<GatewayId>,
}

/// How long a member whose stream was closed may stay away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachGrace {
    /// [`Config::detached_grace`]; a static member has its session timeout all the same.
    ///
    /// [`Config::detached_grace`]: crate::Config::detached_grace
    Brief,
    /// The session timeout: the gateway lost many streams at once, and not by the will of the clients.
    Session,
}

/// A member is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// What every request of the member carries from here on.
    pub attachment: AttachmentNumber,
    /// What the member holds.
    pub current: CurrentAssignment,
    /// As it joined.
    pub session_timeout: Duration,
}

impl GroupShard {
    /// A member joins, and is attached. A repetition, whose answer was lost, attaches it again.
    ///
    /// # Errors
    /// A value out of bounds, a limit, an instance id that a connected member has, or a member id that is in use.
    pub fn join(&mut self, now: Now, join: Join, out: &mut Output) -> Result<Attached, GroupError> {
        self.check_join(&join)?;
        let (group, member) = (join.group.clone(), join.member.clone());
        let record = MemberRecord {
            instance: join.instance,
            client_id: join.client_id,
            client_address: join.client_address,
            subscription: join.subscription,
            session_timeout: join.session_timeout,
            revocation_timeout: join.revocation_timeout,
            joined_at: now.wall,
        };
        let known = self.state.member(&group, &member);
        if let Some(attachment) = known.and_then(|member| member.attachment.clone()) {
            // The gateway that repeats a join has not used the attachment yet.
            if self.sessions.get(&group, &member).is_some_and(|session| session.confirmed) {
                let current = attachment.number;
                return Err(GroupError::AttachmentFenced { group, member, actual: AttachmentNumber(0), current });
            }
            return Ok(self.attach_to(now, (&group, &member), (attachment.number, false), join.gateway, out));
        }
        let holder =
            record.instance.as_ref().and_then(|instance| self.state.group(&group)?.instance(instance).cloned());
        match holder.filter(|_| self.rule(GroupRule::InstanceIsExclusive)) {
            Some(holder) => self.replace(now, &group, (&holder, &member), record, out)?,
            None => self.admit(now, &group, &member, record, out)?,
        }
        Ok(self.attach_to(now, (&group, &member), (AttachmentNumber(0), false), join.gateway, out))
    }

    /// A member attaches to a gateway, which fences the one before.
    ///
    /// # Errors
    /// The member is unknown, another attachment is newer than the token, or a value is out of bounds.
    pub fn attach(&mut self, now: Now, attach: Attach, out: &mut Output) -> Result<Attached, GroupError> {
        let MemberRef { group, member, instance, attachment: token } = &attach.member;
        let known = self.known_member(group, member, instance.as_ref())?;
        let current = known.attachment_number();
        // The answer that had the number may be lost: nothing has used it yet, or its stream is closed, and nobody knows whether
        // the client has read the number before.
        let is_unread = |session: &&Session| !session.confirmed || session.detached_until.is_some();
        let unread = self.sessions.get(group, member).filter(is_unread);
        let repeats = unread.is_some() && known.attachment.as_ref().is_some_and(|record| record.previous == *token);
        // Or it was not: what was asked twice is answered twice, and the later of the two requests, or a late one that nobody waits
        // for, may have come behind the one whose answer the client goes on with.
        let answered = unread.is_some_and(|session| session.answers_from <= *token && *token < current);
        if *token != current && !repeats && !answered && self.rule(GroupRule::AttachmentFences) {
            let (group, member, actual) = (group.clone(), member.clone(), *token);
            return Err(GroupError::AttachmentFenced { group, member, actual, current });
        }
        if let Some(before) = known.record.clone() {
            let subscription = attach.subscription.unwrap_or_else(|| before.subscription.clone());
            let revocation_timeout = attach.revocation_timeout.unwrap_or(before.revocation_timeout);
            self.change_record((group, member), before, (subscription, revocation_timeout), out)?;
        }
        Ok(self.attach_to(now, (group, member), (*token, repeats), attach.gateway, out))
    }

    /// A member is heard of, apart from its gateway. Returns what it holds. One that was believed to be away is there: its
    /// gateway may have said that it has not the member before it knew that the member is attached.
    ///
    /// # Errors
    /// The member is unknown, or attached elsewhere.
    pub fn heartbeat(&mut self, now: Now, of: &MemberRef) -> Result<CurrentAssignment, GroupError> {
        let current = self.member(of)?.current.clone();
        if let Some(session) = self.confirm(&of.group, &of.member) {
            session.heard = session.heard.max(now.monotonic);
            session.detached_until = None;
        }
        Ok(current)
    }

    /// A gateway is heard of: the sessions of all its members are extended, at a cost that does not depend on how many
    /// they are.
    pub fn gateway_heartbeat(&mut self, now: Now, gateway: &GatewayId) {
        if self.state.attached(gateway).is_some() && self.rule(GroupRule::GatewayExtendsSessions) {
            self.sessions.hear(gateway, now.monotonic);
        }
    }

    /// A gateway says which members it has: when it connects, and now and then. Members that are attached to it and that it
    /// does not have are treated as if their streams had been closed, such as one whose join was repeated too late. Those
    /// that attached within the last [`Config::detached_grace`] are left alone: the answer may be on its way.
    ///
    /// [`Config::detached_grace`]: crate::Config::detached_grace
    pub fn gateway_report(
        &mut self,
        now: Now,
        gateway: &GatewayId,
        hosted: &BTreeSet<(GroupId, MemberId)>,
        out: &mut Output,
    ) {
        self.gateway_heartbeat(now, gateway);
        let Some(attached) = self.state.attached(gateway) else { return };
        attached.intersection(hosted).for_each(|(group, member)| self.sessions.note(group, member));
        let missing: Vec<(GroupId, MemberId)> = attached.difference(hosted).cloned().collect();
        for (group, member) in missing {
            let known = self.state.member(&group, &member);
            let attachment = known.map_or(AttachmentNumber(0), Member::attachment_number);
            let session = self.sessions.get(&group, &member);
            // How long it may stay away was said, and is not for its gateway to say again.
            let is_away = session.is_some_and(|session| session.detached_until.is_some());
            let began = session.map_or(Duration::ZERO, |session| session.began);
            let is_new = began + self.config.detached_grace > now.monotonic;
            if !is_away && !is_new && self.rule(GroupRule::OrphansAreDetached) {
                let of = MemberRef { group, member, instance: None, attachment };
                self.detach(now, &of, DetachGrace::Brief, out).expect("the attachment is the newest of a member");
            }
        }
    }

    /// The stream of a member was closed at a gateway that lives. The member is removed unless it attaches again in time. Said
    /// twice, the shorter time counts.
    ///
    /// # Errors
    /// The member is unknown, or attached elsewhere.
    pub fn detach(&mut self, now: Now, of: &MemberRef, grace: DetachGrace, out: &mut Output) -> Result<(), GroupError> {
        let member = self.member(of)?;
        let (Some(record), Some(attachment)) = (&member.record, &member.attachment) else { return Ok(()) };
        let is_static = record.instance.is_some();
        let brief = grace == DetachGrace::Brief && !is_static;
        let grace = if brief { self.config.detached_grace } else { record.session_timeout };
        if is_static && attachment.gateway.is_some() {
            // Written, so that a successor lets another member take its place.
            let released = AttachmentRecord { gateway: None, ..attachment.clone() };
            self.write_attachment((&of.group, &of.member), released, out);
        }
        let until = now.monotonic + grace;
        if let Some(session) = self.sessions.get_mut(&of.group, &of.member)
            && session.detached_until.is_none_or(|known| until < known)
        {
            session.detached_until = Some(until);
            self.deadlines.set(Timer::Session(of.group.clone(), of.member.clone()), until);
        }
        Ok(())
    }

    /// A member leaves. With `keep_static_assignment` a static member keeps its place for its session timeout.
    ///
    /// # Errors
    /// The member is unknown, or attached elsewhere.
    pub fn leave(
        &mut self,
        now: Now,
        of: &MemberRef,
        cause: RemovalCause,
        keep_static_assignment: bool,
        out: &mut Output,
    ) -> Result<(), GroupError> {
        let member = self.member(of)?;
        if keep_static_assignment && member.record.as_ref().is_some_and(|record| record.instance.is_some()) {
            return self.detach(now, of, DetachGrace::Session, out);
        }
        self.remove(now, &of.group, &of.member, cause, out);
        Ok(())
    }

    /// A member has released partitions that it was asked for, each with the epoch in which it was assigned. Others, and
    /// other epochs, are ignored: the request came late. Returns what the member holds.
    ///
    /// # Errors
    /// The member is unknown, or attached elsewhere.
    pub fn release(
        &mut self,
        now: Now,
        of: &MemberRef,
        released: &AssignedPartitions,
        out: &mut Output,
    ) -> Result<CurrentAssignment, GroupError> {
        let mut current = self.member(of)?.current.clone();
        self.confirm(&of.group, &of.member);
        let any_epoch = !self.rule(GroupRule::ReleaseNamesAssignment);
        let before = current.revoking.clone();
        current
            .revoking
            .retain(|partition, epoch| released.get(partition).is_none_or(|released| released != epoch && !any_epoch));
        if current.revoking.len() < before.len() {
            self.note_released(of, before.keys().filter(|partition| !current.revoking.contains_key(partition)));
            if current.revoking.is_empty() {
                self.deadlines.cancel(Timer::Revocation(of.group.clone(), of.member.clone()));
            }
            self.emit(Event::Current(of.group.clone(), of.member.clone(), Some(current)), out);
            self.settle(now, &of.group, out);
        }
        Ok(self.current(&of.group, &of.member))
    }

    /// Notes what a member that polls has released. A stream asks nothing twice behind its release.
    fn note_released<'a>(&mut self, of: &MemberRef, released: impl Iterator<Item = &'a TopicPartition>) {
        let polls = |attachment: &AttachmentRecord| attachment.gateway.is_none();
        let Some(group) = self.state.group(&of.group) else { return };
        let attachment = group.members.get(&of.member).and_then(|member| member.attachment.as_ref());
        if !attachment.is_some_and(polls) {
            return;
        }
        let committed = |partition: &TopicPartition| Some((*partition, group.offsets.get(partition)?.offset));
        let released: Vec<_> = released.filter_map(committed).collect();
        if let Some(session) = self.sessions.get_mut(&of.group, &of.member) {
            session.released.extend(released);
        }
    }

    /// Whoever has the attachment has used it: the answer with its number was not lost. What a poll asks says so only of the
    /// gateway, while the client learns the number with the answer to the poll.
    pub(super) fn confirm(&mut self, group: &GroupId, member: &MemberId) -> Option<&mut Session> {
        let attachment = self.state.member(group, member).and_then(|known| known.attachment.as_ref());
        if attachment.is_some_and(|attachment| attachment.gateway.is_none()) {
            self.sessions.note(group, member);
            self.sessions.get_mut(group, member)
        } else {
            self.sessions.confirm(group, member)
        }
    }

    /// Writes what a member that comes back wants otherwise.
    fn change_record(
        &mut self,
        (group, member): (&GroupId, &MemberId),
        before: MemberRecord,
        (subscription, revocation_timeout): (Subscription, Duration),
        out: &mut Output,
    ) -> Result<(), GroupError> {
        let other_topics = before.subscription != subscription;
        if other_topics {
            self.check_subscription(group, &subscription)?;
        } else if before.revocation_timeout == revocation_timeout {
            return Ok(());
        }
        self.check_revocation_timeout(revocation_timeout)?;
        let record = MemberRecord { subscription, revocation_timeout, ..before };
        self.emit(Event::Member(group.clone(), member.clone(), Some(record)), out);
        if other_topics {
            self.begin_epoch(group, out);
        }
        Ok(())
    }

    fn check_revocation_timeout(&self, timeout: Duration) -> Result<(), GroupError> {
        let max = self.config.revocation_timeout_max;
        if timeout > max {
            return Err(GroupError::timeout("revocation_timeout", timeout, Duration::ZERO, max));
        }
        Ok(())
    }

    fn check_join(&self, join: &Join) -> Result<(), GroupError> {
        let (min, max) = (*self.config.session_timeout.start(), *self.config.session_timeout.end());
        if !self.config.session_timeout.contains(&join.session_timeout) {
            return Err(GroupError::timeout("session_timeout", join.session_timeout, min, max));
        }
        self.check_revocation_timeout(join.revocation_timeout)?;
        for (field, text) in [("client_id", &join.client_id), ("client_address", &join.client_address)] {
            if text.len() > NAME_BYTES_MAX {
                return Err(GroupError::too_many(field, text.len(), NAME_BYTES_MAX));
            }
        }
        self.check_subscription(&join.group, &join.subscription)
    }

    /// Checks what a group may hold of subscriptions, with that of one more member.
    fn check_subscription(&self, group: &GroupId, subscription: &Subscription) -> Result<(), GroupError> {
        subscription.check(&self.config)?;
        let Some(group) = self.state.group(group) else { return Ok(()) };
        let known = group.members.values().filter_map(|member| Some(&member.record.as_ref()?.subscription));
        let topics: usize = known.clone().chain([subscription]).map(|known| known.topics.len()).sum();
        let patterns: BTreeSet<&String> =
            known.chain([subscription]).filter_map(|known| known.pattern.as_ref()).collect();
        for (actual, limit, what) in [
            (topics, self.config.group_topics_max, "topics that members of one group name"),
            (patterns.len(), self.config.group_patterns_max, "different patterns in one group"),
        ] {
            if actual > limit {
                return Err(GroupError::QuotaExceeded { what, limit });
            }
        }
        Ok(())
    }

    /// Adds a member that does not replace a static one.
    fn admit(
        &mut self,
        now: Now,
        id: &GroupId,
        member: &MemberId,
        record: MemberRecord,
        out: &mut Output,
    ) -> Result<(), GroupError> {
        let group = match self.state.group(id) {
            Some(group) => group.record.clone(),
            None if self.state.groups().len() >= self.config.groups_max => {
                return Err(GroupError::QuotaExceeded { what: "groups of a shard", limit: self.config.groups_max });
            }
            None => None,
        };
        let limit = self.config.members_max;
        if self.sessions.len() >= limit {
            return Err(GroupError::QuotaExceeded { what: "members of a shard", limit });
        }
        let limit = self.config.group_members_max;
        if self.state.group(id).is_some_and(|group| group.members.len() >= limit) {
            return Err(GroupError::GroupSizeLimitReached { group: id.clone(), limit });
        }
        let created =
            GroupRecord { epoch: GroupEpoch::ZERO, created_at: now.wall, empty_since: None, had_members: true };
        let group = group.map_or(created, |group| GroupRecord { empty_since: None, had_members: true, ..group });
        let epoch = group.epoch;
        let due = self.state.group(id).is_some_and(|group| epoch > group.assignment_epoch);
        let epoch = if due { epoch } else { epoch.next() };
        self.emit(Event::Group(id.clone(), Some(GroupRecord { epoch, ..group })), out);
        self.emit(Event::Member(id.clone(), member.clone(), Some(record)), out);
        if self.rule(GroupRule::ExpiryNeedsEmptyGroup) {
            self.deadlines.cancel(Timer::Expiry(id.clone()));
        }
        Ok(())
    }

    /// Replaces a static member by one with the same instance id, which takes over its target and partitions.
    fn replace(
        &mut self,
        now: Now,
        id: &GroupId,
        (holder, member): (&MemberId, &MemberId),
        record: MemberRecord,
        out: &mut Output,
    ) -> Result<(), GroupError> {
        let Some(before) = self.state.member(id, holder) else { return Ok(()) };
        let gateway = before.attachment.as_ref().and_then(|attachment| attachment.gateway.as_ref());
        if let (Some(gateway), Some(instance)) = (gateway, record.instance.clone()) {
            let client_address = before.record.as_ref().map(|before| before.client_address.clone()).unwrap_or_default();
            let since = now.monotonic.saturating_sub(self.config.gateway_silence_max);
            let certain = self.sessions.is_certain((id, holder), gateway, since);
            return Err(GroupError::InstanceIdInUse { instance, client_address, certain });
        }
        let (target, mut current) = (before.target.clone(), before.current.clone());
        // The client that held them is gone.
        current.revoking.clear();
        let other_topics = before.record.as_ref().is_none_or(|before| before.subscription != record.subscription);
        self.forget_member(id, holder, out);
        self.emit(Event::Member(id.clone(), member.clone(), Some(record)), out);
        self.emit(Event::Target(id.clone(), member.clone(), Some(target)), out);
        self.emit(Event::Current(id.clone(), member.clone(), Some(current)), out);
        if other_topics {
            self.begin_epoch(id, out);
        }
        Ok(())
    }

    /// `repeats`: the attachment is one more for the token `previous`.
    fn attach_to(
        &mut self,
        now: Now,
        (group, member): (&GroupId, &MemberId),
        (previous, repeats): (AttachmentNumber, bool),
        gateway: Option<GatewayId>,
        out: &mut Output,
    ) -> Attached {
        if let Some(known) = self.state.member(group, member) {
            // Its gateway reads on for it until it hears of this.
            self.notify(group, member, known, NoticeContent::Superseded, out);
        }
        let attachment = self.number_attachment(out);
        let record = AttachmentRecord { number: attachment, previous, gateway };
        self.write_attachment((group, member), record, out);
        self.sessions.begin((group, member), now.monotonic, attachment, repeats);
        let record = self.state.member(group, member).and_then(|member| member.record.as_ref());
        let session_timeout = record.map_or(Duration::ZERO, |record| record.session_timeout);
        let until = now.monotonic + session_timeout;
        self.deadlines.set(Timer::Session(group.clone(), member.clone()), until);
        self.settle(now, group, out);
        Attached { attachment, current: self.current(group, member), session_timeout }
    }

    fn write_attachment(&mut self, (group, member): (&GroupId, &MemberId), record: AttachmentRecord, out: &mut Output) {
        let before = self.state.member(group, member).and_then(|member| member.attachment.as_ref()?.gateway.clone());
        let event = Event::Attachment(group.clone(), member.clone(), Some(record));
        if self.rule(GroupRule::AttachmentIsWritten) {
            self.emit(event, out);
        } else {
            self.state.apply(event);
        }
        if let Some(before) = before {
            self.forget_if_left(&before);
        }
    }
}
