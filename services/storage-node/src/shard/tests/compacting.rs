//! Compaction beside everything else that happens to a partition.

use std::collections::BTreeMap;

use bytes::Bytes;
use walser_model::{CleanupPolicy, Timestamp};
use walser_record_batch::{Batches, Records};

use super::*;
use crate::compactor::{CompactionLimits, Compactor};

const KEYS: u32 = 5;

fn config() -> TopicConfig {
    let (durability, cleanup_policy) = (Durability::Fsync, CleanupPolicy::Compact);
    TopicConfig { durability, cleanup_policy, segment_bytes: 4096, dirty_ratio_min: 1, ..TopicConfig::default() }
}

/// One record of about half a kilobyte.
fn append_keyed(shard: &mut Shard, number: i32, key: u32, value: Option<u32>) {
    append_keyed_at(shard, number, (key, value), 1);
}

fn append_keyed_at(shard: &mut Shard, number: i32, (key, value): (u32, Option<u32>), timestamp: Timestamp) {
    let value = value.map(|value| [&value.to_be_bytes()[..], &[7; 500]].concat());
    let mut builder = BatchBuilder::new(Compression::None, 0);
    let key = key.to_be_bytes();
    builder.append(&RecordFields { timestamp, key: Some(&key), value: value.as_deref(), headers: &[] });
    let batch = builder.build(Producer::NONE);
    shard.queue.push(Command::Append(AppendJob {
        partition: partition(number),
        epoch: LeaderEpoch::NONE,
        header: BatchHeader::parse(&batch).unwrap(),
        batch,
        acks: Acks::All,
        expected_offset: None,
        trace: None,
        permit: AppendPermit::uncounted(),
        reply: AppendReply::new(|_| {}),
    }));
    turn(shard);
}

/// Writes each key so many times, and has all of it flushed.
fn written(shard: &mut Shard, number: i32, times: u32) {
    for value in 0..times * KEYS {
        append_keyed(shard, number, value % KEYS, Some(value));
    }
    flush(shard);
}

fn flush(shard: &mut Shard) {
    turn(shard);
    while let Some(done) = shard.disk_threads.run_one(0, &*shard.context.clock, &shard.context.metrics) {
        shard.queue.push(done);
        turn(shard);
    }
}

fn begin(shard: &mut Shard) {
    shard.compact(shard.context.clock.monotonic() + Duration::from_secs(1 << 20));
}

/// The newest value of each key, and how many records there are.
fn newest(shard: &Shard, number: i32) -> (BTreeMap<Bytes, Option<u32>>, usize) {
    let handle = shard.context.registry.led(partition(number)).unwrap();
    let (mut at, end) = (handle.reader.log_start(), handle.reader.log_end());
    let (mut newest, mut count) = (BTreeMap::new(), 0);
    while at < end {
        let slice = handle.reader.read(at, end, 1 << 20).unwrap();
        at = slice.next_offset;
        for (header, batch) in Batches::of(slice.batches).map(Result::unwrap) {
            for record in Records::open(header, &batch).unwrap().map(Result::unwrap) {
                let value = record.value.map(|value| u32::from_be_bytes(value[..4].try_into().unwrap()));
                newest.insert(record.key.unwrap(), value);
                count += 1;
            }
        }
    }
    (newest, count)
}

fn up_to(shard: &Shard, number: i32) -> Offset {
    shard.partitions[&partition(number)].log.compacted()
}

#[test]
fn of_each_key_the_newest_record_stays_also_after_a_restart() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_as(&mut shard, 0, &[1], config());
    written(&mut shard, 0, 40);
    let (before, count) = newest(&shard, 0);
    begin(&mut shard);
    flush(&mut shard);
    let (after, left) = newest(&shard, 0);
    assert!(after == before && left < 30, "{left} of {count} records");
    assert!(up_to(&shard, 0) > Offset(150) && !shard.context.compactor.is_busy());
    stop(&mut shard);
    let mut shard = shard_on(&disk.restart_process());
    let logs = crate::recovery::recover(&shard.context.directory, 0, 1).unwrap().0;
    logs.into_iter().for_each(|log| shard.adopt(log));
    lead_as(&mut shard, 0, &[1], config());
    assert_eq!(newest(&shard, 0), (before, left));
    assert!(up_to(&shard, 0) > Offset(150));
}

#[test]
fn tombstones_stay_while_a_replica_is_away() {
    for replicas in [&[1][..], &[1, 2]] {
        let mut shard = shard();
        lead_as(&mut shard, 0, replicas, TopicConfig { delete_retention: Duration::ZERO, ..config() });
        // With two replicas nobody follows, and nothing is committed.
        let committed = replicas.len() == 1;
        append_keyed_until(&mut shard, committed);
        let there = |shard: &Shard| newest(shard, 0).0.values().any(Option::is_none);
        for _ in 0..3 {
            begin(&mut shard);
            flush(&mut shard);
            append_keyed_until(&mut shard, committed);
        }
        // Its time is over a millisecond after it was found first.
        for _ in 0..1_000 {
            if !committed || !there(&shard) {
                break;
            }
            begin(&mut shard);
            flush(&mut shard);
            append_keyed_until(&mut shard, committed);
        }
        assert_eq!(there(&shard), !committed, "{replicas:?}");
    }
}

/// A key that is deleted first, and others that fill segments behind it.
fn append_keyed_until(shard: &mut Shard, deletes_once: bool) {
    let end = shard.partitions[&partition(0)].log.log_end();
    if end == Offset::ZERO || !deletes_once {
        append_keyed(shard, 0, 9, Some(1));
        append_keyed(shard, 0, 9, None);
    }
    written(shard, 0, 8);
}

#[test]
fn thousands_are_compacted_one_after_the_other() {
    let mut shard = shard();
    for number in 0..1_000 {
        lead_as(&mut shard, number, &[1], TopicConfig { segment_bytes: 1024, ..config() });
        written(&mut shard, number, 2);
    }
    shard.compact(shard.context.clock.monotonic());
    assert_eq!(shard.away.len(), 1);
    flush(&mut shard);
    assert!((0..1_000).all(|number| up_to(&shard, number) > Offset::ZERO));
    shard.compact(shard.context.clock.monotonic());
    assert!(shard.away.is_empty() && !shard.context.compactor.is_busy(), "there is a while between two of them");
}

/// What one pass has no memory for the next one does.
#[test]
fn keys_for_which_there_was_no_room_follow_at_once() {
    let mut shard = shard();
    shard.context.compactor = Compactor::new(CompactionLimits { memory_bytes: 1, bytes_per_second: 0 });
    lead_as(&mut shard, 0, &[1], config());
    (0..3_000).for_each(|key| append_keyed(&mut shard, 0, key, Some(key)));
    flush(&mut shard);
    begin(&mut shard);
    flush(&mut shard);
    let log = &shard.partitions[&partition(0)].log;
    assert_eq!(log.compactable(log.log_end()), None, "compacted up to {} of {}", log.compacted(), log.log_end());
}

/// Others take their turns in between.
#[test]
fn a_shard_that_has_compacted_goes_on_unless_another_one_waits() {
    for waits in [false, true] {
        let mut shard = shard();
        for number in 0..2 {
            lead_as(&mut shard, number, &[1], config());
            written(&mut shard, number, 20);
        }
        begin(&mut shard);
        let other = shard.context.compactor.seat();
        assert!(!waits || shard.context.compactor.try_turn(other).is_none());
        flush(&mut shard);
        let done = (0..2).filter(|number| up_to(&shard, *number) > Offset::ZERO).count();
        assert_eq!(done, if waits { 1 } else { 2 });
    }
}

/// Whatever becomes of the partition meanwhile, the turn is given back.
#[test]
fn a_compaction_ends_with_its_partition_and_with_its_shard() {
    type Happens = fn(&mut Shard);
    let happens: [(Happens, bool); 3] = [
        (|shard| shard.queue.push(Command::Remove { partition: partition(0), done: oneshot::channel().0 }), false),
        (|shard| shard.queue.push(Command::SetAside { partition: partition(0), done: oneshot::channel().0 }), false),
        (stop, true),
    ];
    for (happens, stops) in happens {
        let mut shard = shard();
        lead_as(&mut shard, 0, &[1], config());
        written(&mut shard, 0, 20);
        begin(&mut shard);
        // Up to the moment at which its job waits for its thread.
        let returned = shard.disk_threads.maintain_one(&*shard.context.clock, &shard.context.metrics).unwrap();
        shard.queue.push(returned);
        as_shard(|| shard.turn());
        assert!(shard.context.compactor.is_busy() && shard.disk_threads.waiting() == 1);
        happens(&mut shard);
        if stops {
            let ended = shard.disk_threads.run_one(0, &*shard.context.clock, &shard.context.metrics);
            let Some(Command::CompactionAdvanced { step: Err(error), .. }) = ended else { panic!("{ended:?}") };
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
        } else {
            flush(&mut shard);
            assert!(!shard.context.compactor.is_busy());
        }
        assert_eq!(shard.disk_threads.waiting(), 0);
    }
}

/// A copy of a log has a record and the tombstone that deletes it, or neither.
#[test]
fn no_segment_is_replaced_while_the_log_is_copied() {
    let mut shard = shard();
    lead_as(&mut shard, 0, &[1], config());
    written(&mut shard, 0, 20);
    let (before, count) = newest(&shard, 0);
    let pin = shard.context.registry.led(partition(0)).unwrap().reader.pin().unwrap();
    begin(&mut shard);
    flush(&mut shard);
    assert_eq!((newest(&shard, 0), up_to(&shard, 0)), ((before.clone(), count), Offset::ZERO));
    drop(pin);
    begin(&mut shard);
    flush(&mut shard);
    assert!(newest(&shard, 0).1 < count && newest(&shard, 0).0 == before);
}

/// Nobody may have read it for long: whoever has all of it can heal this replica.
#[test]
fn damage_that_a_compaction_meets_is_noted_for_the_next_start_too() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_as(&mut shard, 0, &[1], config());
    written(&mut shard, 0, 20);
    let dir = shard.context.directory.partition_dir(partition(0));
    disk.flip_bit(&dir.join("00000000000000000000.log"), 700, 3);
    begin(&mut shard);
    flush(&mut shard);
    let condition = shard.partitions[&partition(0)].log.condition().clone();
    assert!(matches!(condition, walser_log::Condition::Corrupt { from } if from < Offset(5)), "{condition:?}");
    let names = walser_log::Disk::list(&disk, &dir).unwrap().into_iter().map(|entry| entry.name);
    assert_eq!(names.filter(|name| name.starts_with("damaged-from-")).count(), 1);
    assert!(!shard.context.compactor.is_busy());
}

/// Nothing is written any more, and no other run is due.
#[test]
fn a_tombstone_goes_from_a_partition_at_rest() {
    let mut shard = shard();
    let rare = TopicConfig { delete_retention: Duration::ZERO, dirty_ratio_min: 900_000, ..config() };
    lead_as(&mut shard, 0, &[1], rare);
    append_keyed_until(&mut shard, true);
    let there = |shard: &Shard| newest(shard, 0).0.values().any(Option::is_none);
    begin(&mut shard);
    flush(&mut shard);
    let (compacted, count) = (up_to(&shard, 0), newest(&shard, 0).1);
    assert!(there(&shard) && compacted > Offset::ZERO && count < 20, "{compacted} {count}");
    // Its time is over a millisecond after it was found first.
    while there(&shard) {
        begin(&mut shard);
        flush(&mut shard);
    }
    assert_eq!((up_to(&shard, 0), newest(&shard, 0).1), (compacted, count - 1), "and nothing else goes");
    begin(&mut shard);
    assert!(shard.away.is_empty() && !shard.context.compactor.is_busy(), "nothing is left to do");
}

#[derive(Debug, Default)]
struct ByHand(std::sync::atomic::AtomicU64);

impl Clock for ByHand {
    fn now_millis(&self) -> Timestamp {
        1_700_000_000_000 + i64::try_from(self.0.load(std::sync::atomic::Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}

fn by_hand(disk: &MemoryDisk) -> (Shard, Arc<ByHand>) {
    let (clock, peers) = (Arc::new(ByHand::default()), Arc::new(Outbox::default()));
    let mut context =
        ShardContext::of_test(NODE, disk, Arc::clone(&clock) as Arc<dyn Clock>, peers, &Metrics::default());
    context.retention_check = Duration::from_secs(10);
    (Shard::new(context, DiskThreads::default(), 1 << 20, Vec::new()), clock)
}

/// Partitions of which nothing may be compacted yet (`min.compaction.lag.ms`) take every turn.
#[test]
fn partitions_that_may_not_be_compacted_yet_do_not_keep_others_from_it() {
    for lagging in [0, 12] {
        let (mut shard, clock) = by_hand(&MemoryDisk::simulated(256 << 20));
        lead_as(&mut shard, 0, &[1], config());
        written(&mut shard, 0, 10);
        shard.compact(shard.context.clock.monotonic());
        flush(&mut shard);
        assert!(up_to(&shard, 0) > Offset::ZERO);
        let before = up_to(&shard, 0);
        let lag = TopicConfig { compaction_lag_min: Duration::from_secs(86_400), ..config() };
        for number in 1..=lagging {
            lead_as(&mut shard, number, &[1], lag.clone());
            let now = clock.now_millis();
            (0..40).for_each(|key| append_keyed_at(&mut shard, number, (key % KEYS, Some(key)), now));
        }
        flush(&mut shard);
        written(&mut shard, 0, 10);
        // An hour of the shard, a look every second.
        let mut compacted_at = None;
        for second in 0..3_600 {
            clock.0.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed);
            shard.compact(shard.context.clock.monotonic());
            flush(&mut shard);
            if up_to(&shard, 0) > before {
                compacted_at = Some(second);
                break;
            }
        }
        assert!(
            compacted_at.is_some(),
            "{lagging} partitions that wait for their time keep another one from compaction"
        );
    }
}

/// Clients choose the time of records: where no lag is asked for it keeps none of them from compaction.
#[test]
fn records_whose_time_lies_in_the_future_are_compacted() {
    let (mut shard, clock) = by_hand(&MemoryDisk::simulated(256 << 20));
    lead_as(&mut shard, 0, &[1], config());
    let later = clock.now_millis() + 1_800_000;
    (0..40).for_each(|key| append_keyed_at(&mut shard, 0, (key % KEYS, Some(key)), later));
    flush(&mut shard);
    shard.compact(clock.monotonic());
    flush(&mut shard);
    assert!(up_to(&shard, 0) > Offset::ZERO, "{:?}", shard.partitions[&partition(0)].log.compactable(Offset(40)));
}

/// Two shards share the turn, each looks once a second.
#[test]
fn a_shard_with_much_to_do_lets_the_other_one_be_next() {
    let (mut one, clock) = by_hand(&MemoryDisk::simulated(256 << 20));
    let (mut other, other_clock) = by_hand(&MemoryDisk::simulated(256 << 20));
    other.context.compactor = one.context.compactor.clone();
    other.compaction_seat = one.context.compactor.seat();
    for number in 0..40 {
        lead_as(&mut one, number, &[1], config());
        written(&mut one, number, 4);
    }
    lead_as(&mut other, 0, &[1], config());
    written(&mut other, 0, 10);
    let mut rounds = 0;
    while up_to(&other, 0) == Offset::ZERO && rounds < 200 {
        rounds += 1;
        // What comes in all the time.
        for number in 0..40 {
            written(&mut one, number, 1);
        }
        for clock in [&clock, &other_clock] {
            clock.0.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed);
        }
        // Each looks once; the other one while the job of the first one is with its thread.
        one.compact(one.context.clock.monotonic());
        turn(&mut other);
        flush(&mut one);
        flush(&mut other);
    }
    let done = (0..40).filter(|number| up_to(&one, *number) > Offset::ZERO).count();
    assert!(rounds < 200, "the other shard never had the turn; {done} partitions of the first one had");
}

/// A record every two seconds for a day, one in seven a tombstone: what is kept is what there is of keys.
#[test]
fn a_day_of_updates_keeps_the_size_bounded() {
    let (mut shard, clock) = by_hand(&MemoryDisk::simulated(256 << 20));
    let retention = Duration::from_secs(600);
    lead_as(&mut shard, 0, &[1], TopicConfig { delete_retention: retention, dirty_ratio_min: 500_000, ..config() });
    let (mut model, mut random, mut largest, mut written) = (BTreeMap::new(), 1_u32, 0, 0);
    for second in (0..86_400).step_by(2) {
        clock.0.fetch_add(2_000, std::sync::atomic::Ordering::Relaxed);
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (key, value) = ((random >> 16) % 40, (random % 7 > 0).then_some(second));
        append_keyed_at(&mut shard, 0, (key, value), clock.now_millis());
        model.insert(key, value);
        written += 570;
        shard.compact(clock.monotonic());
        flush(&mut shard);
        largest = largest.max(shard.partitions[&partition(0)].log.size_bytes());
    }
    assert!(largest < 150_000, "{largest} of {written} bytes");
    let (found, _) = newest(&shard, 0);
    let kept = |(key, value): (Bytes, Option<u32>)| Some((u32::from_be_bytes(key[..].try_into().unwrap()), value?));
    let found: BTreeMap<u32, u32> = found.into_iter().filter_map(kept).collect();
    let model: BTreeMap<u32, u32> = model.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    assert_eq!(found, model);
}
