//! Batches that compaction has to leave as they are, and the tombstones behind them.

use bytes::Bytes;
use walser_log::MemoryDisk;
use walser_model::{Compression, Offset};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields, stamp_producer};

use crate::compaction::{append, append_built, close_last, compact, newest, rules, seen, small};
use crate::site::Site;

/// Whoever can decode it may find what a tombstone behind it deletes.
#[test]
fn tombstones_stay_behind_what_cannot_be_decoded() {
    for unreadable in [false, true] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
        append(&mut site, Compression::None, &[(1, false)], Producer::NONE);
        if unreadable {
            let mut batch = BatchBuilder::new(Compression::None, 0);
            batch.append(&RecordFields { timestamp: 1, key: Some(b"k"), value: Some(b"v"), headers: &[] });
            let mut batch = batch.build(Producer::NONE).to_vec();
            *batch.last_mut().unwrap() ^= 0x7f;
            // The checksum is right again.
            stamp_producer(&mut batch, Producer::NONE.id, Producer::NONE.epoch, -1);
            append_built(&mut site, &batch);
        }
        append(&mut site, Compression::None, &[(1, true)], Producer::NONE);
        let tombstone = site.log.log_end().0 - 1;
        for time in [1_000, 2_000, 3_000] {
            close_last(&mut site);
            assert!(compact(&mut site, rules(time)));
        }
        let (reader, end) = (site.log.reader(), site.log.log_end());
        let slice = reader.read(Offset(tombstone), end, 1).unwrap();
        let kept = BatchHeader::parse(&slice.batches).unwrap().record_count > 0;
        assert_eq!(kept, unreadable);
    }
}

/// A batch of two keys that cannot be written with less.
fn large(keys: [u8; 2]) -> Bytes {
    let noise: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut builder = BatchBuilder::new(Compression::Zstd, 0);
    // Without the noise the rest compresses so well that no reader would take it.
    for (key, value) in keys.iter().zip([&noise, &vec![0; 40 << 20]]) {
        builder.append(&RecordFields { timestamp: 1, key: Some(&[*key]), value: Some(value), headers: &[] });
    }
    builder.build(Producer::NONE)
}

/// What they delete stays in a batch that cannot be written without it, also when a later job does not know that any more.
#[test]
fn tombstones_stay_behind_a_batch_that_cannot_be_made_smaller() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    append_built(&mut site, &large([1, 2]));
    append(&mut site, Compression::None, &[(1, true)], Producer::NONE);
    for time in [1_000, 2_000, 3_000, 4_000] {
        close_last(&mut site);
        assert!(compact(&mut site, rules(time)));
        let found = newest(&seen(&site));
        assert_eq!(found[&vec![1]].1, None, "a deleted key is back after {time}");
        let disk = site.disk.clone();
        site.restart_on(disk, small());
    }
}

/// The first one goes with its segment, and the second one is still there.
#[test]
fn tombstones_stay_behind_the_second_batch_that_cannot_be_made_smaller() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    append_built(&mut site, &large([1, 2]));
    close_last(&mut site);
    append_built(&mut site, &large([3, 4]));
    close_last(&mut site);
    append(&mut site, Compression::None, &[(1, true), (3, true)], Producer::NONE);
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    site.log.delete_records(Offset(2), 1_000).unwrap();
    for (key, time) in [(8, 2_000), (9, 3_000)] {
        append(&mut site, Compression::None, &[(key, false)], Producer::NONE);
        close_last(&mut site);
        assert!(compact(&mut site, rules(time)));
        assert_eq!(newest(&seen(&site))[&vec![3]].1, None, "a deleted key is back after {time}");
        let disk = site.disk.clone();
        site.restart_on(disk, small());
    }
}
