//! Bits that are flipped in what is on the disk: what is read is as it was written, or it is refused.

use walser_log::{Disk as _, Log, MemoryDisk, PowerLoss, ReadError, Slice};
use walser_model::{LeaderEpoch, Offset};

use crate::damage::{durable_site, log_files};
use crate::site::{Site, config, open, values};

/// Flips every 97th bit of every log file: a reader gets the right bytes or an error, never wrong ones.
#[test]
fn a_flipped_bit_is_never_served() {
    let site = durable_site();
    let mut noticed = 0;
    for (path, len) in log_files(&site) {
        for position in (0..usize::try_from(len).unwrap()).step_by(97) {
            let disk = site.disk.lose_power(PowerLoss::Nothing);
            disk.flip_bit(&path, position, u8::try_from(position % 8).unwrap());
            let (directory, log, _) = open(&disk, config()).unwrap();
            let (written, acknowledged) = (site.written.clone(), Offset::ZERO);
            let found = walser_log::Recovery::default();
            let damaged = Site { disk, directory, log, found, written, acknowledged, epoch: LeaderEpoch(2) };
            noticed += usize::from(!reads_right_or_fails(&damaged));
        }
    }
    assert!(noticed > 100, "{noticed} flips were noticed");
}

/// Reads until the first error; what is read must be right. Whether everything could be read.
fn reads_right_or_fails(site: &Site) -> bool {
    let (mut at, end) = (site.log.log_start(), site.log.log_end());
    while at < end {
        let Ok(slice) = site.log.reader().read(at, end, 2000) else { return false };
        if slice.batches.is_empty() {
            return false;
        }
        for (header, batch) in walser_record_batch::Batches::of(slice.batches).map(Result::unwrap) {
            for record in walser_record_batch::Records::open(header, &batch).unwrap().map(Result::unwrap) {
                let expected = &site.written[usize::try_from(record.offset.0).unwrap()];
                assert_eq!(record.value.as_deref(), Some(expected.value.as_slice()));
            }
        }
        at = slice.next_offset;
    }
    true
}

/// What a log gives to whoever reads from each of its offsets on, the deleted ones in batches that are still there, too.
fn reads(log: &Log) -> Vec<Result<Slice, ReadError>> {
    let (reader, end) = (log.reader(), log.log_end());
    (0..end.0).map(|from| reader.read_retained(Offset(from), end, 100)).collect()
}

/// Also in the base offset and the leader epoch, which no checksum covers, and in the length in offsets, which decides how far
/// a batch reaches. The same after a start that reads what is on the disk.
#[test]
fn no_damaged_header_is_served_or_looks_like_the_end_of_the_log() {
    for log_start in [0, 7] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        for seed in 0..4 {
            site.append(&values(seed, 5, 20)).unwrap();
            site.flush().unwrap();
        }
        site.log.delete_records(Offset(log_start), 0).unwrap();
        assert!(site.log.release_idle().unwrap());
        let right: Vec<_> = reads(&site.log).into_iter().map(Result::unwrap).collect();
        let (path, _) = log_files(&site).remove(0);
        let starts: Vec<usize> =
            (0..4).map(|batch| right[..5 * batch].iter().step_by(5).map(|slice| slice.batches.len()).sum()).collect();
        for (batch, byte, bit) in
            starts.iter().flat_map(|at| (0..61).flat_map(move |byte| (0..8).map(move |bit| (*at, byte, bit))))
        {
            // Of a batch that is deleted it is not known that it is not of epoch 0.
            if (log_start, batch, byte, bit) == (7, 0, 15, 0) {
                continue;
            }
            let disk = site.disk.lose_power(PowerLoss::Nothing);
            disk.flip_bit(&path, batch + byte, bit);
            let (_, log, _) = open(&disk, config()).unwrap();
            let mut noticed = false;
            for (from, (read, right)) in reads(&log).into_iter().zip(&right).enumerate() {
                let what = format!("batch at {batch}, byte {byte}, bit {bit}, from {from}, log start {log_start}");
                match read {
                    Ok(slice) => assert_eq!(&slice, right, "{what}"),
                    Err(error) => {
                        assert!(matches!(error, ReadError::Corrupt { .. }), "{what}: {error}");
                        noticed = true;
                    }
                }
            }
            assert!(noticed, "batch at {batch}, byte {byte}, bit {bit}, log start {log_start}");
        }
    }
}

/// Above the durable mark nothing is known of what was appended: records that contradict each other are kept for people, and
/// for a copy of another replica, instead of being cut as a torn tail. No epoch of theirs is written down.
#[test]
fn a_leader_epoch_that_those_behind_it_contradict_is_damage_and_not_the_end_of_the_log() {
    for (byte, bit, missing) in [(13, 5, false), (13, 5, true), (15, 1, false), (15, 1, true)] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        site.append(&values(0, 5, 20)).unwrap();
        site.flush().unwrap();
        for seed in 1..4 {
            site.append(&values(seed, 5, 20)).unwrap();
        }
        let (path, len) = log_files(&site).remove(0);
        let disk = site.disk.restart_process();
        disk.flip_bit(&path, usize::try_from(len).unwrap() / 4 + byte, bit);
        if missing {
            disk.remove_file(&site.file("leader-epochs")).unwrap();
        }
        let (_, mut log, found) = open(&disk, config()).unwrap();
        assert_eq!((found.damage.map(|damage| damage.from), found.cut), (Some(Offset(5)), None), "{byte} {missing}");
        assert_eq!((log.log_end() >= Offset(10), log.reader().latest_epoch()), (true, LeaderEpoch(1)));
        let read = log.reader().read(Offset(0), Offset(5), 1000).unwrap();
        assert_eq!(read.next_offset, Offset(5));
        assert!(matches!(log.reader().read(Offset(5), Offset(10), 1000), Err(ReadError::Corrupt { .. })));
        let (_, set_aside) = log.repair().unwrap();
        // Zeros at the end are not set aside.
        let all = len / 4 * 3;
        assert!(log.log_end() == Offset(5) && (all - 16..=all).contains(&set_aside), "{set_aside} of {all}");
        assert_eq!(log.reader().latest_epoch(), LeaderEpoch(1));
    }
}

/// The batches that agree are right, wherever the log starts, and stay when people give the other one up.
#[test]
fn one_batch_of_an_earlier_leader_epoch_is_what_is_damaged_and_a_repair_keeps_what_lies_before() {
    for (log_start, missing) in [(0, false), (7, false), (0, true), (7, true)] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        for seed in 0..8 {
            site.append(&values(seed, 5, 20)).unwrap();
            if seed == 3 {
                site.flush().unwrap();
                site.log.delete_records(Offset(log_start), 0).unwrap();
            }
        }
        let (path, len) = log_files(&site).remove(0);
        let disk = site.disk.restart_process();
        // From 1 to 0, above the durable mark.
        disk.flip_bit(&path, usize::try_from(len).unwrap() / 8 * 6 + 15, 0);
        if missing {
            disk.remove_file(&site.file("leader-epochs")).unwrap();
        }
        let (_, mut log, found) = open(&disk, config()).unwrap();
        assert_eq!((found.damage.map(|damage| damage.from), found.cut), (Some(Offset(30)), None));
        let all_before_is_read = |log: &Log| {
            assert_eq!(log.log_start(), Offset(log_start));
            let mut at = Offset(log_start);
            while at < Offset(30) {
                at = log.reader().read(at, Offset(30), 1000).unwrap().next_offset;
            }
        };
        all_before_is_read(&log);
        log.repair().unwrap();
        all_before_is_read(&log);
        assert_eq!(log.log_end(), Offset(30));
    }
}

/// What lies behind damage to deleted records is set aside when that is given up, and not removed.
#[test]
fn damage_below_the_log_start_is_given_up_with_all_that_is_set_aside() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    (0..4).for_each(|seed| site.append(&values(seed, 5, 20)).unwrap());
    site.flush().unwrap();
    site.log.delete_records(Offset(7), 0).unwrap();
    let (path, len) = log_files(&site).remove(0);
    site.disk.flip_bit(&path, 70, 3);
    assert!(site.log.note_damage(Offset(0)));
    let (_, set_aside) = site.log.repair().unwrap();
    assert!(site.log.log_start() == Offset(7) && site.log.log_end() == Offset(7));
    assert!((len - 16..=len).contains(&set_aside), "{set_aside} of {len}");
    site.append(&values(9, 5, 20)).unwrap();
    assert_eq!(site.log.log_end(), Offset(12));
}

#[test]
fn a_record_is_not_found_by_its_time_in_a_batch_that_is_damaged_where_no_checksum_looks() {
    for (byte, bit) in [(7, 0), (7, 2), (12, 5), (15, 0)] {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
        (0..4).for_each(|_| site.append_at(5).unwrap());
        site.flush().unwrap();
        assert!(site.log.release_idle().unwrap());
        let (path, len) = log_files(&site).remove(0);
        site.disk.flip_bit(&path, byte, bit);
        assert!(len > 61);
        let found = site.log.reader().find_time(5, Offset(4));
        assert!(matches!(found, Err(ReadError::Corrupt { .. })), "byte {byte}, bit {bit}: {found:?}");
    }
}

/// It may be of a leader epoch that is not known yet: it is being appended.
#[test]
fn what_lies_above_what_is_asked_for_says_nothing_of_damage() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    [5, 5, 5, 7].into_iter().for_each(|timestamp| site.append_at(timestamp).unwrap());
    site.flush().unwrap();
    let (path, len) = log_files(&site).remove(0);
    site.disk.flip_bit(&path, usize::try_from(len).unwrap() / 4 * 3 + 15, 1);
    assert_eq!(site.log.reader().find_time(6, Offset(3)).unwrap(), None);
    assert!(matches!(site.log.reader().find_time(5, Offset(3)), Ok(Some(found)) if found.offset == Offset(0)));
}
