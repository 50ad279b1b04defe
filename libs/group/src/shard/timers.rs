//! What time brings about, and the beginning of service.

use std::time::Duration;

use super::{GroupShard, NoticeContent, Now, Output, RemovalCause};
use crate::deadlines::Timer;
use crate::event::{Event, GroupRecord};
use crate::group::Member;
use crate::id::{AttachmentNumber, GroupId, MemberId};
use crate::rules::GroupRule;
use crate::topics::TopicChange;

impl GroupShard {
    /// Begins to serve, once all events of the log are replayed. Every session begins anew and in full, and so does the
    /// time that members have to release partitions: a change of coordinators revokes nothing.
    ///
    /// `topics`: all topics of the cluster. Members lose the partitions of a topic that is missing, so that a coordinator
    /// starts only with metadata that is complete.
    pub fn start(&mut self, now: Now, topics: Vec<TopicChange>, out: &mut Output) {
        self.started = now.monotonic;
        self.next_attachment = AttachmentNumber(self.state.attachments_reserved().0 + 1);
        for topic in topics {
            self.topics.change(topic);
        }
        self.repair(now, out);
        let groups: Vec<GroupId> = self.state.groups().keys().cloned().collect();
        for id in &groups {
            self.restart_sessions(now, id);
            if self.rule(GroupRule::TopicsReassign) {
                self.reassign_if_needed(now, id, out);
            }
            self.await_expiry(now, id);
        }
        self.doubt_members();
    }

    /// The coordinator could hear nobody for a time: members may have gone. Their sessions go on, but it counts as uncertain
    /// whether they are there until they, or their gateways, say so.
    pub fn doubt_members(&mut self) {
        self.sessions.doubt();
    }

    /// When [`GroupShard::tick`] is due; `None` while nothing waits for time.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.next()
    }

    /// Does the earliest thing that is due, if there is one. The driver calls it until [`GroupShard::next_deadline`] lies
    /// ahead; one call is one batch of events.
    pub fn tick(&mut self, now: Now, out: &mut Output) {
        match self.deadlines.take_due(now.monotonic) {
            Some(Timer::Session(group, member)) => self.end_session(now, &group, &member, out),
            Some(Timer::Revocation(group, member)) => self.take_revoked(now, &group, &member, out),
            Some(Timer::Assignment(group)) => self.settle(now, &group, out),
            Some(Timer::Expiry(group)) => self.expire(now, &group, out),
            None => {}
        }
    }

    /// Removes what an append left behind that was cut into batches, of which the last were lost: members without a
    /// record or an attachment, or in a group without a record. A group that lost its last member so is empty from here.
    fn repair(&mut self, now: Now, out: &mut Output) {
        let mut orphans = Vec::new();
        for (id, group) in self.state.groups() {
            let whole = |member: &Member| member.record.is_some() && member.attachment.is_some();
            let broken = group.members.iter().filter(|(_, member)| group.record.is_none() || !whole(member));
            orphans.extend(broken.map(|(member, _)| (id.clone(), member.clone())));
        }
        for (group, member) in orphans {
            self.remove(now, &group, &member, RemovalCause::SessionExpired, out);
        }
        let groups: Vec<GroupId> = self.state.groups().keys().cloned().collect();
        for id in groups {
            let Some(group) = self.state.group(&id) else { continue };
            match group.record.clone() {
                None => self.forget_group(&id, out),
                Some(record) if group.members.is_empty() && record.empty_since.is_none() => {
                    let record = GroupRecord { empty_since: Some(now.wall), ..record };
                    self.emit(Event::Group(id, Some(record)), out);
                }
                Some(_) => {}
            }
        }
    }

    fn restart_sessions(&mut self, now: Now, id: &GroupId) {
        let Some(group) = self.state.group(id) else { return };
        for (member, known) in &group.members {
            let Some(record) = &known.record else { continue };
            let full = self.config.rules.hold(GroupRule::SessionsRestart);
            let left = if full { record.session_timeout } else { Duration::ZERO };
            let heard = (now.monotonic + left).saturating_sub(record.session_timeout);
            self.sessions.begin((id, member), heard, known.attachment_number(), false);
            self.deadlines.set(Timer::Session(id.clone(), member.clone()), now.monotonic + left);
            if !known.current.revoking.is_empty() {
                let until = now.monotonic + record.revocation_timeout;
                self.deadlines.set(Timer::Revocation(id.clone(), member.clone()), until);
            }
        }
    }

    /// How long nothing is taken for over, or for gone, that only the clock on the wall or the metadata say is.
    pub(super) fn start_grace_left(&self, now: Now) -> Duration {
        (self.started + self.config.start_grace).saturating_sub(now.monotonic)
    }

    /// Removes a member whose session is over; where it was extended, waits on.
    fn end_session(&mut self, now: Now, group: &GroupId, id: &MemberId, out: &mut Output) {
        let Some(session) = self.sessions.get(group, id) else { return };
        let Some(member) = self.state.member(group, id) else { return };
        let gateway = member.attachment.as_ref().and_then(|attachment| attachment.gateway.as_ref());
        let heard = self.sessions.last_heard(session, gateway);
        let timeout = member.record.as_ref().map(|record| record.session_timeout).unwrap_or_default();
        let until = session.detached_until.unwrap_or(heard + timeout);
        if until > now.monotonic {
            self.deadlines.set(Timer::Session(group.clone(), id.clone()), until);
        } else if self.rule(GroupRule::SessionEnds) {
            self.remove(now, group, id, RemovalCause::SessionExpired, out);
        }
    }

    /// Takes what a member has not released in its time. The member stays, and hears of it.
    fn take_revoked(&mut self, now: Now, group: &GroupId, id: &MemberId, out: &mut Output) {
        let mut current = self.current(group, id);
        current.revoking.clear();
        self.emit(Event::Current(group.clone(), id.clone(), Some(current.clone())), out);
        if let Some(known) = self.state.member(group, id) {
            self.notify(group, id, known, NoticeContent::Assignment(current), out);
        }
        self.settle(now, group, out);
    }
}
