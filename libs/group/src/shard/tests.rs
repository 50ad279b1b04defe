use std::collections::{BTreeMap, BTreeSet};

use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

use super::*;
use crate::event::AssignedPartitions;
use crate::{GroupEpoch, GroupPhase, Subscription, TopicChange};

mod attachments;
mod members;
mod offsets;
mod replay;

const SECOND: Duration = Duration::from_secs(1);

/// A shard with its log, at a time.
#[derive(Debug)]
struct Tested {
    shard: GroupShard,
    now: Now,
    log: Vec<Event>,
    notices: Vec<Notice>,
}

fn topic(number: u8) -> TopicId {
    TopicId::from_bytes([number; 16])
}

fn partition(topic_number: u8, index: i32) -> TopicPartition {
    TopicPartition::new(topic(topic_number), PartitionIndex(index))
}

fn present(name: &str, id: u8, partition_count: i32) -> TopicChange {
    TopicChange::Present { name: name.parse().unwrap(), id: topic(id), partition_count }
}

fn join(member: &str, topics: &[&str]) -> Join {
    let topics = topics.iter().map(|topic| topic.parse().unwrap()).collect();
    Join {
        group: "g".parse().unwrap(),
        member: member.parse().unwrap(),
        instance: None,
        client_id: "test".to_owned(),
        client_address: "192.0.2.1:9".to_owned(),
        subscription: Subscription { topics, ..Subscription::default() },
        session_timeout: SECOND * 15,
        revocation_timeout: SECOND * 30,
        gateway: Some("gateway".parse().unwrap()),
    }
}

fn offset(partition: TopicPartition, offset: i64) -> OffsetToCommit {
    OffsetToCommit { partition, offset: Offset(offset), leader_epoch: Some(LeaderEpoch(3)), metadata: "m".to_owned() }
}

fn reason<T: std::fmt::Debug>(result: Result<T, GroupError>) -> &'static str {
    result.unwrap_err().reason()
}

impl Tested {
    fn new(topics: Vec<TopicChange>) -> Self {
        Self::with(Config { assignment_interval: Duration::ZERO, ..Config::default() }, Vec::new(), topics)
    }

    fn with(config: Config, log: Vec<Event>, topics: Vec<TopicChange>) -> Self {
        let now = Now { monotonic: SECOND * 100, wall: 1_000_000 };
        let mut tested = Self { shard: GroupShard::new(config), now, log: Vec::new(), notices: Vec::new() };
        log.iter().for_each(|event| tested.shard.replay(event.clone()));
        tested.log = log;
        tested.run(|shard, now, out| shard.start(now, topics, out));
        tested
    }

    /// Another coordinator takes over.
    fn take_over(self, topics: Vec<TopicChange>) -> Self {
        Self::with(self.shard.config, self.log, topics)
    }

    fn run<T>(&mut self, request: impl FnOnce(&mut GroupShard, Now, &mut Output) -> T) -> T {
        let mut out = Output::default();
        let answer = request(&mut self.shard, self.now, &mut out);
        self.log.extend(out.events);
        self.notices.extend(out.notices);
        answer
    }

    fn sleep(&mut self, time: Duration) {
        let until = self.now.monotonic + time;
        while let Some(due) = self.shard.next_deadline().filter(|due| *due <= until) {
            self.advance(due);
            self.run(GroupShard::tick);
        }
        self.advance(until);
    }

    fn advance(&mut self, to: Duration) {
        self.now.wall += i64::try_from(to.saturating_sub(self.now.monotonic).as_millis()).unwrap();
        self.now.monotonic = self.now.monotonic.max(to);
    }

    fn join(&mut self, member: &str, topics: &[&str]) -> MemberRef {
        self.try_join(join(member, topics)).unwrap()
    }

    fn try_join(&mut self, join: Join) -> Result<MemberRef, GroupError> {
        let (group, member, instance) = (join.group.clone(), join.member.clone(), join.instance.clone());
        let attached = self.run(|shard, now, out| shard.join(now, join, out))?;
        Ok(MemberRef { group, member, instance, attachment: attached.attachment })
    }

    fn attach(&mut self, of: &MemberRef) -> Result<MemberRef, GroupError> {
        let attach = Attach {
            member: of.clone(),
            subscription: None,
            revocation_timeout: None,
            gateway: Some("other".parse().unwrap()),
        };
        let attached = self.run(|shard, now, out| shard.attach(now, attach, out))?;
        Ok(MemberRef { attachment: attached.attachment, ..of.clone() })
    }

    fn commit(&mut self, of: &MemberRef, epoch: i32, offset: OffsetToCommit) -> Result<(), GroupError> {
        let sequence = i64::try_from(self.log.len()).unwrap();
        let author = CommitAuthor { member: of.clone(), epoch: GroupEpoch(epoch), sequence };
        let commit = Commit { author: Some(author), group: of.group.clone(), offsets: vec![offset] };
        let refused = self.run(|shard, now, out| shard.commit(now, commit, out))?;
        refused.into_iter().try_for_each(|(_, error)| Err(error))
    }

    fn simple_commit(&mut self, group: &str, offset: OffsetToCommit) -> Result<(), GroupError> {
        let commit = Commit { author: None, group: group.parse().unwrap(), offsets: vec![offset] };
        let refused = self.run(|shard, now, out| shard.commit(now, commit, out))?;
        refused.into_iter().try_for_each(|(_, error)| Err(error))
    }

    fn current(&self, of: &MemberRef) -> CurrentAssignment {
        self.shard.current(&of.group, &of.member)
    }

    /// Releases all that the member is asked for.
    fn release(&mut self, of: &MemberRef) {
        let revoking = self.current(of).revoking;
        self.run(|shard, now, out| shard.release(now, of, &revoking, out)).unwrap();
    }

    fn phase(&self) -> GroupPhase {
        self.shard.describe(&"g".parse().unwrap()).unwrap().summary.phase
    }
}

fn indexes(assigned: &AssignedPartitions) -> Vec<(i32, i32)> {
    assigned.iter().map(|(partition, epoch)| (partition.partition.0, epoch.0)).collect()
}
