//! Files that somebody has removed under a log that is open.

use walser_log::{Condition, Disk as _, LogConfig, MemoryDisk};
use walser_model::Offset;

use crate::site::{Site, config};

/// A log of several segments, the files of which are closed.
fn rested() -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), LogConfig { segment_bytes: 2_000, ..config() });
    for _ in 0..40 {
        site.append(&[vec![7; 200]]).unwrap();
        site.flush().unwrap();
    }
    site.log.close_files();
    site
}

fn bases(site: &Site) -> Vec<i64> {
    let names = site.disk.list(site.log.dir()).unwrap().into_iter().map(|entry| entry.name);
    let mut bases: Vec<i64> = names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    bases.sort_unstable();
    bases
}

#[test]
fn what_is_missing_is_known_and_repaired_without_a_restart() {
    for (number, whole) in [(0, false), (2, false), (0, true)] {
        let mut site = rested();
        assert_eq!(site.log.missing_from().unwrap(), None);
        let from = Offset(bases(&site)[number]);
        let path = site.log.dir().join(format!("{:020}.log", from.0));
        if whole {
            site.disk.remove_dir(site.log.dir()).unwrap()
        } else {
            site.disk.remove_file(&path).unwrap()
        }
        assert_eq!(site.log.missing_from().unwrap(), Some(from));
        assert!(site.log.note_damage(from));
        site.acknowledged = Offset::ZERO;
        site.log.repair().unwrap();
        assert_eq!(*site.log.condition(), Condition::Healthy);
        let start = site.log.log_start();
        assert!(site.log.log_end() == from || start > Offset::ZERO, "from {from}: {start}, {}", site.log.log_end());
        site.append(&[vec![8; 200]]).unwrap();
        site.flush().unwrap();
    }
}

/// Otherwise what is appended would lie behind a hole.
#[test]
fn a_last_file_that_was_removed_is_not_appended_to_as_if_it_were_there() {
    let mut site = rested();
    let last = *bases(&site).last().unwrap();
    site.disk.remove_file(&site.log.dir().join(format!("{last:020}.log"))).unwrap();
    assert!(site.append(&[vec![8; 200]]).is_err());
    assert_eq!(*site.log.condition(), Condition::Corrupt { from: Offset(last) });
}

/// There was no record in it.
#[test]
fn an_empty_log_whose_directory_was_removed_takes_records() {
    let mut site = rested();
    let end = site.log.log_end();
    site.log.delete_records(end, 1).unwrap();
    site.flush().unwrap();
    let disk = site.disk.restart_process();
    site.restart_on(disk, config());
    site.log.close_files();
    site.disk.remove_dir(site.log.dir()).unwrap();
    assert_eq!(site.log.missing_from().unwrap(), None);
    site.append(&[vec![8; 200]]).unwrap();
    site.flush().unwrap();
    assert_eq!((site.log.log_start(), site.log.log_end()), (end, end.plus(1)));
    let disk = site.disk.lose_power(walser_log::PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!((&site.found.damage, site.log.log_end()), (&None, end.plus(1)));
}

/// Its file was open, and had records that are deleted.
#[test]
fn a_log_without_records_whose_directory_was_removed_under_it_begins_anew() {
    for removed in [false, true] {
        let mut site = rested();
        let end = site.log.log_end();
        site.log.delete_records(end, 1).unwrap();
        site.flush().unwrap();
        if removed {
            site.disk.remove_dir(site.log.dir()).unwrap();
        }
        assert_eq!(site.log.missing_from().unwrap(), None);
        assert_eq!(site.log.begin_for_missing().unwrap(), removed);
        assert!(!site.log.begin_for_missing().unwrap());
        assert_eq!(site.log.begun_epoch(), walser_model::LeaderEpoch(1));
        site.append(&[vec![8; 200]]).unwrap();
        site.flush().unwrap();
        assert!(!site.log.begin_for_missing().unwrap());
        let disk = site.disk.lose_power(walser_log::PowerLoss::Everything);
        site.restart_on(disk, config());
        assert_eq!((site.log.log_start(), site.log.log_end()), (end, end.plus(1)));
    }
}
