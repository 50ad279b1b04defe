//! Members of groups that read topic `t` and commit what they read, chunk by chunk, and what they see on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use walser_client::{Client, CommitOutcome, GroupEvent, GroupReader, GroupReaderConfig};
use walser_history::{Event, HistoryRecord};
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::group_member::join_of;
use crate::replicated::Seen;

/// How long the server may be away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Commits of one group, and what has happened to its members.
#[derive(Debug, Default)]
struct GroupSeen {
    /// Times of commits that count.
    times: Vec<Instant>,
    /// By partition, the highest committed offset, and whether one of its records was read before that.
    committed: BTreeMap<i32, i64>,
    member_ids: BTreeSet<String>,
    /// Partitions that a member has lost.
    revoked: usize,
}

/// Members of groups, each of which reads all of topic `t`.
pub(crate) struct GroupLoad {
    groups: BTreeMap<String, Arc<Mutex<GroupSeen>>>,
    stop: watch::Sender<bool>,
    members: JoinSet<()>,
}

/// One member.
struct LoadedMember {
    name: String,
    group: String,
    reader: GroupReader,
    seen: Seen,
    of_group: Arc<Mutex<GroupSeen>>,
    /// Commits without an answer, by their numbers.
    commits: BTreeMap<i64, (Event, i32, i64)>,
}

// === impl GroupLoad ===

impl GroupLoad {
    /// Two members in each group, and waits until both have their share of `partitions`.
    pub(crate) async fn start(clients: [&Client; 2], groups: &[&str], partitions: usize, seen: &Seen) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { groups: BTreeMap::new(), stop, members: JoinSet::new() };
        for group in groups {
            let of_group = Arc::<Mutex<GroupSeen>>::default();
            load.groups.insert((*group).to_owned(), Arc::clone(&of_group));
            let mut shares = Vec::new();
            for (number, client) in clients.into_iter().enumerate() {
                let config = GroupReaderConfig { join: join_of(group, "t"), patience: PATIENCE };
                let (told, share) = watch::channel(0);
                let member = LoadedMember {
                    name: format!("{group} {number}"),
                    group: (*group).to_owned(),
                    reader: GroupReader::new(client, config),
                    seen: seen.clone(),
                    of_group: Arc::clone(&of_group),
                    commits: BTreeMap::new(),
                };
                load.members.spawn(member.run(stopped.clone(), told));
                shares.push(share);
            }
            let shared = async || shares.iter().all(|share| *share.borrow() == partitions / 2);
            until(shared, "both members have their share").await;
            of_group.lock().unwrap().revoked = 0;
        }
        load
    }

    /// Waits until each group has committed so often since a moment.
    pub(crate) async fn go_on(&self, since: Instant, count: usize) {
        let after = |group: &Arc<Mutex<GroupSeen>>| {
            group.lock().unwrap().times.iter().rev().take_while(|time| **time > since).count() >= count
        };
        until(async || self.groups.values().all(after), "commits go on").await;
    }

    /// The longest time between two commits of one of the groups, from just before a moment on.
    pub(crate) fn gap(&self, since: Instant) -> Duration {
        let of = |group: &Arc<Mutex<GroupSeen>>| {
            let times = &group.lock().unwrap().times;
            let begin = times.partition_point(|time| *time <= since).saturating_sub(1);
            times[begin..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        };
        self.groups.values().map(of).max().unwrap_or_default()
    }

    /// Whether every member is the one that it was, with what it had.
    pub(crate) fn assert_nothing_moved(&self) {
        for (name, group) in &self.groups {
            let group = group.lock().unwrap();
            assert_eq!((group.revoked, group.member_ids.len()), (0, 2), "of group {name}: {group:?}");
        }
    }

    /// Waits until each group has committed everything below these ends, and has its members leave.
    pub(crate) async fn finish(mut self, ends: &BTreeMap<i32, i64>) {
        for (name, group) in &self.groups {
            let whole = async || {
                let group = group.lock().unwrap();
                ends.iter().all(|(partition, end)| group.committed.get(partition).copied().unwrap_or(0) >= *end)
            };
            until(whole, &format!("group {name} has committed everything")).await;
        }
        self.stop.send_replace(true);
        while let Some(ended) = self.members.join_next().await {
            ended.unwrap();
        }
    }
}

// === impl LoadedMember ===

impl LoadedMember {
    async fn run(mut self, mut stopped: watch::Receiver<bool>, share: watch::Sender<usize>) {
        let mut leaving = false;
        loop {
            let event = tokio::select! {
                event = self.reader.next() => event.unwrap(),
                _ = stopped.wait_for(|stop| *stop), if !leaving => {
                    leaving = true;
                    self.reader.leave(false);
                    continue;
                }
            };
            match event {
                GroupEvent::Joined(joined) => {
                    self.of_group.lock().unwrap().member_ids.insert(joined.member_id);
                }
                GroupEvent::Assigned(assigned) => {
                    share.send_modify(|count| *count += assigned.partitions.len());
                    self.assigned(&assigned);
                }
                GroupEvent::Revoked(revoked) => {
                    share.send_modify(|count| *count -= revoked.partitions.len());
                    self.of_group.lock().unwrap().revoked += revoked.partitions.len();
                }
                GroupEvent::Chunk(chunk) => self.process(&chunk),
                GroupEvent::Committed(answer) => self.committed(answer.id, &answer.outcome),
                GroupEvent::Problem(problem) => panic!("{}: {problem:?}", self.name),
                GroupEvent::OffsetReset(reset) => panic!("{}: {reset:?}", self.name),
                GroupEvent::End => return,
                GroupEvent::Revoking(_) | GroupEvent::CaughtUp | GroupEvent::Away(_) => {}
            }
        }
    }

    fn assigned(&self, assigned: &pb::PartitionsAssigned) {
        let mut numbers = Vec::new();
        for partition in &assigned.partitions {
            let number = partition.topic_partition.as_ref().unwrap().partition;
            numbers.push(number.unsigned_abs());
            let committed = self.of_group.lock().unwrap().committed.get(&number).copied().unwrap_or(0);
            let start = partition.start_offset;
            assert!(start >= committed, "{}: {number} from {start}, though {committed} is committed", self.name);
        }
        let assign = Event::assign(self.name.as_str(), "t", &numbers);
        self.seen.note(assign.clone());
        self.seen.note(assign.ok());
    }

    /// A chunk was read: it is processed, and committed.
    fn process(&mut self, chunk: &pb::RecordChunk) {
        let number = chunk.partition.unsigned_abs();
        let records = chunk.records.iter().map(|record| {
            let value = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
            HistoryRecord::new("t", number, value).at(record.offset.unsigned_abs())
        });
        let poll = Event::poll(self.name.as_str());
        self.seen.note(poll.clone());
        self.seen.note(poll.ok().with(records.collect()));
        let offset = chunk.next_offset;
        let commit = crate::group_member::offset("t", chunk.partition, offset);
        let id = self.reader.commit(vec![commit]).unwrap();
        let of = format!("{} commit {id}", self.name);
        let begun = Event::commit(of, self.group.as_str(), "t", number, offset.unsigned_abs());
        self.seen.note(begun.clone());
        self.commits.insert(id, (begun, chunk.partition, offset));
    }

    fn committed(&mut self, id: i64, outcome: &CommitOutcome) {
        let (begun, partition, offset) = self.commits.remove(&id).unwrap();
        match outcome {
            CommitOutcome::Done => {
                self.seen.note(begun.ok());
                let mut group = self.of_group.lock().unwrap();
                group.times.push(Instant::now());
                let highest = group.committed.entry(partition).or_default();
                *highest = (*highest).max(offset);
            }
            CommitOutcome::Refused(_) => self.seen.note(begun.fail()),
            CommitOutcome::Unknown(_) => self.seen.note(begun.info()),
        }
    }
}
