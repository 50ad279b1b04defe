//! What a shard makes of metadata, of writes that wait, and of a log that fails.

use walser_model::Offset;
use walser_rpc::{LedPartition, ReadBatches};

use super::*;
use crate::fetch::Fetcher;
use crate::shard_set::ShardSet;

#[test]
fn a_write_that_waits_is_not_acknowledged_by_what_takes_its_offsets_after_a_repair() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1, 2]);
    let waits = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    assert!(waits.lock().is_empty(), "the other replica has nothing yet");
    let (reply, repaired) = oneshot::channel();
    meet_damage(&mut shard, 0);
    let epoch = shard.context.registry.led(partition(0)).unwrap().epoch();
    shard.queue.push(Command::Repair { partition: partition(0), epoch, reply });
    turn(&mut shard);
    repaired.blocking_recv().unwrap().unwrap();
    let failure = waits.lock().pop().unwrap().unwrap_err();
    assert_eq!((failure.reason(), failure.effect()), (Reason::StorageError, Effect::Maybe), "{failure}");
}

#[test]
fn a_leader_that_waits_for_others_does_not_say_where_the_partition_ends() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    let handle = shard.context.registry.led(partition(0)).unwrap();
    assert_eq!(handle.latest(), Some(Offset(1)));
    let mut metadata =
        metadata(0, &[1, 2], TopicConfig { durability: Durability::PageCache, ..TopicConfig::default() });
    (metadata.state.leader_epoch, metadata.partition_epoch) = (LeaderEpoch(2), 2);
    shard.queue.push(Command::Install(Box::new(metadata)));
    turn(&mut shard);
    assert_eq!((handle.epoch(), handle.high_watermark()), (LeaderEpoch(2), Offset(1)));
    assert_eq!(handle.latest(), Some(Offset(1)), "what it has committed itself it knows");
    append(&mut shard, 0, AppendPermit::uncounted());
    assert_eq!(handle.high_watermark(), Offset(1), "the other replica has nothing yet");
}

#[test]
fn a_write_that_other_replicas_do_not_confirm_is_answered_with_that() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1, 2]);
    let waits = append(&mut shard, 0, AppendPermit::uncounted());
    let mut alone = metadata(0, &[1, 2], TopicConfig { durability: Durability::PageCache, ..TopicConfig::default() });
    (alone.state.isr, alone.state.min_isr, alone.partition_epoch) = ([NODE].into_iter().collect(), 2, 2);
    shard.queue.push(Command::Install(Box::new(alone)));
    turn(&mut shard);
    let failure = waits.lock().pop().unwrap().unwrap_err();
    assert_eq!((failure.reason(), failure.effect()), (Reason::NotEnoughReplicas, Effect::Maybe), "{failure}");
    let refused = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap();
    let failure = refused.unwrap_err();
    assert_eq!((failure.reason(), failure.effect()), (Reason::NotEnoughReplicas, Effect::None), "{failure}");
}

/// What a write is answered that waits until the other replica has left the in-sync set, and the topic is as `then`.
fn answered_after(before: Durability, then: Durability) -> walser_rpc::BatchAppended {
    let mut shard = shard();
    lead_with(&mut shard, 0, &[1, 2], before);
    let waits = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    assert!(waits.lock().is_empty(), "the other replica has nothing yet");
    let mut next = metadata(0, &[1, 2], TopicConfig { durability: then, ..TopicConfig::default() });
    (next.state.isr, next.partition_epoch) = ([NODE].into_iter().collect(), 2);
    shard.queue.push(Command::Install(Box::new(next)));
    turn(&mut shard);
    flush(&mut shard);
    waits.lock().pop().unwrap().unwrap()
}

#[test]
fn an_acknowledgement_says_the_copies_and_the_durability_of_its_own_time() {
    use Durability::{Fsync, PageCache};
    for (before, then, told) in [(Fsync, Fsync, Fsync), (Fsync, PageCache, PageCache), (PageCache, Fsync, PageCache)] {
        let answer = answered_after(before, then);
        assert_eq!((answer.copies, answer.durability), (1, Some(told)), "from {before:?} to {then:?}");
    }
}

/// The clock of the leader before was ahead of this node's.
#[test]
fn log_append_time_does_not_go_back_when_another_node_leads() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    let stamped = TopicConfig {
        timestamp_type: walser_model::TimestampType::LogAppendTime,
        durability: Durability::PageCache,
        ..TopicConfig::default()
    };
    let mut follows = metadata(0, &[1, 2], stamped.clone());
    follows.state.leader = Some(NodeId(2));
    shard.queue.push(Command::Install(Box::new(follows)));
    turn(&mut shard);
    let ahead = shard.context.clock.now_millis() + 60_000;
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: 1, key: None, value: Some(b"of the leader before"), headers: &[] });
    let mut batch = builder.build(Producer::NONE).to_vec();
    let (header, body) = batch.split_at_mut(walser_record_batch::HEADER_LEN);
    walser_record_batch::stamp_position(header, Offset(0), LeaderEpoch(1));
    walser_record_batch::stamp_append_time(header, body, ahead);
    let header = BatchHeader::parse(&batch).unwrap();
    let log = &mut shard.partitions.get_mut(&partition(0)).unwrap().log;
    log.append(&batch[..].into(), &[header], 1).map_err(|(_, error)| error).unwrap();
    let mut next = metadata(0, &[1, 2], stamped);
    (next.state.leader_epoch, next.partition_epoch) = (LeaderEpoch(2), 2);
    next.state.isr = [NODE].into_iter().collect();
    shard.queue.push(Command::Install(Box::new(next)));
    turn(&mut shard);
    let answers = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    let answer = answers.lock().pop().unwrap().unwrap();
    assert!(answer.log_append_time >= Some(ahead), "{answer:?} is before {ahead}");
}

#[test]
fn a_flush_for_which_a_write_waits_is_not_behind_those_for_which_none_does() {
    let mut shard = shard();
    let at_once = |durability| TopicConfig { durability, flush_interval: Duration::ZERO, ..TopicConfig::default() };
    for number in 0..50 {
        lead_as(&mut shard, number, &[1], at_once(Durability::PageCache));
        append(&mut shard, number, AppendPermit::uncounted());
    }
    lead_as(&mut shard, 50, &[1], at_once(Durability::Fsync));
    let waits = append(&mut shard, 50, AppendPermit::uncounted());
    assert!(waits.lock().is_empty() && shard.disk_threads.waiting() >= 51);
    // The first of its own queue.
    let context = &shard.context;
    let done = shard.disk_threads.run_one(0, &*context.clock, &context.metrics).unwrap();
    shard.queue.push(done);
    turn(&mut shard);
    assert!(waits.lock().pop().unwrap().is_ok());
}

#[test]
fn a_log_that_has_failed_is_read_also_in_the_next_leader_epoch() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead(&mut shard, 0, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    shard.partitions.get_mut(&partition(0)).unwrap().log.fail("the disk is gone");
    let mut next = metadata(0, &[1], TopicConfig { durability: Durability::PageCache, ..TopicConfig::default() });
    (next.state.leader_epoch, next.partition_epoch) = (LeaderEpoch(2), 2);
    shard.queue.push(Command::Install(Box::new(next)));
    turn(&mut shard);
    let handle = shard.context.registry.led(partition(0)).unwrap();
    assert_eq!((handle.epoch(), handle.high_watermark()), (LeaderEpoch(2), Offset(1)));
    let refused = append(&mut shard, 0, AppendPermit::uncounted()).lock().pop().unwrap();
    assert_eq!(refused.unwrap_err().reason(), Reason::StorageError);
}

#[test]
fn what_was_visible_without_a_leader_does_not_go_back_when_there_is_one() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    shard.queue.push(Command::Resign(partition(0)));
    shard.queue.push(Command::ServeReads);
    turn(&mut shard);
    let handle = shard.context.registry.readable(partition(0)).unwrap();
    let mut seen = handle.watch();
    seen.mark_unchanged();
    assert_eq!(*seen.borrow(), Offset(1));
    lead(&mut shard, 0, &[1]);
    assert!(handle.serving() && *seen.borrow() == Offset(1) && handle.latest() == Some(Offset(1)));
}

#[test]
fn the_start_of_an_epoch_that_others_wait_for_is_flushed_at_once() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1, 2]);
    flush(&mut shard);
    turn(&mut shard);
    assert_eq!(shard.partitions[&partition(0)].log.begun_epoch(), LeaderEpoch(1));
}

/// Readers that have seen a record find it after a restart before anything is flushed or learnt anew.
#[test]
fn the_high_watermark_is_restored_with_the_epoch_in_which_it_was_learnt() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    drop(shard);
    let recovered = |disk: &MemoryDisk| {
        let mut shard = shard_on(disk);
        let logs = crate::recovery::recover(&shard.context.directory, 0, 1).unwrap().0;
        logs.into_iter().for_each(|log| shard.adopt(log));
        shard
    };
    // It is written with the flush after the one that raised it.
    let noted = (Offset(1), LeaderEpoch(1));
    let shard = recovered(&disk.restart_process());
    assert_eq!(shard.partitions[&partition(0)].log.high_watermark(), noted);
}

#[test]
fn a_read_that_does_not_wait_is_answered_at_once() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    let ShardContext { registry, metrics, directory, .. } = &shard.context;
    let shards = ShardSet::new(vec![(Arc::clone(&shard.queue), AppendBudget::new(ROOM_BYTES))]);
    let fetcher = Fetcher::new(NODE, registry.clone(), metrics.clone(), shards, directory.disk());
    let read = ReadBatches {
        partition: LedPartition { id: partition(0), leader_epoch: LeaderEpoch::NONE },
        offset: Offset(0),
        last_epoch: LeaderEpoch::NONE,
        bytes_max: 1 << 20,
        wait: Duration::ZERO,
    };
    let mut answer = pin!(fetcher.read(&read));
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(read)) => assert!(read.record_batches.is_empty()),
        other => panic!("{other:?}"),
    }
}

/// Behind the first segment, too: batches come with the offsets of their producers, which begin at 0.
#[test]
fn segments_are_filled_before_others_begin() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    // Four batches are a segment.
    lead_as(&mut shard, 0, &[1], TopicConfig { segment_bytes: 4 << 10, ..TopicConfig::default() });
    for pushed_at_once in [1, 2, 5] {
        for _ in 0..(40 / pushed_at_once) {
            (0..pushed_at_once).for_each(|_| drop(push(&mut shard, 0, AppendPermit::uncounted())));
            turn(&mut shard);
            flush(&mut shard);
        }
    }
    let entries = disk.list(&shard.context.directory.partition_dir(partition(0))).unwrap();
    let segments = entries.iter().filter(|entry| entry.name.ends_with(".log")).count();
    assert_eq!(segments, 30, "120 batches");
}

/// A read that hung for long tells of what the log had in it before a repair.
#[test]
fn damage_of_what_a_log_does_not_have_any_more_is_not_noted() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    let _ends = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    let before = shard.partitions[&partition(0)].log.generation();
    meet_damage(&mut shard, 0);
    let epoch = shard.context.registry.led(partition(0)).unwrap().epoch();
    let (reply, repaired) = oneshot::channel();
    shard.queue.push(Command::Repair { partition: partition(0), epoch, reply });
    turn(&mut shard);
    repaired.blocking_recv().unwrap().unwrap();
    let _ends = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    shard.queue.push(Command::Damaged { partition: partition(0), from: Offset(0), generation: before });
    turn(&mut shard);
    assert_eq!(*shard.partitions[&partition(0)].log.condition(), walser_log::Condition::Healthy);
    meet_damage(&mut shard, 0);
    turn(&mut shard);
    assert_ne!(*shard.partitions[&partition(0)].log.condition(), walser_log::Condition::Healthy);
}
