//! Partitions that metadata does not know are kept aside, and come back with everything in them.

use std::path::Path;
use std::sync::Arc;

use walser_log::{DataDirectory, Log, MemoryDisk, PowerLoss};
use walser_model::{LeaderEpoch, Offset};

use crate::site::{ROOT, Site, config, partition, values};

fn filled() -> Site {
    let mut site = Site::new(MemoryDisk::simulated(64 << 20), config());
    for round in 0..5 {
        site.append(&values(round, 3, 200)).unwrap();
        site.flush().unwrap();
    }
    site
}

fn open(disk: &MemoryDisk) -> DataDirectory {
    DataDirectory::open(Arc::new(disk.clone()), Path::new(ROOT), "test").unwrap()
}

/// Takes the partition back if it is aside, opens its log, and checks that nothing of it is missing.
fn check(disk: &MemoryDisk, what: &str) {
    let directory = open(disk);
    let aside = directory.set_aside_partitions();
    assert_eq!(directory.take_back(partition()).unwrap(), !aside.is_empty(), "{what}");
    assert_eq!(directory.partitions_to_open().unwrap(), [partition()], "{what}");
    let dir = directory.partition_dir(partition());
    let opened = Log::open(directory.disk(), dir, partition(), config(), directory.checkpoint(), 0);
    let (log, found) = opened.unwrap();
    assert_eq!((log.log_end(), log.condition()), (Offset(15), &walser_log::Condition::Healthy), "{what}");
    assert_eq!((found.damage, found.cut), (None, None), "{what}");
    assert!(directory.set_aside_partitions().is_empty());
}

#[test]
fn a_partition_is_set_aside_with_its_marks_and_comes_back() {
    let Site { disk, directory, log, .. } = filled();
    directory.set_aside(log, 77).unwrap();
    for _ in 0..2 {
        let directory = open(&disk);
        assert_eq!(directory.partitions_to_open().unwrap(), []);
        let [aside] = directory.set_aside_partitions()[..] else { panic!("one is aside") };
        assert_eq!((aside.partition, aside.log_end, aside.since), (partition(), Offset(15), 77));
        assert_eq!(aside.leader_epoch, LeaderEpoch(1));
        assert!(aside.size_bytes > 3_000, "{aside:?}");
    }
    check(&disk.lose_power(PowerLoss::Everything), "after power loss");
}

#[test]
fn a_crash_at_any_step_of_setting_aside_and_taking_back_loses_nothing() {
    let whole = filled();
    let before = whole.disk.change_count();
    whole.directory.set_aside(whole.log, 1).unwrap();
    let aside = whole.disk.change_count();
    open(&whole.disk).take_back(partition()).unwrap();
    let changes = whole.disk.change_count() - before;
    for stop in 0..=changes {
        for loss in [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Random(stop)] {
            let Site { disk, directory, log, .. } = filled();
            disk.stop_after(stop);
            let done = directory.set_aside(log, 1).is_ok() && directory.take_back(partition()).is_ok();
            assert!(!done || stop >= aside - before);
            check(&disk.lose_power(loss), &format!("step {stop}, {loss:?}"));
        }
    }
}

#[test]
fn what_was_set_aside_is_deleted_only_when_that_is_asked_for() {
    let Site { disk, directory, log, .. } = filled();
    directory.set_aside(log, 1).unwrap();
    assert!(directory.delete_set_aside(partition()).unwrap().is_some_and(|bytes| bytes > 3_000));
    assert_eq!(directory.delete_set_aside(partition()).unwrap(), None);
    let directory = open(&disk);
    assert!(directory.set_aside_partitions().is_empty() && directory.partitions_to_open().unwrap().is_empty());
}
