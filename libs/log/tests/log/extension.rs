//! While space ahead of the log end is being filled with zeros, nothing else may touch it.

use walser_log::{AppendError, Disk as _, LogConfig, LogError, MemoryDisk};
use walser_model::{Compression, Durability, Offset};
use walser_record_batch::{BatchBuilder, Producer, RecordFields, stamp_position};

use crate::site::{Site, config, values};

/// Space is filled ahead from this many bytes of log on.
const EXTENDED_FROM: usize = 64 << 10;

fn large() -> LogConfig {
    LogConfig { segment_bytes: 2 << 20, ..config() }
}

/// A log with an extension that was begun.
fn extending(config: LogConfig) -> (Site, walser_log::Extension) {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config);
    site.append(&values(1, 2, EXTENDED_FROM)).unwrap();
    site.flush().unwrap();
    let extension = site.log.begin_extension().unwrap();
    (site, extension)
}

#[test]
fn an_append_that_reaches_into_the_region_is_refused_and_works_afterwards() {
    let (mut site, extension) = extending(large());
    let end = site.log.log_end();
    let refused = site.append(&values(2, 1, 600_000)).unwrap_err();
    assert!(matches!(refused, AppendError::Extending), "{refused}");
    assert_eq!(site.log.log_end(), end, "nothing of it is in the log");
    site.append(&values(3, 2, 100)).unwrap();
    let outcome = extension.run();
    site.log.finish_extension(&extension, &outcome);
    site.append(&values(2, 1, 600_000)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(walser_log::PowerLoss::Everything);
    site.restart_on(disk, large());
    site.check_contents();
}

/// With the page cache nothing waits for the disk: space is taken under writes that go on.
#[test]
fn space_that_is_only_taken_holds_up_no_append_and_loses_none() {
    let config = LogConfig { durability: Durability::PageCache, ..large() };
    let (mut site, extension) = extending(config.clone());
    site.append(&values(2, 1, 600_000)).unwrap();
    let outcome = extension.run();
    site.append(&values(3, 1, 300_000)).unwrap();
    site.log.finish_extension(&extension, &outcome);
    site.append(&values(4, 2, 100)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(walser_log::PowerLoss::Everything);
    site.restart_on(disk, config);
    site.check_contents();
}

#[test]
fn the_segment_is_not_closed_cut_or_repaired_meanwhile() {
    let (mut site, extension) = extending(LogConfig { segment_bytes: 300 << 10, ..large() });
    let refused = site.append(&values(2, 1, 200_000)).unwrap_err();
    assert!(matches!(refused, AppendError::Extending), "the next segment is needed: {refused}");
    assert!(matches!(site.log.truncate(Offset(0), false), Err(LogError::Busy)));
    site.log.note_damage(Offset(1));
    assert!(matches!(site.log.repair(), Err(LogError::Busy)));
    let outcome = extension.run();
    site.log.finish_extension(&extension, &outcome);
    site.log.repair().unwrap();
    site.check_contents();
}

#[test]
fn an_outcome_that_comes_twice_changes_nothing() {
    let (mut site, extension) = extending(large());
    let outcome = extension.run();
    site.log.finish_extension(&extension, &outcome);
    site.append(&values(3, 1, 200_000)).unwrap();
    let second = site.log.begin_extension().unwrap();
    site.log.finish_extension(&extension, &outcome);
    assert!(site.log.extension_running(), "the second one still runs");
    let outcome = second.run();
    site.log.finish_extension(&second, &outcome);
    site.flush().unwrap();
    site.check_contents();
}

#[test]
fn a_clean_stop_after_a_kill_leaves_nothing_to_read_again() {
    let (mut site, extension) = extending(large());
    let outcome = extension.run();
    site.log.finish_extension(&extension, &outcome);
    let disk = site.disk.restart_process();
    site.restart_on(disk, large());
    assert!(site.found.scanned_segments > 0, "the kill left zeros behind the end");
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let disk = site.disk.clone();
    site.restart_on(disk, large());
    assert_eq!(site.found, walser_log::Recovery::default());
    site.append(&values(4, 2, 100)).unwrap();
    site.flush().unwrap();
    site.check_contents();
}

/// A job that ends late tells of files that may not be there any more.
#[test]
fn what_was_begun_before_a_truncation_or_another_opening_changes_nothing_afterwards() {
    let (mut site, extension) = extending(large());
    site.append(&values(2, 1, 100)).unwrap();
    let flush = site.log.begin_flush().unwrap().unwrap().run();
    let disk = site.disk.restart_process();
    site.restart_on(disk, large());
    site.append(&values(2, 1, 100)).unwrap();
    let end = site.log.log_end();
    let next = site.log.begin_flush().unwrap().unwrap();
    let durable = site.log.durable();
    site.log.finish_extension(&extension, &Err(std::io::Error::other("late")));
    assert_eq!(site.log.finish_flush(&flush).unwrap(), durable, "of another opening");
    assert!(site.log.flush_running() && *site.log.condition() == walser_log::Condition::Healthy);
    let outcome = next.run();
    assert_eq!(site.log.finish_flush(&outcome).unwrap(), end);
    site.log.truncate(durable, false).unwrap();
    site.append(&values(3, 1, 100)).unwrap();
    let next = site.log.begin_flush().unwrap().unwrap();
    assert_eq!(site.log.finish_flush(&outcome).unwrap(), durable, "from before the truncation");
    assert!(site.log.flush_running());
    assert_eq!(site.log.finish_flush(&next.run()).unwrap(), site.log.log_end());
    site.check_contents();
}

/// A write that finds no space may have left a part behind the end of a segment, which may be a whole batch. It is cut at
/// once, but not durably: after a power loss it may be there again, with the next segment behind it.
#[test]
fn what_a_failed_write_has_left_in_a_closed_segment_is_no_damage() {
    let small = LogConfig { segment_bytes: 10_000, ..config() };
    for (flushed, garbage) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), small.clone());
        for seed in 0..6 {
            site.append(&values(seed, 1, 4_000)).unwrap();
        }
        if flushed {
            site.flush().unwrap();
        }
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 2, key: None, value: Some(b"refused"), headers: &[] });
        let mut left = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut left, Offset(2), site.epoch);
        let left = if garbage { vec![7; 61] } else { left };
        let closed = site.disk.open(&site.file("00000000000000000000.log"), walser_log::Open::Edit).unwrap();
        closed.write_at(&left, closed.len().unwrap()).unwrap();
        let found = site.log.reader().find_time(2, Offset(6)).unwrap().unwrap();
        assert_eq!(found.offset, Offset(2));
        let disk = site.disk.lose_power(walser_log::PowerLoss::Nothing);
        site.restart_on(disk, small.clone());
        assert_eq!(site.found.scanned_segments == 0, flushed, "{:?}", site.found);
        assert!(site.found.cut.is_none() && site.found.damage.is_none(), "{:?}", site.found);
        assert_eq!(site.log.log_end(), Offset(6));
        site.check_contents();
        let read = site.log.reader().read(Offset(0), Offset(6), 1 << 20).unwrap();
        assert_eq!(read.next_offset, Offset(2), "the next read goes on in the next segment");
        assert_eq!(site.log.reader().find_time(2, Offset(6)).unwrap().unwrap().offset, Offset(2));
    }
}

#[test]
fn a_segment_that_is_gone_is_damage_also_behind_what_a_failed_write_has_left() {
    let small = LogConfig { segment_bytes: 10_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small.clone());
    for seed in 0..6 {
        site.append(&values(seed, 1, 4_000)).unwrap();
    }
    site.flush().unwrap();
    let mut builder = BatchBuilder::new(Compression::None, 0);
    for _ in 0..7 {
        builder.append(&RecordFields { timestamp: 2, key: None, value: Some(b"refused"), headers: &[] });
    }
    let mut left = builder.build(Producer::NONE).to_vec();
    stamp_position(&mut left, Offset(2), site.epoch);
    let closed = site.disk.open(&site.file("00000000000000000000.log"), walser_log::Open::Edit).unwrap();
    closed.write_at(&left, closed.len().unwrap()).unwrap();
    for name in ["00000000000000000002.log", "00000000000000000002.index"] {
        let _ = site.disk.remove_file(&site.file(name));
    }
    let disk = site.disk.restart_process();
    site.restart_on(disk, small);
    let read = site.log.reader().read(Offset(2), Offset(6), 1 << 20);
    assert!(matches!(read, Err(walser_log::ReadError::Corrupt { at: Offset(2) })), "{read:?}");
}

/// A stop closes files first, so that what it makes durable has descriptors to open.
#[test]
fn space_ahead_is_given_back_by_a_stop_also_where_files_were_closed_before() {
    for durability in [Durability::Fsync, Durability::PageCache] {
        let config = LogConfig { durability, ..large() };
        let (mut site, extension) = extending(config);
        let outcome = extension.run();
        site.log.finish_extension(&extension, &outcome);
        site.flush().unwrap();
        assert!(site.log.close_files() > 0);
        assert!(site.log.release_idle().unwrap());
        let path = site.file("00000000000000000000.log");
        let len = site.disk.open(&path, walser_log::Open::Read).unwrap().len().unwrap();
        assert_eq!(len, site.log.size_bytes(), "{durability:?}");
    }
}
