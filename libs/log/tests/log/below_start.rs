//! Damage among records that are deleted and whose file is still there; and what is cut and kept beside a log.

use std::path::Path;

use walser_log::{Condition, Disk as _, LogConfig, MemoryDisk, Open, PowerLoss, Recovery};
use walser_model::{LeaderEpoch, Offset};

use crate::damage::{batch_len, log_files};
use crate::site::{Site, config, open, values};

/// Four batches of five records that are deleted, and two more that are acknowledged: the checkpoint on the disk knows of the
/// deletion, and not of these.
fn deleted_and_goes_on() -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append_flushed(4, (5, 20));
    site.append(&values(4, 5, 20)).unwrap();
    site.log.delete_records(Offset(20), 0).unwrap();
    site.flush().unwrap();
    site.append(&values(5, 5, 20)).unwrap();
    site.flush().unwrap();
    site
}

/// Flips a bit of a byte of the third of them.
fn hurt(site: &Site, path: &Path, byte: usize, bit: u8) -> MemoryDisk {
    let disk = site.disk.lose_power(PowerLoss::Everything);
    disk.flip_bit(path, 2 * batch_len(&disk, path) + byte, bit);
    disk
}

#[test]
fn damage_below_the_log_start_is_not_taken_for_a_log_that_was_begun_anew() {
    let site = deleted_and_goes_on();
    let (path, len) = log_files(&site).remove(0);
    // A record, the base offset, the leader epoch that those behind it contradict.
    for (byte, bit) in [(70, 3), (7, 1), (13, 5)] {
        let disk = hurt(&site, &path, byte, bit);
        for restarts in 0..3 {
            let (_, mut log, found) = open(&disk, config()).unwrap();
            let Recovery { damage, cut, .. } = found;
            assert_eq!((damage.map(|damage| damage.from), cut), (Some(Offset(10)), None), "{byte} {restarts}");
            assert_eq!((log.log_start(), log.log_end() >= Offset(20)), (Offset(20), true), "{byte}");
            if restarts == 2 {
                let (_, kept) = log.repair().unwrap();
                assert!(kept > len / 2, "what was acknowledged is set aside: {kept} of {len}");
                assert_eq!((log.condition(), log.log_start()), (&Condition::Healthy, Offset(20)));
                assert_eq!(log.begun_epoch(), LeaderEpoch(1), "a node does not forget what it has begun to lead");
            }
        }
        let (_, log, found) = open(&disk, config()).unwrap();
        assert_eq!((found.damage, log.log_end()), (None, Offset(20)), "{byte}: repaired for good");
    }
    let disk = site.disk.lose_power(PowerLoss::Everything);
    let (_, log, found) = open(&disk, config()).unwrap();
    assert_eq!((found.damage, log.log_end()), (None, Offset(30)), "without damage it is whole");
}

/// Of a topic that trusts the page cache, records may be deleted that are on no disk yet: their file ends where the power went.
#[test]
fn a_torn_end_below_the_log_start_is_no_damage_where_nothing_says_that_it_was_durable() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append(&values(0, 5, 20)).unwrap();
    site.flush().unwrap();
    site.append(&values(1, 5, 20)).unwrap();
    site.log.delete_records(Offset(10), 0).unwrap();
    let (_, log, found) = open(&site.disk.lose_power(PowerLoss::Everything), config()).unwrap();
    assert_eq!((found.damage, log.log_start(), log.log_end()), (None, Offset(10), Offset(10)));
}

#[test]
fn a_missing_file_does_not_bring_deleted_records_back() {
    let config = LogConfig { segment_bytes: 2_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    for _ in 0..40 {
        site.append(&[vec![7; 200]]).unwrap();
    }
    let deleted = Offset(3);
    site.log.delete_records(deleted, 0).unwrap();
    let files = log_files(&site);
    let disk = site.disk.restart_process();
    disk.remove_file(&files[0].0).unwrap();
    let (_, log, found) = open(&disk, config).unwrap();
    assert!(found.damage.is_some());
    assert_eq!(log.log_start(), deleted, "{:?}", log.condition());
}

/// A repair was killed between setting something aside and removing it, and has removed some of it: what is set aside the
/// second time is less.
#[test]
fn what_was_set_aside_once_is_never_overwritten() {
    let config = LogConfig { segment_bytes: 2_000, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    site.append_flushed(10, (1, 1_500));
    let files = log_files(&site);
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    let hurt = &files[5].0;
    disk.flip_bit(hurt, 70, 3);
    let (_, mut log, _) = open(&disk, config.clone()).unwrap();
    log.note_damage(Offset(5));
    let (_, whole) = log.repair().unwrap();
    assert!(whole > files[5..9].iter().map(|file| file.1).sum::<u64>(), "{whole}");
    // As a kill leaves it: what was cut is there again, but for the newest of it.
    let again = site.disk.lose_power(PowerLoss::Nothing);
    again.flip_bit(hurt, 70, 3);
    let names = disk.list(site.log.dir()).unwrap();
    let name = names.iter().map(|entry| entry.name.as_str()).find(|name| name.starts_with("cut-at-")).unwrap();
    let from = disk.open(&site.file(name), Open::Read).unwrap();
    let mut bytes = Vec::new();
    from.read_at(&mut bytes, 0, 1 << 20).unwrap();
    again.open(&site.file(name), Open::Write).unwrap().write_at(&bytes, 0).unwrap();
    again.remove_file(&files[9].0).unwrap();
    let (_, mut log, _) = open(&again, config).unwrap();
    log.note_damage(Offset(5));
    let (_, less) = log.repair().unwrap();
    let lens: Vec<u64> = again
        .list(site.log.dir())
        .unwrap()
        .into_iter()
        .filter(|entry| entry.name.starts_with("cut-at-"))
        .map(|entry| entry.len)
        .collect();
    assert!(less < whole && lens == [whole], "it has all of it already: {less} {lens:?}");
}

#[test]
fn what_is_too_much_to_be_kept_does_not_count_as_set_aside() {
    let mut site = Site::new(MemoryDisk::simulated(256 << 20), config());
    for seed in 0..80 {
        site.append(&values(seed, 1, 1_000_000)).unwrap();
    }
    let end = site.log.log_end();
    let kept = site.log.truncate(Offset(1), true).unwrap().unwrap();
    assert_eq!(site.disk.open(&kept.path, Open::Read).unwrap().len().unwrap(), kept.bytes);
    assert!((60 << 20..=64 << 20).contains(&kept.bytes) && kept.cut > 64 << 20, "{kept:?} of {end}");
}

fn segments(site: &Site) -> usize {
    let entries = site.disk.list(site.log.dir()).unwrap();
    entries.iter().filter(|entry| entry.name.ends_with(".log")).count()
}

/// Whoever has the log has it for as long as a call takes.
#[test]
fn a_few_segments_are_removed_at_a_time_also_after_a_restart() {
    let config = LogConfig { segment_bytes: 400, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    for _ in 0..200 {
        site.append(&[vec![7; 300]]).unwrap();
    }
    site.flush().unwrap();
    assert_eq!(segments(&site), 200);
    assert_eq!(site.log.delete_records(Offset(150), 0).unwrap(), Offset(150), "all of them are deleted at once");
    assert!(site.log.has_deleted() && (110..200).contains(&segments(&site)), "{}", segments(&site));
    site.check_contents();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config.clone());
    assert_eq!(site.log.log_start(), Offset(150));
    let mut calls = 0;
    while site.log.has_deleted() {
        let before = segments(&site);
        site.log.remove_deleted().unwrap();
        assert!((1..=40).contains(&(before - segments(&site))));
        calls += 1;
    }
    assert_eq!((segments(&site), calls), (50, 4));
    site.check_contents();

    site.log.configure(LogConfig { retention: None, retention_bytes: Some(0), ..config });
    let end = site.log.log_end();
    let removed = site.log.apply_retention(0, false, end).unwrap();
    assert!((1..=40).contains(&removed) && site.log.retention_due(0, false, end), "{removed}");
    while site.log.retention_due(0, false, end) {
        assert!(site.log.apply_retention(0, false, end).unwrap() > 0);
    }
    assert_eq!(segments(&site), 1);
    site.check_contents();
}
