//! What a failed sync of a directory, or a lack of descriptors, must not do.

use std::path::Path;
use std::time::Duration;

use walser_log::{AppendError, Checkpoint, Disk as _, Log, LogConfig, MemoryDisk, Open, PowerLoss, ReadError};
use walser_model::Offset;

use crate::site::{Site, config, partition, values};

fn aged() -> LogConfig {
    LogConfig { segment_age: Duration::from_secs(1), retention: None, ..config() }
}

/// Power is lost; what was acknowledged is there.
fn lose_power(site: &mut Site, config: LogConfig) {
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config);
    assert_eq!(site.found.damage, None);
    site.check_contents();
}

#[test]
fn the_name_of_an_empty_segment_that_a_failed_sync_has_lost_is_written_again() {
    for rest in [false, true] {
        for syncs in 0..8 {
            let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
            site.append_at(5_000).unwrap();
            site.flush().unwrap();
            assert!(!rest || site.log.release_idle().unwrap());
            assert!(site.log.close_old_segment(10_000).unwrap());
            site.disk.fail_sync_after(syncs);
            let _ = site.flush();
            let disk = site.disk.restart_process();
            site.restart_on(disk, aged());
            site.append_at(11_000).unwrap();
            site.flush().unwrap();
            lose_power(&mut site, aged());
        }
    }
}

#[test]
fn the_name_of_a_directory_in_which_nothing_is_durable_is_written_again() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.disk.set_capacity(500);
    assert!(matches!(site.append(&values(1, 3, 900)), Err(AppendError::NoSpace)));
    site.disk.set_capacity(64 << 20);
    site.disk.fail_sync_after(0);
    site.disk.sync_dir(Path::new("/data/logs")).unwrap_err();
    let disk = site.disk.restart_process();
    site.restart_on(disk, config());
    site.append(&values(1, 3, 100)).unwrap();
    site.flush().unwrap();
    lose_power(&mut site, config());
}

#[test]
fn a_batch_that_was_refused_for_want_of_files_is_nowhere() {
    for spare in 0..4 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
        site.append_at(5_000).unwrap();
        site.flush().unwrap();
        assert!(site.log.release_idle().unwrap());
        let open = site.disk.open_files().open;
        site.disk.set_file_limit(Some(open + spare));
        let refused = site.append(&values(2, 1, 12)).is_err();
        site.disk.set_file_limit(None);
        let disk = site.disk.restart_process();
        let end = site.log.log_end();
        assert_eq!(end, Offset(if refused { 1 } else { 2 }));
        site.restart_on(disk, aged());
        assert_eq!(site.log.log_end(), end, "with {spare} files to spare");
        // In the next segment, under the offset that the refused one would have had.
        site.append_at(9_000).unwrap();
        site.flush().unwrap();
        site.check_contents();
        lose_power(&mut site, aged());
    }
}

#[test]
fn zeros_of_an_extension_that_found_no_space_do_not_stay_behind_a_closed_segment() {
    let large = || LogConfig { segment_bytes: 2 << 20, retention: None, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), large());
    while site.log.size_bytes() < 1_000_000 {
        site.append(&values(1, 1, 20_000)).unwrap();
    }
    site.flush().unwrap();
    let extension = site.log.begin_extension().unwrap();
    let used = (64u64 << 20) - site.disk.space(Path::new("/")).unwrap().free;
    site.disk.set_capacity(used + 900_000);
    let outcome = extension.run();
    assert!(outcome.is_err());
    site.log.finish_extension(&extension, &outcome);
    site.disk.set_capacity(64 << 20);
    site.append(&values(2, 1, 700_000)).unwrap();
    site.append(&values(3, 1, 600_000)).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let files = site.disk.list(site.log.dir()).unwrap();
    let bytes: u64 = files.iter().filter(|entry| entry.name.ends_with(".log")).map(|entry| entry.len).sum();
    assert_eq!(bytes, site.log.size_bytes(), "nothing lies behind the end of a segment");
    lose_power(&mut site, large());
}

#[test]
fn a_snapshot_stays_until_its_successor_cannot_be_taken_back() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for round in 0..100 {
        site.append(&values(round, 5, 400)).unwrap();
    }
    for sync in [true, true, false, false, false] {
        site.append(&values(1, 5, 400)).unwrap();
        site.log.move_recovery_point();
        site.flush().unwrap();
        if sync {
            Checkpoint::sync(&site.directory.checkpoint()).unwrap();
        }
    }
    lose_power(&mut site, config());
    let scanned = site.found.scanned_bytes;
    assert!(scanned < site.log.size_bytes() / 4, "{scanned} of {} bytes were read", site.log.size_bytes());
}

#[test]
fn a_repaired_log_ends_where_it_ended_also_after_a_restart() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append(&values(0, 5, 400)).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let path = site.file("00000000000000000000.log");
    let disk = site.disk.restart_process();
    disk.flip_bit(&path, 70, 3);
    site.restart_on(disk, config());
    let read = site.log.reader().read(Offset(2), Offset(5), 100);
    let Err(ReadError::Corrupt { at }) = read else { panic!("{read:?}") };
    site.log.note_damage(at);
    site.log.repair().unwrap();
    site.acknowledged = Offset(0);
    for times in 0..2 {
        assert_eq!(site.log.log_end(), Offset(0), "after {times} restarts: {:?}", site.found);
        let disk = site.disk.restart_process();
        site.restart_on(disk, config());
    }
}

/// Several segments, of which the flush of the last one is yet to come.
fn with_segments(disk: MemoryDisk) -> Site {
    let mut site = Site::new(disk, aged());
    for second in 0..6 {
        site.append_at(second * 2_000).unwrap();
        site.flush().unwrap();
    }
    site
}

/// A sync of the directory that fails loses the names of everybody who waits for it, also that of a new segment.
#[test]
fn what_a_failed_sync_of_a_deletion_has_lost_is_not_acknowledged() {
    for syncs in 0..6 {
        let mut site = with_segments(MemoryDisk::simulated(64 << 20));
        site.append_at(20_000).unwrap();
        site.disk.fail_sync_after(syncs);
        let _ = site.log.delete_records(Offset(3), 21_000);
        let _ = site.flush();
        let acknowledged = site.acknowledged;
        lose_power(&mut site, aged());
        assert!(site.log.log_end() >= acknowledged, "after {syncs} syncs");
    }
}

/// The mark of a deletion that failed is written by the next attempt, which finds the log start where it wants it.
#[test]
fn a_deletion_that_is_repeated_is_durable_when_it_succeeds() {
    let mut failed = 0;
    for syncs in 0..6 {
        let mut site = with_segments(MemoryDisk::simulated(64 << 20));
        // The checkpoint is written anew when its sync fails: there is no room for that.
        let space = site.disk.space(Path::new("/data")).unwrap();
        site.disk.set_capacity(space.total - space.free);
        site.disk.fail_sync_after(syncs);
        failed += usize::from(site.log.delete_records(Offset(3), 21_000).is_err());
        site.disk.set_capacity(64 << 20);
        site.log.delete_records(Offset(2), 21_000).unwrap();
        lose_power(&mut site, aged());
        assert!(site.log.log_start() >= Offset(2), "after {syncs} syncs: {}", site.log.log_start());
    }
    assert!(failed > 0);
}

/// Names that a deletion has removed come back one by one when power is lost.
#[test]
fn segments_below_the_log_start_are_not_missed() {
    for seed in 0..50 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
        site.append_at(0).unwrap();
        site.flush().unwrap();
        for second in 1..6 {
            site.append_at(second * 2_000).unwrap();
        }
        // Without room the recovery point stays where it is.
        let space = site.disk.space(Path::new("/data")).unwrap();
        site.disk.set_capacity(space.total - space.free);
        site.flush().unwrap();
        // The log start is durable then, and the names are not.
        site.disk.fail_sync_after(1);
        site.log.delete_records(Offset(4), 13_000).unwrap_err();
        site.disk.set_capacity(64 << 20);
        let disk = site.disk.lose_power(PowerLoss::Random(seed));
        // Somebody's names were written, and others were not.
        let second = Path::new("/data/logs").join(site.log.dir().file_name().unwrap()).join(format!("{:020}.log", 2));
        let _ = disk.remove_file(&second);
        site.restart_on(disk, aged());
        assert_eq!((site.found.damage.clone(), site.log.log_start()), (None, Offset(4)), "seed {seed}");
        // They go with the next look of retention, which makes the log start durable first.
        site.log.apply_retention(14_000, true, site.log.log_end()).unwrap();
        let left = site.disk.list(site.log.dir()).unwrap();
        assert!(!left.iter().any(|entry| entry.name == format!("{:020}.log", 0)), "seed {seed}");
        site.check_contents();
    }
}

/// The space that is filled ahead of the log is cut off when a segment is closed; the cut may not reach the disk.
#[test]
fn zeros_that_come_back_behind_a_closed_segment_are_its_end() {
    let large = LogConfig { segment_bytes: 1 << 20, segment_age: Duration::from_secs(1), ..config() };
    for seed in 0..50 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), large.clone());
        site.append(&values(1, 8, 10_000)).unwrap();
        site.extend();
        site.flush().unwrap();
        Checkpoint::sync(&site.directory.checkpoint()).unwrap();
        site.append_at(5_000).unwrap();
        let disk = site.disk.lose_power(PowerLoss::Random(seed));
        site.restart_on(disk, large.clone());
        site.written.truncate(usize::try_from(site.log.log_end().0).unwrap());
        site.append_at(9_000).unwrap();
        site.flush().unwrap();
        site.log.move_recovery_point();
        site.flush().unwrap();
        Checkpoint::sync(&site.directory.checkpoint()).unwrap();
        lose_power(&mut site, large.clone());
        site.log.apply_retention(10_000, true, site.log.log_end()).unwrap();
        assert_eq!(*site.log.condition(), walser_log::Condition::Healthy, "seed {seed}");
        site.check_contents();
    }
}

#[test]
fn a_look_up_by_time_opens_only_segments_that_may_hold_it() {
    let mut site = with_segments(MemoryDisk::simulated(64 << 20));
    assert!(site.log.release_idle().unwrap());
    assert_eq!(site.log.open_files(), 0);
    let found = site.log.reader().find_time(9_000, site.log.log_end()).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset(5), 10_000));
    assert_eq!(site.log.open_files(), 1);
}

#[test]
fn a_deletion_is_not_finished_before_the_log_start_is_durable() {
    for stop in 0..12 {
        for seed in 0..60 {
            let mut site = with_segments(MemoryDisk::simulated(64 << 20));
            assert!(site.log.release_idle().unwrap());
            Checkpoint::sync(&site.directory.checkpoint()).unwrap();
            site.disk.stop_after(stop);
            let _ = site.log.delete_records(Offset(4), 13_000);
            let disk = site.disk.restart_process();
            site.restart_on(disk, aged());
            let disk = site.disk.lose_power(PowerLoss::Random(seed));
            site.restart_on(disk, aged());
            assert_eq!(site.found.damage, None, "stop {stop}, seed {seed}");
        }
    }
}

/// The file of a next segment that was not begun would say to the next start that the log ends where it begins.
#[test]
fn nothing_is_acknowledged_behind_a_segment_that_could_not_be_begun() {
    for (stop, seed) in (0..12).flat_map(|stop| (0..20).map(move |seed| (stop, seed))) {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
        site.append_at(1).unwrap();
        site.flush().unwrap();
        site.disk.stop_after(stop);
        let _ = site.log.delete_records(Offset(1), 2);
        // The disk is back.
        site.disk.stop_after(u64::MAX);
        if site.append_at(3).is_ok() {
            let _ = site.flush();
        }
        let disk = if seed == 0 { site.disk.restart_process() } else { site.disk.lose_power(PowerLoss::Random(seed)) };
        site.restart_on(disk, aged());
        assert_eq!(site.found.damage, None, "stop {stop}, seed {seed}");
        site.check_contents();
    }
}

#[test]
fn a_log_whose_records_were_all_deleted_goes_on_where_it_ended() {
    for (syncs, seed) in (0..4).flat_map(|syncs| (0..60).map(move |seed| (syncs, seed))) {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
        for number in 0..4 {
            site.append(&values(number, 1, 900)).unwrap();
        }
        site.flush().unwrap();
        for number in 4..9 {
            site.append(&values(number, 1, 900)).unwrap();
        }
        // The name of the new segment has to reach the disk before the others go.
        site.disk.fail_sync_after(syncs);
        let deleted = site.log.delete_records(Offset(9), 10).is_ok();
        let disk = site.disk.restart_process();
        site.restart_on(disk, aged());
        let disk = site.disk.lose_power(PowerLoss::Random(seed));
        site.restart_on(disk, aged());
        assert_eq!(site.found.damage, None, "sync {syncs}, seed {seed}");
        let (start, end) = (site.log.log_start(), site.log.log_end());
        assert!(!deleted || (start, end) == (Offset(9), Offset(9)), "{start}..{end} after sync {syncs}, seed {seed}");
        site.written.truncate(usize::try_from(end.0).unwrap());
        site.append(&values(9, 1, 900)).unwrap();
        site.flush().unwrap();
        lose_power(&mut site, aged());
        assert_eq!(site.log.log_end(), end.plus(1), "sync {syncs}, seed {seed}");
    }
}

#[test]
fn a_name_from_before_does_not_replace_the_file_that_was_made_anew() {
    let mut site = with_segments(MemoryDisk::simulated(64 << 20));
    let moved = site.log.dir().join(format!("{:020}.moved", 5));
    site.disk.open(&moved, Open::Write).unwrap().write_at(b"an older file", 0).unwrap();
    let disk = site.disk.restart_process();
    site.restart_on(disk, aged());
    assert_eq!(site.log.log_end(), Offset(6));
    site.check_contents();
    assert!(!site.disk.list(site.log.dir()).unwrap().iter().any(|entry| entry.name.ends_with("moved")));
}

/// A flush that moves the recovery point runs on another thread, beside whatever the writer of the log does.
#[test]
fn a_late_flush_leaves_no_index_of_a_segment_that_was_removed_meanwhile() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), LogConfig { segment_bytes: 1 << 20, ..config() });
    (0..5).for_each(|round| site.append(&values(round, 3, 6000)).unwrap());
    site.log.move_recovery_point();
    let job = site.log.begin_flush().unwrap().unwrap();
    let end = site.log.log_end();
    site.log.delete_records(end, 0).unwrap();
    site.log.finish_flush(&job.run()).unwrap();
    let names = site.disk.list(site.log.dir()).unwrap();
    assert!(!names.iter().any(|entry| entry.name == "00000000000000000000.index"), "{names:?}");
}

#[test]
fn a_flush_and_a_deletion_do_not_meet_in_one_temporary_file() {
    for round in 0..500 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        (0..3).for_each(|number| site.append(&values(number, 3, 60)).unwrap());
        site.log.move_recovery_point();
        let job = site.log.begin_flush().unwrap().unwrap();
        let end = site.log.log_end();
        let outcome = std::thread::scope(|scope| {
            let flush = scope.spawn(move || job.run());
            (0..round % 50 * 20).for_each(|_| std::hint::spin_loop());
            site.log.delete_records(end, 0).unwrap();
            flush.join().unwrap()
        });
        assert!(outcome.error().is_none(), "round {round}: {:?}", outcome.error());
        site.log.finish_flush(&outcome).unwrap();
    }
}

#[test]
fn a_log_that_is_dropped_is_opened_again_with_its_marks() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(10, (3, 100));
    site.log.note_high_watermark(Offset(30), site.epoch);
    let Site { directory, log, .. } = site;
    drop(log);
    let dir = directory.partition_dir(partition());
    let (log, found) = Log::open(directory.disk(), dir, partition(), config(), directory.checkpoint(), 0).unwrap();
    assert_eq!((log.high_watermark().0, log.durable(), found.unmarked), (Offset(30), Offset(30), false));
    drop(log);
    assert_eq!(directory.checkpoint().lock().unclaimed().count(), 1, "there is one slot of it");
}
