//! Bits that are flipped in what is on the disk: what is read is as it was written, or it is refused.

use walser_log::{PowerLoss, ReadError};
use walser_model::{LeaderEpoch, Offset};

use crate::damage::{durable_site, log_files, site_of};
use crate::site::{Site, config, open};

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

/// Also in the base offset and the leader epoch, which no checksum covers, and in the length in offsets, which decides how far
/// a batch reaches. The same after a start that reads what is on the disk.
#[test]
fn no_damaged_header_is_served_or_looks_like_the_end_of_the_log() {
    for byte in 0..61 {
        for bit in 0..8 {
            let mut site = site_of(4);
            assert!(site.log.release_idle().unwrap());
            let (path, _) = log_files(&site).remove(0);
            site.disk.flip_bit(&path, byte, bit);
            let reader = site.log.reader();
            let end = site.log.log_end();
            let read = reader.read(Offset(0), end, 100);
            assert!(matches!(read, Err(ReadError::Corrupt { .. })), "byte {byte}, bit {bit}: {read:?}");
            let (_, log, _) = open(&site.disk.lose_power(PowerLoss::Nothing), config()).unwrap();
            let read = log.reader().read(Offset(0), end, 100);
            assert!(matches!(read, Err(ReadError::Corrupt { .. })), "byte {byte}, bit {bit}, reopened: {read:?}");
        }
    }
}
