//! Committing and reading offsets.

use walser_model::{LeaderEpoch, Offset, TopicPartition};

use super::{GroupShard, MemberRef, Now, Output};
use crate::deadlines::Timer;
use crate::error::GroupError;
use crate::event::{CommittedOffset, Event, GroupRecord};
use crate::group::{Group, Member};
use crate::id::{GroupEpoch, GroupId};
use crate::rules::GroupRule;

/// Offsets to commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The member that commits. `None`: a client that is not a member, which needs a group without members.
    pub author: Option<CommitAuthor>,
    pub group: GroupId,
    pub offsets: Vec<OffsetToCommit>,
}

/// The member that commits.
#[derive(Debug, Clone)]
pub struct CommitAuthor {
    /// In the group of the commit.
    pub member: MemberRef,
    /// The member epoch in which the records were delivered.
    pub epoch: GroupEpoch,
    /// Grows with every commit of the attachment: one that arrives behind a later one is refused.
    pub sequence: i64,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    pub partition: TopicPartition,
    /// The next offset to read, at least 0.
    pub offset: Offset,
    /// The leader epoch of the last processed record, when known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// At most [`Config::offset_metadata_bytes_max`].
    ///
    /// [`Config::offset_metadata_bytes_max`]: crate::Config::offset_metadata_bytes_max
    pub metadata: String,
}

impl GroupShard {
    /// Commits offsets. Returns those that were refused; all others are committed.
    ///
    /// # Errors
    /// Nothing is committed: the member is unknown, fenced or late, or the group has members and the author is none.
    pub fn commit(
        &mut self,
        now: Now,
        commit: Commit,
        out: &mut Output,
    ) -> Result<Vec<(TopicPartition, GroupError)>, GroupError> {
        let limit = self.config.request_partitions_max;
        if commit.offsets.len() > limit {
            return Err(GroupError::too_many("offsets", commit.offsets.len(), limit));
        }
        match &commit.author {
            Some(author) => self.check_author(author)?,
            None => self.check_simple(now, &commit.group, out)?,
        }
        self.make_room(now, &commit.group, &commit.offsets, out);
        let mut refused = Vec::new();
        for to_commit in commit.offsets {
            let partition = to_commit.partition;
            if commit.author.as_ref().is_some_and(|author| self.is_committed(author, &to_commit)) {
                continue;
            }
            let checked = self.check_offset(&commit.group, commit.author.as_ref(), &to_commit);
            match checked {
                Ok(()) => self.write_offset(now, &commit.group, to_commit, out),
                Err(error) => refused.push((partition, error)),
            }
        }
        if !self.deadlines.is_set(&Timer::Expiry(commit.group.clone())) {
            self.await_expiry(now, &commit.group);
        }
        Ok(refused)
    }

    /// The committed offset of a partition. Like every answer it is released behind the events before it.
    pub fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Option<&CommittedOffset> {
        self.state.group(group)?.offsets.get(partition)
    }

    /// All committed offsets of a group, in the order of topic ids and partitions.
    pub fn all_committed(&self, group: &GroupId) -> impl Iterator<Item = (&TopicPartition, &CommittedOffset)> {
        self.state.group(group).into_iter().flat_map(|group| &group.offsets)
    }

    /// Forgets the offsets of topics that are gone, where a group cannot have more offsets with them. A shard that has just
    /// started may only not have heard of a topic yet.
    pub(super) fn make_room(&mut self, now: Now, id: &GroupId, offsets: &[OffsetToCommit], out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        let more = offsets.iter().filter(|offset| !group.offsets.contains_key(&offset.partition)).count();
        if group.offsets.len() + more <= self.config.group_offsets_max || !self.start_grace_left(now).is_zero() {
            return;
        }
        let gone = group.offsets.keys().filter(|partition| self.topics.name(partition.topic).is_none());
        let gone: Vec<TopicPartition> = gone.copied().collect();
        for partition in gone {
            self.emit(Event::Offset(id.clone(), partition, None), out);
        }
    }

    fn check_author(&mut self, author: &CommitAuthor) -> Result<(), GroupError> {
        let MemberRef { group, member, .. } = author.member.clone();
        let current = self.member(&author.member)?.current.epoch;
        if author.epoch > current {
            return Err(GroupError::MemberEpochFenced { group, member, actual: author.epoch, current });
        }
        let in_order = self.rule(GroupRule::CommitsKeepOrder);
        let Some(session) = self.sessions.get(&group, &member) else { return Ok(()) };
        if author.sequence < session.last_commit && in_order {
            let current = session.last_commit;
            return Err(GroupError::CommitSuperseded { member, actual: author.sequence, current });
        }
        if let Some(session) = self.confirm(&group, &member) {
            session.last_commit = session.last_commit.max(author.sequence);
        }
        Ok(())
    }

    /// Whether a commit repeats one behind which the member has released the partition.
    fn is_committed(&self, author: &CommitAuthor, offset: &OffsetToCommit) -> bool {
        let MemberRef { group, member, .. } = &author.member;
        let released = self.sessions.get(group, member).and_then(|session| session.released.get(&offset.partition));
        released == Some(&offset.offset)
    }

    /// A commit without a member: the group must have none, and is created if it does not exist.
    fn check_simple(&mut self, now: Now, id: &GroupId, out: &mut Output) -> Result<(), GroupError> {
        let group = self.state.group(id);
        let member_count = group.map_or(0, |group| group.members.len());
        if member_count > 0 && self.rule(GroupRule::SimpleCommitNeedsEmptyGroup) {
            return Err(GroupError::GroupNotEmpty { group: id.clone(), member_count });
        }
        if group.is_some() {
            return Ok(());
        }
        let limit = self.config.groups_max;
        if self.state.groups().len() >= limit {
            return Err(GroupError::QuotaExceeded { what: "groups of a shard", limit });
        }
        let record = GroupRecord {
            epoch: GroupEpoch::ZERO,
            created_at: now.wall,
            empty_since: Some(now.wall),
            had_members: false,
        };
        self.emit(Event::Group(id.clone(), Some(record)), out);
        Ok(())
    }

    fn check_offset(
        &self,
        id: &GroupId,
        author: Option<&CommitAuthor>,
        offset: &OffsetToCommit,
    ) -> Result<(), GroupError> {
        self.check_value(offset)?;
        let group = self.group(id)?;
        if let Some(author) = author
            && let Some(member) = group.members.get(&author.member.member)
        {
            self.check_owner(group, member, author.epoch, &offset.partition)?;
        }
        self.topics.check(&offset.partition)?;
        let limit = self.config.group_offsets_max;
        if group.offsets.len() >= limit && !group.offsets.contains_key(&offset.partition) {
            return Err(GroupError::QuotaExceeded { what: "partitions with committed offsets in one group", limit });
        }
        Ok(())
    }

    pub(super) fn check_value(&self, offset: &OffsetToCommit) -> Result<(), GroupError> {
        if offset.offset < Offset::ZERO {
            let rule = "it must be at least 0".to_owned();
            return Err(GroupError::FieldInvalid { field: "offset", actual: offset.offset.to_string(), rule });
        }
        let (actual, limit) = (offset.metadata.len(), self.config.offset_metadata_bytes_max);
        if actual > limit { Err(GroupError::OffsetMetadataTooLarge { actual, limit }) } else { Ok(()) }
    }

    /// The member must hold the partition, and must have held it in the epoch of the commit (KIP-1251): equality with the
    /// member epoch would refuse commits that are on their way while the epoch grows.
    fn check_owner(
        &self,
        group: &Group,
        member: &Member,
        epoch: GroupEpoch,
        partition: &TopicPartition,
    ) -> Result<(), GroupError> {
        let topic = || self.topics.name(partition.topic).cloned();
        match member.current.held_since(partition) {
            None if self.rule(GroupRule::CommitChecksOwner) => {
                let owner = group.owner(partition).cloned();
                Err(GroupError::PartitionNotOwned { topic: topic(), partition: partition.partition, owner })
            }
            Some(assigned) if epoch < assigned && self.rule(GroupRule::CommitChecksAssignmentEpoch) => {
                let (topic, partition) = (topic(), partition.partition);
                Err(GroupError::AssignedLater { topic, partition, actual: epoch, assigned })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write_offset(&mut self, now: Now, group: &GroupId, offset: OffsetToCommit, out: &mut Output) {
        let OffsetToCommit { partition, offset, leader_epoch, metadata } = offset;
        let committed = CommittedOffset { offset, leader_epoch, metadata, committed_at: now.wall };
        self.emit(Event::Offset(group.clone(), partition, Some(committed)), out);
    }
}
