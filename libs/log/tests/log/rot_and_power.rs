//! Rot that meets a checkpoint that has gone back with the power, a repair that fails, and readers beside all that.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use walser_log::{Condition, Disk as _, LogConfig, MemoryDisk, Open, PowerLoss, ReadError};
use walser_model::{LeaderEpoch, Offset};

use crate::damage::{batch_len, log_files, site_of};
use crate::site::{Site, config, open, partition, values};

/// A log that was stopped cleanly, the disk after that, and its settings.
fn hundred_files() -> (Site, MemoryDisk, LogConfig) {
    let config = LogConfig { segment_bytes: 2_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    site.append_flushed(100, (1, 1_500));
    assert!(site.log.release_idle().unwrap());
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    (site, disk, config)
}

#[test]
fn damage_below_a_durable_mark_that_is_below_the_log_start_is_damage() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(4, (5, 20));
    // 20 is durable. Deleted up to 22, which is not durable yet.
    site.append(&values(4, 5, 20)).unwrap();
    site.log.delete_records(Offset(22), 0).unwrap();
    site.flush().unwrap();
    site.append(&values(5, 5, 20)).unwrap();
    site.flush().unwrap();
    assert_eq!(site.acknowledged, Offset(30));
    let (path, _) = log_files(&site).remove(0);
    let disk = site.disk.lose_power(PowerLoss::Everything);
    let (_, log, found) = open(&disk.lose_power(PowerLoss::Nothing), config()).unwrap();
    assert_eq!((found.damage, log.log_end()), (None, Offset(30)));
    let size = batch_len(&disk, &path);
    disk.flip_bit(&path, 2 * size + 70, 3);
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(found.damage.is_some(), "healthy: {:?} end {} cut {:?}", log.condition(), log.log_end(), found.cut);
}

/// Damage that was noted durably is not forgotten.
#[test]
fn a_note_of_damage_survives_a_checkpoint_that_goes_back() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(6, (5, 20));
    assert_eq!(site.acknowledged, Offset(30));
    let (path, _) = log_files(&site).remove(0);
    let size = batch_len(&site.disk, &path);
    site.disk.flip_bit(&path, 4 * size + 70, 3);
    let read = site.log.reader().read(Offset(20), Offset(30), 1000);
    assert!(read.is_err());
    assert!(site.log.note_damage(Offset(20)));
    site.log.keep_damage().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(found.damage.is_some(), "healthy: {:?} end {} cut {:?}", log.condition(), log.log_end(), found.cut);
}

/// A leader epoch whose durability somebody waits for, when a log is begun anew for missing files.
#[test]
fn a_wanted_epoch_is_made_durable_after_a_beginning_for_missing_files() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append(&values(0, 5, 20)).unwrap();
    site.flush().unwrap();
    site.log.delete_records(Offset(5), 0).unwrap();
    site.flush().unwrap();
    for entry in site.disk.list(site.log.dir()).unwrap() {
        site.disk.remove_file(&site.file(&entry.name)).unwrap();
    }
    site.log.begin_epoch(LeaderEpoch(2), true);
    assert!(site.log.begin_for_missing().unwrap());
    site.flush().unwrap();
    assert_eq!(site.log.begun_epoch(), LeaderEpoch(2), "wanted {} dirty {}", site.log.epoch_wanted(), site.log.dirty());
}

/// More segments than files may be open.
#[test]
fn a_repair_opens_no_more_files_than_it_may() {
    let (site, disk, config) = hundred_files();
    let files = log_files(&site);
    disk.flip_bit(&files[90].0, 70, 3);
    disk.set_file_limit(Some(40));
    let (_, mut log, _) = open(&disk, config).unwrap();
    log.note_damage(Offset(90));
    let repaired = log.repair();
    assert!(repaired.is_ok(), "{repaired:?} {:?}", log.condition());
}

/// An opening that reads all, for want of the file of leader epochs.
#[test]
fn an_opening_that_reads_all_opens_no_more_files_than_it_may() {
    let (site, disk, config) = hundred_files();
    disk.remove_file(&site.file("leader-epochs")).unwrap();
    disk.set_file_limit(Some(40));
    let opened = open(&disk, config).map(|_| ());
    assert!(opened.is_ok(), "{opened:?}");
}

/// An opening that fails behind the setting aside, again and again.
#[test]
fn an_opening_that_fails_again_and_again_keeps_one_file() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append(&values(0, 5, 20)).unwrap();
    site.flush().unwrap();
    for seed in 1..5 {
        site.append(&values(seed, 5, 20)).unwrap();
    }
    let (path, _) = log_files(&site).remove(0);
    let size = batch_len(&site.disk, &path);
    let mut disk = site.disk.restart_process();
    disk.flip_bit(&path, size + 70, 3);
    let dir = site.log.dir().to_owned();
    let count =
        |disk: &MemoryDisk| disk.list(&dir).unwrap().into_iter().filter(|entry| entry.name.ends_with(".bytes")).count();
    let mut steps = 0;
    for _ in 0..20 {
        while count(&disk) == 0 {
            steps += 1;
            disk = disk.restart_process();
            disk.stop_after(steps);
            assert!(open(&disk, config()).is_err(), "{steps}");
        }
        disk = disk.restart_process();
        disk.stop_after(steps);
        assert!(open(&disk, config()).is_err());
    }
    assert_eq!(count(&disk), 1);
}

/// A repair that ends at the log start, and later rot among deleted records with a checkpoint that goes back.
#[test]
fn damage_is_damage_after_a_repair_that_ended_at_the_log_start() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(6, (5, 20));
    site.log.delete_records(Offset(20), 0).unwrap();
    let (path, _) = log_files(&site).remove(0);
    let size = batch_len(&site.disk, &path);
    site.disk.flip_bit(&path, 4 * size + 70, 3);
    assert!(site.log.note_damage(Offset(20)));
    site.log.repair().unwrap();
    assert_eq!((site.log.log_start(), site.log.log_end()), (Offset(20), Offset(20)));
    for seed in 7..9 {
        site.append(&values(seed, 5, 20)).unwrap();
        site.flush().unwrap();
    }
    assert_eq!(site.acknowledged, Offset(30));
    let disk = site.disk.lose_power(PowerLoss::Everything);
    let (_, log, found) = open(&disk.lose_power(PowerLoss::Nothing), config()).unwrap();
    assert_eq!((found.damage, log.log_end()), (None, Offset(30)));
    disk.flip_bit(&path, 2 * size + 70, 3);
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(
        found.damage.is_some() || log.log_end() == Offset(30),
        "{:?} end {} {found:?}",
        log.condition(),
        log.log_end()
    );
}

/// A repair that fails, and the log is closed and opened again by the same process.
#[test]
fn a_failed_repair_keeps_the_durable_mark() {
    let config = LogConfig { segment_bytes: 2_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    site.append_flushed(50, (1, 1_500));
    let files = log_files(&site);
    site.disk.flip_bit(&files[20].0, 70, 3);
    assert!(site.log.note_damage(Offset(20)));
    site.log.keep_damage().unwrap();
    site.log.close_files();
    site.disk.set_file_limit(Some(2));
    assert!(site.log.repair().is_err());
    site.disk.set_file_limit(None);
    let Site { directory, log, disk: _, .. } = site;
    directory.set_aside(log, 0).unwrap();
    directory.take_back(partition()).unwrap();
    let dir = directory.partition_dir(partition());
    let (log, found) =
        walser_log::Log::open(directory.disk(), dir, partition(), config, directory.checkpoint(), 0).unwrap();
    assert!(found.damage.is_some(), "{:?} end {} {found:?}", log.condition(), log.log_end());
}

/// Rot among deleted records.
#[test]
fn rot_among_deleted_records_keeps_the_others_readable() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    (0..8).for_each(|seed| site.append(&values(seed, 5, 20)).unwrap());
    site.flush().unwrap();
    site.log.delete_records(Offset(20), 0).unwrap();
    let (path, _) = log_files(&site).remove(0);
    site.disk.flip_bit(&path, 70, 3);
    assert!(site.log.release_idle().unwrap());
    assert!(site.log.reader().read(Offset(20), Offset(40), 10_000).is_ok());
    let found = site.log.reader().find_time(1, Offset(40));
    if let Err(ReadError::Corrupt { at }) = found {
        site.log.note_damage(at);
    }
    let read = site.log.reader().read(Offset(20), Offset(40), 10_000);
    let repaired = if read.is_err() { Some(site.log.repair()) } else { None };
    assert!(read.is_ok(), "{read:?}; repair {repaired:?}: {}..{}", site.log.log_start(), site.log.log_end());
}

/// A consumer asks again and again for what is damaged, while that is given up: what it has met is not of what comes behind.
#[test]
fn damage_that_is_met_during_a_repair_is_not_of_what_comes_behind_it() {
    let config = LogConfig { segment_bytes: 20_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(256 << 20), config);
    (0..300).for_each(|seed| site.append(&values(seed, 5, 1_000)).unwrap());
    site.flush().unwrap();
    let files = log_files(&site);
    let (hurt, _) = &files[files.len() - 2];
    let from = Offset(hurt.file_stem().unwrap().to_str().unwrap().parse().unwrap());
    site.disk.flip_bit(hurt, 70, 3);
    let end = site.log.log_end();
    assert!(site.log.note_damage(from));
    let (over, said) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let reader = site.log.reader();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let generation = reader.generation();
                if let Err(ReadError::Corrupt { .. }) = reader.read(from, end, 1000) {
                    said.lock().push(generation);
                }
            }
        });
        while said.lock().is_empty() {
            std::thread::yield_now();
        }
        site.log.repair().unwrap();
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!((site.log.log_end(), site.log.condition()), (from, &Condition::Healthy));
    assert!(!said.lock().contains(&site.log.generation()));
}

/// Records are cut and others appended in their place, all the time: nobody takes that for damage.
#[test]
fn readers_beside_cuts_meet_no_damage() {
    let config = LogConfig { segment_bytes: 3_000, index_interval_bytes: 200, ..config() };
    let mut site = Site::new(MemoryDisk::new(64 << 20), config);
    (0..4).for_each(|seed| site.append(&values(seed, 5, 20)).unwrap());
    let (over, odd) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let reader = site.log.reader();
    std::thread::scope(|threads| {
        for thread in 0..3_i64 {
            let (reader, over, odd) = (reader.clone(), &over, &odd);
            threads.spawn(move || {
                let mut number = thread;
                while !over.load(Ordering::Relaxed) {
                    number += 7;
                    let generation = reader.generation();
                    let (start, end) = (reader.log_start(), reader.log_end());
                    let from = start.plus(number % end.since(start).max(1));
                    let read = match thread {
                        0 => reader.read(from, end, 500).map(drop),
                        1 => reader.read_retained(from, end, 5_000).map(drop),
                        _ => reader.find_time(from.0, end).map(drop),
                    };
                    if let Err(error @ ReadError::Corrupt { .. }) = read
                        && reader.generation() == generation
                    {
                        odd.lock().push(format!("{thread}, from {from} to {end}: {error}"));
                    }
                }
            });
        }
        for round in 0..600_u64 {
            let end = site.log.log_end();
            let to = Offset((end.0 - 10).max(20) / 5 * 5);
            if end > to {
                site.log.truncate(to, false).unwrap();
            }
            site.epoch = LeaderEpoch(site.epoch.0 + 1);
            // What is appended is of other sizes each time.
            for number in 0..2 + round % 4 {
                let size = usize::try_from((round * 7 + number) % 90).unwrap();
                site.append(&values(round + number, 5, 12 + size)).unwrap();
            }
            if round % 50 == 0 {
                site.flush().unwrap();
                let before = Offset(((site.log.log_end().0 - 40) / 5 * 5 + 2).max(site.log.log_start().0));
                site.log.delete_records(before, 0).unwrap();
                site.log.release_closed_segments();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(*odd.lock(), Vec::<String>::new());
}

/// The process ends between writing the marks of a damaged log and the note that says so.
#[test]
fn a_file_that_is_missing_after_a_clean_stop_is_missed_until_it_is_repaired() {
    let config = LogConfig { segment_bytes: 2_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    site.append_flushed(10, (1, 1_500));
    assert!(site.log.release_idle().unwrap());
    let files = log_files(&site);
    let (dir, disk) = (site.log.dir().to_owned(), site.disk.lose_power(PowerLoss::Nothing));
    disk.remove_file(&files[4].0).unwrap();
    for _ in 0..3 {
        let (_, log, found) = open(&disk, config.clone()).unwrap();
        assert_eq!(found.damage.map(|damage| damage.from), Some(Offset(4)), "{:?}", log.condition());
        let notes = disk.list(&dir).unwrap().into_iter().filter(|entry| entry.name.starts_with("damaged-from-"));
        for note in notes.collect::<Vec<_>>() {
            disk.remove_file(&dir.join(note.name)).unwrap();
        }
    }
}

#[test]
fn a_note_of_damage_outlives_the_marks() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(6, (5, 20));
    let (path, _) = log_files(&site).remove(0);
    let size = batch_len(&site.disk, &path);
    site.disk.flip_bit(&path, 4 * size + 70, 3);
    assert!(site.log.note_damage(Offset(20)));
    site.log.keep_damage().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.remove_file(Path::new("/data/logs/checkpoint")).unwrap();
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(found.damage.is_some(), "healthy: {:?} end {} cut {:?}", log.condition(), log.log_end(), found.cut);
}

/// The lower one is of a file that was missing, and is there again.
#[test]
fn the_highest_note_of_damage_tells_what_was_durable() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(8, (5, 20));
    let (path, _) = log_files(&site).remove(0);
    let size = batch_len(&site.disk, &path);
    site.disk.flip_bit(&path, 6 * size + 70, 3);
    for at in [30, 10] {
        assert!(site.log.note_damage(Offset(at)));
        site.log.keep_damage().unwrap();
    }
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    disk.remove_file(Path::new("/data/logs/checkpoint")).unwrap();
    let (_, log, found) = open(&disk, config()).unwrap();
    assert!(found.cut.is_none() && found.damage.is_some(), "end {} cut {:?}", log.log_end(), found.cut);
}

/// Nothing syncs what `cp` has written, and a sync that fails leaves it in the cache, clean (rule R30).
#[test]
fn a_file_that_is_put_back_is_on_the_disk_also_after_a_sync_that_failed() {
    for fails in 0..40 {
        let mut site = site_of(120);
        assert!(site.log.release_idle().unwrap());
        let (path, _) = log_files(&site).swap_remove(1);
        let disk = site.disk.lose_power(PowerLoss::Nothing);
        let mut bytes = Vec::new();
        disk.open(&path, Open::Read).unwrap().read_at(&mut bytes, 0, 1 << 20).unwrap();
        disk.remove_file(&path).unwrap();
        site.restart_on(disk, config());
        assert!(matches!(site.log.condition(), Condition::Corrupt { .. }));
        let disk = site.disk.lose_power(PowerLoss::Nothing);
        disk.open(&path, Open::Write).unwrap().write_at(&bytes, 0).unwrap();
        disk.fail_sync_after(fails);
        drop(open(&disk, config()));
        site.restart_on(disk.restart_process(), config());
        assert_eq!((site.log.condition(), &site.found.damage), (&Condition::Healthy, &None), "sync {fails}");
        site.check_contents();
        let disk = site.disk.lose_power(PowerLoss::Everything);
        site.restart_on(disk, config());
        assert_eq!((site.log.condition(), &site.found.damage), (&Condition::Healthy, &None), "sync {fails}");
        site.check_contents();
    }
}

/// Also for the starts after the first one, which have marks again.
#[test]
fn a_note_below_the_first_file_stays_until_the_file_is_back_or_a_repair() {
    for repairs in [false, true] {
        let mut site = site_of(120);
        let (path, _) = log_files(&site).swap_remove(0);
        assert!(site.log.note_damage(Offset(0)));
        site.log.keep_damage().unwrap();
        let disk = site.disk.lose_power(PowerLoss::Nothing);
        let mut bytes = Vec::new();
        disk.open(&path, Open::Read).unwrap().read_at(&mut bytes, 0, 1 << 20).unwrap();
        disk.remove_file(&path).unwrap();
        disk.remove_file(Path::new("/data/logs/checkpoint")).unwrap();
        for start in 0..3 {
            let (_, log, found) = open(&disk, config()).unwrap();
            let damage = found.damage.map(|damage| damage.from);
            assert_eq!(damage, Some(Offset(0)), "start {start}: {:?} from {}", log.condition(), log.log_start());
            assert_eq!(log.condition(), &Condition::Corrupt { from: Offset(0) });
        }
        if repairs {
            open(&disk, config()).unwrap().1.repair().unwrap();
        } else {
            disk.open(&path, Open::Write).unwrap().write_at(&bytes, 0).unwrap();
        }
        let (_, log, found) = open(&disk, config()).unwrap();
        assert_eq!((log.condition(), found.damage), (&Condition::Healthy, None));
        assert_eq!((log.log_start() > Offset(0), log.log_end()), (repairs, Offset(600)));
    }
}
