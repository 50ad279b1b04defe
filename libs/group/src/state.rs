//! The durable state of a shard: what its events say, and the indexes that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use walser_model::TopicName;

use crate::event::{AttachmentRecord, Event, MemberRecord};
use crate::group::{Group, Member};
use crate::id::{AttachmentNumber, CoordinatorEpoch, GatewayId, GroupId, MemberId, TokenKey};

/// The groups of a shard. Changes only by [`DurableState::apply`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DurableState {
    groups: BTreeMap<GroupId, Group>,
    attachments_reserved: AttachmentNumber,
    coordinator_epoch: CoordinatorEpoch,
    token_key: Option<TokenKey>,
    /// How many members of which groups name a topic.
    named: BTreeMap<TopicName, BTreeMap<GroupId, usize>>,
    /// How many members of a group have a pattern.
    with_pattern: BTreeMap<GroupId, usize>,
    attached: BTreeMap<GatewayId, BTreeSet<(GroupId, MemberId)>>,
}

impl DurableState {
    /// Applies an event. Order and omissions of a compacted log are no errors: the newest value of a key counts.
    pub(crate) fn apply(&mut self, event: Event) {
        let id = match &event {
            Event::Coordinator(epoch) => {
                self.coordinator_epoch = self.coordinator_epoch.max(*epoch);
                return;
            }
            Event::TokenKey(key) => {
                self.token_key = Some(*key);
                return;
            }
            Event::AttachmentsReserved(number) => {
                self.attachments_reserved = *number;
                return;
            }
            Event::Member(group, member, record) => {
                let before = self.member(group, member).and_then(|member| member.record.clone());
                self.index_subscription(group, before.as_ref(), record.as_ref());
                group.clone()
            }
            Event::Attachment(group, member, record) => {
                let before = self.member(group, member).and_then(|member| member.attachment.clone());
                self.index_attachment(group, member, before.as_ref(), record.as_ref());
                group.clone()
            }
            Event::Group(group, _)
            | Event::AssignmentEpoch(group, _)
            | Event::Target(group, ..)
            | Event::Current(group, ..)
            | Event::Offset(group, ..) => group.clone(),
        };
        let group = self.groups.entry(id.clone()).or_default();
        group.apply(event);
        if group.is_void() {
            self.groups.remove(&id);
        }
    }

    pub(crate) fn groups(&self) -> &BTreeMap<GroupId, Group> {
        &self.groups
    }

    /// Everything that is known of a group, also when its record is missing.
    pub(crate) fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> Option<&Member> {
        self.groups.get(group)?.members.get(member)
    }

    /// The last attachment number that may have been handed out.
    pub(crate) fn attachments_reserved(&self) -> AttachmentNumber {
        self.attachments_reserved
    }

    /// The highest epoch of a coordinator that has written.
    pub(crate) fn coordinator_epoch(&self) -> CoordinatorEpoch {
        self.coordinator_epoch
    }

    /// The key of the shard, once it has one.
    pub(crate) fn token_key(&self) -> Option<TokenKey> {
        self.token_key
    }

    /// The groups with a member that names a topic.
    pub(crate) fn groups_that_name(&self, topic: &TopicName) -> impl Iterator<Item = &GroupId> {
        self.named.get(topic).into_iter().flat_map(BTreeMap::keys)
    }

    /// The groups with a member that has a pattern.
    pub(crate) fn groups_with_pattern(&self) -> impl Iterator<Item = &GroupId> {
        self.with_pattern.keys()
    }

    /// The members that are attached to a gateway.
    pub(crate) fn attached(&self, gateway: &GatewayId) -> Option<&BTreeSet<(GroupId, MemberId)>> {
        self.attached.get(gateway)
    }

    fn index_subscription(&mut self, group: &GroupId, before: Option<&MemberRecord>, now: Option<&MemberRecord>) {
        for topic in before.iter().flat_map(|record| &record.subscription.topics) {
            if let Some(groups) = self.named.get_mut(topic) {
                count_down(groups, group);
                if groups.is_empty() {
                    self.named.remove(topic);
                }
            }
        }
        for topic in now.iter().flat_map(|record| &record.subscription.topics) {
            *self.named.entry(topic.clone()).or_default().entry(group.clone()).or_default() += 1;
        }
        let has_pattern = |record: &MemberRecord| record.subscription.pattern.is_some();
        if before.is_some_and(has_pattern) {
            count_down(&mut self.with_pattern, group);
        }
        if now.is_some_and(has_pattern) {
            *self.with_pattern.entry(group.clone()).or_default() += 1;
        }
    }

    fn index_attachment(
        &mut self,
        group: &GroupId,
        member: &MemberId,
        before: Option<&AttachmentRecord>,
        now: Option<&AttachmentRecord>,
    ) {
        let key = (group.clone(), member.clone());
        if let Some(gateway) = before.and_then(|record| record.gateway.as_ref())
            && let Some(members) = self.attached.get_mut(gateway)
        {
            members.remove(&key);
            if members.is_empty() {
                self.attached.remove(gateway);
            }
        }
        if let Some(gateway) = now.and_then(|record| record.gateway.clone()) {
            self.attached.entry(gateway).or_default().insert(key);
        }
    }
}

fn count_down(counts: &mut BTreeMap<GroupId, usize>, group: &GroupId) {
    if let Some(count) = counts.get_mut(group) {
        *count -= 1;
        if *count == 0 {
            counts.remove(group);
        }
    }
}
