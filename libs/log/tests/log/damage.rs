//! Damage to what had been durable: noticed, never served, never cut by itself.

use std::path::{Path, PathBuf};

use walser_log::{Condition, Disk as _, LogConfig, MemoryDisk, Open, PowerLoss, ReadError, Run};
use walser_model::{LeaderEpoch, Offset};

use crate::site::{ROOT, Site, config, open, values};

pub(crate) fn durable_site() -> Site {
    site_of(60)
}

/// So many batches of five records.
pub(crate) fn site_of(batches: u64) -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for seed in 0..batches {
        site.append(&values(seed, 5, 400)).unwrap();
        site.flush().unwrap();
    }
    site
}

/// Bytes of the first batch of a file.
pub(crate) fn batch_len(disk: &MemoryDisk, path: &Path) -> usize {
    let mut bytes = Vec::new();
    disk.open(path, Open::Read).unwrap().read_at(&mut bytes, 0, 1 << 20).unwrap();
    walser_record_batch::Batches::of(bytes.into()).next().unwrap().unwrap().1.len()
}

pub(crate) fn log_files(site: &Site) -> Vec<(PathBuf, u64)> {
    let entries = site.disk.list(site.log.dir()).unwrap().into_iter();
    let logs = entries.filter(|entry| entry.name.ends_with(".log") && entry.len > 0);
    let mut files: Vec<_> = logs.map(|entry| (site.file(&entry.name), entry.len)).collect();
    files.sort();
    files
}

#[test]
fn damage_below_the_mark_is_corruption_and_repair_gives_up_what_is_above() {
    let mut site = durable_site();
    let (path, _) = log_files(&site).pop().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.flip_bit(&path, 70, 3);
    site.restart_on(disk, config());
    let Condition::Corrupt { from } = *site.log.condition() else { panic!("{:?}", site.log.condition()) };
    assert_eq!(site.found.damage.as_ref().map(|damage| damage.from), Some(from));
    assert!(site.append(&values(1, 1, 1)).is_err(), "no writes");
    let reader = site.log.reader();
    let end = site.log.log_end();
    assert_eq!(end, Offset(300), "what was promised is still known");
    assert!(reader.read(Offset(0), end, 100).is_ok(), "reads below go on");
    assert!(matches!(reader.read(from, end, 100), Err(ReadError::Corrupt { .. })));

    let (known_end, set_aside) = site.log.repair().unwrap();
    assert_eq!(known_end, Offset(300));
    assert!(set_aside > 0);
    assert_eq!((site.log.log_end(), site.log.condition()), (from, &Condition::Healthy));
    site.acknowledged = from;
    site.append(&values(7, 2, 100)).unwrap();
    site.flush().unwrap();
    site.check_contents();
    let disk = site.disk.clone();
    site.restart_on(disk, config());
    assert_eq!(site.found.damage, None);
    site.check_contents();
}

#[test]
fn a_lost_directory_is_damage_not_an_empty_log() {
    let mut site = durable_site();
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.remove_dir(site.log.dir()).unwrap();
    site.restart_on(disk, config());
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(0) });
    let read = site.log.reader().read(Offset(5), Offset(300), 1);
    assert!(matches!(read, Err(ReadError::Corrupt { .. })));
}

#[test]
fn a_lost_segment_is_damage() {
    let mut site = durable_site();
    assert!(site.log.release_idle().unwrap());
    let files = log_files(&site);
    assert!(files.len() >= 2);
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.remove_file(&files.last().unwrap().0).unwrap();
    site.restart_on(disk, config());
    assert!(matches!(site.log.condition(), Condition::Corrupt { .. }));
}

/// The file is gone after a clean stop, and after a kill, when recovery begins behind it; the first one, too, which a
/// deletion of its records would have removed.
#[test]
fn a_lost_segment_at_the_start_or_in_the_middle_is_damage() {
    for (clean, lost) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let mut site = site_of(120);
        if clean {
            assert!(site.log.release_idle().unwrap());
        }
        let files = log_files(&site);
        assert!(files.len() >= 3);
        let disk = site.disk.clone();
        disk.remove_file(&files[lost].0).unwrap();
        site.restart_on(disk, config());
        let hole = last_readable(&site);
        assert_eq!(*site.log.condition(), Condition::Corrupt { from: hole }, "clean {clean}, segment {lost}");
        assert!((hole > Offset(0)) == (lost > 0) && hole < Offset(400), "{hole}");
        assert!(matches!(site.log.reader().read(hole, Offset(600), 100), Err(ReadError::Corrupt { .. })));
        let (end, set_aside) = site.log.repair().unwrap();
        if lost > 0 {
            assert!(set_aside > 0 && site.log.log_end() == hole, "{} of {hole}", site.log.log_end());
        } else {
            assert!(set_aside == 0 && site.log.log_end() == end && site.log.log_start() > hole, "the rest is kept");
        }
        let disk = site.disk.clone();
        site.restart_on(disk, config());
        assert_eq!(*site.log.condition(), Condition::Healthy);
    }
}

/// A read has met it, below what a start looks at: neither a kill nor a clean stop makes it forgotten. Once the file is put
/// back the log is sound.
#[test]
fn damage_that_was_met_is_known_until_the_records_can_be_read_again() {
    for clean in [true, false] {
        let mut site = site_of(120);
        assert!(site.log.note_damage(Offset(7)) && !site.log.note_damage(Offset(9)));
        site.log.keep_damage().unwrap();
        if clean {
            let _ = site.log.release_idle();
        }
        let (path, _) = log_files(&site).remove(0);
        site.disk.flip_bit(&path, 70, 3);
        for _ in 0..2 {
            let disk = site.disk.lose_power(PowerLoss::Everything);
            site.restart_on(disk, config());
            assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(7) });
            assert_eq!(site.found.damage.as_ref().map(|damage| damage.from), Some(Offset(7)));
        }
        site.disk.flip_bit(&path, 70, 3);
        for _ in 0..2 {
            let disk = site.disk.lose_power(PowerLoss::Everything);
            site.restart_on(disk, config());
            assert_eq!((site.log.condition(), &site.found.damage), (&Condition::Healthy, &None));
            site.check_contents();
        }
    }
}

/// A deletion has removed the first segments, and the process was killed: nothing is missing.
#[test]
fn segments_that_were_deleted_are_not_missing_after_a_kill() {
    let mut site = site_of(120);
    let before = Offset(300);
    site.log.delete_records(before, 0).unwrap();
    let disk = site.disk.clone();
    site.restart_on(disk, config());
    assert_eq!((site.log.condition(), site.log.log_start()), (&Condition::Healthy, before));
}

/// The entry of a partition in the checkpoint is lost, and the others are not: the log start is known all the same.
#[test]
fn a_log_without_marks_says_so_and_does_not_bring_deleted_records_back() {
    for clean in [true, false] {
        let mut site = site_of(120);
        site.log.delete_records(Offset(301), 0).unwrap();
        if clean {
            assert!(site.log.release_idle().unwrap());
        }
        let disk = site.disk.clone();
        let checkpoint = Path::new(ROOT).join("logs/checkpoint");
        let file = walser_log::Disk::open(&disk, &checkpoint, Open::Write).unwrap();
        let len = file.len().unwrap();
        file.write_at(&vec![0xa5; usize::try_from(len - 128).unwrap()], 128).unwrap();
        site.restart_on(disk, config());
        assert!(site.found.unmarked, "clean {clean}");
        assert_eq!((site.log.condition(), site.log.log_start()), (&Condition::Healthy, Offset(301)));
        assert_eq!(site.log.log_end(), site.acknowledged, "clean {clean}");
        let disk = site.disk.clone();
        site.restart_on(disk, config());
        assert!(!site.found.unmarked);
    }
}

fn last_readable(site: &Site) -> Offset {
    let mut at = Offset::ZERO;
    while let Ok(slice) = site.log.reader().read(at, Offset(600), 1000) {
        assert!(slice.next_offset > at, "stuck at {at}");
        at = slice.next_offset;
    }
    at
}

/// Whoever cannot read a batch does not know how old it is.
#[test]
fn retention_keeps_what_cannot_be_read() {
    let config = LogConfig { retention: Some(std::time::Duration::from_millis(100)), ..config() };
    for position in [30, 70, 300] {
        let mut site = site_of(1);
        assert!(site.log.release_idle().unwrap());
        let (path, size) = log_files(&site).remove(0);
        let disk = site.disk.clone();
        disk.flip_bit(&path, position, 3);
        site.restart_on(disk, config.clone());
        for _ in 0..2 {
            assert_eq!(site.log.apply_retention(1_000_000, true, Offset(5)).unwrap(), 0);
        }
        assert_eq!((site.log.log_start(), site.log.size_bytes()), (Offset(0), size));
        assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(0) });
        let (known_end, set_aside) = site.log.repair().unwrap();
        assert!(known_end == Offset(5) && (size - 16..=size).contains(&set_aside), "{set_aside} of {size}");
        site.log.append(&Run::default(), &[], 0).unwrap();
    }
}

#[test]
fn a_damaged_index_epoch_file_or_snapshot_is_made_again() {
    let mut site = durable_site();
    assert!(site.log.release_idle().unwrap());
    for entry in site.disk.list(site.log.dir()).unwrap() {
        if entry.name.ends_with(".log") || entry.len == 0 {
            continue;
        }
        for position in [0, usize::try_from(entry.len).unwrap() / 2, usize::try_from(entry.len).unwrap() - 1] {
            let disk = site.disk.lose_power(PowerLoss::Nothing);
            disk.flip_bit(&site.file(&entry.name), position, 5);
            let (directory, log, found) = open(&disk, config()).unwrap();
            let mut damaged = Site {
                disk,
                directory,
                log,
                found,
                written: site.written.clone(),
                acknowledged: Offset(300),
                epoch: LeaderEpoch(2),
            };
            damaged.check_contents();
            for time in [0, 150, 299] {
                let found = damaged.log.reader().find_time(time, Offset(300)).unwrap();
                assert_eq!(found.map(|found| found.offset.0), Some(time), "{} at {position}", entry.name);
            }
            damaged.append(&values(3, 1, 10)).unwrap();
            damaged.flush().unwrap();
            damaged.check_contents();
        }
    }
}

#[test]
fn damaged_or_missing_leader_epochs_are_made_again_from_the_batches() {
    for (clean, damage) in [(false, 12), (true, 12), (false, 0), (true, 0)] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        for epoch in 1..=4 {
            site.epoch = LeaderEpoch(epoch);
            site.log.begin_epoch(site.epoch, false);
            site.append(&values(7, 2, 100)).unwrap();
            site.flush().unwrap();
        }
        if clean {
            assert!(site.log.release_idle().unwrap());
        }
        let epochs = site.log.epochs();
        let disk = site.disk.lose_power(PowerLoss::Nothing);
        let file = site.file("leader-epochs");
        if damage == 0 {
            disk.remove_file(&file).unwrap();
        } else {
            disk.flip_bit(&file, damage, 3);
        }
        let (_directory, log, found) = open(&disk, config()).unwrap();
        assert!(found.rebuilt_epochs);
        assert_eq!(log.epochs(), epochs);
        let (_directory, log, found) = open(&disk, config()).unwrap();
        assert!(!found.rebuilt_epochs, "it is written down");
        assert_eq!((log.epochs(), log.log_end()), (epochs, Offset(8)));
    }
}

/// Makes zeros of a file from a byte on.
fn zero_tail(site: &Site, base: i64, from: usize) {
    let file = site.disk.open(&site.log.dir().join(format!("{base:020}.log")), Open::Write).unwrap();
    let len = usize::try_from(file.len().unwrap()).unwrap();
    file.write_at(&vec![0; len - from], from as u64).unwrap();
}

#[test]
fn zeros_over_durable_records_of_the_last_segment_are_not_its_end() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for number in 0..5 {
        site.append(&values(number, 1, 100)).unwrap();
        site.flush().unwrap();
    }
    assert!(site.log.release_idle().unwrap());
    let size = usize::try_from(site.log.size_bytes()).unwrap();
    zero_tail(&site, 0, size / 5 * 4);
    let disk = site.disk.restart_process();
    site.restart_on(disk, config());
    assert!(site.append(&values(9, 1, 100)).is_err());
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(4) });
    let read = site.log.reader().read(Offset(4), site.log.log_end(), 1000);
    assert!(matches!(read, Err(ReadError::Corrupt { at: Offset(4) })), "{read:?}");
}

#[test]
fn zeros_over_durable_records_of_a_closed_segment_are_damage() {
    let aged = || LogConfig {
        segment_age: std::time::Duration::from_secs(5),
        retention: Some(std::time::Duration::from_secs(1)),
        ..config()
    };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), aged());
    for number in 0..4 {
        site.append_at(100 + number).unwrap();
    }
    site.append_at(9_000).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let first = usize::try_from(site.log.size_bytes()).unwrap() / 5 * 4;
    zero_tail(&site, 0, first / 4 * 3);
    let disk = site.disk.restart_process();
    site.restart_on(disk, aged());
    let found = site.log.reader().find_time(103, site.log.log_end());
    assert!(matches!(found, Err(ReadError::Corrupt { at: Offset(3) })), "{found:?}");
    assert_eq!(site.log.apply_retention(1_000_000, true, site.log.log_end()).unwrap(), 0);
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(3) });
}

/// What had waited for a flush still does.
#[test]
fn a_segment_that_was_begun_before_a_repair_survives_power_loss_after_it() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    // Segments that were created at time 0 are of unknown age.
    site.append_at(5).unwrap();
    site.flush().unwrap();
    assert!(site.log.close_old_segment(i64::MAX).unwrap());
    site.log.note_damage(Offset(0));
    site.log.repair().unwrap();
    site.append(&values(3, 1, 100)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!(site.found.damage, None);
    site.check_contents();
}

/// There are more segments than files may be open.
#[test]
fn a_start_after_a_kill_needs_few_files_however_many_segments_there_are() {
    let mut site = site_of(700);
    assert!(log_files(&site).len() > 20);
    site.append(&values(1, 5, 400)).unwrap();
    let disk = site.disk.restart_process();
    disk.set_file_limit(Some(4));
    let (_directory, log, _) = open(&disk, config()).unwrap();
    assert_eq!(*log.condition(), Condition::Healthy);
}

/// The records that were damaged are gone with the power; others get their offsets.
#[test]
fn a_note_of_records_that_are_gone_is_gone_with_them() {
    let mut site = site_of(60);
    let end = site.log.log_end();
    site.append(&values(1, 50, 100)).unwrap();
    assert!(site.log.note_damage(end.plus(20)));
    site.log.keep_damage().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!((site.log.condition(), site.log.log_end()), (&Condition::Healthy, end));
    site.append(&values(2, 50, 100)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!(*site.log.condition(), Condition::Healthy);
}

/// A kill at any step of a repair leaves a log that is damaged still, or one that stays repaired.
#[test]
fn a_repair_that_was_killed_is_repeated_or_holds() {
    let damaged = || {
        let mut site = site_of(60);
        let _ = site.log.release_idle().unwrap();
        let (path, len) = log_files(&site).remove(0);
        let file = site.disk.open(&path, Open::Write).unwrap();
        file.write_at(&[0x5a; 40], len / 2).unwrap();
        site.log.note_damage(last_readable(&site));
        site.log.keep_damage().unwrap();
        site
    };
    let mut whole = damaged();
    let before = whole.disk.change_count();
    whole.log.repair().unwrap();
    for step in 0..=whole.disk.change_count() - before {
        let mut site = damaged();
        site.disk.stop_after(step);
        let _ = site.log.repair();
        let disk = site.disk.restart_process();
        let (_directory, mut log, _) = open(&disk, config()).unwrap();
        if *log.condition() != Condition::Healthy {
            log.repair().unwrap();
        }
        let mut again = Site { log, ..site };
        again.written.truncate(usize::try_from(again.log.log_end().0).unwrap());
        for round in 0..20 {
            again.append(&values(round, 5, 100)).unwrap();
        }
        again.flush().unwrap();
        let (_directory, log, _) = open(&disk.restart_process(), config()).unwrap();
        assert_eq!(*log.condition(), Condition::Healthy, "killed after {step} changes");
    }
}

/// A start that finds half of a partition that was being removed takes nothing of it for lost.
#[test]
fn a_kill_at_any_step_of_a_removal_is_no_damage() {
    let site = site_of(120);
    let (disk, before) = (site.disk.clone(), site.disk.change_count());
    site.log.remove().unwrap();
    for step in 0..disk.change_count() - before {
        let site = site_of(120);
        let disk = site.disk.clone();
        disk.stop_after(step);
        let _ = site.log.remove();
        let disk = disk.restart_process();
        let (_, log, found) = open(&disk, config()).unwrap();
        assert_eq!((found.damage, log.condition()), (None, &Condition::Healthy), "killed after {step} changes");
    }
}

#[test]
fn a_log_without_its_directory_is_repaired() {
    let mut site = site_of(3);
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let disk = site.disk.restart_process();
    disk.remove_dir(site.log.dir()).unwrap();
    let end = site.log.log_end();
    site.restart_on(disk, config());
    assert!(site.found.damage.is_some(), "{:?}", site.found);
    let (known_end, _) = site.log.repair().unwrap();
    assert_eq!((known_end, site.log.log_end()), (end, Offset(0)));
    site.written.clear();
    site.append(&values(1, 2, 100)).unwrap();
    site.flush().unwrap();
    site.check_contents();
}

#[test]
fn damage_that_is_met_further_below_counts_and_what_lies_above_says_nothing_new() {
    let mut site = durable_site();
    assert!(site.log.note_damage(Offset(200)) && site.log.note_damage(Offset(50)));
    assert!(!site.log.note_damage(Offset(50)) && !site.log.note_damage(Offset(70)), "it is known");
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(50) });
    site.log.keep_damage().unwrap();
    let (path, _) = log_files(&site).remove(0);
    site.disk.flip_bit(&path, 70, 3);
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    site.restart_on(disk, config());
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(50) }, "also after a restart");
}

#[test]
fn a_file_that_is_put_back_is_on_the_disk_once_the_log_is_sound() {
    let mut site = site_of(120);
    assert!(site.log.release_idle().unwrap());
    let files = log_files(&site);
    assert!(files.len() >= 3);
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    let mut bytes = Vec::new();
    disk.open(&files[1].0, Open::Read).unwrap().read_at(&mut bytes, 0, 1 << 20).unwrap();
    disk.remove_file(&files[1].0).unwrap();
    disk.sync_dir(site.log.dir()).unwrap();
    let disk = disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert!(matches!(site.log.condition(), Condition::Corrupt { .. }));
    // Nothing syncs what `cp` has written.
    let disk = site.disk.lose_power(PowerLoss::Everything);
    disk.open(&files[1].0, Open::Write).unwrap().write_at(&bytes, 0).unwrap();
    site.restart_on(disk, config());
    assert_eq!((site.log.condition(), &site.found.damage), (&Condition::Healthy, &None));
    site.check_contents();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    site.check_contents();
}

#[test]
fn a_note_below_the_first_file_is_damage_where_nobody_knows_what_was_there() {
    let mut site = site_of(120);
    let files = log_files(&site);
    assert!(files.len() >= 3);
    assert!(site.log.note_damage(Offset(0)));
    site.log.keep_damage().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.remove_file(&files[0].0).unwrap();
    disk.remove_file(Path::new("/data/logs/checkpoint")).unwrap();
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(found.damage.is_some(), "healthy: {:?} start {}", log.condition(), log.log_start());
}
