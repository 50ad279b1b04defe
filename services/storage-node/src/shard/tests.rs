//! A shard that is driven by hand, over a simulated disk.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use walser_log::{Disk as _, LogConfig, MemoryDisk};
use walser_metadata::TopicSettings;
use walser_model::{
    Acks, Compression, Durability, LeaderEpoch, Offset, PartitionIndex, SystemClock, TopicConfig, TopicId,
};
use walser_proto::v1::Effect;
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};
use walser_replication::PartitionState;
use walser_rpc::{AppendBudget, AppendOutcome, AppendPermit, AppendReply, Reason};
use walser_service::Metrics;

use super::watched_disk::as_shard;
use super::*;
use crate::replication::Outbox;

mod compacting;
mod hurt_replicas;
mod leading;
mod lending;

const NODE: NodeId = NodeId(1);
/// Room of the shard in bytes: some batches of a kilobyte.
const ROOM_BYTES: usize = 64 << 10;

type Answers = Arc<Mutex<Vec<AppendOutcome>>>;

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(number))
}

fn shard() -> Shard {
    shard_on(&MemoryDisk::simulated(256 << 20))
}

fn shard_on(disk: &MemoryDisk) -> Shard {
    shard_with(disk, &Metrics::default())
}

fn shard_with(disk: &MemoryDisk, metrics: &Metrics) -> Shard {
    let (clock, peers) = (Arc::new(SystemClock::start()), Arc::new(Outbox::default()));
    let context = ShardContext::of_test(NODE, disk, clock, peers, metrics);
    Shard::new(context, DiskThreads::default(), 1 << 20, Vec::new())
}

/// A turn, and the maintenance that it asks for.
fn turn(shard: &mut Shard) {
    as_shard(|| shard.turn());
    while let Some(returned) = shard.disk_threads.maintain_one(&*shard.context.clock, &shard.context.metrics) {
        shard.queue.push(returned);
        as_shard(|| shard.turn());
    }
}

/// Stops the shard, with all jobs of the threads that wait for the disk.
fn stop(shard: &mut Shard) {
    shard.queue.push(Command::Stop(oneshot::channel().0));
    stopped(shard);
}

/// Waits for the end of a stop.
fn stopped(shard: &mut Shard) {
    while as_shard(|| shard.turn()) != Wait::Stopped {
        let done = shard.disk_threads.run_one(0, &*shard.context.clock, &shard.context.metrics);
        shard.queue.push(done.expect("the shard waits for nothing"));
    }
}

/// Leads a partition with these replicas, all of which are said to be in sync.
fn lead(shard: &mut Shard, number: i32, replicas: &[i32]) {
    // What is in the log counts at once: no flush has to be run.
    lead_with(shard, number, replicas, Durability::PageCache);
}

fn lead_with(shard: &mut Shard, number: i32, replicas: &[i32], durability: Durability) {
    lead_as(shard, number, replicas, TopicConfig { durability, ..TopicConfig::default() });
}

fn lead_as(shard: &mut Shard, number: i32, replicas: &[i32], config: TopicConfig) {
    shard.queue.push(Command::Install(Box::new(metadata(number, replicas, config))));
    turn(shard);
}

/// Of a partition with these replicas, all of which are said to be in sync; this node leads.
fn metadata(number: i32, replicas: &[i32], config: TopicConfig) -> PartitionMetadata {
    let replicas: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
    let state = PartitionState {
        leader: Some(NODE),
        leader_epoch: LeaderEpoch(1),
        isr: replicas.iter().copied().collect(),
        ..PartitionState::new(replicas, 1)
    };
    let settings = TopicSettings { config, unreadable: None }.into();
    let (node_epoch, version, partition_epoch) = (1, 1, 1);
    PartitionMetadata { partition: partition(number), node_epoch, version, state, partition_epoch, settings }
}

/// Room for a batch of a kilobyte, if there is some now.
fn admit(room: &AppendBudget, number: i32) -> Option<AppendPermit> {
    match pin!(room.admit(partition(number), 1 << 10)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

/// Appends a batch of a kilobyte, once there is room for it.
/// A read meets damage in all of a log.
fn meet_damage(shard: &mut Shard, number: i32) {
    let generation = shard.partitions[&partition(number)].log.generation();
    shard.queue.push(Command::Damaged { partition: partition(number), from: Offset(0), generation });
}

fn append(shard: &mut Shard, number: i32, permit: AppendPermit) -> Answers {
    let answers = push(shard, number, permit);
    turn(shard);
    answers
}

fn push(shard: &mut Shard, number: i32, permit: AppendPermit) -> Answers {
    push_to(&shard.queue, number, permit)
}

fn push_to(queue: &Queue, number: i32, permit: AppendPermit) -> Answers {
    push_sized(queue, number, (900, Acks::All), permit)
}

fn push_sized(queue: &Queue, number: i32, (value_bytes, acks): (usize, Acks), permit: AppendPermit) -> Answers {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&vec![7; value_bytes]), headers: &[] });
    let batch = builder.build(Producer::NONE);
    let answers = Answers::default();
    let told = Arc::clone(&answers);
    queue.push(Command::Append(AppendJob {
        partition: partition(number),
        epoch: LeaderEpoch::NONE,
        header: BatchHeader::parse(&batch).unwrap(),
        batch,
        acks,
        expected_offset: None,
        trace: None,
        permit,
        reply: AppendReply::new(move |answer| told.lock().push(answer)),
    }));
    answers
}

#[test]
fn writes_that_wait_for_other_replicas_leave_their_room_to_other_partitions() {
    let mut shard = shard();
    let room = AppendBudget::new(ROOM_BYTES);
    lead(&mut shard, 0, &[1, 2]);
    lead(&mut shard, 1, &[1]);
    // Nobody answers for the other replica: these writes wait for ever, far more of them than there is room for.
    let waiting: Vec<Answers> = (0..200)
        .map(|_| {
            let permit = admit(&room, 0).unwrap();
            append(&mut shard, 0, permit)
        })
        .collect();
    assert!(waiting.iter().all(|answers| answers.lock().is_empty()));
    let permit = admit(&room, 1).unwrap();
    let answered = append(&mut shard, 1, permit);
    let answer = answered.lock().pop().unwrap();
    assert_eq!(answer.unwrap().base_offset, Offset(0));
}

#[test]
fn a_partition_takes_no_more_writes_than_may_wait_for_other_replicas() {
    let mut shard = shard();
    let room = AppendBudget::new(ROOM_BYTES);
    lead(&mut shard, 0, &[1, 2]);
    lead(&mut shard, 1, &[1]);
    let refused = (0..5000).find_map(|_| {
        let permit = admit(&room, 0).unwrap();
        append(&mut shard, 0, permit).lock().pop()
    });
    let failure = refused.unwrap().unwrap_err();
    assert_eq!((failure.reason(), failure.effect()), (Reason::NotEnoughReplicas, Effect::None), "{failure}");
    let permit = admit(&room, 1).unwrap();
    assert!(append(&mut shard, 1, permit).lock().pop().unwrap().is_ok());
}

/// Runs every job of the flush threads, and tells the shard of each.
fn flush(shard: &mut Shard) {
    while shard.disk_threads.waiting() > 0 {
        let context = &shard.context;
        let done = shard.disk_threads.run_one(0, &*context.clock, &context.metrics).unwrap();
        shard.queue.push(done);
        turn(shard);
    }
}

#[test]
fn with_fewer_files_than_partitions_every_write_is_answered_and_nothing_stays_failed() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    for number in 0..120 {
        lead(&mut shard, number, &[1]);
    }
    disk.set_file_limit(Some(20));
    for round in 0..3 {
        let answers: Vec<Answers> =
            (0..120).map(|number| append(&mut shard, number, AppendPermit::uncounted())).collect();
        // A lazy flush comes with time, here at once: it is what lets files be closed.
        while answers.iter().any(|answers| answers.lock().is_empty()) {
            for partition in shard.partitions.values_mut() {
                if let Ok(Some(job)) = partition.log.begin_flush() {
                    partition.flushed(&job.run(), &shard.context);
                }
            }
            turn(&mut shard);
            flush(&mut shard);
        }
        for answer in answers.iter().map(|answers| answers.lock().pop().unwrap()) {
            assert_eq!(answer.unwrap().base_offset, Offset(round));
        }
    }
    disk.set_file_limit(None);
    assert!(shard.partitions.values().all(|partition| *partition.log.condition() == walser_log::Condition::Healthy));
    stop(&mut shard);
    assert!(disk.open_files().open <= 2, "the checkpoint and the lock");
}

#[test]
fn a_log_that_could_not_be_opened_is_opened_again() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead(&mut shard, 0, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    drop(shard);
    let disk = disk.restart_process();
    let mut shard = shard_on(&disk);
    disk.set_file_limit(Some(disk.open_files().open));
    lead(&mut shard, 0, &[1]);
    let refused = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap().unwrap_err();
    assert_eq!(refused.reason(), Reason::StorageError);
    assert!(refused.to_string().contains("open files"), "{refused}");
    disk.set_file_limit(None);
    shard.reopen(Duration::MAX);
    let answer = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap();
    assert_eq!(answer.unwrap().base_offset, Offset(1));
}

#[test]
fn a_write_to_a_partition_that_is_held_and_not_led_is_refused_and_gives_its_room_back() {
    let mut shard = shard();
    let room = AppendBudget::new(4 << 10);
    lead(&mut shard, 0, &[1]);
    shard.queue.push(Command::Resign(partition(0)));
    turn(&mut shard);
    for _ in 0..50 {
        let permit = admit(&room, 0).unwrap();
        let answer = append(&mut shard, 0, permit).lock().pop().unwrap();
        assert_eq!(answer.unwrap_err().reason(), Reason::NotLeader);
    }
}

#[test]
fn a_failed_write_says_whether_it_may_have_happened() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let appended = append(&mut shard, 0, AppendPermit::uncounted());
    shard.queue.push(Command::Resign(partition(0)));
    turn(&mut shard);
    let lost = appended.lock().pop().unwrap().unwrap_err();
    assert_eq!((lost.reason(), lost.effect()), (Reason::LeaderLostAfterAppend, Effect::Maybe));
    assert_eq!(lost.code(), tonic::Code::Aborted, "proxies send UNAVAILABLE again");
    let refused = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap().unwrap_err();
    assert_eq!((refused.reason(), refused.effect()), (Reason::NotLeader, Effect::None));
    assert_eq!(refused.code(), tonic::Code::Unavailable);

    lead(&mut shard, 1, &[1]);
    append(&mut shard, 1, AppendPermit::uncounted());
    meet_damage(&mut shard, 1);
    turn(&mut shard);
    for _ in 0..3 {
        let answer = append(&mut shard, 1, AppendPermit::uncounted()).lock().pop().unwrap();
        let damaged = answer.unwrap_err();
        assert_eq!((damaged.reason(), damaged.effect()), (Reason::LogCorrupt, Effect::None), "{damaged:?}");
    }
}

/// With a few descriptors, many partitions that are written all the time: the syncs of a partition come one by one.
#[test]
fn busy_partitions_take_turns_when_there_are_more_of_them_than_files() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    for number in 0..100 {
        lead_with(&mut shard, number, &[1], Durability::Fsync);
    }
    disk.set_file_limit(Some(60));
    let mut waiting: Vec<Option<Answers>> = (0..100).map(|_| None).collect();
    let mut answered = [0; 100];
    for _ in 0..4_000 {
        for (number, slot) in waiting.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|answers| !answers.lock().is_empty()) {
                let answer = slot.take().unwrap().lock().pop().unwrap();
                assert!(answer.is_ok(), "{answer:?}");
                answered[number] += 1;
            }
            if slot.is_none() {
                *slot = Some(push(&mut shard, i32::try_from(number).unwrap(), AppendPermit::uncounted()));
            }
        }
        turn(&mut shard);
        let context = &shard.context;
        if shard.disk_threads.waiting() > 0 {
            let done = shard.disk_threads.run_one(0, &*context.clock, &context.metrics).unwrap();
            shard.queue.push(done);
        }
    }
    let (least, most) = (answered.iter().min().unwrap(), answered.iter().max().unwrap());
    assert!(*least > 0 && *most <= 4 * *least, "{answered:?}");
}

#[test]
fn a_flush_that_finds_no_file_pauses_and_the_stop_ends_and_answers() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let first = append(&mut shard, 0, AppendPermit::uncounted());
    disk.set_file_limit(Some(0));
    let mut flushes = 0;
    for _ in 0..1_000 {
        let context = &shard.context;
        let Some(done) = shard.disk_threads.run_one(0, &*context.clock, &context.metrics) else { break };
        flushes += 1;
        shard.queue.push(done);
        turn(&mut shard);
    }
    assert!(flushes < 100, "{flushes} flushes without a pause");
    let second = push(&mut shard, 0, AppendPermit::uncounted());
    let queue = Arc::clone(&shard.queue);
    stop(&mut shard);
    let third = push_to(&queue, 0, AppendPermit::uncounted());
    for (answers, what) in [(first, "appended"), (second, "on its way"), (third, "after the stop")] {
        let answer = answers.lock().pop().unwrap_or_else(|| panic!("the write {what} was not answered"));
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
}

#[test]
fn log_append_time_goes_back_only_after_a_wrong_time() {
    use super::partition::next_append_time;
    let (now, year) = (1_790_000_000_000, 365 * 86_400_000);
    assert_eq!(next_append_time(0, now), now);
    assert_eq!(next_append_time(now + 500, now), now + 500, "a correction of the clock");
    assert_eq!(next_append_time(now + 3 * year, now), now, "the clock was years ahead");
    assert_eq!(next_append_time(i64::MAX, 0), 0);
}

/// What the node's metric of this name is.
fn metric(metrics: &Metrics, name: &str) -> i64 {
    let text = metrics.text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn partitions_that_are_led_are_counted_also_after_a_restart() {
    let disk = MemoryDisk::simulated(256 << 20);
    let metrics = Metrics::default();
    let mut shard = shard_with(&disk, &metrics);
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 0);
    lead(&mut shard, 0, &[1]);
    lead(&mut shard, 1, &[1]);
    lead(&mut shard, 1, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    append(&mut shard, 1, AppendPermit::uncounted());
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 2);
    stop(&mut shard);
    drop(shard);

    let disk = disk.restart_process();
    let metrics = Metrics::default();
    let recovered = |context: &ShardContext, number: i32| {
        let (directory, config) = (&context.directory, LogConfig::from(&TopicConfig::default()));
        let dir = directory.partition_dir(partition(number));
        Log::open(directory.disk(), dir, partition(number), config, directory.checkpoint(), 0).unwrap().0
    };
    let mut shard = shard_with(&disk, &metrics);
    let logs = vec![recovered(&shard.context, 0), recovered(&shard.context, 1)];
    shard = Shard::new(shard.context, shard.disk_threads, 1 << 20, logs);
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 0, "nobody has said that this node leads");
    lead(&mut shard, 0, &[1]);
    lead(&mut shard, 1, &[1]);
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 2);
    shard.queue.push(Command::Resign(partition(0)));
    turn(&mut shard);
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 1);
    let (done, _removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(1), done });
    turn(&mut shard);
    assert_eq!(metric(&metrics, "walser_storage_partitions"), 0);
}

#[test]
fn records_that_are_older_than_retention_when_they_come_are_counted() {
    let metrics = Metrics::default();
    let mut shard = shard_with(&MemoryDisk::simulated(256 << 20), &metrics);
    lead(&mut shard, 0, &[1]);
    // Their time is 1 ms after 1970, and seven days are kept.
    for _ in 0..3 {
        let answer = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap();
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(metric(&metrics, "walser_storage_append_expired_records_total"), 3);
    let forever = TopicConfig { retention: None, durability: Durability::PageCache, ..TopicConfig::default() };
    lead_as(&mut shard, 1, &[1], forever);
    append(&mut shard, 1, AppendPermit::uncounted());
    assert_eq!(metric(&metrics, "walser_storage_append_expired_records_total"), 3);
    assert_eq!(metric(&metrics, "walser_storage_append_records_total"), 4);
}

/// A node that was refused serves what it has; the settings of the topics come with the lead, and until then it is not
/// known what they keep.
#[test]
fn nothing_is_deleted_before_the_settings_of_its_topic_are_known() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    let forever = TopicConfig { retention: None, ..TopicConfig::default() };
    lead_as(&mut shard, 0, &[1], forever.clone());
    append(&mut shard, 0, AppendPermit::uncounted());
    drop(shard);

    let mut shard = shard_on(&disk);
    for log in crate::recovery::recover(&shard.context.directory, 0, 1).unwrap().0 {
        shard.adopt(log);
    }
    shard.queue.push(Command::ServeReads);
    turn(&mut shard);
    let log_start = |shard: &mut Shard| {
        shard.apply_retention();
        turn(shard);
        shard.context.registry.all()[0].1.reader.log_start().0
    };
    assert_eq!(log_start(&mut shard), 0);
    lead_as(&mut shard, 0, &[1], forever);
    assert_eq!(log_start(&mut shard), 0);
    shard.queue.push(Command::Resign(partition(0)));
    turn(&mut shard);
    assert_eq!(log_start(&mut shard), 0);
    // With seven days, records of 1970 go.
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    assert_eq!(log_start(&mut shard), 1);
}
