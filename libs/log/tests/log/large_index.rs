//! Segments with more index entries than are kept in memory: every look-up finds its place all the same.

use walser_log::{Disk as _, LogConfig, LogReader, MemoryDisk};
use walser_model::Offset;

use crate::site::{Site, config, open};

const RECORDS: i64 = 5_000;

/// An entry for each batch.
fn dense() -> LogConfig {
    LogConfig { index_interval_bytes: 1, segment_bytes: 64 << 20, ..config() }
}

/// Record by record, by offset and by time.
fn check(reader: &LogReader) {
    for offset in (0..RECORDS).step_by(7).map(Offset) {
        let slice = reader.read(offset, offset.plus(1), 1).unwrap();
        assert_eq!(slice.next_offset, offset.plus(1));
        let found = reader.find_time(offset.0, Offset(RECORDS)).unwrap().unwrap();
        assert_eq!(found.offset, offset);
    }
    assert!(reader.find_time(RECORDS, Offset(RECORDS)).unwrap().is_none());
}

#[test]
fn every_record_is_found_whether_entries_are_in_memory_in_the_file_or_nowhere() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), dense());
    for at in 0..RECORDS {
        site.append_at(at).unwrap();
        if at % 1_300 == 1_299 {
            site.log.move_recovery_point();
            site.flush().unwrap();
        }
    }
    check(&site.log.reader());
    site.log.move_recovery_point();
    site.flush().unwrap();
    check(&site.log.reader());
    let index = site.file("00000000000000000000.index");
    assert!(site.log.memory_bytes() < 64 << 10, "{} bytes", site.log.memory_bytes());
    let stopped = site.disk.restart_process();
    let (_, log, _) = open(&stopped, dense()).unwrap();
    check(&log.reader());
    stopped.remove_file(&index).unwrap();
    check(&log.reader());
    let (_, log, _) = open(&stopped.restart_process(), dense()).unwrap();
    check(&log.reader());
}

#[test]
fn a_cut_keeps_the_entries_that_are_in_memory_only() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), dense());
    for at in 0..RECORDS {
        site.append_at(at).unwrap();
        if at == 3_000 {
            site.log.move_recovery_point();
            site.flush().unwrap();
        }
    }
    site.flush().unwrap();
    for to in [4_500, 2_500, 100] {
        site.log.truncate(Offset(to), false).unwrap();
        for at in (0..to).step_by(11).map(Offset) {
            assert_eq!(site.log.reader().read(at, at.plus(1), 1).unwrap().next_offset, at.plus(1));
        }
    }
}
