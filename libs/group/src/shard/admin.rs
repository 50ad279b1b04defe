//! What operators do to groups.

use std::collections::BTreeSet;

use walser_model::{Offset, TopicId, TopicPartition};

use super::{GroupShard, NoticeContent, Now, OffsetToCommit, Output, RemovalCause};
use crate::error::GroupError;
use crate::event::Event;
use crate::id::{GroupId, InstanceId, MemberId};
use crate::rules::GroupRule;

/// A committed offset that is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetMove {
    pub partition: TopicPartition,
    /// `None`: nothing was committed.
    pub before: Option<Offset>,
    pub after: Offset,
}

impl GroupShard {
    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// The group does not exist, or has members.
    pub fn delete_group(&mut self, id: &GroupId, out: &mut Output) -> Result<(), GroupError> {
        self.check_empty(id)?;
        self.forget_group(id, out);
        Ok(())
    }

    /// Forgets the committed offsets of topics, in a group without members.
    ///
    /// # Errors
    /// The group does not exist, or has members.
    pub fn delete_offsets(
        &mut self,
        now: Now,
        id: &GroupId,
        topics: &BTreeSet<TopicId>,
        out: &mut Output,
    ) -> Result<(), GroupError> {
        self.check_empty(id)?;
        let committed = self.all_committed(id).map(|(partition, _)| *partition);
        let partitions: Vec<_> = committed.filter(|partition| topics.contains(&partition.topic)).collect();
        for partition in partitions {
            self.emit(Event::Offset(id.clone(), partition, None), out);
        }
        self.await_expiry(now, id);
        Ok(())
    }

    /// What a reset would move. Checks the offsets, but not whether the group has members.
    ///
    /// # Errors
    /// The group does not exist, or an offset is invalid.
    pub fn plan_reset(&self, id: &GroupId, offsets: &[OffsetToCommit]) -> Result<Vec<OffsetMove>, GroupError> {
        let group = self.group(id)?;
        let mut moves = Vec::with_capacity(offsets.len());
        for OffsetToCommit { partition, offset, .. } in offsets {
            let before = group.offsets.get(partition).map(|committed| committed.offset);
            moves.push(OffsetMove { partition: *partition, before, after: *offset });
        }
        for offset in offsets {
            self.check_value(offset)?;
            self.topics.check(&offset.partition)?;
        }
        Ok(moves)
    }

    /// Moves committed offsets. With `force` also while there are members: the partitions are taken from their owners and
    /// assigned again in a later epoch, so that they are read from the new offsets and earlier commits are refused.
    ///
    /// # Errors
    /// The group does not exist or has members, an offset is invalid, or there are too many.
    pub fn reset_offsets(
        &mut self,
        now: Now,
        id: &GroupId,
        offsets: Vec<OffsetToCommit>,
        force: bool,
        out: &mut Output,
    ) -> Result<Vec<OffsetMove>, GroupError> {
        if !force {
            self.check_empty(id)?;
        }
        let limit = self.config.request_partitions_max;
        if offsets.len() > limit {
            return Err(GroupError::too_many("offsets", offsets.len(), limit));
        }
        let moves = self.plan_reset(id, &offsets)?;
        self.make_room(now, id, &offsets, out);
        let limit = self.config.group_offsets_max;
        let added = moves.iter().filter(|moved| moved.before.is_none()).count();
        if self.group(id)?.offsets.len() + added > limit {
            return Err(GroupError::QuotaExceeded { what: "partitions with committed offsets in one group", limit });
        }
        if self.rule(GroupRule::ForcedResetReassigns) {
            let partitions: Vec<TopicPartition> = moves.iter().map(|moved| moved.partition).collect();
            self.take(now, id, &partitions, out);
        }
        for offset in offsets {
            self.write_offset(now, id, offset, out);
        }
        self.settle(now, id, out);
        self.await_expiry(now, id);
        Ok(moves)
    }

    /// Removes a member, which may join again.
    ///
    /// # Errors
    /// The group or the member does not exist.
    pub fn remove_member(
        &mut self,
        now: Now,
        id: &GroupId,
        member: &MemberId,
        out: &mut Output,
    ) -> Result<(), GroupError> {
        self.group(id)?;
        self.known_member(id, member, None)?;
        self.remove(now, id, member, RemovalCause::Fenced, out);
        Ok(())
    }

    /// The member that has an instance id.
    pub fn member_of_instance(&self, group: &GroupId, instance: &InstanceId) -> Option<&MemberId> {
        self.state.group(group)?.instance(instance)
    }

    /// Takes partitions from the members that hold them, and begins an epoch in which they are assigned again.
    fn take(&mut self, now: Now, id: &GroupId, partitions: &[TopicPartition], out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        let owners: BTreeSet<MemberId> =
            partitions.iter().filter_map(|partition| group.owner(partition).cloned()).collect();
        if owners.is_empty() {
            return;
        }
        for owner in owners {
            let mut current = self.current(id, &owner);
            for partition in partitions {
                current.assigned.remove(partition);
                current.revoking.remove(partition);
            }
            self.emit(Event::Current(id.clone(), owner.clone(), Some(current.clone())), out);
            if let Some(known) = self.state.member(id, &owner) {
                self.notify(id, &owner, known, NoticeContent::Assignment(current), out);
            }
        }
        self.begin_epoch(id, out);
        // At once, whatever the interval: until then they would be given back in the epoch in which they were taken.
        self.assign(now, id, out);
    }

    fn check_empty(&self, id: &GroupId) -> Result<(), GroupError> {
        match self.group(id)?.members.len() {
            0 => Ok(()),
            member_count => Err(GroupError::GroupNotEmpty { group: id.clone(), member_count }),
        }
    }
}
