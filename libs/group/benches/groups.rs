//! What groups cost in decisions: commits, a member more in a large group, and a takeover of many members.
//!
//! `cargo bench -p walser-group`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures, and says what it found")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use walser_group::{
    AttachmentNumber, Commit, CommitAuthor, Config, Event, GroupEpoch, GroupId, GroupShard, Join, MemberRef, Now,
    OffsetToCommit, Output, Subscription, TopicChange,
};
use walser_model::{Offset, PartitionIndex, TopicId, TopicPartition};

const TOPIC: TopicId = TopicId::from_bytes([1; 16]);
/// Commits of a round.
const COMMITS: i64 = 200_000;

/// A shard, its log, and its time.
struct Measured {
    shard: GroupShard,
    log: Vec<Event>,
    now: Now,
}

impl Measured {
    fn new(log: Vec<Event>) -> Self {
        let (mut shard, mut out) = (GroupShard::new(Config::default()), Output::default());
        log.iter().for_each(|event| shard.replay(event.clone()));
        let topic = TopicChange::Present { name: name("orders"), id: TOPIC, partition_count: 900 };
        shard.start(Now::default(), vec![topic], &mut out);
        Self { shard, log, now: Now::default() }
    }

    fn join(&mut self, group: &str, member: &str) -> MemberRef {
        let (group, member): (GroupId, _) = (name(group), name(member));
        let join = Join {
            group: group.clone(),
            member,
            instance: None,
            client_id: "bench".to_owned(),
            client_address: "192.0.2.1:5000".to_owned(),
            subscription: Subscription { topics: BTreeSet::from([name("orders")]), ..Subscription::default() },
            session_timeout: Duration::from_secs(15),
            revocation_timeout: Duration::from_secs(30),
            gateway: Some(name("gateway")),
        };
        let (member, mut out) = (join.member.clone(), Output::default());
        let attached = self.shard.join(self.now, join, &mut out).expect("it may join");
        self.log.append(&mut out.events);
        MemberRef { group, member, instance: None, attachment: attached.attachment }
    }

    /// Time passes, and everybody releases what they are asked for.
    fn settle(&mut self, group: &str) {
        let group: GroupId = name(group);
        self.now.monotonic += Duration::from_millis(60);
        let mut out = Output::default();
        while self.shard.next_deadline().is_some_and(|due| due <= self.now.monotonic) {
            self.shard.tick(self.now, &mut out);
        }
        for member in self.shard.describe(&group).expect("the group exists").members {
            if !member.current.revoking.is_empty() {
                let attachment = attachment_of(&self.log, &member.member);
                let of = MemberRef { group: group.clone(), member: member.member, instance: None, attachment };
                self.shard.release(self.now, &of, &member.current.revoking, &mut out).expect("it is attached");
            }
        }
        self.log.append(&mut out.events);
    }
}

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid name")
}

fn attachment_of(log: &[Event], member: &walser_group::MemberId) -> AttachmentNumber {
    let found = log.iter().rev().find_map(|event| match event {
        Event::Attachment(_, of, Some(record)) if of == member => Some(record.number),
        _ => None,
    });
    found.expect("every member has an attachment")
}

fn commits() -> Duration {
    let mut measured = Measured::new(Vec::new());
    let of = measured.join("billing", "m");
    let begun = Instant::now();
    for number in 0..COMMITS {
        let index = PartitionIndex(i32::try_from(number % 900).expect("below 900"));
        let offset = OffsetToCommit {
            partition: TopicPartition::new(TOPIC, index),
            offset: Offset(number),
            leader_epoch: None,
            metadata: String::new(),
        };
        let author = CommitAuthor { member: of.clone(), epoch: GroupEpoch(1), sequence: number };
        let commit = Commit { author: Some(author), group: of.group.clone(), offsets: vec![offset] };
        let mut out = Output::default();
        let refused = measured.shard.commit(measured.now, commit, &mut out).expect("it is attached");
        assert!(refused.is_empty());
        black_box(out.events[0].encode());
    }
    begun.elapsed()
}

fn main() {
    println!("a commit, encoded: {} ns", commits().as_nanos() / u128::from(COMMITS.unsigned_abs()));

    let mut large = Measured::new(Vec::new());
    (0..100).for_each(|number| drop(large.join("large", &format!("m{number:03}"))));
    large.settle("large");
    let begun = Instant::now();
    large.join("large", "one more");
    large.settle("large");
    println!("100 members with 900 partitions, stable again with one more: {:?}", begun.elapsed());

    let mut many = Measured::new(Vec::new());
    let begun = Instant::now();
    for number in 0..10_000 {
        many.join(&format!("g{}", number % 1_000), &format!("m{number}"));
    }
    println!("10,000 members join 1,000 groups of 900 partitions: {:?}", begun.elapsed());
    let begun = Instant::now();
    let successor = Measured::new(std::mem::take(&mut many.log));
    println!("a successor replays {} events of them and starts: {:?}", successor.log.len(), begun.elapsed());

    let commits = |number: i64| {
        let partition = TopicPartition::new(TOPIC, PartitionIndex(i32::try_from(number % 900).expect("below 900")));
        let committed = walser_group::CommittedOffset {
            offset: Offset(number),
            leader_epoch: None,
            metadata: String::new(),
            committed_at: 0,
        };
        Event::Offset(name(&format!("g{}", number / 900 % 1_000)), partition, Some(committed)).encode()
    };
    let log: Vec<_> = (0..1_000_000).map(commits).collect();
    let (begun, mut shard) = (Instant::now(), GroupShard::new(Config::default()));
    for event in &log {
        let decoded = Event::decode(&event.key, event.value.as_deref()).expect("it was encoded");
        shard.replay(decoded.expect("the kind is known"));
    }
    println!("a million commits are decoded and replayed: {:?}", begun.elapsed());
}
