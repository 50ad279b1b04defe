//! Of each key the newest record stays, whatever ends in between.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use walser_log::{CompactionJob, CompactionRules, LogConfig, LogError, MemoryDisk, PowerLoss};
use walser_model::{Compression, Offset, Timestamp};
use walser_record_batch::{
    BatchBuilder, BatchHeader, Batches, Producer, RecordFields, Records, empty_batch, stamp_position,
};

use crate::compaction_faults::is_duplicate;
use crate::site::{Site, config};

/// What a reader is shown: offset, key and value.
pub(crate) type Seen = Vec<(i64, Vec<u8>, Option<Vec<u8>>)>;

/// Of each key the newest record.
pub(crate) type Newest = BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)>;

pub(crate) fn small() -> LogConfig {
    LogConfig { segment_bytes: 2_000, ..config() }
}

pub(crate) fn rules(now: Timestamp) -> CompactionRules {
    CompactionRules {
        now,
        delete_retention: Duration::from_millis(100),
        tombstone_floor: Offset(i64::MAX),
        newest: Timestamp::MAX,
        memory_bytes: 0,
    }
}

/// Appends one batch; the value is the offset, or null.
pub(crate) fn append(site: &mut Site, codec: Compression, keys: &[(u8, bool)], producer: Producer) {
    let base = site.log.log_end();
    let mut builder = BatchBuilder::new(codec, 0);
    for (offset, (key, deletes)) in (base.0..).zip(keys) {
        let value = [&offset.to_be_bytes()[..], &[7; 120]].concat();
        let value = (!deletes).then_some(&value[..]);
        builder.append(&RecordFields { timestamp: offset, key: Some(&[*key]), value, headers: &[] });
    }
    let mut batch = builder.build(producer).to_vec();
    stamp_position(&mut batch, base, site.epoch);
    let header = BatchHeader::parse(&batch).unwrap();
    site.log.check_and_record(&header, base.0).unwrap();
    site.log.append(&batch[..].into(), &[header], base.0).map_err(|(_, error)| error).unwrap();
}

/// Everything that a reader sees; batches follow each other without a gap.
pub(crate) fn seen(site: &Site) -> Seen {
    let (reader, end) = (site.log.reader(), site.log.log_end());
    let (mut at, mut all) = (site.log.log_start(), Vec::new());
    while at < end {
        let slice = reader.read(at, end, 900).unwrap();
        assert!(slice.next_offset > at, "stuck at {at} of {end}");
        for batch in Batches::of(slice.batches) {
            let (header, bytes): (BatchHeader, Bytes) = batch.unwrap();
            assert!(header.base_offset <= at, "a gap at {at}");
            at = header.next_offset();
            for record in Records::open(header, &bytes).unwrap().map(Result::unwrap) {
                let value = record.value.map(|value| value.to_vec());
                all.push((record.offset.0, record.key.unwrap().to_vec(), value));
            }
        }
    }
    assert_eq!(at, end);
    all
}

pub(crate) fn newest(seen: &Seen) -> Newest {
    seen.iter().map(|(offset, key, value)| (key.clone(), (*offset, value.clone()))).collect()
}

fn without_deleted(mut all: Newest) -> Newest {
    all.retain(|_, (_, value)| value.is_some());
    all
}

pub(crate) fn compact(site: &mut Site, rules: CompactionRules) -> bool {
    let end = site.log.log_end();
    let job = site.log.begin_compaction(end, rules).unwrap();
    job.is_some_and(|job| run(site, job).unwrap())
}

/// Takes the steps of a job. False: one of them did not count.
pub(crate) fn run(site: &mut Site, mut job: CompactionJob) -> Result<bool, LogError> {
    while let Some(step) = job.advance(|_| true)? {
        if site.log.take_compaction_step(step)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Loses the power, and with it the snapshots of producers: all that is known of them comes from the batches.
pub(crate) fn restart_without_snapshots(site: &mut Site) {
    let disk = site.disk.lose_power(PowerLoss::Everything);
    for entry in walser_log::Disk::list(&disk, site.log.dir()).unwrap() {
        if entry.name.ends_with(".producers") {
            walser_log::Disk::remove_file(&disk, &site.log.dir().join(entry.name)).unwrap();
        }
    }
    site.restart_on(disk, small());
}

/// Files of a compaction that do not belong to the log.
pub(crate) fn unfinished(site: &Site) -> Vec<String> {
    let entries = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| name.contains(".swap") || name.ends_with(".cleaned")).collect()
}

fn segments(site: &Site) -> usize {
    let entries = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    entries.iter().filter(|entry| entry.name.ends_with(".log")).count()
}

pub(crate) fn written(batches: &[Vec<(u8, bool)>], codec: Compression) -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    for keys in batches {
        append(&mut site, codec, keys, Producer::NONE);
        site.flush().unwrap();
    }
    site
}

/// Ends the last segment.
pub(crate) fn close_last(site: &mut Site) {
    let fill: Vec<_> = (0..8).map(|_| (255, false)).collect();
    for _ in 0..3 {
        append(site, Compression::None, &fill, Producer::NONE);
        site.flush().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_newest_record_of_every_key_stays(
        batches in prop::collection::vec(prop::collection::vec((0..12_u8, prop::bool::weighted(0.2)), 1..6), 1..60),
        codec in prop::sample::select(Compression::ALL.to_vec()),
        again in 1..4_usize,
    ) {
        let mut site = written(&batches, codec);
        let before = seen(&site);
        for round in 0..again {
            close_last(&mut site);
            let all = newest(&seen(&site));
            let now = 10_000 * i64::try_from(round + 1).unwrap();
            compact(&mut site, rules(now));
            let left = seen(&site);
            prop_assert_eq!(without_deleted(newest(&left)), without_deleted(all.clone()));
            // What is there is as it was, in order, and no key comes back.
            prop_assert!(left.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(newest(&left).iter().all(|(key, found)| all.get(key) == Some(found)));
            let disk = site.disk.lose_power(PowerLoss::Everything);
            site.restart_on(disk, small());
            prop_assert_eq!(&site.found.damage, &None);
            prop_assert_eq!(seen(&site), left);
        }
        prop_assert!(before.len() >= batches.len());
    }
}

#[test]
fn superseded_records_go_and_tombstones_after_their_time() {
    let batches: Vec<_> = (0..200).map(|number| vec![(number % 5, number >= 195), (9, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let before = site.log.size_bytes();
    assert!(compact(&mut site, rules(1_000)));
    assert_eq!(newest(&seen(&site)).len(), 7, "tombstones are there for whoever reads on");
    assert!(site.log.size_bytes() < before / 4, "{} of {before}", site.log.size_bytes());
    assert!(!compact(&mut site, rules(1_050)), "everything is compacted");
    for (now, floor, keys) in [(1_050, i64::MAX, 7), (2_000, 10, 7), (2_000, i64::MAX, 2)] {
        close_last(&mut site);
        assert!(compact(&mut site, CompactionRules { tombstone_floor: Offset(floor), ..rules(now) }));
        assert_eq!(newest(&seen(&site)).len(), keys, "{now} {floor}");
    }
}

#[test]
fn with_little_memory_it_takes_several_compactions() {
    let batches: Vec<Vec<(u8, bool)>> = (0..120).map(|number| vec![(number, false), (200, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let all = newest(&seen(&site));
    let mut count = 0;
    while compact(&mut site, rules(1_000)) {
        count += 1;
    }
    assert!(count >= 1 && newest(&seen(&site)) == all);
}

#[test]
fn the_last_batch_of_a_producer_is_known_after_its_records_have_gone() {
    let session = |base_sequence| Producer {
        id: walser_model::ProducerId(4),
        epoch: walser_model::ProducerEpoch(0),
        base_sequence,
    };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    for number in 0..30 {
        append(&mut site, Compression::None, &[(1, false)], session(number));
    }
    append(&mut site, Compression::None, &[(1, false)], Producer::NONE);
    site.flush().unwrap();
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    restart_without_snapshots(&mut site);
    assert!(is_duplicate(&mut site, session(29)), "what it has written last is known");
}

#[test]
fn a_crash_at_any_step_of_a_compaction_leaves_a_log_with_the_newest_of_every_key() {
    let batches: Vec<_> = (0..90).map(|number| vec![(number % 4, false), (9, number % 7 == 0)]).collect();
    let site_of = || {
        let mut site = written(&batches, Compression::None);
        close_last(&mut site);
        site
    };
    let mut whole = site_of();
    let (before, all) = (whole.disk.change_count(), newest(&seen(&whole)));
    assert!(compact(&mut whole, rules(1_000)));
    let changes = whole.disk.change_count() - before;
    assert!(changes > 12, "{changes} changes");
    for stop in 0..=changes {
        for loss in [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Random(stop), PowerLoss::Random(stop + 99)] {
            let mut site = site_of();
            site.disk.stop_after(stop);
            let end = site.log.log_end();
            let begun = site.log.begin_compaction(end, rules(1_000));
            let done = begun.and_then(|job| run(&mut site, job.unwrap()));
            assert_eq!(done.is_ok(), stop == changes, "step {stop}");
            let disk = site.disk.lose_power(loss);
            site.restart_on(disk, small());
            assert_eq!(site.found.damage, None, "step {stop}, {loss:?}");
            assert_eq!(site.log.log_end(), end);
            assert_eq!(newest(&seen(&site)), all, "step {stop}, {loss:?}");
            close_last(&mut site);
            compact(&mut site, rules(1_000));
            let left = newest(&seen(&site));
            assert!(all.iter().filter(|(key, _)| **key != [255]).all(|(key, found)| left.get(key) == Some(found)));
            assert_eq!(unfinished(&site), Vec::<String>::new());
        }
    }
}

/// A follower of another log can have to cut where batches that are one now met once.
#[test]
fn a_log_is_cut_inside_of_what_compaction_has_dropped() {
    let batches: Vec<_> = (0..40).map(|_| vec![(1, false)]).collect();
    let site_of = || {
        let mut site = written(&batches, Compression::None);
        close_last(&mut site);
        assert!(compact(&mut site, rules(1_000)));
        site
    };
    let mut whole = site_of();
    let before = whole.disk.change_count();
    whole.log.truncate(Offset(20), false).unwrap();
    let changes = whole.disk.change_count() - before;
    for stop in 0..=changes {
        for loss in [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Random(stop)] {
            let mut site = site_of();
            site.disk.stop_after(stop);
            assert_eq!(site.log.truncate(Offset(20), false).is_ok(), stop == changes);
            site.acknowledged = Offset::ZERO;
            let disk = site.disk.lose_power(loss);
            site.restart_on(disk, small());
            assert_eq!(site.found.damage, None, "step {stop}, {loss:?}");
            assert!(stop < changes || site.log.log_end() == Offset(20));
            if site.log.log_end() > Offset(20) {
                site.log.truncate(Offset(20), false).unwrap();
            }
            append(&mut site, Compression::None, &[(2, false)], Producer::NONE);
            assert_eq!(seen(&site).last().map(|(_, key, _)| key[0]), Some(2));
        }
    }
}

/// Readers have what they read before, or what is there now.
#[test]
fn a_reader_goes_on_while_segments_are_replaced() {
    let batches: Vec<_> = (0..300)
        .map(|number| vec![(number % 3, false)])
        .map(|keys: Vec<(i32, bool)>| {
            keys.into_iter().map(|(key, deletes)| (u8::try_from(key).unwrap(), deletes)).collect()
        })
        .collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let (reader, end) = (site.log.reader(), site.log.log_end());
    let mut at = Offset::ZERO;
    for round in 0.. {
        if at == end {
            break;
        }
        let slice = reader.read(at, end, 300).unwrap();
        assert!(slice.next_offset > at);
        at = slice.next_offset;
        if round % 5 == 0 {
            site.log.close_files();
            close_last(&mut site);
            compact(&mut site, rules(1_000));
        }
    }
    assert!(reader.find_time(0, site.log.log_end()).unwrap().is_some());
    let found = reader.find_record(Offset(1), end).unwrap().unwrap();
    assert!(found.offset > Offset(100), "{found:?}: what was at offset 1 is compacted away");
    let job_end = site.log.log_end();
    close_last(&mut site);
    let job = site.log.begin_compaction(job_end, rules(1_000)).unwrap().unwrap();
    site.log.delete_records(job_end, 1).unwrap();
    assert!(run(&mut site, job).is_err(), "what it was to be made of has gone");
    close_last(&mut site);
    let end = site.log.log_end();
    let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
    assert_eq!(job.advance(|_| false).unwrap_err().kind(), std::io::ErrorKind::Interrupted);
    let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
    let late = job.advance(|_| true).unwrap().unwrap();
    site.log.delete_records(end, 1).unwrap();
    assert_eq!(site.log.take_compaction_step(late).unwrap(), None, "what it was made of has gone");
    assert_eq!(unfinished(&site), Vec::<String>::new());
}

/// Nothing takes the place of a segment that is damaged, also where no checksum says so.
#[test]
fn a_segment_whose_offsets_do_not_follow_each_other_is_not_compacted() {
    let batches: Vec<_> = (0..40).map(|number| vec![(number % 3, false)]).collect();
    for (byte, value) in [(0, 0x40), (7, 0xff)] {
        let mut site = written(&batches, Compression::None);
        close_last(&mut site);
        let end = site.log.log_end();
        let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
        let segment = site.log.dir().join("00000000000000000000.log");
        let file = walser_log::Disk::open(&site.disk, &segment, walser_log::Open::Edit).unwrap();
        let mut bytes = Vec::new();
        file.read_at(&mut bytes, 0, 1 << 20).unwrap();
        let second = BatchHeader::parse(&bytes).unwrap().size;
        file.write_at(&[value], second as u64 + byte).unwrap();
        assert_eq!(job.advance(|_| true).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        assert_eq!(unfinished(&site), Vec::<String>::new());
    }
}

/// Of a batch with more keys than there is memory for, too, no tombstone goes before what it deletes.
#[test]
fn a_batch_with_too_many_keys_is_compacted_in_parts() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), LogConfig { segment_bytes: 200_000, ..config() });
    let count = 3_000_i64;
    for deletes in [false, true] {
        append_numbered(&mut site, count, deletes);
        close_with(&mut site, 250);
    }
    let mut rounds = 0;
    while compact(&mut site, rules(1_000 * (rounds + 1))) {
        rounds += 1;
        let deleted = newest(&seen(&site)).into_iter().filter(|(key, _)| key.len() == 8);
        assert!(deleted.filter(|(_, (_, value))| value.is_some()).count() == 0, "round {rounds}");
    }
    assert!(rounds > 3, "{rounds} rounds");
    close_with(&mut site, 250);
    assert!(compact(&mut site, rules(1_000_000)));
    assert_eq!(seen(&site).iter().filter(|(_, key, _)| key.len() == 8).count(), 0);
}

/// One batch of so many keys of eight bytes.
fn append_numbered(site: &mut Site, count: i64, deletes: bool) {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    for number in 0..count {
        let value = (!deletes).then_some(&b"value"[..]);
        builder.append(&RecordFields { timestamp: 1, key: Some(&number.to_be_bytes()), value, headers: &[] });
    }
    append_built(site, &builder.build(Producer::NONE));
}

pub(crate) fn append_built(site: &mut Site, batch: &[u8]) {
    let mut batch = batch.to_vec();
    stamp_position(&mut batch, site.log.log_end(), site.epoch);
    let header = BatchHeader::parse(&batch).unwrap();
    site.log.append_decided(&batch[..].into(), &[header], 1).map_err(|(_, error)| error).unwrap();
    site.flush().unwrap();
}

/// Appends until the last segment is another one.
fn close_with(site: &mut Site, batches: usize) {
    let fill: Vec<_> = (0..8).map(|_| (255, false)).collect();
    (0..batches).for_each(|_| append(site, Compression::None, &fill, Producer::NONE));
    site.flush().unwrap();
}

/// All that a replica has in common with another one may be deleted here, up to the middle of a batch.
#[test]
fn a_log_is_cut_to_its_start_inside_of_a_batch() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for batch in 0..2_u8 {
        let keys: Vec<_> = (0..10).map(|key| (batch * 10 + key, false)).collect();
        append(&mut site, Compression::None, &keys, Producer::NONE);
    }
    site.flush().unwrap();
    site.log.delete_records(Offset(15), 0).unwrap();
    assert!(matches!(site.log.truncate(Offset(17), false), Err(LogError::OutOfRange { .. })));
    site.log.truncate(Offset(15), false).unwrap();
    for restarted in [false, true] {
        assert_eq!((site.log.log_start(), site.log.log_end()), (Offset(15), Offset(15)), "restarted: {restarted}");
        let disk = site.disk.lose_power(PowerLoss::Everything);
        site.restart_on(disk, config());
    }
    append(&mut site, Compression::None, &[(1, false)], Producer::NONE);
    assert_eq!(seen(&site).iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [15]);
}

/// What stands for records that have gone may span more offsets than an index has room for, and has no time.
#[test]
fn empty_batches_are_appended_as_others_are() {
    let day = Duration::from_secs(86_400);
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), LogConfig { segment_age: day, ..config() });
    let half = 1 << 31;
    for number in 0..5 {
        let (base, next) = (Offset(number * half), Offset((number + 1) * half));
        let empty = empty_batch(base, next, site.epoch, Producer::NONE);
        append_built(&mut site, &empty);
    }
    assert_eq!((site.log.log_end(), segments(&site)), (Offset(5 * half), 5));
    let before = segments(&site);
    let now = 1_700_000_000_000;
    for _ in 0..20 {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: now, key: Some(b"k"), value: Some(b"v"), headers: &[] });
        append_built(&mut site, &builder.build(Producer::NONE));
    }
    assert_eq!(segments(&site), before, "not one for each batch");
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!((&site.found.damage, site.log.log_end()), (&None, Offset(5 * half + 20)));
}

/// Whoever follows this log with less has to take all of it: that it did not happen MUST NOT be forgotten.
#[test]
fn below_what_tombstones_may_be_gone_is_known_after_a_restart() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 3, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let rules = CompactionRules { tombstone_floor: Offset(40), ..rules(1_000) };
    assert_eq!(site.log.tombstone_floor(), Offset::ZERO);
    assert!(compact(&mut site, rules));
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, small());
    assert_eq!((site.log.tombstone_floor(), site.log.reader().tombstone_floor()), (Offset(40), Offset(40)));
    // Where it cannot be read nothing is known, and a log that was cut has nothing above its end.
    let file = site.log.dir().join("compacted");
    walser_log::Disk::open(&site.disk, &file, walser_log::Open::Edit).unwrap().write_at(&[0x55], 9).unwrap();
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    site.restart_on(disk, small());
    assert_eq!(site.log.tombstone_floor(), site.log.log_end());
    site.acknowledged = Offset::ZERO;
    site.log.truncate(Offset(20), false).unwrap();
    assert_eq!(site.log.tombstone_floor(), Offset(20));
}
