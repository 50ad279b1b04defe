//! When members and gateways were heard. Nothing of it is written: a successor begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{GatewayId, GroupId, MemberId};

/// What is known of a member's session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// When the attachment, or the service of this coordinator, began.
    pub(super) began: Duration,
    /// When the member was heard, apart from its gateway.
    pub(super) heard: Duration,
    /// Its stream was closed: it is removed at this time unless it attaches again.
    pub(super) detached_until: Option<Duration>,
    /// Whether the attachment has been used: its gateway has had the answer.
    pub(super) confirmed: bool,
    /// The highest sequence of its commits.
    pub(super) last_commit: i64,
}

/// The sessions of all members.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    members: BTreeMap<(GroupId, MemberId), Session>,
    /// Gateways with members.
    gateways: BTreeMap<GatewayId, Duration>,
}

impl Sessions {
    /// Begins a session, or begins it anew with another attachment.
    pub(super) fn begin(&mut self, group: &GroupId, member: &MemberId, heard: Duration) {
        let session = Session { began: heard, heard, detached_until: None, confirmed: false, last_commit: i64::MIN };
        self.members.insert((group.clone(), member.clone()), session);
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

    /// When a gateway was heard last.
    pub(super) fn heard(&self, gateway: &GatewayId) -> Option<Duration> {
        self.gateways.get(gateway).copied()
    }
}
