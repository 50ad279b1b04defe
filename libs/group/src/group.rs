//! One group: what is written of it, and what follows from that.

mod reconcile;

use std::collections::BTreeMap;

use walser_model::TopicPartition;

use crate::event::{AttachmentRecord, CommittedOffset, CurrentAssignment, Event, GroupRecord, MemberRecord};
use crate::id::{AttachmentNumber, GroupEpoch, InstanceId, MemberId};

/// The state of a group, as tools show it. A group that was deleted is not there any more: what the contract calls dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPhase {
    /// The group has no members.
    Empty,
    /// An assignment is due.
    Assigning,
    /// Partitions are on their way to other members.
    Reconciling,
    /// Every member has what it is to have.
    Stable,
}

/// A group. During a replay its record may come after other events of it; a group without a record does not exist yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) record: Option<GroupRecord>,
    pub(crate) assignment_epoch: GroupEpoch,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) offsets: BTreeMap<TopicPartition, CommittedOffset>,
    /// The member that holds each partition, assigned or being revoked. Derived from the members.
    owners: BTreeMap<TopicPartition, MemberId>,
    /// The member of each instance id. Derived from the members.
    instances: BTreeMap<InstanceId, MemberId>,
}

/// A member of a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) record: Option<MemberRecord>,
    pub(crate) target: Vec<TopicPartition>,
    pub(crate) current: CurrentAssignment,
    pub(crate) attachment: Option<AttachmentRecord>,
}

// === impl Group ===

impl Group {
    /// Applies an event of this group.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::AttachmentsReserved(_) | Event::Coordinator(_) | Event::TokenKey(_) => {}
            Event::Group(_, record) => self.record = record,
            Event::AssignmentEpoch(_, epoch) => self.assignment_epoch = epoch.unwrap_or_default(),
            Event::Offset(_, partition, Some(committed)) => {
                self.offsets.insert(partition, committed);
            }
            Event::Offset(_, partition, None) => {
                self.offsets.remove(&partition);
            }
            Event::Member(_, id, record) => self.apply_record(id, record),
            Event::Target(_, id, target) => self.change(id, |member| member.target = target.unwrap_or_default()),
            Event::Attachment(_, id, record) => self.change(id, |member| member.attachment = record),
            Event::Current(_, id, current) => self.apply_current(id, current.unwrap_or_default()),
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_void(&self) -> bool {
        let Self { record, assignment_epoch, members, offsets, .. } = self;
        record.is_none() && *assignment_epoch == GroupEpoch::ZERO && members.is_empty() && offsets.is_empty()
    }

    /// The member that holds a partition, assigned or being revoked.
    pub(crate) fn owner(&self, partition: &TopicPartition) -> Option<&MemberId> {
        self.owners.get(partition)
    }

    /// The partitions that members hold, assigned or being revoked.
    pub(crate) fn held(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owners.keys()
    }

    /// The member that has an instance id.
    pub(crate) fn instance(&self, instance: &InstanceId) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    /// The group epoch.
    pub(crate) fn epoch(&self) -> GroupEpoch {
        self.record.as_ref().map_or(GroupEpoch::ZERO, |record| record.epoch)
    }

    pub(crate) fn phase(&self) -> GroupPhase {
        if self.members.is_empty() {
            GroupPhase::Empty
        } else if self.epoch() > self.assignment_epoch {
            GroupPhase::Assigning
        } else if self.members.values().all(|member| member.is_settled(self.assignment_epoch)) {
            GroupPhase::Stable
        } else {
            GroupPhase::Reconciling
        }
    }

    fn apply_record(&mut self, id: MemberId, record: Option<MemberRecord>) {
        let before = self.members.get(&id).and_then(|member| member.record.as_ref()?.instance.clone());
        if let Some(before) = before
            && self.instances.get(&before) == Some(&id)
        {
            self.instances.remove(&before);
        }
        if let Some(instance) = record.as_ref().and_then(|record| record.instance.clone()) {
            self.instances.insert(instance, id.clone());
        }
        self.change(id, |member| member.record = record);
    }

    fn apply_current(&mut self, id: MemberId, current: CurrentAssignment) {
        if let Some(member) = self.members.get(&id) {
            for partition in member.current.held() {
                if current.held_since(partition).is_none() && self.owners.get(partition) == Some(&id) {
                    self.owners.remove(partition);
                }
            }
        }
        for partition in current.held() {
            if self.owners.get(partition) != Some(&id) {
                self.owners.insert(*partition, id.clone());
            }
        }
        self.change(id, |member| member.current = current);
    }

    /// Changes a member, which comes with its first event and goes with its last.
    fn change(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let member = self.members.entry(id.clone()).or_default();
        change(member);
        if *member == Member::default() {
            self.members.remove(&id);
        }
    }
}

// === impl Member ===

impl Member {
    /// The newest attachment; 0 if there is none.
    pub(crate) fn attachment_number(&self) -> AttachmentNumber {
        self.attachment.as_ref().map_or(AttachmentNumber(0), |record| record.number)
    }

    /// Whether the member has exactly what it is to have.
    pub(crate) fn is_settled(&self, assignment_epoch: GroupEpoch) -> bool {
        let CurrentAssignment { epoch, assigned, revoking } = &self.current;
        *epoch == assignment_epoch && revoking.is_empty() && assigned.len() == self.target.len()
    }
}
