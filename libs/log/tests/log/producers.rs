//! What is remembered of producers when records go.

use walser_log::{Disk as _, MemoryDisk, PowerLoss};
use walser_model::{Offset, SequenceCheck};
use walser_record_batch::BatchHeader;

use crate::site::{Site, config, repeat, session, values};

#[test]
fn producers_are_known_after_a_kill_right_behind_a_deletion() {
    for loss in [None, Some(PowerLoss::Nothing), Some(PowerLoss::Everything)] {
        for (count, keep) in (40..44).flat_map(|count| [(count, 0), (count, 1), (count, 5)]) {
            let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
            for sequence in 0..count {
                site.append_as(&values(1, 1, 20 << 10), session(4, sequence)).unwrap();
                site.flush().unwrap();
            }
            assert!(site.log.size_bytes() > 3 * (64 << 10), "several segments");
            let end = site.log.log_end();
            site.log.delete_records(Offset(end.0 - keep), 1_000).unwrap();
            let disk = loss.map_or_else(|| site.disk.restart_process(), |loss| site.disk.lose_power(loss));
            site.restart_on(disk, config());
            assert_eq!((site.log.log_start(), site.log.log_end()), (Offset(end.0 - keep), end));
            assert!(
                matches!(repeat(&mut site, session(4, count - 1), 1), SequenceCheck::Duplicate { .. }),
                "{loss:?}, {keep} of {count} left"
            );
            assert_eq!(
                repeat(&mut site, session(4, count), 1),
                SequenceCheck::Next,
                "{loss:?}, {keep} of {count} left"
            );
        }
    }
}

#[test]
fn producers_of_old_records_are_not_forgotten() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    // The record's own time is 1970; the producer was here a moment ago.
    let now = 1_790_000_000_000;
    let mut builder = walser_record_batch::BatchBuilder::new(walser_model::Compression::None, 0);
    builder.append(&walser_record_batch::RecordFields { timestamp: 5, key: None, value: None, headers: &[] });
    let header = BatchHeader::parse(&builder.build(session(4, 0))).unwrap();
    assert_eq!(site.log.check_and_record(&header, now).unwrap(), SequenceCheck::Next);
    site.log.apply_retention(now + 60_000, true, Offset(0)).unwrap();
    assert!(matches!(site.log.check_sequence(&header).unwrap(), SequenceCheck::Duplicate { .. }));
}

/// A partition that is written once between two starts leaves a snapshot at each stop.
#[test]
fn snapshots_of_earlier_stops_go_once_nothing_needs_them() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for stop in 0..12 {
        site.append(&values(stop, 1, 100)).unwrap();
        site.flush().unwrap();
        // As it is done every few seconds.
        walser_log::Checkpoint::sync(&site.directory.checkpoint()).unwrap();
        assert!(site.log.release_idle().unwrap());
        let disk = site.disk.restart_process();
        site.restart_on(disk, config());
    }
    let names = site.disk.list(&site.directory.partition_dir(crate::site::partition())).unwrap();
    let snapshots = names.iter().filter(|entry| entry.name.ends_with(".producers")).count();
    assert!(snapshots <= 3, "{snapshots} snapshots");
    site.check_contents();
}
