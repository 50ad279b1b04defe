use super::*;
use crate::disk::MemoryDisk;

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(number))
}

fn marks(durable: i64) -> Marks {
    let (segment_created, append_time) = (durable + 1, durable + 2);
    let high_watermark = Offset(durable);
    Marks { durable: Offset(durable), high_watermark, segment_created, append_time, ..Marks::default() }
}

/// A disk that can lose power, with the directory of a checkpoint.
fn simulated() -> MemoryDisk {
    let memory = MemoryDisk::simulated(1 << 20);
    memory.create_dir(Path::new("/data")).unwrap();
    memory.sync_dir(Path::new("/")).unwrap();
    memory
}

fn opened(memory: &MemoryDisk) -> Mutex<Checkpoint> {
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    Mutex::new(Checkpoint::open(&disk, Path::new("/data")).unwrap())
}

#[test]
fn the_bytes_of_a_copy_are_the_documented_ones() {
    let marks = Marks {
        log_start: Offset(1),
        recovery_point: Offset(2),
        durable: Offset(3),
        high_watermark: Offset(4),
        recovery_position: 5,
        segments: 6,
        segment_created: 7,
        append_time: 8,
        high_watermark_epoch: Some(LeaderEpoch(9)),
    };
    let copy = encode(Some(partition(10)), 11, &marks);
    let golden = [
        &[3; 16][..],
        &[0, 0, 0, 10, 0, 0, 0, 1],
        &[0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3],
        &[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 10],
        &[0; 28],
    ];
    assert_eq!(copy[..COPY_LEN - 4], golden.concat());
    assert_eq!(decode(&copy), Some((Some(partition(10)), 11, marks)));
    // As earlier versions wrote it.
    let marks = Marks { high_watermark_epoch: None, ..marks };
    assert_eq!(encode(Some(partition(10)), 11, &marks)[92..COPY_LEN - 4], [0; 32]);
}

#[test]
fn marks_survive_and_slots_are_used_again() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
    let dir = Path::new("/data");
    disk.create_dir(dir).unwrap();
    let mut checkpoint = Checkpoint::open(&disk, dir).unwrap();
    let (mut first, none) = checkpoint.claim(partition(0));
    assert_eq!(none, None);
    let (mut second, _) = checkpoint.claim(partition(1));
    checkpoint.write(&mut first, partition(0), &marks(5)).unwrap();
    checkpoint.write(&mut second, partition(1), &marks(7)).unwrap();
    checkpoint.write(&mut second, partition(1), &marks(9)).unwrap();
    checkpoint.release(first).unwrap();

    let mut again = Checkpoint::open(&disk, dir).unwrap();
    assert_eq!(again.claim(partition(1)).1, Some(marks(9)));
    assert_eq!(again.claim(partition(0)).1, None);
    assert_eq!(again.slot_count, 2);
}

#[test]
fn a_file_whose_sync_failed_is_replaced_and_loses_nothing() {
    let memory = simulated();
    let checkpoint = opened(&memory);
    let (mut slot, _) = checkpoint.lock().claim(partition(0));
    checkpoint.lock().write(&mut slot, partition(0), &marks(5)).unwrap();
    memory.fail_sync_after(0);
    Checkpoint::sync(&checkpoint).unwrap();
    checkpoint.lock().write(&mut slot, partition(0), &marks(6)).unwrap();
    memory.fail_sync_after(0);
    Checkpoint::sync(&checkpoint).unwrap();
    let after = memory.lose_power(crate::disk::PowerLoss::Everything);
    assert_eq!(opened(&after).lock().claim(partition(0)).1, Some(marks(6)));
}

#[test]
fn the_header_knows_the_latest_registration_and_whether_it_can() {
    let (memory, dir) = (simulated(), Path::new("/data"));
    let checkpoint = opened(&memory);
    assert_eq!(checkpoint.lock().registration(), Some(0));
    for (noted, known) in [(7, 7), (5, 7), (8, 8)] {
        Checkpoint::note_registration(&checkpoint, noted).unwrap();
        assert_eq!(checkpoint.lock().registration(), Some(known));
    }
    let memory = memory.lose_power(crate::disk::PowerLoss::Everything);
    assert_eq!(opened(&memory).lock().registration(), Some(8));
    // The header of an earlier version.
    let file = memory.open(&dir.join(FILE_NAME), Open::Edit).unwrap();
    file.write_at(&[0; REGISTRATION_LEN], REGISTRATION_AT as u64).unwrap();
    let checkpoint = opened(&memory);
    assert_eq!(checkpoint.lock().registration(), None);
    Checkpoint::note_registration(&checkpoint, 9).unwrap();
    assert_eq!(opened(&memory).lock().registration(), Some(9));
}

#[test]
fn whoever_waits_for_a_sync_needs_none_when_a_later_one_was_made_meanwhile() {
    let memory = simulated();
    let checkpoint = opened(&memory);
    let (mut slot, _) = checkpoint.lock().claim(partition(0));
    let begun = checkpoint.lock().syncs().0;
    checkpoint.lock().write(&mut slot, partition(0), &marks(5)).unwrap();
    Checkpoint::sync(&checkpoint).unwrap();
    // Two waited meanwhile: for both all is done, whoever comes now finds something that was not there.
    for _ in 0..2 {
        Checkpoint::sync_after(&checkpoint, begun).unwrap();
    }
    assert_eq!(checkpoint.lock().syncs(), (begun + 1, begun + 1));
    checkpoint.lock().write(&mut slot, partition(0), &marks(6)).unwrap();
    Checkpoint::sync(&checkpoint).unwrap();
    assert_eq!(checkpoint.lock().syncs().1, begun + 2);
    let after = memory.lose_power(crate::disk::PowerLoss::Everything);
    assert_eq!(opened(&after).lock().claim(partition(0)).1, Some(marks(6)));
}

#[test]
fn the_next_owner_of_a_slot_wins_over_the_last() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
    let dir = Path::new("/data");
    disk.create_dir(dir).unwrap();
    let mut checkpoint = Checkpoint::open(&disk, dir).unwrap();
    let (mut old, _) = checkpoint.claim(partition(0));
    for durable in 0..9 {
        checkpoint.write(&mut old, partition(0), &marks(durable)).unwrap();
    }
    checkpoint.release(old).unwrap();
    let (mut new, none) = checkpoint.claim(partition(5));
    assert_eq!(none, None);
    checkpoint.write(&mut new, partition(5), &marks(1)).unwrap();
    assert_eq!(Checkpoint::open(&disk, dir).unwrap().claim(partition(5)).1, Some(marks(1)));
}

#[test]
fn a_torn_copy_leaves_the_one_before() {
    let memory = MemoryDisk::new(1 << 20);
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let dir = Path::new("/data");
    disk.create_dir(dir).unwrap();
    let mut checkpoint = Checkpoint::open(&disk, dir).unwrap();
    let (mut slot, _) = checkpoint.claim(partition(0));
    checkpoint.write(&mut slot, partition(0), &marks(5)).unwrap();
    checkpoint.write(&mut slot, partition(0), &marks(6)).unwrap();
    let newest = COPY_LEN + (usize::try_from(slot.sequence).unwrap() % 2) * COPY_LEN;
    memory.flip_bit(&dir.join(FILE_NAME), newest + 50, 1);
    assert_eq!(Checkpoint::open(&disk, dir).unwrap().claim(partition(0)).1, Some(marks(5)));
}
