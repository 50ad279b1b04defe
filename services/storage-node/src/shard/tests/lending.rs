//! Partitions that are away with a thread which waits for the disk: what comes in meanwhile, and what comes late.

use walser_model::{Offset, Timestamp};

use super::*;
use crate::shard::watched_disk::waits_under_checkpoint;

/// A turn without any maintenance.
fn only_turn(shard: &mut Shard) {
    as_shard(|| shard.turn());
}

/// Runs the maintenance that waited longest; the shard is yet to be told.
fn maintain(shard: &Shard) -> Command {
    let (clock, metrics) = (&shard.context.clock, &shard.context.metrics);
    shard.disk_threads.maintain_one(&**clock, metrics).expect("nothing waits")
}

fn take(answers: &Answers) -> AppendOutcome {
    answers.lock().pop().expect("no answer")
}

#[test]
fn what_comes_in_for_a_partition_that_is_away_is_carried_out_in_order_when_it_is_back() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    lead(&mut shard, 1, &[1]);
    let first = push(&mut shard, 0, AppendPermit::uncounted());
    only_turn(&mut shard);
    assert!(shard.away.contains_key(&partition(0)), "its file has to be opened");
    let second = push(&mut shard, 0, AppendPermit::uncounted());
    let (reply, mut deleted) = oneshot::channel();
    shard.queue.push(Command::DeleteRecords { partition: partition(0), before: Offset(1), reply });
    let third = push(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert!(settled.try_recv().is_err(), "what was pushed before is not carried out yet");

    // The others go on meanwhile.
    let opened = maintain(&shard);
    let other = append(&mut shard, 1, AppendPermit::uncounted());
    assert!(take(&other).is_ok());
    shard.queue.push(opened);
    only_turn(&mut shard);
    let offsets = [&first, &second].map(|answers| take(answers).unwrap().base_offset);
    assert_eq!(offsets, [Offset(0), Offset(1)]);
    assert!(third.lock().is_empty() && deleted.try_recv().is_err(), "records are deleted by a thread");
    assert!(settled.try_recv().is_err());
    turn(&mut shard);
    assert_eq!(deleted.try_recv().unwrap().unwrap(), Offset(1));
    assert_eq!(take(&third).unwrap().base_offset, Offset(2));
    assert_eq!(settled.try_recv(), Ok(()));
}

#[test]
fn ten_thousand_partitions_are_opened_at_once_and_a_barrier_waits_for_all() {
    let mut shard = shard();
    for number in 0..10_000 {
        shard.queue.push(Command::Install(Box::new(metadata(number, &[1], TopicConfig::default()))));
    }
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert_eq!((shard.away.len(), settled.try_recv().is_err()), (10_000, true));
    let mut late: Vec<Command> = (0..10_000).map(|_| maintain(&shard)).collect();
    let last = late.remove(0);
    late.into_iter().rev().for_each(|opened| shard.queue.push(opened));
    only_turn(&mut shard);
    assert!(settled.try_recv().is_err(), "one is still away");
    shard.queue.push(last);
    only_turn(&mut shard);
    assert_eq!((settled.try_recv(), shard.away.len()), (Ok(()), 0));
    assert!((0..10_000).all(|number| shard.context.registry.led(partition(number)).is_ok()));
}

#[test]
fn metadata_waits_for_work_on_a_log_only_where_it_concerns_that_partition() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    lead(&mut shard, 1, &[1]);
    // As for a cut, before which bytes of a whole log may have to be kept.
    shard.lend(partition(0), Task::Trim { before: Offset::ZERO });
    shard.queue.push(Command::Install(Box::new(metadata(1, &[1], TopicConfig::default()))));
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert_eq!(settled.try_recv(), Ok(()), "the metadata of this node does not stand still meanwhile");

    shard.queue.push(Command::Install(Box::new(metadata(0, &[1], TopicConfig::default()))));
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert!(settled.try_recv().is_err(), "this has not taken effect");
    turn(&mut shard);
    assert_eq!(settled.try_recv(), Ok(()));
}

#[test]
fn a_shard_that_stops_closes_what_is_away_and_answers_what_waited_for_it() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let answered = push(&mut shard, 0, AppendPermit::uncounted());
    only_turn(&mut shard);
    let waits = push(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(0), done });
    stop(&mut shard);
    assert!(take(&answered).is_ok(), "it had come in before");
    assert_eq!(take(&waits).unwrap_err().reason(), Reason::NotLeader);
    assert!(removed.try_recv().is_err(), "whoever waits hears that there is no answer");
    assert!(shard.partitions.is_empty() && shard.away.is_empty());
}

#[test]
fn a_partition_is_removed_after_its_flush_and_not_before() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let waits = append(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(0), done });
    turn(&mut shard);
    assert!(removed.try_recv().is_err() && waits.lock().is_empty(), "the flush is under way");
    flush(&mut shard);
    assert!(removed.try_recv().unwrap().is_ok());
    assert!(take(&waits).is_ok(), "it was durable, and then removed");
    assert!(disk.list(&shard.context.directory.partition_dir(partition(0))).is_err());
}

#[test]
fn a_write_that_is_refused_leaves_nothing_on_the_disk() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead(&mut shard, 0, &[1]);
    shard.queue.push(Command::Resign(partition(0)));
    let not_led = append(&mut shard, 0, AppendPermit::uncounted());
    lead(&mut shard, 1, &[1]);
    shard.context.misplaced.set(Some("it is gone".to_owned()));
    let gone = append(&mut shard, 1, AppendPermit::uncounted());
    for (number, answers, reason) in [(0, not_led, Reason::NotLeader), (1, gone, Reason::StorageError)] {
        let failure = take(&answers).unwrap_err();
        assert_eq!((failure.reason(), failure.effect()), (reason, Effect::None), "{failure}");
        assert!(disk.list(&shard.context.directory.partition_dir(partition(number))).is_err());
    }
    shard.context.misplaced.set(None);
    assert!(take(&append(&mut shard, 1, AppendPermit::uncounted())).is_ok());
}

/// A clock that stands still.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_millis(&self) -> Timestamp {
        1_790_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// Partitions that need a file of which there is none: what comes back for one is no reason to try all others again.
#[test]
fn writes_that_wait_for_files_are_not_tried_again_without_a_reason() {
    for partitions in [1, 2, 50] {
        let disk = MemoryDisk::simulated(256 << 20);
        let mut shard = shard_on(&disk);
        shard.context.clock = Arc::new(StoppedClock);
        for number in 0..partitions {
            lead_as(&mut shard, number, &[1], TopicConfig { segment_bytes: 4 << 10, ..TopicConfig::default() });
            // Four of them are a segment.
            (0..4).for_each(|_| drop(append(&mut shard, number, AppendPermit::uncounted())));
        }
        // Each has its file open, and a flush under way; no other file can be opened.
        disk.set_file_limit(Some(disk.open_files().open));
        (0..partitions).for_each(|number| drop(push(&mut shard, number, AppendPermit::uncounted())));
        let mut prepared = 0;
        for _ in 0..1000 {
            only_turn(&mut shard);
            let (clock, metrics) = (&shard.context.clock, &shard.context.metrics);
            if let Some(returned) = shard.disk_threads.maintain_one(&**clock, metrics) {
                prepared += 1;
                shard.queue.push(returned);
            }
        }
        assert!(prepared <= 2 * partitions, "{prepared} times for {partitions} partitions");
        assert_eq!(shard.short_of_files.len(), usize::try_from(partitions).unwrap());
    }
}

/// With the page cache a flush comes by itself only after a while, and until then a log keeps its file open.
#[test]
fn partitions_with_the_page_cache_give_their_files_to_those_that_wait() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    shard.context.clock = Arc::new(StoppedClock);
    (0..50).for_each(|number| lead(&mut shard, number, &[1]));
    // The first flush comes at once: it makes the leader epoch durable.
    (0..50).for_each(|number| drop(append(&mut shard, number, AppendPermit::uncounted())));
    flush(&mut shard);
    shard.close_files();
    disk.set_file_limit(Some(disk.open_files().open + 10));
    let answers: Vec<_> = (0..50).map(|number| push(&mut shard, number, AppendPermit::uncounted())).collect();
    for _ in 0..200 {
        turn(&mut shard);
        flush(&mut shard);
    }
    for answer in answers {
        answer.lock().pop().expect("no time has passed in which it could have been refused").unwrap();
    }
}

#[test]
fn a_few_partitions_at_a_time_are_away_for_what_nobody_waits_for() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    for number in 0..1000 {
        lead_with(&mut shard, number, &[1], Durability::Fsync);
        append(&mut shard, number, AppendPermit::uncounted());
    }
    flush(&mut shard);
    stop(&mut shard);
    drop(shard);
    let mut shard = shard_on(&disk.restart_process());
    let logs = crate::recovery::recover(&shard.context.directory, 0, 1).unwrap().0;
    logs.into_iter().for_each(|log| shard.adopt(log));
    (0..1000).for_each(|number| lead_with(&mut shard, number, &[1], Durability::Fsync));
    flush(&mut shard);
    // How old their records are is not in memory: all of them are due.
    shard.apply_retention();
    assert!((1..=4).contains(&shard.away.len()) && shard.upkeep_due.len() > 990);
    turn(&mut shard);
    assert_eq!((shard.away.len(), shard.upkeep_due.len()), (0, 0));
    let start =
        |(_, replica): &(TopicPartition, Arc<crate::replica_registry::PartitionHandle>)| replica.reader.log_start();
    assert!(shard.context.registry.all().iter().all(|found| start(found) == Offset(1)), "records of 1970 are gone");
}

#[test]
fn a_partition_serves_while_many_of_its_segments_are_removed() {
    let disk = MemoryDisk::simulated(256 << 20);
    for by_retention in [false, true] {
        let mut shard = shard_on(&disk);
        let number = i32::from(by_retention);
        let config = |retention| TopicConfig {
            segment_bytes: 2 << 10,
            durability: Durability::PageCache,
            retention,
            ..TopicConfig::default()
        };
        lead_as(&mut shard, number, &[1], config(None));
        for _ in 0..400 {
            append(&mut shard, number, AppendPermit::uncounted());
            flush(&mut shard);
        }
        let dir = shard.context.directory.partition_dir(partition(number));
        let segments = || disk.list(&dir).unwrap().iter().filter(|entry| entry.name.ends_with(".log")).count();
        assert!(segments() > 150, "{}", segments());
        let (reply, _deleted) = oneshot::channel();
        if by_retention {
            lead_as(&mut shard, number, &[1], config(Some(Duration::from_secs(1))));
            shard.apply_retention();
        } else {
            shard.queue.push(Command::DeleteRecords { partition: partition(number), before: Offset(400), reply });
        }
        only_turn(&mut shard);
        let write = push(&mut shard, number, AppendPermit::uncounted());
        let back = maintain(&shard);
        shard.queue.push(back);
        only_turn(&mut shard);
        // The segment of the write may have to be made first.
        if write.lock().is_empty() {
            let back = maintain(&shard);
            shard.queue.push(back);
            only_turn(&mut shard);
        }
        assert!(take(&write).is_ok());
        assert!(segments() > 100, "{} segments are left", segments());
        turn(&mut shard);
        assert!(segments() <= 2, "{} segments are left", segments());
        stop(&mut shard);
    }
}

#[test]
fn a_stop_ends_also_when_the_threads_have_ended_before() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let answers = append(&mut shard, 0, AppendPermit::uncounted());
    let (clock, metrics) = (Arc::clone(&shard.context.clock), shard.context.metrics.clone());
    let late = shard.disk_threads.run_one(0, &*clock, &metrics).unwrap();
    let (done, mut ended) = oneshot::channel();
    shard.queue.push(Command::Stop(done));
    assert_ne!(shard.turn(), Wait::Stopped, "the flush is under way");
    shard.disk_threads.close();
    shard.queue.push(late);
    let stopped = (0..10).any(|_| shard.turn() == Wait::Stopped);
    assert!(stopped && ended.try_recv() == Ok(()) && take(&answers).is_ok());
}

/// Every flush of every shard takes the lock of the checkpoint.
#[test]
fn nobody_waits_for_the_disk_under_the_lock_of_the_checkpoint() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    for number in 0..3 {
        lead_with(&mut shard, number, &[1], Durability::Fsync);
        append(&mut shard, number, AppendPermit::uncounted());
    }
    flush(&mut shard);
    let checkpoint = |shard: &Shard| shard.context.directory.checkpoint();
    let waits = waits_under_checkpoint(checkpoint(&shard), || {
        shard.queue.push(Command::Remove { partition: partition(0), done: oneshot::channel().0 });
        shard.queue.push(Command::SetAside { partition: partition(1), done: oneshot::channel().0 });
        turn(&mut shard);
    });
    assert_eq!(waits, Vec::<String>::new());
    // A kill after a directory was made, and before anything was durable.
    lead_with(&mut shard, 3, &[1], Durability::Fsync);
    append(&mut shard, 3, AppendPermit::uncounted());
    drop(shard);
    let mut shard = shard_on(&disk.restart_process());
    let waits = waits_under_checkpoint(checkpoint(&shard), || {
        lead_with(&mut shard, 3, &[1], Durability::Fsync);
        shard.queue.push(Command::Remove { partition: partition(2), done: oneshot::channel().0 });
        turn(&mut shard);
    });
    assert_eq!(waits, Vec::<String>::new());
}

/// It is set aside, which fails halfway, and the metadata knows it again: no offset is given a second time.
#[test]
fn a_partition_that_was_half_set_aside_does_not_begin_anew() {
    let mut failed = 0;
    for syncs in 0..12 {
        let disk = MemoryDisk::simulated(256 << 20);
        let mut shard = shard_on(&disk);
        lead(&mut shard, 0, &[1]);
        (0..3).for_each(|_| drop(append(&mut shard, 0, AppendPermit::uncounted())));
        disk.fail_sync_after(syncs);
        let (done, mut moved) = oneshot::channel();
        shard.queue.push(Command::SetAside { partition: partition(0), done });
        turn(&mut shard);
        failed += i32::from(moved.try_recv().unwrap().is_err());
        disk.fail_sync_after(u64::MAX);
        lead(&mut shard, 0, &[1]);
        let answer = take(&append(&mut shard, 0, AppendPermit::uncounted()));
        assert!(
            answer.as_ref().map_or(true, |told| told.base_offset == Offset(3)),
            "after sync {syncs} had failed: {answer:?}"
        );
    }
    assert!(failed >= 3, "{failed}");
}

/// What was decided with a clock that was believed is done with one that may not be.
#[test]
fn a_jump_of_the_clock_is_noticed_also_by_retention_that_has_waited() {
    #[derive(Debug)]
    struct Jumping(std::sync::atomic::AtomicI64);
    impl Clock for Jumping {
        fn now_millis(&self) -> Timestamp {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(1)
        }
    }
    let clock = Arc::new(Jumping(1_000_000.into()));
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    shard.context.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    shard.context.retention_clock = RetentionClock::start(&shard.context.directory, &*clock);
    for number in 0..20 {
        lead_with(&mut shard, number, &[1], Durability::Fsync);
        append(&mut shard, number, AppendPermit::uncounted());
    }
    flush(&mut shard);
    // How old their records are is not in memory any more.
    assert!(shard.partitions.values_mut().all(|partition| partition.log.release_idle().unwrap()));
    let due = shard.partitions.keys().map(|id| (*id, Task::Retain { trusted: true, close_old: true })).collect();
    shard.upkeep_due = due;
    clock.0.fetch_add(30 * 86_400_000, std::sync::atomic::Ordering::Relaxed);
    shard.lend_for_upkeep();
    turn(&mut shard);
    assert!(shard.context.registry.all().iter().all(|(_, replica)| replica.reader.log_start() == Offset(0)));
}

/// Only a directory that is somewhere else refuses writes: what a full disk, or a lack of files, keeps from being noted does
/// not.
#[test]
fn a_partition_is_not_removed_while_another_directory_is_in_place_of_its_own() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    append(&mut shard, 0, AppendPermit::uncounted());
    shard.context.misplaced.set(Some("it is gone".to_owned()));
    let (done, mut removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(0), done });
    turn(&mut shard);
    assert!(removed.try_recv().unwrap().is_err() && shard.partitions.contains_key(&partition(0)));
}
