//! Tombstones of a log to which nothing is written any more.

use walser_log::{CompactionRules, Disk as _, MemoryDisk, Open, PowerLoss};
use walser_model::{Compression, Offset};
use walser_record_batch::{BatchBuilder, Producer, RecordFields, stamp_producer};

use crate::compaction::{append, append_built, close_last, compact, newest, rules, seen, small, written};
use crate::site::Site;

/// Closed segments with many records of six keys, of which the last ones delete five.
fn with_tombstones() -> Site {
    let batches: Vec<_> = (0..200).map(|number| vec![(number % 5, number >= 195), (9, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    site
}

/// Nothing is written any more, so that nothing else makes a compaction of it due (KIP-534).
#[test]
fn a_tombstone_goes_from_a_log_at_rest_when_its_time_is_over() {
    for restarts in [false, true] {
        let mut site = with_tombstones();
        assert!(compact(&mut site, rules(1_000)));
        let restart = |site: &mut Site| {
            if restarts {
                let disk = site.disk.lose_power(PowerLoss::Everything);
                site.restart_on(disk, small());
            }
        };
        let left = |site: &Site| site.log.compactable(site.log.log_end()).and_then(|found| found.tombstone);
        restart(&mut site);
        let waits = left(&site).unwrap();
        assert_eq!((waits.over, waits.at), (1_100, Offset(390)), "the first of five");
        assert!(!compact(&mut site, rules(1_100)) && !waits.goes(1_100, Offset(i64::MAX)), "its time is not over");
        let behind = CompactionRules { tombstone_floor: Offset(390), ..rules(1_101) };
        assert!(!compact(&mut site, behind) && !waits.goes(1_101, Offset(390)), "some replica does not have it");
        let some = CompactionRules { tombstone_floor: Offset(394), ..rules(1_101) };
        assert!(compact(&mut site, some) && waits.goes(1_101, Offset(394)));
        restart(&mut site);
        assert_eq!((newest(&seen(&site)).len(), left(&site).map(|left| left.at)), (5, Some(Offset(394))));
        assert!(!compact(&mut site, some), "nothing comes of it");
        assert!(compact(&mut site, rules(1_101)));
        restart(&mut site);
        assert_eq!((newest(&seen(&site)).len(), left(&site)), (2, None));
        assert!(!compact(&mut site, rules(9_999)), "nothing is left to do");
    }
}

/// Also of one that was compacted by a version that did not note which tombstones it left.
#[test]
fn a_log_of_an_earlier_version_is_looked_through_once_for_tombstones() {
    let mut site = with_tombstones();
    assert!(compact(&mut site, rules(1_000)));
    let path = site.file("compacted");
    let disk = site.disk.lose_power(PowerLoss::Everything);
    let file = disk.open(&path, Open::Write).unwrap();
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, 0, 64).unwrap();
    bytes.truncate(8 + 3 * 8);
    let sum = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes)).unwrap();
    bytes.extend(sum.to_be_bytes());
    file.set_len(0).unwrap();
    file.write_at(&bytes, 0).unwrap();
    site.restart_on(disk, small());
    assert!(compact(&mut site, rules(1_050)));
    assert_eq!(newest(&seen(&site)).len(), 7);
    assert!(!compact(&mut site, rules(1_050)));
    assert!(compact(&mut site, rules(1_101)));
    assert_eq!(newest(&seen(&site)).len(), 2);
}

/// What is noted of the one that may go first stands for all that are left.
#[test]
fn tombstones_are_not_forgotten_with_the_one_that_may_go_first() {
    let left = |site: &Site, up_to: Offset| site.log.compactable(up_to).and_then(|found| found.tombstone);
    // The high watermark of a new leader lies below what was compacted, for a while.
    let mut site = with_tombstones();
    assert!(compact(&mut site, rules(1_000)));
    let before = left(&site, site.log.log_end());
    let job = site.log.begin_compaction(Offset(100), rules(1_101)).unwrap();
    assert!(job.is_none() && left(&site, Offset(100)).is_none() && left(&site, site.log.log_end()) == before);
    // It is cut off, and others are not.
    let mut site = with_tombstones();
    assert!(compact(&mut site, CompactionRules { tombstone_floor: Offset(0), ..rules(1_000) }));
    site.log.truncate(Offset(396), false).unwrap();
    close_last(&mut site);
    while compact(&mut site, rules(2_000)) {}
    assert_eq!(
        (newest(&seen(&site)).values().filter(|(_, value)| value.is_none()).count(), left(&site, site.log.log_end())),
        (0, None)
    );
    // Nothing is left that could be looked at.
    let mut site = with_tombstones();
    assert!(compact(&mut site, rules(1_000)));
    site.log.delete_records(site.log.log_end(), 0).unwrap();
    assert_eq!(left(&site, site.log.log_end()), None);
}

/// Appends a batch of these keys and values.
fn append_raw(site: &mut Site, records: &[[Option<&[u8]>; 2]]) {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    for (timestamp, [key, value]) in (0..).zip(records) {
        builder.append(&RecordFields { timestamp, key: *key, value: *value, headers: &[] });
    }
    append_built(site, &builder.build(Producer::NONE));
}

#[test]
fn a_record_without_key_and_value_makes_no_run_due_for_ever() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    append_raw(&mut site, &[[None, None], [Some(b"k"), Some(b"v")]]);
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    let mut runs = 0;
    for number in 0..10 {
        runs += u32::from(compact(&mut site, rules(2_000 + number * 1_000)));
    }
    assert!(runs <= 1, "{runs} runs; {:?}", site.log.compactable(site.log.log_end()));
}

#[test]
fn what_could_not_be_cleaned_is_forgotten_once_deleted() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    let mut batch = BatchBuilder::new(Compression::None, 0);
    batch.append(&RecordFields { timestamp: 1, key: Some(b"k"), value: Some(b"v"), headers: &[] });
    let mut batch = batch.build(Producer::NONE).to_vec();
    *batch.last_mut().unwrap() ^= 0x7f;
    stamp_producer(&mut batch, Producer::NONE.id, Producer::NONE.epoch, -1);
    append_built(&mut site, &batch);
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    site.log.delete_records(site.log.log_end(), 0).unwrap();
    append(&mut site, Compression::None, &[(1, true)], Producer::NONE);
    for time in [2_000, 3_000, 4_000] {
        close_last(&mut site);
        assert!(compact(&mut site, rules(time)));
    }
    let left = newest(&seen(&site));
    assert!(!left.contains_key(&vec![1]), "{left:?}");
}
