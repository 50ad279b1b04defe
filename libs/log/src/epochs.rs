//! The leader-epoch checkpoint: where each leader epoch of a partition starts.
//!
//! The file is written anew in one step.
//!
//! ```text
//! "WLEP" | version u16 = 2 | 0 u16 | begun | entries ...
//! begun, entry: epoch i32, start offset i64, CRC-32C u32 (of the 12 bytes before)
//! ```
//!
//! An entry is an epoch that has records. *Begun* is the latest epoch that this node began to lead, with records or
//! without (rule R2), or -1: it stays beside records of earlier epochs that come later, for as long as the log reaches its
//! start. Version 1 has no such field; there its last entry is taken for it.

use std::io;
use std::path::Path;

use bytes::{Buf as _, BufMut as _};
use walser_model::{EpochStart, LeaderEpoch, LeaderEpochs, Offset};
use walser_record_batch::BatchHeader;

use crate::checked::{seal, take, unseal};
use crate::directory_names::DirectoryNames;
use crate::disk::{Disk, read_file};

/// Name of the file in a partition's directory.
pub(crate) const FILE_NAME: &str = "leader-epochs";

const MAGIC: &[u8; 4] = b"WLEP";
const VERSION: u16 = 2;
const VERSION_WITHOUT_BEGUN: u16 = 1;
const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 16;
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What a log knows of leader epochs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    /// Those that have records.
    pub(crate) of_records: LeaderEpochs,
    /// The latest one that was begun here.
    pub(crate) begun: Option<EpochStart>,
}

// === impl Epochs ===

impl Epochs {
    /// The latest that was seen here, with records or without; or [`LeaderEpoch::NONE`].
    pub(crate) fn latest(&self) -> LeaderEpoch {
        self.of_records.latest().max(self.begun())
    }

    /// The one that was begun here last, or [`LeaderEpoch::NONE`].
    pub(crate) fn begun(&self) -> LeaderEpoch {
        self.begun.map_or(LeaderEpoch::NONE, |begun| begun.epoch)
    }

    /// What holds of a log that was found from `log_start` to `end`: a cut may not have come to this. The last epoch of a
    /// log whose records are all deleted stays.
    pub(crate) fn reconcile(&mut self, log_start: Offset, end: Offset) {
        let last = self.of_records.starts().last().copied();
        self.truncate(end);
        if let Some(last) = last.filter(|last| last.start == end && end == log_start) {
            self.of_records.assign(last.epoch, last.start);
        }
    }

    /// The log ends at `end`: drops epochs whose records are all cut off, and the one that began beyond that.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.of_records.truncate(end);
        self.begun = self.begun.filter(|begun| begun.start <= end);
    }
}

/// Whether a batch is of the leader epoch that its records are known to be of: its checksum does not cover what it says of
/// that. Of those that end below the log start it is known only that they are of no later one.
pub(crate) fn has_epoch_of(known: &LeaderEpochs, header: &BatchHeader) -> bool {
    // All of a batch is of one epoch, and the first one may be known from within the batch on.
    match known.epoch_of(header.next_offset().plus(-1)) {
        LeaderEpoch::NONE => {
            let first = known.starts().first().map_or(LeaderEpoch(i32::MAX), |first| first.epoch);
            (LeaderEpoch(0)..=first).contains(&header.leader_epoch)
        }
        known => known == header.leader_epoch,
    }
}

/// Reads the checkpoint. `None`: it is missing or damaged, and has to be made again from the batches.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Epochs>> {
    let bytes = read_file(disk, path, FILE_BYTES_MAX)?;
    Ok(bytes.as_deref().and_then(decode))
}

/// Replaces the checkpoint in one durable step.
pub(crate) fn replace(epochs: &Epochs, names: &DirectoryNames) -> io::Result<()> {
    names.replace_file(FILE_NAME, &encode(epochs))
}

fn decode(bytes: &[u8]) -> Option<Epochs> {
    let mut rest = bytes;
    let (magic, version) = (take(&mut rest)?, rest.try_get_u16().ok()?);
    let known = version == VERSION || version == VERSION_WITHOUT_BEGUN;
    rest.try_get_u16().ok().filter(|_| known && &magic == MAGIC)?;
    let mut starts = Vec::with_capacity(rest.len() / ENTRY_LEN);
    while !rest.is_empty() {
        starts.push(decode_entry(&take::<ENTRY_LEN>(&mut rest)?)?);
    }
    let mut starts = starts.into_iter();
    let mut epochs = Epochs::default();
    if version == VERSION {
        epochs.begun = Some(starts.next()?).filter(|begun| begun.epoch != LeaderEpoch::NONE);
    }
    for EpochStart { epoch, start } in starts {
        epochs.of_records.assign(epoch, start);
    }
    if version == VERSION_WITHOUT_BEGUN {
        epochs.begun = epochs.of_records.starts().last().copied();
    }
    Some(epochs)
}

fn decode_entry(entry: &[u8; ENTRY_LEN]) -> Option<EpochStart> {
    let mut body = unseal(entry)?;
    let epoch = LeaderEpoch(body.try_get_i32().ok()?);
    Some(EpochStart { epoch, start: Offset(body.try_get_i64().ok()?) })
}

/// The whole checkpoint.
pub(crate) fn encode(epochs: &Epochs) -> Vec<u8> {
    let starts = epochs.of_records.starts();
    let mut out = Vec::with_capacity(HEADER_LEN + (1 + starts.len()) * ENTRY_LEN);
    out.put_slice(MAGIC);
    out.put_u16(VERSION);
    out.put_u16(0);
    let none = EpochStart { epoch: LeaderEpoch::NONE, start: Offset::ZERO };
    for start in std::iter::once(&epochs.begun.unwrap_or(none)).chain(starts) {
        let at = out.len();
        out.put_i32(start.epoch.0);
        out.put_i64(start.start.0);
        seal(&mut out, at);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_survives_and_damage_is_noticed() {
        let mut written = Epochs::default();
        for (epoch, start) in [(1, 0), (2, 10), (5, 30)] {
            written.of_records.assign(LeaderEpoch(epoch), Offset(start));
        }
        assert_eq!(decode(&encode(&written)), Some(written.clone()));
        written.begun = Some(EpochStart { epoch: LeaderEpoch(7), start: Offset(30) });
        let mut bytes = encode(&written);
        assert_eq!(decode(&bytes), Some(written));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        for at in (0..bytes.len()).filter(|at| !(6..8).contains(at)) {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let mut written =
            Epochs { begun: Some(EpochStart { epoch: LeaderEpoch(7), start: Offset(30) }), ..Epochs::default() };
        written.of_records.assign(LeaderEpoch(5), Offset(258));
        let golden = [
            &b"WLEP\0\x02\0\0"[..],
            &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 30, 0x50, 0x26, 0x03, 0x0f],
            &[0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 2, 0xf3, 0x08, 0x49, 0xa6],
        ];
        assert_eq!(encode(&written), golden.concat());
    }

    #[test]
    fn a_file_of_the_version_before_is_read() {
        let entry = |epoch: i32, start: i64| {
            let body = [&epoch.to_be_bytes()[..], &start.to_be_bytes()].concat();
            [&body[..], &crate::crc32c(&body).to_be_bytes()].concat()
        };
        let bytes = [&b"WLEP\0\x01\0\0"[..], &entry(1, 0), &entry(4, 30)].concat();
        let read = decode(&bytes).unwrap();
        assert_eq!((read.of_records.starts().len(), read.of_records.latest()), (2, LeaderEpoch(4)));
        assert_eq!(read.begun, Some(EpochStart { epoch: LeaderEpoch(4), start: Offset(30) }));
    }

    #[test]
    fn what_was_begun_stays_until_the_log_is_cut_below_its_start() {
        let mut epochs = Epochs::default();
        epochs.of_records.assign(LeaderEpoch(5), Offset(0));
        epochs.begun = Some(EpochStart { epoch: LeaderEpoch(7), start: Offset(10) });
        // Of a leader of epoch 8, to which the node was not the latest leader.
        assert!(epochs.of_records.assign(LeaderEpoch(6), Offset(10)));
        assert_eq!((epochs.of_records.epoch_of(Offset(10)), epochs.latest()), (LeaderEpoch(6), LeaderEpoch(7)));
        epochs.truncate(Offset(10));
        assert_eq!((epochs.of_records.latest(), epochs.begun()), (LeaderEpoch(5), LeaderEpoch(7)));
        epochs.truncate(Offset(9));
        assert_eq!(epochs.begun(), LeaderEpoch::NONE);
    }

    #[test]
    fn what_a_cut_did_not_get_to_is_made_up_for() {
        let mut epochs = Epochs::default();
        for (epoch, start) in [(5, 0), (7, 10)] {
            epochs.of_records.assign(LeaderEpoch(epoch), Offset(start));
        }
        let mut cut = epochs.clone();
        cut.reconcile(Offset(0), Offset(10));
        assert_eq!(cut.of_records.latest(), LeaderEpoch(5), "its records are cut off");
        assert!(cut.of_records.assign(LeaderEpoch(6), Offset(10)), "others may come in their place");
        epochs.of_records.forget_before(Offset(20));
        epochs.reconcile(Offset(20), Offset(20));
        assert_eq!(epochs.of_records.latest(), LeaderEpoch(7), "its records are deleted");
    }
}
