//! When members and gateways were heard. Nothing of it is written: a successor begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use walser_model::{Offset, TopicPartition};

use crate::id::{AttachmentNumber, GatewayId, GroupId, MemberId};

/// What is known of a member's session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// When the attachment, or the service of this coordinator, began.
    pub(super) began: Duration,
    /// When the member was heard, apart from its gateway.
    pub(super) heard: Duration,
    /// Its stream was closed: it is removed at this time unless it attaches again.
    pub(super) detached_until: Option<Duration>,
    /// Whether the attachment has been used: its gateway has had the answer.
    pub(super) confirmed: bool,
    /// The first attachment that was given for the token that the newest was given for: its client may have had the answer with
    /// any from this one on.
    pub(super) answers_from: AttachmentNumber,
    /// The highest sequence of its commits.
    pub(super) last_commit: i64,
    /// What it has released while it polls, and what was committed of it then: until its client has used an answer. A request that is
    /// repeated, because its answer was lost, commits that once more.
    pub(super) released: BTreeMap<TopicPartition, Offset>,
    /// In which period the member was heard of: see [`Sessions::doubt`].
    period: u64,
}

/// The sessions of all members.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    members: BTreeMap<(GroupId, MemberId), Session>,
    /// Gateways with members.
    gateways: BTreeMap<GatewayId, Duration>,
    period: u64,
}

impl Sessions {
    /// Begins a session, or begins it anew with another attachment. `repeated`: that one was given for the same token as the one
    /// before.
    pub(super) fn begin(
        &mut self,
        (group, member): (&GroupId, &MemberId),
        heard: Duration,
        attachment: AttachmentNumber,
        repeated: bool,
    ) {
        let before = self.members.remove(&(group.clone(), member.clone())).filter(|_| repeated);
        let (answers_from, released) =
            before.map_or((attachment, BTreeMap::new()), |before| (before.answers_from, before.released));
        let session = Session {
            began: heard,
            heard,
            detached_until: None,
            confirmed: false,
            answers_from,
            last_commit: i64::MIN,
            released,
            period: self.period,
        };
        self.members.insert((group.clone(), member.clone()), session);
    }

    /// Another period begins, in which no member was heard of: any of them may have gone while nobody could say so.
    pub(super) fn doubt(&mut self) {
        self.period += 1;
    }

    /// A gateway has named a member.
    pub(super) fn note(&mut self, group: &GroupId, member: &MemberId) {
        let period = self.period;
        if let Some(session) = self.get_mut(group, member) {
            session.period = period;
        }
    }

    /// A member has used its attachment.
    pub(super) fn confirm(&mut self, group: &GroupId, member: &MemberId) -> Option<&mut Session> {
        self.note(group, member);
        let session = self.get_mut(group, member)?;
        session.confirmed = true;
        Some(session)
    }

    /// Whether a member was heard of in this period, and it or its gateway was heard since.
    pub(super) fn is_certain(
        &self,
        (group, member): (&GroupId, &MemberId),
        gateway: &GatewayId,
        since: Duration,
    ) -> bool {
        let Some(session) = self.get(group, member) else { return false };
        session.period == self.period && self.last_heard(session, Some(gateway)) >= since
    }

    /// When a member or its gateway was heard last.
    pub(super) fn last_heard(&self, session: &Session, gateway: Option<&GatewayId>) -> Duration {
        gateway.and_then(|gateway| self.gateways.get(gateway)).map_or(session.heard, |at| session.heard.max(*at))
    }

    pub(super) fn end(&mut self, group: &GroupId, member: &MemberId) {
        self.members.remove(&(group.clone(), member.clone()));
    }

    /// Members with a session.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn get(&self, group: &GroupId, member: &MemberId) -> Option<&Session> {
        self.members.get(&(group.clone(), member.clone()))
    }

    pub(super) fn get_mut(&mut self, group: &GroupId, member: &MemberId) -> Option<&mut Session> {
        self.members.get_mut(&(group.clone(), member.clone()))
    }

    /// A gateway with members was heard.
    pub(super) fn hear(&mut self, gateway: &GatewayId, now: Duration) {
        match self.gateways.get_mut(gateway) {
            Some(heard) => *heard = now,
            None => {
                self.gateways.insert(gateway.clone(), now);
            }
        }
    }

    /// A gateway has no members any more.
    pub(super) fn forget(&mut self, gateway: &GatewayId) {
        self.gateways.remove(gateway);
    }
}
