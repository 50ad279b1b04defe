//! What works without faults.

use std::time::Duration;

use proptest::prelude::*;
use walser_log::{AppendError, Condition, LogConfig, MemoryDisk, PowerLoss, ReadError};
use walser_model::{LeaderEpoch, Offset, SequenceCheck};
use walser_record_batch::{BatchHeader, HEADER_LEN, Producer, stamp_position, stamp_producer};

use crate::site::{Site, config, open, repeat, session, values};

fn filled(config: LogConfig, batches: u64) -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config);
    for seed in 0..batches {
        site.append(&values(seed, 7, 150)).unwrap();
    }
    site
}

#[test]
fn what_is_appended_reads_back_across_segments() {
    let mut site = filled(config(), 200);
    assert!(site.log.size_bytes() > 3 * (64 << 10), "several segments");
    site.flush().unwrap();
    assert_eq!(site.acknowledged, Offset(1400));
    site.check_contents();
    let reader = site.log.reader();
    let below = reader.read(Offset(1399), Offset(1399), 100).unwrap();
    assert!(below.batches.is_empty(), "nothing at the bound");
    assert!(matches!(reader.read(Offset(1401), Offset(1400), 1), Err(ReadError::OutOfRange { .. })));
    let bounded = reader.read(Offset(0), Offset(10), 1 << 20).unwrap();
    assert_eq!(bounded.next_offset, Offset(7), "only whole batches below the bound");
}

#[test]
fn times_and_offsets_are_found() {
    let site = filled(config(), 200);
    let reader = site.log.reader();
    for time in [0, 1, 6, 7, 699, 1399] {
        let found = reader.find_time(time, Offset(1400)).unwrap().unwrap();
        assert_eq!((found.offset.0, found.timestamp, found.leader_epoch), (time, time, LeaderEpoch(1)));
        assert_eq!(reader.find_record(Offset(time), Offset(1400)).unwrap(), Some(found));
    }
    assert_eq!(reader.find_record(Offset(1400), Offset(1400)).unwrap(), None);
    assert_eq!(reader.find_time(1400, Offset(1400)).unwrap(), None);
    assert_eq!(reader.find_time(1300, Offset(1295)).unwrap(), None);
}

#[test]
fn a_batch_that_does_not_decode_is_no_damage_to_a_search_for_a_time() {
    let mut site = filled(config(), 3);
    let at = site.log.log_end();
    let value = vec![7; 5000];
    let mut builder = walser_record_batch::BatchBuilder::new(walser_model::Compression::Zstd, 0);
    builder.append(&walser_record_batch::RecordFields {
        timestamp: at.0,
        key: None,
        value: Some(&value),
        headers: &[],
    });
    let mut garbage = builder.build(Producer::NONE).to_vec();
    garbage[HEADER_LEN..].fill(0xa5);
    stamp_producer(&mut garbage, walser_model::ProducerId::NONE, walser_model::ProducerEpoch(-1), -1);
    stamp_position(&mut garbage, at, LeaderEpoch(1));
    let header = BatchHeader::parse(&garbage).unwrap();
    site.log.append(&garbage[..].into(), &[header], at.0).map_err(|(_, error)| error).unwrap();
    let found = site.log.reader().find_time(at.0, at.plus(1));
    assert!(matches!(found, Err(ReadError::Unreadable { at: from, resume, .. }) if (from, resume) == (at, at.plus(1))));
    let before = site.log.reader().find_time(at.0 - 1, at.plus(1)).unwrap().unwrap();
    assert_eq!(before.offset, Offset(at.0 - 1), "records before it are found");
    assert_eq!(site.log.reader().read(at, at.plus(1), 1).unwrap().next_offset, at.plus(1), "it is still served whole");
}

#[test]
fn a_clean_stop_leaves_nothing_to_read_again() {
    let mut site = filled(config(), 100);
    site.append_as(&values(9, 2, 20), session(4, 0)).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    assert_eq!(site.log.open_files(), 0);
    assert!(site.log.memory_bytes() <= 16 << 10, "{} bytes", site.log.memory_bytes());
    let disk = site.disk.clone();
    site.restart_on(disk, config());
    assert_eq!(site.found, walser_log::Recovery::default());
    assert_eq!(site.log.open_files(), 0);
    site.check_contents();
    let again = repeat(&mut site, session(4, 0), 2);
    assert_eq!(
        again,
        SequenceCheck::Duplicate { base_offset: Offset(700), next_offset: Offset(702), max_timestamp: 701 }
    );
    site.append(&values(10, 3, 30)).unwrap();
    site.flush().unwrap();
    site.check_contents();
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let mut site = filled(config(), 100);
    site.append_as(&values(1, 1, 20), session(4, 0)).unwrap();
    let disk = site.disk.clone();
    site.restart_on(disk, config());
    assert_eq!(site.log.log_end(), Offset(701));
    assert!(site.found.scanned_segments > 0 && site.found.cut.is_none() && site.found.damage.is_none());
    site.check_contents();
    let duplicate = SequenceCheck::Duplicate { base_offset: Offset(700), next_offset: Offset(701), max_timestamp: 700 };
    assert_eq!(repeat(&mut site, session(4, 0), 1), duplicate);
}

#[test]
fn recovery_reads_only_what_follows_the_recovery_point() {
    let config = LogConfig { segment_bytes: 1 << 30, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(512 << 20), config.clone());
    for seed in 0..130 {
        site.append(&values(seed, 1, 1 << 20)).unwrap();
        site.flush().unwrap();
    }
    let disk = site.disk.clone();
    site.restart_on(disk, config);
    assert_eq!(site.log.log_end(), Offset(130));
    assert!(site.found.scanned_bytes < 66 << 20, "{} bytes were read", site.found.scanned_bytes);
}

#[test]
fn truncation_forgets_records_epochs_and_producers() {
    let mut site = filled(config(), 100);
    site.epoch = LeaderEpoch(2);
    site.log.begin_epoch(LeaderEpoch(2), false);
    site.append_as(&values(1, 7, 20), session(4, 0)).unwrap();
    site.flush().unwrap();
    site.log.truncate(Offset(700), false).unwrap();
    assert_eq!((site.log.log_end(), site.log.latest_epoch()), (Offset(700), LeaderEpoch(1)));
    assert_eq!(repeat(&mut site, session(4, 7), 1), SequenceCheck::Unknown);
    site.log.truncate(Offset(350), false).unwrap();
    site.acknowledged = Offset(350);
    site.check_contents();
    assert!(site.log.truncate(Offset(345), false).is_err(), "inside a batch");
    site.append(&values(2, 5, 40)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!(site.log.log_end(), Offset(355));
    site.check_contents();
}

#[test]
fn deleted_records_stay_deleted() {
    let mut site = filled(config(), 200);
    site.flush().unwrap();
    let before = site.log.size_bytes();
    assert_eq!(site.log.delete_records(Offset(1000), 0).unwrap(), Offset(1000));
    assert!(site.log.size_bytes() < before);
    assert!(matches!(site.log.reader().read(Offset(999), Offset(1400), 1), Err(ReadError::OutOfRange { .. })));
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!(site.log.log_start(), Offset(1000));
    site.check_contents();
    assert!(site.log.delete_records(Offset(1401), 0).is_err());
}

#[test]
fn retention_removes_by_size_and_by_age() {
    let by_size = LogConfig { retention: None, retention_bytes: Some(100 << 10), ..config() };
    let mut site = filled(by_size, 200);
    site.flush().unwrap();
    assert!(site.log.apply_retention(0, true, Offset(1400)).unwrap() > 0);
    let size = site.log.size_bytes();
    assert!((100 << 10..200 << 10).contains(&size), "{size}");
    site.check_contents();

    let by_age = LogConfig { retention: Some(Duration::from_millis(100)), ..config() };
    site.log.configure(by_age.clone());
    assert_eq!(site.log.apply_retention(1100, true, Offset(1400)).unwrap(), 0, "the newest record is of 1399");
    site.log.apply_retention(2000, true, Offset(1400)).unwrap();
    assert_eq!((site.log.log_start(), site.log.log_end(), site.log.size_bytes()), (Offset(1400), Offset(1400), 0));
    site.flush().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, by_age);
    assert_eq!((site.log.log_start(), site.log.log_end()), (Offset(1400), Offset(1400)));
    site.append(&values(1, 1, 10)).unwrap();
    assert_eq!(site.log.log_end(), Offset(1401));
}

#[test]
fn old_segments_are_closed_by_time() {
    let config = LogConfig { segment_age: Duration::from_millis(50), ..config() };
    let site = filled(config, 20);
    let names = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    assert!(names.iter().filter(|entry| entry.name.ends_with(".log")).count() >= 2);
    site.check_contents();
}

#[test]
fn a_full_disk_refuses_appends_and_keeps_what_is_there() {
    let mut site = Site::new(MemoryDisk::simulated(100 << 10), config());
    let refused = loop {
        if let Err(error) = site.append(&values(1, 4, 500)) {
            break error;
        }
        site.flush().unwrap();
    };
    assert!(matches!(refused, AppendError::NoSpace), "{refused}");
    assert_eq!(*site.log.condition(), Condition::Healthy);
    site.check_contents();
    site.disk.set_capacity(1 << 20);
    site.append(&values(2, 4, 500)).unwrap();
    site.flush().unwrap();
    site.check_contents();
}

#[test]
fn a_failed_sync_takes_the_log_out_of_service() {
    let mut site = filled(config(), 3);
    site.disk.fail_sync_after(0);
    assert!(site.flush().is_err());
    assert!(matches!(site.log.condition(), Condition::Failed { .. }));
    assert!(site.append(&values(1, 1, 10)).is_err());
    assert!(site.log.begin_flush().is_err(), "a failed sync is never tried again");
    assert!(!site.log.dirty(), "a flush would be due for ever");
    assert_eq!(site.acknowledged, Offset(0));
}

#[test]
fn zero_filled_space_ahead_is_not_log() {
    let config = LogConfig { segment_bytes: 8 << 20, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config.clone());
    for seed in 0..300 {
        site.append(&values(seed, 1, 1500)).unwrap();
        site.flush().unwrap();
        site.extend();
    }
    let names = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    let file = names.iter().find(|entry| entry.name.ends_with(".log")).unwrap().len;
    assert!(file > site.log.size_bytes(), "space is filled ahead");
    let end = site.log.log_end();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config);
    assert_eq!((site.log.log_end(), &site.found.cut), (end, &None));
    site.append(&values(1, 1, 100)).unwrap();
    site.flush().unwrap();
    site.check_contents();
    assert!(site.log.release_idle().unwrap());
    let names = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    let file = names.iter().find(|entry| entry.name.ends_with(".log")).unwrap().len;
    assert_eq!(file, site.log.size_bytes(), "a rest cuts it off");
}

#[derive(Debug, Clone)]
enum Action {
    Append(usize, usize),
    Flush,
    Extend,
    Rest,
    Kill,
    Delete(prop::sample::Index),
    Truncate(prop::sample::Index),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (1..6usize, 1..3000usize).prop_map(|(count, size)| Action::Append(count, size)),
        3 => Just(Action::Flush),
        2 => Just(Action::Extend),
        1 => Just(Action::Rest),
        1 => Just(Action::Kill),
        1 => any::<prop::sample::Index>().prop_map(Action::Delete),
        1 => any::<prop::sample::Index>().prop_map(Action::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_reads_back(actions in proptest::collection::vec(action(), 1..60)) {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        for (seed, action) in actions.into_iter().enumerate() {
            let (start, end) = (site.log.log_start().0, site.log.log_end().0);
            let between = |index: prop::sample::Index| {
                let span = usize::try_from(end - start).unwrap() + 1;
                Offset(start + i64::try_from(index.index(span)).unwrap())
            };
            match action {
                Action::Append(count, size) => site.append(&values(seed as u64, count, size)).unwrap(),
                Action::Flush => site.flush().unwrap(),
                Action::Extend => site.extend(),
                Action::Rest => {
                    site.flush().unwrap();
                    prop_assert!(site.log.release_idle().unwrap());
                }
                Action::Kill => {
                    let disk = site.disk.clone();
                    site.restart_on(disk, config());
                    prop_assert_eq!(site.log.log_end(), Offset(end));
                }
                Action::Delete(index) => drop(site.log.delete_records(between(index), 0).unwrap()),
                Action::Truncate(index) => {
                    if site.log.truncate(between(index), false).is_ok() {
                        site.acknowledged = site.acknowledged.min(site.log.log_end());
                    }
                }
            }
            site.check_contents();
        }
    }
}

#[test]
fn deleting_everything_from_an_empty_last_segment_keeps_its_file() {
    let mut site = filled(config(), 200);
    let names = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
    let bases = names.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok());
    let base = Offset(bases.max().unwrap());
    assert!(base > Offset(0) && base < site.log.log_end(), "there are several segments");
    site.log.truncate(base, false).unwrap();
    site.acknowledged = base;
    site.log.delete_records(base, 0).unwrap();
    site.append(&values(8, 2, 10)).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    site.check_contents();
}

#[test]
fn a_refused_truncation_changes_nothing() {
    let mut site = filled(config(), 200);
    assert!(site.log.truncate(Offset(3), false).is_err(), "inside the first batch");
    assert_eq!(site.log.log_end(), Offset(1400));
    site.check_contents();
}

#[test]
fn a_run_that_fits_only_in_part_says_how_much_is_in_the_log() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), LogConfig { segment_bytes: 16 << 10, ..config() });
    site.append(&values(0, 2, 100)).unwrap();
    // Room for what still goes into the open segment, and none for another file's worth.
    site.disk.set_capacity(24 << 10);
    let mut run = Vec::new();
    let mut headers = Vec::new();
    let mut next = site.log.log_end();
    for seed in 0..8 {
        let mut builder = walser_record_batch::BatchBuilder::new(walser_model::Compression::None, 0);
        for value in &values(seed, 1, 4000) {
            let fields =
                walser_record_batch::RecordFields { timestamp: 0, key: None, value: Some(value), headers: &[] };
            builder.append(&fields);
        }
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, next, LeaderEpoch(1));
        let header = BatchHeader::parse(&batch).unwrap();
        next = header.next_offset();
        headers.push(header);
        run.extend(batch);
    }
    let (count, error) = site.log.append(&run[..].into(), &headers, 0).unwrap_err();
    assert!(matches!(error, AppendError::NoSpace), "{error}");
    assert!(count > 0 && count < 8, "{count}");
    assert_eq!(site.log.log_end(), headers[count - 1].next_offset());
}

#[test]
fn a_log_whose_sync_failed_does_not_pass_for_cleanly_stopped() {
    let mut site = filled(config(), 3);
    site.disk.fail_sync_after(0);
    assert!(site.flush().is_err());
    assert!(!site.log.release_idle().unwrap());
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, config());
    assert_eq!(site.log.log_end(), Offset(0), "nothing of it was durable");
}

/// One record every two seconds, closed and opened again between them, as an idle partition is.
#[test]
fn segments_age_by_the_time_of_their_records_however_often_the_log_is_opened() {
    let second = Duration::from_secs(1);
    let aging = LogConfig { segment_age: 5 * second, retention: Some(20 * second), ..config() };
    for restarts in [false, true] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), aging.clone());
        for tick in 0..45i64 {
            site.append_at(tick * 2_000).unwrap();
            site.flush().unwrap();
            assert!(site.log.release_idle().unwrap());
            if restarts {
                let disk = site.disk.lose_power(PowerLoss::Nothing);
                site.restart_on(disk, aging.clone());
            }
            site.log.apply_retention(tick * 2_000, true, site.log.log_end()).unwrap();
        }
        let kept = site.log.log_end().since(site.log.log_start());
        assert!((10..=14).contains(&kept), "20 s and one segment are kept, {kept} records of 2 s each");
    }
}

#[test]
fn a_segment_to_which_nothing_is_written_is_closed_when_it_was_created_long_ago() {
    let aging = LogConfig { segment_age: Duration::from_secs(5), retention: None, ..config() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), aging.clone());
    site.append_at(1_000).unwrap();
    site.flush().unwrap();
    assert!(site.log.release_idle().unwrap());
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    site.restart_on(disk, aging);
    let files = |site: &Site| {
        let entries = walser_log::Disk::list(&site.disk, site.log.dir()).unwrap();
        entries.iter().filter(|entry| entry.name.ends_with(".log")).count()
    };
    assert!(!site.log.close_old_segment(5_999).unwrap());
    assert!(site.log.close_old_segment(6_000).unwrap());
    assert!(!site.log.close_old_segment(60_000).unwrap(), "the next one is empty");
    assert_eq!(files(&site), 2);
    site.log.apply_retention(1_000_000, false, Offset(1)).unwrap();
    assert_eq!(site.log.log_start(), Offset(0));
}

#[test]
fn retention_goes_on_while_an_extension_runs_and_does_not_believe_a_clock_that_jumped() {
    let retention = Some(Duration::from_secs(1));
    let mut site = filled(LogConfig { retention, segment_bytes: 300 << 10, ..config() }, 1_000);
    while site.log.begin_extension().is_none() {
        let seed = site.log.log_end().0.unsigned_abs();
        site.append(&values(seed, 5, 9_000)).unwrap();
        site.flush().unwrap();
    }
    let end = site.log.log_end();
    assert_eq!(site.log.apply_retention(1_000_000, false, end).unwrap(), 0);
    assert!(site.log.apply_retention(1_000_000, true, end).unwrap() > 0);
    assert!(site.log.log_start() < end, "the segment that is being extended stays");
    site.check_contents();
}

#[test]
fn the_latest_append_time_is_known_after_a_kill_and_after_power_loss() {
    for loss in [PowerLoss::Nothing, PowerLoss::Everything] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        let mut builder = walser_record_batch::BatchBuilder::new(walser_model::Compression::None, 0);
        builder.append(&walser_record_batch::RecordFields { timestamp: 5, key: None, value: None, headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        let (header, body) = batch.split_at_mut(HEADER_LEN);
        walser_record_batch::stamp_append_time(header, body, 7_000);
        let header = BatchHeader::parse(&batch).unwrap();
        site.log.append(&batch[..].into(), &[header], 0).unwrap();
        site.flush().unwrap();
        let disk = site.disk.lose_power(loss);
        site.restart_on(disk, config());
        assert_eq!(site.log.append_time(), 7_000, "{loss:?}");
    }
}

#[test]
fn the_start_of_an_epoch_without_records_outlives_a_loss_of_power_and_records_of_earlier_epochs() {
    let mut site = filled(config(), 10);
    let end = site.log.log_end();
    site.log.begin_epoch(LeaderEpoch(7), true);
    assert_eq!(site.log.begun_epoch(), LeaderEpoch::NONE, "not flushed yet");
    site.flush().unwrap();
    assert_eq!((site.log.begun_epoch(), site.log.latest_epoch()), (LeaderEpoch(7), LeaderEpoch(1)));
    // As a follower, it takes records of epochs before.
    site.epoch = LeaderEpoch(6);
    site.append(&values(2, 5, 40)).unwrap();
    site.flush().unwrap();
    let (directory, log, _) = open(&site.disk.lose_power(PowerLoss::Everything), config()).unwrap();
    assert_eq!((log.begun_epoch(), log.latest_epoch()), (LeaderEpoch(7), LeaderEpoch(6)));
    assert_eq!((log.reader().epoch_of(end), log.reader().latest_epoch()), (LeaderEpoch(6), LeaderEpoch(7)));
    drop((directory, log));
    site.log.truncate(end, false).unwrap();
    assert_eq!((site.log.begun_epoch(), site.log.latest_epoch()), (LeaderEpoch(7), LeaderEpoch(1)));
    site.log.truncate(Offset(end.0 - 7), false).unwrap();
    assert_eq!(site.log.begun_epoch(), LeaderEpoch::NONE, "it began above that");
}

#[test]
fn the_start_of_an_epoch_is_kept_of_a_log_that_never_had_a_record() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.log.begin_epoch(LeaderEpoch(4), true);
    site.flush().unwrap();
    assert_eq!(site.log.begun_epoch(), LeaderEpoch(4));
    let (_directory, log, _) = open(&site.disk.lose_power(PowerLoss::Everything), config()).unwrap();
    assert_eq!((log.begun_epoch(), log.latest_epoch()), (LeaderEpoch(4), LeaderEpoch::NONE));
}

#[test]
fn the_epoch_of_records_that_are_all_deleted_is_known_after_a_stop_and_after_a_kill() {
    for stopped in [false, true] {
        let mut site = filled(config(), 10);
        site.flush().unwrap();
        let end = site.log.log_end();
        site.log.delete_records(end, 0).unwrap();
        site.flush().unwrap();
        if stopped {
            assert!(site.log.release_idle().unwrap());
        }
        let (_directory, log, _) = open(&site.disk.restart_process(), config()).unwrap();
        assert_eq!((log.log_start(), log.log_end(), log.latest_epoch()), (end, end, LeaderEpoch(1)), "{stopped}");
    }
}
