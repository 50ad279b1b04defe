//! Power loss at every write: every acknowledged record is there at its offset with its bytes, nothing is there in
//! part, and the log goes on from where it ends.

use walser_log::{Log, LogConfig, MemoryDisk, PowerLoss};
use walser_model::Offset;

use crate::site::{Site, config, open, session, values};

/// A history with everything in it; ends early when the disk stops. Gives back what was acknowledged.
fn live(site: &mut Site) -> Result<(), Box<dyn std::error::Error>> {
    let mut sequence = 0;
    for round in 0..14u64 {
        let batch = values(round, 3, 600 + usize::try_from(round)? * 150);
        if round % 3 == 0 {
            site.append_as(&batch, session(8, sequence))?;
            sequence += 3;
        } else {
            site.append(&batch)?;
        }
        if round % 2 == 0 {
            site.flush()?;
        }
        match round {
            4 | 11 => {
                site.flush()?;
                site.log.release_idle()?;
            }
            6 | 9 => site.extend(),
            8 => drop(site.log.delete_records(Offset(9), 0)?),
            _ => {}
        }
    }
    site.flush()?;
    Ok(())
}

fn small() -> LogConfig {
    LogConfig { segment_bytes: 16 << 10, ..config() }
}

fn after_power_loss(site: &mut Site, loss: PowerLoss) {
    let disk = site.disk.lose_power(loss);
    site.restart_on(disk, small());
    assert_eq!(site.found.damage, None, "{loss:?}: durable records are missing");
    site.check_contents();
    // It goes on: what is appended now survives the next loss.
    site.append(&values(999, 2, 50)).unwrap();
    site.flush().unwrap();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, small());
    assert_eq!(site.found.damage, None);
    site.check_contents();
}

#[test]
fn power_loss_at_every_change_keeps_what_was_acknowledged() {
    let mut whole = Site::new(MemoryDisk::simulated(64 << 20), small());
    live(&mut whole).unwrap();
    let changes = whole.disk.change_count();
    assert!(changes > 100, "{changes} changes");
    let seeds = std::env::var("WALSER_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4u64);
    for stop in 0..changes {
        for seed in 0..=seeds {
            let loss = if seed == 0 { PowerLoss::Everything } else { PowerLoss::Random(stop * 1000 + seed) };
            let disk = MemoryDisk::simulated(64 << 20);
            // The disk dies while the first files are made, too.
            disk.stop_after(stop);
            let Ok((directory, log, found)) = open(&disk, small()) else { continue };
            let mut site = Site {
                disk,
                directory,
                log,
                found,
                written: Vec::new(),
                acknowledged: Offset::ZERO,
                epoch: walser_model::LeaderEpoch(1),
            };
            site.log.begin_epoch(site.epoch, false);
            let ended = live(&mut site);
            assert!(ended.is_err(), "the disk stopped after {stop} of {changes} changes");
            after_power_loss(&mut site, loss);
        }
    }
}

#[test]
fn a_torn_end_is_cut_at_the_last_whole_batch_and_kept_aside() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    site.append(&values(1, 3, 100)).unwrap();
    site.flush().unwrap();
    site.append(&values(2, 3, 100)).unwrap();
    let name = "00000000000000000000.log";
    let whole = walser_log::Disk::open(&site.disk, &site.file(name), walser_log::Open::Write).unwrap();
    let len = whole.len().unwrap();
    // Cut the unacknowledged batch at each of its bytes; the first seven are zeros, as space ahead of the end is.
    for cut in len / 2 + 8..len {
        let disk = site.disk.lose_power(PowerLoss::Everything);
        let file = walser_log::Disk::open(&disk, &site.file(name), walser_log::Open::Write).unwrap();
        let mut bytes = Vec::new();
        whole.read_at(&mut bytes, len / 2, usize::try_from(cut - len / 2).unwrap()).unwrap();
        file.write_at(&bytes, len / 2).unwrap();
        let (_directory, log, found) = open(&disk, config()).unwrap();
        assert_eq!(log.log_end(), Offset(3), "cut at {cut}");
        let tail = found.cut.unwrap();
        assert_eq!(tail.offset, Offset(3));
        let kept = walser_log::Disk::open(&disk, &tail.kept.path, walser_log::Open::Read).unwrap();
        assert_eq!(kept.len().unwrap(), tail.kept.bytes);
        drop::<Log>(log);
    }
}

/// The tail of a segment is gone as a whole, and the name of the next one has survived.
#[test]
fn a_lost_tail_before_a_surviving_segment_ends_the_log_there() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    site.append(&values(0, 3, 300)).unwrap();
    site.flush().unwrap();
    let first = site.file("00000000000000000000.log");
    let durable_len = walser_log::Disk::open(&site.disk, &first, walser_log::Open::Read).unwrap().len().unwrap();
    for seed in 1..12 {
        site.append(&values(seed, 3, 600)).unwrap();
    }
    let disk = site.disk.lose_power(PowerLoss::Nothing);
    walser_log::Disk::open(&disk, &first, walser_log::Open::Write).unwrap().set_len(durable_len).unwrap();
    site.restart_on(disk, small());
    assert_eq!(site.log.log_end(), Offset(3));
    assert!(site.found.cut.is_some());
    site.append(&values(99, 2, 50)).unwrap();
    site.flush().unwrap();
    site.check_contents();
    let disk = site.disk.lose_power(PowerLoss::Everything);
    site.restart_on(disk, small());
    assert_eq!(site.log.log_end(), Offset(5));
    site.check_contents();
}

/// No room for the index of a segment that is to be closed: the segment stays open, and its records are not taken for
/// durable before they are.
#[test]
fn a_segment_that_cannot_be_closed_for_want_of_space_is_still_synced() {
    for spare in 0..200u64 {
        let disk = MemoryDisk::simulated(64 << 20);
        let mut site = Site::new(disk, small());
        for seed in 0..8 {
            site.append(&values(seed, 3, 600)).unwrap();
        }
        let used = site.log.size_bytes() + 100;
        site.disk.set_capacity(used + spare * 16);
        let refused = site.append(&values(9, 3, 600));
        assert!(refused.is_err() || spare > 100, "{spare}");
        let before = site.log.log_end();
        if site.flush().is_err() {
            continue;
        }
        let disk = site.disk.lose_power(PowerLoss::Everything);
        disk.set_capacity(64 << 20);
        let acknowledged = site.acknowledged;
        site.restart_on(disk, small());
        assert!(site.log.log_end() >= acknowledged && acknowledged <= before, "{spare}");
        site.check_contents();
    }
}

/// After a failed sync the records are in the cache, clean: a sync alone would write nothing of them.
#[test]
fn what_a_restart_finds_above_the_durable_mark_is_written_again_before_it_counts() {
    for syncs in 0..8 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
        site.disk.fail_sync_after(syncs);
        for round in 0..8 {
            // Two segments, so that files, names and leader epochs are new.
            if site.append(&values(round, 3, 900)).is_err() || site.flush().is_err() {
                break;
            }
        }
        let disk = site.disk.restart_process();
        site.restart_on(disk, small());
        site.check_contents();
        let end = site.log.log_end();
        assert_eq!(site.log.durable(), end, "what is there counts as durable, after {syncs} syncs");
        let disk = site.disk.lose_power(PowerLoss::Everything);
        site.restart_on(disk, small());
        assert_eq!((site.found.damage.clone(), site.log.log_end()), (None, end), "after {syncs} syncs");
        site.check_contents();
    }
}

/// Kills leave nothing to do for logs whose flushes were finished.
/// A sync that fails may lose the name of the partition's directory, and the next one succeeds without writing it.
#[test]
fn the_directory_of_a_log_whose_records_were_all_deleted_is_made_durable_again() {
    for syncs in 0..6 {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
        site.append(&values(1, 1, 100)).unwrap();
        site.log.delete_records(Offset(1), 0).unwrap();
        let disk = site.disk.lose_power(PowerLoss::Everything);
        site.restart_on(disk, small());
        assert_eq!((site.log.log_start(), site.log.log_end()), (Offset(1), Offset(1)));
        site.append(&values(2, 1, 100)).unwrap();
        site.disk.fail_sync_after(syncs);
        let _ = site.flush();
        let disk = site.disk.restart_process();
        site.restart_on(disk, small());
        assert_eq!(site.log.log_end(), Offset(2));
        let disk = site.disk.lose_power(PowerLoss::Everything);
        site.restart_on(disk, small());
        assert_eq!(site.found.damage, None, "sync {syncs} has failed");
        site.check_contents();
    }
}

#[test]
fn a_restart_after_a_kill_syncs_nothing_where_everything_was_acknowledged() {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    for round in 0..40 {
        site.append(&values(round, 3, 900)).unwrap();
        site.flush().unwrap();
    }
    let disk = site.disk.restart_process();
    let (directory, log, found) = open(&disk, small()).unwrap();
    assert_eq!((log.log_end(), found.cut), (site.acknowledged, None));
    assert_eq!(disk.sync_count(), 2, "of the root of the data directory and of its parent");
    drop(directory);
}

/// A log of several segments with everything durable, some of it also written down by a rest.
fn truncated_site(disk: MemoryDisk) -> Result<Site, Box<dyn std::error::Error>> {
    let mut site = Site::new(disk, small());
    for round in 0..12 {
        site.append_as(&values(round, 3, 900), session(8, i32::try_from(round * 3)?))?;
        site.flush()?;
        if round == 6 {
            site.log.release_idle()?;
        }
    }
    Ok(site)
}

#[test]
fn a_crash_at_any_step_of_a_truncation_leaves_a_log_that_opens() {
    let to = Offset(6);
    let mut whole = truncated_site(MemoryDisk::simulated(64 << 20)).unwrap();
    let before = whole.disk.change_count();
    whole.log.truncate(to, false).unwrap();
    let changes = whole.disk.change_count() - before;
    assert!(changes > 8, "{changes} changes");
    for stop in 0..=changes {
        for loss in [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Random(stop), PowerLoss::Random(stop + 99)] {
            let mut site = truncated_site(MemoryDisk::simulated(64 << 20)).unwrap();
            site.disk.stop_after(stop);
            assert_eq!(site.log.truncate(to, false).is_ok(), stop == changes);
            site.acknowledged = to;
            let disk = site.disk.lose_power(loss);
            site.restart_on(disk, small());
            assert_eq!(site.found.damage, None, "step {stop}, {loss:?}");
            site.check_contents();
            let again = site.log.truncate(to, false);
            again.unwrap_or_else(|error| panic!("step {stop}, {loss:?}: {error}"));
            // Other records under the same offsets: nothing of the old ones comes back.
            let next = session(8, i32::try_from(to.0).unwrap());
            site.append_as(&values(500, 3, 700), next).unwrap();
            site.flush().unwrap();
            site.acknowledged = site.log.log_end();
            let disk = site.disk.lose_power(PowerLoss::Everything);
            site.restart_on(disk, small());
            assert_eq!((site.found.damage.clone(), site.log.log_end()), (None, Offset(9)));
            site.check_contents();
        }
    }
}

/// On page-cache topics readers have seen what a power loss takes.
#[test]
fn a_high_watermark_never_lies_beyond_what_is_left() {
    use walser_model::LeaderEpoch;
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
    site.append(&values(1, 3, 100)).unwrap();
    site.flush().unwrap();
    site.append(&values(2, 3, 100)).unwrap();
    site.log.note_high_watermark(Offset(6), LeaderEpoch(4));
    site.log.delete_records(Offset(1), 0).unwrap();
    let lost = site.disk.lose_power(PowerLoss::Everything);
    let killed = site.disk.restart_process();
    site.restart_on(killed, small());
    assert_eq!(site.log.high_watermark(), (Offset(6), LeaderEpoch(4)));
    let (_, log, _) = open(&lost, small()).unwrap();
    assert_eq!((log.log_end(), log.high_watermark()), (Offset(3), (Offset(3), LeaderEpoch(4))));
}

/// A log whose records were all deleted begins anew farther on, and the process stops at any step of it.
#[test]
fn a_log_that_begins_anew_is_as_it_was_or_begun_whenever_it_is_interrupted() {
    let prepared = || {
        let mut site = Site::new(MemoryDisk::simulated(64 << 20), small());
        site.append_as(&values(1, 2, 100), session(8, 0)).unwrap();
        site.flush().unwrap();
        site.log.delete_records(Offset(2), 0).unwrap();
        site.flush().unwrap();
        site
    };
    let mut whole = prepared();
    let before = whole.disk.change_count();
    assert!(whole.log.start_at(Offset(1)).is_err(), "it begins beyond that");
    whole.log.start_at(Offset(50)).unwrap();
    assert_eq!((whole.log.log_start(), whole.log.log_end(), whole.log.durable()), (Offset(50), Offset(50), Offset(50)));
    assert_eq!(whole.log.latest_epoch(), walser_model::LeaderEpoch::NONE);
    let changes = whole.disk.change_count() - before;
    assert!(changes >= 4, "{changes} changes");
    for (stop, power) in (0..=changes).flat_map(|stop| [(stop, false), (stop, true)]) {
        let mut site = prepared();
        site.disk.stop_after(stop);
        let begun = site.log.start_at(Offset(50)).is_ok();
        let disk = if power { site.disk.lose_power(PowerLoss::Random(stop)) } else { site.disk.restart_process() };
        let (_directory, mut log, found) = open(&disk, small()).unwrap();
        let ends = (log.log_start(), log.log_end());
        assert_eq!(found.damage, None, "stop {stop}, power {power}");
        assert!(ends == (Offset(50), Offset(50)) || !begun && ends == (Offset(2), Offset(2)), "stop {stop}: {ends:?}");
        log.start_at(Offset(50)).unwrap();
        assert_eq!((log.log_start(), log.log_end()), (Offset(50), Offset(50)));
    }
    // Records of the new beginning survive, and the next start finds them.
    let mut batch_site = prepared();
    batch_site.log.start_at(Offset(2)).unwrap();
    batch_site.append(&values(3, 2, 100)).unwrap();
    assert!(batch_site.log.start_at(Offset(60)).is_err(), "it has records");
    batch_site.flush().unwrap();
    let disk = batch_site.disk.lose_power(PowerLoss::Everything);
    batch_site.restart_on(disk, small());
    batch_site.check_contents();
}
