//! What must hold, of the log of events and of what clients see.
//!
//! A model of its own follows the accepted batches, without the state machine: who holds what, in which epoch, and what is
//! committed. At most one member holds a partition (I20); a commit comes from the member that holds it, in an epoch in
//! which it did, from its newest attachment (I19); committed offsets do not go back (I21); clients skip nothing, and read
//! nothing again that was committed (I18).

use std::collections::{BTreeMap, BTreeSet};

use walser_group::{AttachmentNumber, CurrentAssignment, Event, GroupEpoch, GroupId, InstanceId, MemberId, MemberRef};
use walser_model::TopicPartition;

/// On whose behalf a batch was written.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A commit of a member, with its epoch.
    Member(MemberRef, GroupEpoch),
    /// A commit without a member.
    Simple,
    /// An operator moves offsets.
    Reset,
    /// Anything else: writes no offsets.
    Other,
}

#[derive(Debug, Default)]
struct MemberModel {
    current: CurrentAssignment,
    attachment: AttachmentNumber,
    instance: Option<InstanceId>,
    exists: bool,
}

/// The model, and what clients have seen.
#[derive(Debug, Default)]
pub(super) struct Check {
    members: BTreeMap<GroupId, BTreeMap<MemberId, MemberModel>>,
    committed: BTreeMap<(GroupId, TopicPartition), i64>,
    /// What clients were told to be committed.
    acknowledged: BTreeMap<(GroupId, TopicPartition), i64>,
    /// Every record below was processed.
    processed: BTreeMap<(GroupId, TopicPartition), i64>,
    /// Partitions whose committed offset was lowered by an operator, or expired.
    lowered: BTreeSet<(GroupId, TopicPartition)>,
    /// The epoch in which a partition was assigned when its offset was reset: only a later owner commits it again.
    reset_in: BTreeMap<(GroupId, TopicPartition), GroupEpoch>,
    highest_attachment: AttachmentNumber,
    pub(super) deletions: u64,
    pub(super) assignments: u64,
}

impl Check {
    /// A batch was accepted by the log.
    pub(super) fn accepted(&mut self, events: &[Event], origin: &Origin) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        for event in events {
            if let (Event::Offset(group, partition, _), Origin::Reset) = (event, origin) {
                self.reset(group, *partition);
            }
        }
        for event in events {
            self.event(event, origin)?;
            if let Event::Current(group, ..) | Event::Member(group, ..) = event {
                touched.insert(group);
            }
        }
        touched.into_iter().try_for_each(|group| self.one_owner(group))
    }

    fn event(&mut self, event: &Event, origin: &Origin) -> Result<(), String> {
        match event {
            Event::Current(group, member, current) => {
                let known = self.member(group, member);
                let current = current.clone().unwrap_or_default();
                let (before, now) = (known.current.epoch, current.epoch);
                let more = current.assigned.len().saturating_sub(known.current.assigned.len());
                known.current = current;
                self.assignments += more as u64;
                if now < before && now != GroupEpoch::ZERO {
                    return Err(format!("the epoch of {member} went from {before} to {now}"));
                }
            }
            Event::Member(group, member, record) => {
                let known = self.member(group, member);
                known.exists = record.is_some();
                known.instance = record.as_ref().and_then(|record| record.instance.clone());
                if record.is_none() {
                    self.members.get_mut(group).and_then(|members| members.remove(member));
                }
            }
            Event::Attachment(group, member, Some(record)) => {
                let highest = self.highest_attachment;
                let known = self.member(group, member);
                if record.number != known.attachment && record.number <= highest {
                    return Err(format!("attachment {} of {member} was handed out again", record.number));
                }
                known.attachment = record.number;
                self.highest_attachment = highest.max(record.number);
            }
            Event::Offset(group, partition, committed) => {
                let offset = committed.as_ref().map(|committed| committed.offset.0);
                self.offset(group, *partition, offset, origin)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// An operator resets the offset of a partition, which some member may hold.
    fn reset(&mut self, group: &GroupId, partition: TopicPartition) {
        let members = self.members.get(group).into_iter().flat_map(BTreeMap::values);
        let held = members.filter_map(|known| known.current.held_since(&partition)).max();
        if let Some(epoch) = held {
            self.reset_in.insert((group.clone(), partition), epoch);
        }
    }

    fn offset(
        &mut self,
        group: &GroupId,
        partition: TopicPartition,
        offset: Option<i64>,
        origin: &Origin,
    ) -> Result<(), String> {
        let key = (group.clone(), partition);
        let members =
            self.members.get(group).map_or(0, |members| members.values().filter(|known| known.exists).count());
        let Some(offset) = offset else {
            if members > 0 {
                return Err(format!("offsets of {group} vanish while it has {members} members"));
            }
            self.deletions += 1;
            self.committed.remove(&key);
            self.acknowledged.remove(&key);
            self.reset_in.remove(&key);
            self.lowered.insert(key);
            return Ok(());
        };
        let before = self.committed.insert(key.clone(), offset).unwrap_or(0);
        match origin {
            Origin::Reset => {
                let acknowledged = self.acknowledged.entry(key.clone()).or_default();
                *acknowledged = offset.min(*acknowledged);
                self.lowered.insert(key);
                return Ok(());
            }
            Origin::Member(of, epoch) => {
                let known = self.member(group, &of.member);
                let since = known.current.held_since(&partition);
                if !known.exists || since.is_none_or(|since| since > *epoch) || known.attachment != of.attachment {
                    return Err(format!("{of:?} committed {partition} in {epoch:?}, and was {known:?}"));
                }
                if self.reset_in.get(&key).is_some_and(|reset| since <= Some(*reset)) {
                    return Err(format!("{of:?} committed {partition}, which was reset after it was assigned"));
                }
            }
            Origin::Simple if members > 0 => {
                return Err(format!("{group} has members, and one that is none committed"));
            }
            Origin::Simple => {}
            Origin::Other => return Err("an offset was written for nobody".to_owned()),
        }
        if offset < before {
            return Err(format!("the offset of {partition} in {group} went from {before} to {offset}"));
        }
        Ok(())
    }

    fn one_owner(&self, group: &GroupId) -> Result<(), String> {
        let Some(members) = self.members.get(group) else { return Ok(()) };
        let (mut owners, mut instances) = (BTreeMap::new(), BTreeMap::new());
        for (member, known) in members {
            for partition in known.current.held() {
                if let Some(other) = owners.insert(partition, member) {
                    return Err(format!("{other} and {member} hold {partition} of {group}"));
                }
            }
            if let Some(other) = known.instance.as_ref().and_then(|instance| instances.insert(instance, member)) {
                return Err(format!("{other} and {member} are the same instance"));
            }
        }
        Ok(())
    }

    fn member(&mut self, group: &GroupId, member: &MemberId) -> &mut MemberModel {
        self.members.entry(group.clone()).or_default().entry(member.clone()).or_default()
    }

    /// A client was told that an offset is committed.
    pub(super) fn acknowledged(
        &mut self,
        group: &GroupId,
        partition: TopicPartition,
        offset: i64,
    ) -> Result<(), String> {
        let key = (group.clone(), partition);
        let committed = self.committed.get(&key).copied().unwrap_or(0);
        if offset > committed && !self.lowered.contains(&key) {
            return Err(format!("{offset} of {partition} was acknowledged, and {committed} is replicated"));
        }
        let known = self.acknowledged.entry(key).or_default();
        *known = offset.min(committed).max(*known);
        Ok(())
    }

    /// What was acknowledged of a partition.
    pub(super) fn floor(&self, group: &GroupId, partition: TopicPartition) -> i64 {
        self.acknowledged.get(&(group.clone(), partition)).copied().unwrap_or(0)
    }

    /// A client begins to read at an offset; `floor` was acknowledged before it asked for it.
    pub(super) fn begins(&self, group: &GroupId, partition: TopicPartition, at: i64, floor: i64) -> Result<(), String> {
        // A reset or an expiry in between lowers it again.
        let floor = floor.min(self.floor(group, partition));
        let processed = self.processed(group, partition);
        if at < floor {
            return Err(format!("{partition} of {group} is read again from {at}, and {floor} was committed"));
        }
        if at > processed {
            return Err(format!("{partition} of {group} is read from {at}, and only {processed} was processed"));
        }
        Ok(())
    }

    /// A client has processed records up to an offset, exclusive.
    pub(super) fn processes(&mut self, group: &GroupId, partition: TopicPartition, to: i64) {
        let known = self.processed.entry((group.clone(), partition)).or_default();
        *known = to.max(*known);
    }

    pub(super) fn processed(&self, group: &GroupId, partition: TopicPartition) -> i64 {
        self.processed.get(&(group.clone(), partition)).copied().unwrap_or(0)
    }

    pub(super) fn committed(&self, group: &GroupId, partition: TopicPartition) -> i64 {
        self.committed.get(&(group.clone(), partition)).copied().unwrap_or(0)
    }
}
