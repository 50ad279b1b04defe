//! Members that go, and groups and offsets that go with time.

use std::time::Duration;

use super::{GroupShard, NoticeContent, Now, Output};
use crate::deadlines::Timer;
use crate::event::{Event, GroupRecord};
use crate::id::{GatewayId, GroupId, MemberId};
use crate::rules::GroupRule;

/// Why a member is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovalCause {
    /// It left.
    Left,
    /// It was not heard for its session timeout, or did not come back after its stream was closed.
    SessionExpired,
    /// Its gateway has seen no sign of processing for its processing timeout, while records were outstanding.
    ProcessingTimeout,
    /// An operator removed it.
    Fenced,
}

impl GroupShard {
    /// Removes a member. What it held is free.
    pub(super) fn remove(&mut self, now: Now, id: &GroupId, member: &MemberId, cause: RemovalCause, out: &mut Output) {
        if let Some(known) = self.state.member(id, member) {
            self.notify(id, member, known, NoticeContent::Removed(cause), out);
        }
        self.forget_member(id, member, out);
        let Some(group) = self.state.group(id) else { return };
        if !group.members.is_empty() {
            self.begin_epoch(id, out);
            self.settle(now, id, out);
            return;
        }
        if let Some(record) = group.record.clone() {
            let record = GroupRecord { empty_since: Some(now.wall), ..record };
            self.emit(Event::Group(id.clone(), Some(record)), out);
        }
        self.deadlines.cancel(Timer::Assignment(id.clone()));
        self.assigned_at.remove(id);
        self.await_expiry(now, id);
    }

    /// Removes everything that is known of a member.
    pub(super) fn forget_member(&mut self, id: &GroupId, member: &MemberId, out: &mut Output) {
        let Some(known) = self.state.member(id, member) else { return };
        let gateway = known.attachment.as_ref().and_then(|record| record.gateway.clone());
        for event in [
            Event::Current(id.clone(), member.clone(), None),
            Event::Target(id.clone(), member.clone(), None),
            Event::Attachment(id.clone(), member.clone(), None),
            Event::Member(id.clone(), member.clone(), None),
        ] {
            self.emit(event, out);
        }
        self.sessions.end(id, member);
        self.cancel_timers(id, member);
        if let Some(gateway) = gateway {
            self.forget_if_left(&gateway);
        }
    }

    /// Forgets when a gateway was heard that has no members any more.
    pub(super) fn forget_if_left(&mut self, gateway: &GatewayId) {
        if self.state.attached(gateway).is_none() {
            self.sessions.forget(gateway);
        }
    }

    /// Sets when a group without members expires.
    pub(super) fn await_expiry(&mut self, now: Now, id: &GroupId) {
        if let Some(left) = self.expires_in(now, id) {
            self.deadlines.set(Timer::Expiry(id.clone()), now.monotonic + left);
        }
    }

    /// The time that a group without members has left; `None` for other groups.
    fn expires_in(&self, now: Now, id: &GroupId) -> Option<Duration> {
        let group = self.state.group(id)?;
        let since = match group.record.as_ref()?.empty_since {
            Some(since) => since,
            None if self.rule(GroupRule::ExpiryNeedsEmptyGroup) => return None,
            None => 0,
        };
        let committed = group.offsets.values().map(|committed| committed.committed_at).max();
        let kept = match committed {
            Some(_) => self.config.offsets_retention,
            None => self.config.empty_group_retention,
        };
        let age = now.wall.saturating_sub(since.max(committed.unwrap_or(since)));
        let left = kept.saturating_sub(Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        // A clock that is days ahead is set right sooner than that, or whoever runs it is told by everything else.
        Some(left.max(self.start_grace_left(now)))
    }

    /// The retention of a group may be over.
    pub(super) fn expire(&mut self, now: Now, id: &GroupId, out: &mut Output) {
        match self.expires_in(now, id) {
            Some(Duration::ZERO) => self.forget_group(id, out),
            Some(_) => self.await_expiry(now, id),
            None => {}
        }
    }

    /// Removes the offsets of a group; if it has no members, all of it.
    pub(super) fn forget_group(&mut self, id: &GroupId, out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        let partitions: Vec<_> = group.offsets.keys().copied().collect();
        let empty = group.members.is_empty();
        for partition in partitions {
            self.emit(Event::Offset(id.clone(), partition, None), out);
        }
        if empty {
            self.emit(Event::AssignmentEpoch(id.clone(), None), out);
            self.emit(Event::Group(id.clone(), None), out);
        }
        self.deadlines.cancel(Timer::Expiry(id.clone()));
    }
}
