//! The driver over a log in memory.

mod large;
mod lines;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;
use walser_group::{
    Attached, Commit, CommitAuthor, Config, CoordinatorEpoch, GroupShard, Join, MemberRef, NoticeContent,
    OffsetToCommit, RemovalCause, Subscription,
};
use walser_model::{Clock, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};
use walser_rpc::{ApiError, Effect, Reason};

use super::{INBOX_MAX, ShardHandle, ShardParts, replay::replay};
use crate::error::refused;
use crate::log::memory::MemoryLog;
use crate::outbox::{Outbox, Outgoing};
use crate::terms::Terms;
use crate::topics::KnownTopics;

const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

/// The paused clock of the runtime.
#[derive(Debug)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now_millis(&self) -> Timestamp {
        1_000_000_000_000 + walser_model::whole_millis(self.0.elapsed())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The same, behind jumps: the process did not run meanwhile.
#[derive(Debug)]
struct StalledClock(parking_lot::Mutex<Duration>, RuntimeClock);

impl Default for StalledClock {
    fn default() -> Self {
        Self(parking_lot::Mutex::default(), RuntimeClock(Instant::now()))
    }
}

impl Clock for StalledClock {
    fn now_millis(&self) -> Timestamp {
        self.1.now_millis()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock() + self.1.monotonic()
    }
}

/// A shard with its driver.
struct Tested {
    log: MemoryLog,
    shard: ShardHandle,
    topics: watch::Sender<Option<KnownTopics>>,
    given: watch::Sender<Option<CoordinatorEpoch>>,
    outdated: watch::Receiver<Option<CoordinatorEpoch>>,
    driver: JoinHandle<()>,
}

impl Tested {
    /// With a topic "t" of so many partitions.
    fn new(log: &MemoryLog, partitions: i32) -> Self {
        Self::given(log, partitions, 1)
    }

    fn with_clock(log: &MemoryLog, clock: Arc<dyn Clock>) -> Self {
        Self::of(log, (1, 1), clock)
    }

    /// The same, in an epoch.
    fn given(log: &MemoryLog, partitions: i32, epoch: i64) -> Self {
        Self::of(log, (partitions, epoch), Arc::new(RuntimeClock(Instant::now())))
    }

    fn of(log: &MemoryLog, (partitions, epoch): (i32, i64), clock: Arc<dyn Clock>) -> Self {
        let topics = watch::Sender::new(Some(topics(partitions)));
        let given = watch::Sender::new(Some(CoordinatorEpoch(epoch)));
        let (outdated, told_outdated) = watch::channel(None);
        let parts = ShardParts {
            number: 0,
            log: Arc::new(log.clone()),
            clock,
            topics: topics.subscribe(),
            terms: Terms::default(),
            given: given.subscribe(),
            outdated,
            config: Config::default(),
        };
        let (shard, driver) = ShardHandle::of(parts);
        Self { log: log.clone(), shard, topics, given, outdated: told_outdated, driver: tokio::spawn(driver.run()) }
    }

    /// Asks until the shard is loaded.
    async fn loaded(self) -> Self {
        while self.shard.ask(None, |_, _, _| Ok(())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self
    }

    async fn join(&self, group: &str, member: &str) -> Result<MemberRef, ApiError> {
        let join = join(group, member);
        let (group, member) = (join.group.clone(), join.member.clone());
        let Attached { attachment, .. } =
            self.shard.ask(None, |shard, now, out| shard.join(now, join, out).map_err(refused)).await?;
        Ok(MemberRef { group, member, instance: None, attachment })
    }

    /// A commit without a member, whose answer is waited for elsewhere.
    async fn commit(&self, group: &str, offset: i64) -> oneshot::Receiver<Result<(), ApiError>> {
        let commit = simple_commit(group, offset);
        let (told, answer) = oneshot::channel();
        let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
        self.shard.submit(None, handle, |answer| drop(told.send(answer.map(drop)))).await;
        settle().await;
        answer
    }

    async fn committed(&self, group: &str) -> Option<i64> {
        let group = group.parse().unwrap();
        let read = move |shard: &mut GroupShard, _, _: &mut _| {
            Ok(shard.committed(&group, &partition(0)).map(|found| found.offset.0))
        };
        self.shard.ask(None, read).await.unwrap()
    }

    /// Whether a replay of the log gives the state of the shard.
    async fn replays(&self) -> bool {
        let (replayed, _) = replay(0, &self.log, Config::default()).await.unwrap();
        self.shard.ask(None, move |shard, _, _| Ok(shard.same_state(&replayed))).await.unwrap()
    }

    /// The last handle is dropped: the driver writes what it has, and ends.
    async fn stop(self) {
        drop(self.shard);
        self.driver.await.unwrap();
    }
}

fn topics(partitions: i32) -> KnownTopics {
    Arc::new(BTreeMap::from([("t".parse().unwrap(), (TOPIC, partitions))]))
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, PartitionIndex(number))
}

fn join(group: &str, member: &str) -> Join {
    let topics = BTreeSet::from(["t".parse().unwrap()]);
    Join {
        group: group.parse().unwrap(),
        member: member.parse().unwrap(),
        instance: None,
        client_id: String::new(),
        client_address: String::new(),
        subscription: Subscription { topics, ..Subscription::default() },
        session_timeout: Duration::from_secs(15),
        revocation_timeout: Duration::from_secs(30),
        gateway: Some("gateway".parse().unwrap()),
    }
}

fn simple_commit(group: &str, offset: i64) -> Commit {
    let offset =
        OffsetToCommit { partition: partition(0), offset: Offset(offset), leader_epoch: None, metadata: String::new() };
    Commit { author: None, group: group.parse().unwrap(), offsets: vec![offset] }
}

/// Lets the driver do what it can do.
async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_order_and_only_behind_what_is_replicated() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    tested.log.hold();
    let mut answers = Vec::new();
    for offset in 1..=4 {
        answers.push(tested.commit("g", offset).await);
    }
    assert_eq!(tested.log.held(), 1, "what comes while one is on its way gathers");
    let shard = tested.shard.clone();
    let read = tokio::spawn(async move { shard.ask(None, |_, _, _| Ok(())).await });
    settle().await;
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()) && !read.is_finished());
    tested.log.tell(0, Ok(()));
    settle().await;
    let told: Vec<bool> = answers.iter_mut().map(|answer| answer.try_recv().is_ok()).collect();
    assert_eq!((told, tested.log.held()), (vec![true, false, false, false], 2), "the others are one batch");
    assert!(!read.is_finished(), "what changes nothing is answered behind what it has seen");
    tested.log.tell(1, Ok(()));
    settle().await;
    assert!(answers[1..].iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()) && read.is_finished());
    tested.log.go_on();
    assert_eq!(tested.committed("g").await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_refused_takes_those_behind_it_with_it_and_the_log_is_replayed() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    assert!(tested.commit("g", 1).await.await.unwrap().is_ok());
    let outbox = Outbox::<()>::default();
    let epoch = tested.shard.connect("gateway".parse().unwrap(), Arc::new(outbox.clone())).await.unwrap();
    tested.log.hold();
    let written = tested.commit("g", 2).await;
    tested.log.refuse(1);
    let not_taken = tested.commit("g", 3).await;
    let behind = tested.commit("g", 4).await;
    tested.log.go_on();
    assert!(written.await.unwrap().is_ok());
    for answer in [not_taken, behind] {
        let failure = answer.await.unwrap().unwrap_err();
        assert_eq!((failure.reason(), failure.effect()), (Reason::CoordinatorNotAvailable, Effect::Maybe));
    }
    assert_eq!(outbox.next().await.unwrap_err().reason(), Reason::CoordinatorNotAvailable, "its streams end");
    let tested = tested.loaded().await;
    assert_eq!(tested.committed("g").await, Some(2), "neither was written");
    let stale = tested.shard.ask(Some(epoch), |_, _, _| Ok(())).await.unwrap_err();
    assert_eq!((stale.reason(), stale.value("direction")), (Reason::StaleEpoch, Some("older")));
    assert!(tested.replays().await);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_counts_though_its_acknowledgement_was_lost_and_what_was_not_sent_does_not() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    tested.log.hold();
    let (first, second) = (tested.commit("g", 1).await, tested.commit("g", 2).await);
    tested.log.tell(0, Err(ApiError::new(Reason::LeaderLostAfterAppend, "lost")));
    let (first, second) = (first.await.unwrap().unwrap_err(), second.await.unwrap().unwrap_err());
    assert_eq!((first.effect(), second.effect()), (Effect::Maybe, Effect::None));
    tested.log.go_on();
    let tested = tested.loaded().await;
    assert_eq!(tested.committed("g").await, Some(1));
    tested.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_did_not_run_for_long_ends_no_session() {
    let stalled = Arc::new(StalledClock::default());
    let tested = Tested::with_clock(&MemoryLog::default(), stalled.clone()).loaded().await;
    let member = tested.join("g", "m").await.unwrap();
    settle().await;
    // Far longer than the session timeout.
    *stalled.0.lock() += Duration::from_secs(60);
    let heard = member.clone();
    let heard = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &heard).map_err(refused)).await;
    assert!(heard.is_ok(), "{heard:?}");
    tokio::time::sleep(Duration::from_secs(17)).await;
    let gone = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &member).map_err(refused)).await;
    assert_eq!(gone.unwrap_err().reason(), Reason::SessionExpired, "the process runs, and nobody is heard");
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_of_the_process_it_is_not_certain_that_an_instance_is_in_use() {
    let clock = Arc::new(StalledClock::default());
    let tested = Tested::with_clock(&MemoryLog::default(), clock.clone()).loaded().await;
    let instance = |member| Join { instance: Some("i".parse().unwrap()), ..join("g", member) };
    let again = instance("b");
    let joins =
        async |join| tested.shard.ask(None, |shard, now, out| shard.join(now, join, out).map_err(refused)).await;
    joins(instance("a")).await.unwrap();
    assert!(!joins(again.clone()).await.unwrap_err().is_transient());
    settle().await;
    *clock.0.lock() += Duration::from_secs(60);
    // Whatever wakes it.
    tested.topics.send_replace(Some(topics(2)));
    settle().await;
    let refused = joins(again).await.unwrap_err();
    assert_eq!((refused.reason(), refused.is_transient()), (Reason::InstanceIdInUse, true));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_nothing_is_not_read_all_the_time() {
    let log = MemoryLog::default();
    let tested = Tested::new(&log, 1).loaded().await;
    log.refuse(usize::MAX);
    let (begun, opened) = (Instant::now(), log.opened());
    while begun.elapsed() < Duration::from_secs(10) {
        assert!(tested.commit("g", 1).await.await.unwrap().is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let loads = log.opened() - opened;
    assert!((10..40).contains(&loads), "{loads}");
    log.refuse(0);
    let tested = tested.loaded().await;
    assert!(tested.commit("g", 1).await.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_two_coordinators_the_later_one_writes_and_the_other_one_stops_for_good() {
    let log = MemoryLog::default();
    let zombie = Tested::given(&log, 1, 7).loaded().await;
    assert!(zombie.commit("g", 4).await.await.unwrap().is_ok());
    let other = Tested::given(&log, 1, 8).loaded().await;
    assert!(other.commit("g", 5).await.await.unwrap().is_ok());
    // It has not heard that it has a successor.
    assert!(zombie.commit("g", 1).await.await.unwrap().is_err());
    let (written, opened) = (log.batch_count(), log.opened());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let refused = zombie.commit("g", 1).await.await.unwrap().unwrap_err();
    assert_eq!((refused.reason(), refused.effect()), (Reason::CoordinatorNotAvailable, Effect::None));
    assert_eq!(log.batch_count(), written, "it writes nothing any more");
    assert_eq!(log.opened(), opened + 1, "and reads the log once, to learn why");
    assert_eq!(other.committed("g").await, Some(5));
    // What it says of the log makes the controller give the shard in a higher epoch, if it means this one all the same.
    assert_eq!(*zombie.outdated.borrow(), Some(CoordinatorEpoch(8)));
    zombie.given.send_replace(Some(CoordinatorEpoch(9)));
    let zombie = zombie.loaded().await;
    assert_eq!((zombie.committed("g").await, *zombie.outdated.borrow()), (Some(5), None));
    assert!(other.commit("g", 6).await.await.unwrap().is_err(), "now it is the other one");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_given_to_another_one_is_dropped_and_can_come_back() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    let outbox = Outbox::<()>::default();
    tested.shard.connect("gateway".parse().unwrap(), Arc::new(outbox.clone())).await.unwrap();
    tested.log.hold();
    let on_the_way = tested.commit("g", 3).await;
    tested.given.send_replace(None);
    let failure = on_the_way.await.unwrap().unwrap_err();
    assert_eq!((failure.reason(), failure.effect()), (Reason::CoordinatorNotAvailable, Effect::Maybe));
    assert_eq!(outbox.next().await.unwrap_err().reason(), Reason::CoordinatorNotAvailable, "its streams end");
    tested.log.go_on();
    let away = tested.commit("g", 4).await.await.unwrap().unwrap_err();
    assert_eq!((away.reason(), away.effect()), (Reason::CoordinatorNotAvailable, Effect::None));
    tested.given.send_replace(Some(CoordinatorEpoch(2)));
    let tested = tested.loaded().await;
    assert_eq!(tested.committed("g").await, Some(3));
    assert!(tested.replays().await);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_does_not_wait_for_the_one_before_and_sees_what_it_wrote() {
    let log = MemoryLog::default();
    let before = Tested::given(&log, 1, 1).loaded().await;
    log.hold();
    // Written, and nobody has heard of it.
    let unheard = before.commit("g", 3).await;
    let after = Tested::given(&log, 1, 2);
    settle().await;
    assert!(after.shard.ask(None, |_, _, _| Ok(())).await.is_err(), "its epoch is not replicated yet");
    log.go_on();
    let after = after.loaded().await;
    assert!(unheard.await.unwrap().is_ok());
    assert_eq!(after.committed("g").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_take_the_log_takes_no_requests_and_ends_no_session() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    let member = tested.join("g", "m").await.unwrap();
    tested.log.hold();
    let shard = tested.shard.clone();
    let flood = tokio::spawn(async move {
        for offset in 0..20_000 {
            let commit = simple_commit(&format!("g{offset}"), offset);
            let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
            shard.submit(None, handle, drop).await;
        }
    });
    // Far longer than the session timeout, but not for the shard.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!flood.is_finished(), "who asks waits");
    assert_eq!(tested.log.held(), 1);
    assert!(tested.shard.connect("other".parse().unwrap(), Arc::new(Outbox::<()>::default())).now_or_never().is_none());
    tested.log.go_on();
    flood.await.unwrap();
    let heard = member.clone();
    let heard = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &heard).map_err(refused)).await;
    assert!(heard.is_ok(), "{heard:?}");
    tokio::time::sleep(Duration::from_secs(16)).await;
    let gone = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &member).map_err(refused)).await;
    assert_eq!(gone.unwrap_err().reason(), Reason::SessionExpired, "now it was heard");
    const { assert!(INBOX_MAX < 20_000) };
}

#[tokio::test(start_paused = true)]
async fn one_batch_that_hangs_ends_no_session() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    let member = tested.join("g", "m").await.unwrap();
    tested.log.hold();
    let commit = simple_commit("other", 1);
    let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
    tested.shard.submit(None, handle, drop).await;
    // There is room for more, and nobody asks for anything: answers would not leave.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(tested.log.held(), 1);
    tested.log.go_on();
    let heard = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &member).map_err(refused)).await;
    assert!(heard.is_ok(), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn gateways_hear_of_assignments_topics_and_the_end_of_members() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    let outbox = Outbox::<()>::default();
    tested.shard.connect("gateway".parse().unwrap(), Arc::new(outbox.clone())).await.unwrap();
    let member = tested.join("g", "m").await.unwrap();
    tested.topics.send_replace(Some(topics(3)));
    let mut assigned = 0;
    while assigned < 3 {
        let Outgoing::Notice(notice) = outbox.next().await.unwrap() else { continue };
        assert_eq!((&notice.member, notice.attachment), (&member.member, member.attachment));
        if let NoticeContent::Assignment(current) = notice.content {
            assigned = current.assigned.len();
        }
    }
    // Nobody is heard.
    let Outgoing::Notice(notice) = outbox.next().await.unwrap() else { panic!("no answer was asked for") };
    assert_eq!(notice.content, NoticeContent::Removed(RemovalCause::SessionExpired));
    assert!(tested.replays().await);
}

#[tokio::test(start_paused = true)]
async fn a_second_stream_of_a_gateway_ends_the_first() {
    let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
    let (first, second) = (Outbox::<()>::default(), Outbox::<()>::default());
    let gateway = || "gateway".parse().unwrap();
    let epoch = tested.shard.connect(gateway(), Arc::new(first.clone())).await.unwrap();
    assert_eq!(tested.shard.connect(gateway(), Arc::new(second.clone())).await.unwrap(), epoch);
    assert_eq!(first.next().await.unwrap_err().reason(), Reason::StaleEpoch);
    tested.stop().await;
    assert!(second.next().now_or_never().is_none());
}

/// The author of a commit of a member.
fn author(member: &MemberRef, epoch: walser_group::GroupEpoch, sequence: i64) -> CommitAuthor {
    CommitAuthor { member: member.clone(), epoch, sequence }
}
