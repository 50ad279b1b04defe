//! Compactions that go wrong on the way: syncs that fail, steps that are refused, logs that are cut.

use walser_log::{Disk as _, LogConfig, MemoryDisk, PowerLoss};
use walser_model::{Compression, Offset, ProducerEpoch, ProducerId, SequenceCheck};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};

use crate::compaction::{
    append, close_last, compact, newest, restart_without_snapshots, rules, run, seen, small, unfinished, written,
};
use crate::site::Site;

fn session(id: i64, base_sequence: i32) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence }
}

/// The process starts anew, and its cache is as it was.
fn restart(site: &mut Site) {
    let disk = site.disk.restart_process();
    site.restart_on(disk, small());
}

/// Whether a batch of one record is known to be in the log.
pub(crate) fn is_duplicate(site: &mut Site, producer: Producer) -> bool {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: 1, key: Some(&[1]), value: None, headers: &[] });
    let header = BatchHeader::parse(&builder.build(producer)).unwrap();
    matches!(site.log.check_sequence(&header).unwrap(), SequenceCheck::Duplicate { .. })
}

/// What a failed sync has lost comes back with the power, from inside of what another segment spans by then.
#[test]
fn a_sync_that_fails_at_any_step_and_a_loss_of_power_later_leave_the_newest_of_every_key() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 4, false), (9, number % 7 == 0)]).collect();
    let site_of = || {
        let mut site = written(&batches, Compression::None);
        close_last(&mut site);
        site
    };
    let mut whole = site_of();
    let before = whole.disk.sync_count();
    assert!(compact(&mut whole, rules(1_000)));
    let syncs = whole.disk.sync_count() - before;
    assert!(syncs > 8, "{syncs} syncs");
    for fails in 0..syncs {
        for (loss, again) in [
            (PowerLoss::Everything, false),
            (PowerLoss::Everything, true),
            (PowerLoss::Random(fails), true),
            (PowerLoss::Random(fails + 99), false),
        ] {
            let mut site = site_of();
            let (end, all) = (site.log.log_end(), newest(&seen(&site)));
            site.disk.fail_sync_after(fails);
            let job = site.log.begin_compaction(end, rules(1_000));
            assert!(job.and_then(|job| run(&mut site, job.unwrap())).is_err(), "sync {fails}");
            restart(&mut site);
            let case = format!("sync {fails}, {loss:?}, compacted again: {again}");
            assert_eq!((&site.found.damage, site.log.log_end()), (&None, end), "{case}");
            if again {
                close_last(&mut site);
                compact(&mut site, rules(1_000));
            }
            let (end, left) = (site.log.log_end(), newest(&seen(&site)));
            let disk = site.disk.lose_power(loss);
            site.restart_on(disk, small());
            assert_eq!((&site.found.damage, site.log.log_end()), (&None, end), "{case}");
            assert_eq!(newest(&seen(&site)), left, "{case}");
            assert!(all.iter().filter(|(key, _)| **key != [255]).all(|(key, found)| left.get(key) == Some(found)));
            assert_eq!(unfinished(&site), Vec::<String>::new(), "{case}");
        }
    }
}

/// The last batch of a producer may lie behind what is compacted, and be cut.
#[test]
fn a_producer_is_known_when_the_log_is_cut_behind_what_was_compacted() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    for number in 0..30 {
        append(&mut site, Compression::None, &[(1, false)], session(4, number));
        append(&mut site, Compression::None, &[(1, false)], session(5, number));
    }
    append(&mut site, Compression::None, &[(1, false)], Producer::NONE);
    site.flush().unwrap();
    close_last(&mut site);
    // Nothing of 5 is in the part that is compacted first in the second round.
    for round in 0..3 {
        let end = site.log.log_end();
        append(&mut site, Compression::None, &[(1, false)], session(4, 30 + round));
        if round == 2 {
            append(&mut site, Compression::None, &[(1, false)], session(5, 30));
        }
        site.flush().unwrap();
        let job = site.log.begin_compaction(end, rules(1_000 * i64::from(round + 1))).unwrap();
        assert!(job.is_none_or(|job| run(&mut site, job).unwrap()));
        if round < 2 {
            close_last(&mut site);
        }
    }
    site.acknowledged = Offset::ZERO;
    let cut = Offset(site.log.log_end().0 - 2);
    site.log.truncate(cut, false).unwrap();
    restart_without_snapshots(&mut site);
    for (id, last) in [(4, 31), (5, 29)] {
        assert!(is_duplicate(&mut site, session(id, last)), "what producer {id} has written last is known");
    }
}

/// Behind a step that does not count tombstones would go before what they delete.
#[test]
fn behind_a_step_that_was_refused_none_counts() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 4, false)]).collect();
    let config = LogConfig { segment_bytes: 1_000, ..small() };
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config);
    for keys in &batches {
        append(&mut site, Compression::None, keys, Producer::NONE);
        site.flush().unwrap();
    }
    let end = site.log.log_end();
    let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
    let pin = site.log.reader().pin().unwrap();
    let step = job.advance(|_| true).unwrap().unwrap();
    assert_eq!(site.log.take_compaction_step(step).unwrap(), None);
    drop(pin);
    let mut steps = 0;
    while let Some(step) = job.advance(|_| true).unwrap() {
        assert_eq!(site.log.take_compaction_step(step).unwrap(), None);
        steps += 1;
    }
    assert!(steps > 1, "{steps} steps");
    assert_eq!(unfinished(&site), Vec::<String>::new());
    assert!(site.log.compacted() == Offset::ZERO && compact(&mut site, rules(1_000)));
}

/// Nobody reads all of a log for steps that cannot be taken.
#[test]
fn a_log_that_is_pinned_is_not_compacted() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 4, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let pin = site.log.reader().pin().unwrap();
    assert!(!compact(&mut site, rules(1_000)));
    drop(pin);
    assert!(compact(&mut site, rules(1_000)));
}

/// What was written is removed also where the log takes nothing any more.
#[test]
fn a_step_for_a_log_that_is_out_of_service_leaves_no_file() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 4, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let end = site.log.log_end();
    let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
    let step = job.advance(|_| true).unwrap().unwrap();
    assert_eq!(unfinished(&site).len(), 1);
    assert!(site.log.note_damage(Offset(1)));
    assert!(site.log.take_compaction_step(step).is_err());
    assert_eq!(unfinished(&site), Vec::<String>::new());
}

/// A damaged batch that nobody has read for a year is found, and the replica can heal.
#[test]
fn damage_that_a_job_meets_is_known_to_the_log() {
    let batches: Vec<_> = (0..40).map(|number| vec![(number % 3, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    let end = site.log.log_end();
    let mut job = site.log.begin_compaction(end, rules(1_000)).unwrap().unwrap();
    assert_eq!(site.log.damage_met_by(&job), None);
    site.disk.flip_bit(&site.log.dir().join("00000000000000000000.log"), 300, 3);
    assert!(job.advance(|_| true).is_err());
    let damage = site.log.damage_met_by(&job).unwrap();
    assert!(damage < Offset(10), "{damage}");
    site.log.delete_records(Offset(20), 1).unwrap();
    assert_eq!(site.log.damage_met_by(&job), None, "it has gone");
}

/// It would count as compacted; and once it can be read again, tombstones in it would go before what they delete.
#[test]
fn where_nothing_new_can_be_read_nothing_is_compacted() {
    let mut site = written(&[vec![(1, false)]], Compression::None);
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    let clean = site.log.compacted();
    append(&mut site, Compression::None, &[(1, true)], Producer::NONE);
    close_last(&mut site);
    let mut new: Vec<_> = crate::damage::log_files(&site).into_iter().map(|(path, _)| path).collect();
    new.retain(|path| path.file_stem().unwrap().to_str().unwrap().parse::<i64>().unwrap() >= clean.0);
    // The last one is not closed.
    new.pop();
    assert!(!new.is_empty());
    let flip = |site: &Site| new.iter().for_each(|path| site.disk.flip_bit(path, 70, 3));
    flip(&site);
    let end = site.log.log_end();
    let mut job = site.log.begin_compaction(end, rules(2_000)).unwrap().unwrap();
    let mut met = None;
    loop {
        match job.advance(|_| true) {
            Ok(Some(step)) => drop(site.log.take_compaction_step(step).unwrap()),
            Ok(None) => break,
            Err(_) => break met = site.log.damage_met_by(&job),
        }
    }
    // What was wrong is in order again: the file was put back, or it was the memory.
    flip(&site);
    for time in [3_000, 4_000, 5_000] {
        append(&mut site, Compression::None, &[(8, false)], Producer::NONE);
        close_last(&mut site);
        assert!(compact(&mut site, rules(time)));
    }
    let back = newest(&seen(&site)).remove(&vec![1]).and_then(|(_, value)| value);
    assert_eq!((back.map(|_| "a deleted key is back"), met), (None, Some(clean)));
}

/// An offset that has become another one, which no checksum tells, removes nothing.
#[test]
fn a_damaged_offset_at_the_end_of_a_segment_does_not_remove_the_next_ones() {
    let batches: Vec<_> = (0..60).map(|number| vec![(number % 4, false)]).collect();
    let mut site = written(&batches, Compression::None);
    close_last(&mut site);
    assert!(compact(&mut site, rules(1_000)));
    close_last(&mut site);
    let names = |disk: &MemoryDisk, site: &Site| {
        let entries = disk.list(site.log.dir()).unwrap().into_iter().map(|entry| entry.name);
        let mut logs: Vec<_> = entries.filter(|name| name.ends_with(".log")).collect();
        logs.sort();
        logs
    };
    let before = names(&site.disk, &site);
    assert!(before.len() > 2, "{before:?}");
    let path = site.log.dir().join(&before[0]);
    let disk = site.disk.restart_process();
    let file = disk.open(&path, walser_log::Open::Edit).unwrap();
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, 0, 1 << 20).unwrap();
    let (mut last, mut next) = (0, 0);
    while next < bytes.len() {
        last = next;
        next += BatchHeader::parse(&bytes[next..]).unwrap().size;
    }
    file.write_at(&[1], last as u64 + 5).unwrap();
    site.acknowledged = Offset::ZERO;
    site.restart_on(disk.clone(), small());
    assert_eq!(names(&disk, &site), before);
}
