//! The checkpoint of a data directory: recovery points, durable marks and high watermarks of its partitions.
//!
//! One file of fixed slots, two copies per partition written in turn, each with a sequence and a checksum: a torn
//! write costs the newer copy and never both. A slot is written after each group commit without a sync of its own,
//! so after the death of the process it is exact; after power loss it is behind by what the kernel had not written
//! back, at most the interval of [`Checkpoint::sync`]. It is never ahead of what was made durable.
//!
//! ```text
//! file  = header | slots
//! header = "WCKP" | version u16 | 1 u16 | registration i64 | 0… up to 128; of earlier versions 0 from the 1 on
//! slot  = copy | copy
//! copy  = topic id 16 | partition i32 | flags u32 | sequence u64 | log start i64 | recovery point i64
//!         | durable mark i64 | high watermark i64 | recovery position u64 | segments u32 | segment created i64
//!         | append time i64 | epoch of the high watermark + 1 u32 | 0… | CRC-32C u32       128 bytes, big-endian
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use parking_lot::Mutex;
use walser_model::{LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};

use crate::checked::{CRC_LEN, seal, take, unseal};
use crate::directory_names::DirectoryNames;
use crate::disk::{Disk, DiskFile, Open, remove_file_if_any};

/// Name of the file in a data directory.
pub(crate) const FILE_NAME: &str = "checkpoint";

const MAGIC: &[u8; 4] = b"WCKP";
const VERSION: u16 = 1;
pub(crate) const COPY_LEN: usize = 128;
const SLOT_LEN: usize = 2 * COPY_LEN;
const IN_USE: u32 = 1;
/// Where the header says that it knows of registrations, and of which.
const REGISTRATION_AT: usize = 6;
/// The 1 and the number.
const REGISTRATION_LEN: usize = 10;

/// What is known of a partition without reading its log. All offsets are exclusive ends, except the log start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Oldest offset that readers may see.
    pub log_start: Offset,
    /// Indexes and snapshots are complete below; recovery reads from here.
    pub recovery_point: Offset,
    /// Where the recovery point lies in its segment file, in bytes.
    pub recovery_position: u64,
    /// Everything below was on stable storage when this was written.
    pub durable: Offset,
    /// The high watermark, as it was known when this was written; never beyond the log end.
    pub high_watermark: Offset,
    /// The leader epoch in which it was learnt. `None`: that is not known, as in slots of earlier versions.
    pub high_watermark_epoch: Option<LeaderEpoch>,
    /// How many segment files there were. 0: not known.
    pub segments: u32,
    /// When the last segment was created, by the wall clock in milliseconds. 0: not known.
    pub segment_created: Timestamp,
    /// The latest time that the leader has stamped records with (LogAppendTime), in milliseconds. 0: none.
    pub append_time: Timestamp,
}

/// A slot's place in the file, and what the next write to it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    number: u64,
    sequence: u64,
    /// The file may have it as the slot of a partition.
    named: bool,
}

/// The open checkpoint file.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<dyn DiskFile>,
    free: Vec<Slot>,
    slot_count: u64,
    loaded: HashMap<TopicPartition, (Slot, Marks)>,
    names: Arc<DirectoryNames>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The latest registration of the node that the file has seen. `None`: it does not say, as those of earlier versions.
    registration: Option<i64>,
    /// A sync of the file failed: it has to be replaced.
    broken: bool,
    /// One sync at a time: a writeback error is reported once, and whoever gets it has to mend it for all.
    syncing: Arc<Mutex<()>>,
    /// Syncs that have begun, and the number of the last one that has succeeded.
    syncs: (u64, u64),
}

/// One copy of a slot.
pub(crate) fn encode(partition: Option<TopicPartition>, sequence: u64, marks: &Marks) -> [u8; COPY_LEN] {
    let mut out = Vec::with_capacity(COPY_LEN);
    let (topic, number) = partition.map_or(([0; 16], 0), |owner| (owner.topic.to_bytes(), owner.partition.0));
    out.put_slice(&topic);
    out.put_i32(number);
    out.put_u32(if partition.is_some() { IN_USE } else { 0 });
    out.put_u64(sequence);
    out.put_i64(marks.log_start.0);
    out.put_i64(marks.recovery_point.0);
    out.put_i64(marks.durable.0);
    out.put_i64(marks.high_watermark.0);
    out.put_u64(marks.recovery_position);
    out.put_u32(marks.segments);
    out.put_i64(marks.segment_created);
    out.put_i64(marks.append_time);
    out.put_i32(marks.high_watermark_epoch.map_or(0, |epoch| epoch.0.saturating_add(1)));
    out.resize(COPY_LEN - CRC_LEN, 0);
    seal(&mut out, 0);
    out.try_into().expect("a copy has a fixed length")
}

/// A copy's owner (`None`: the slot is free), sequence and marks. `None` when it is damaged or was never written.
pub(crate) fn decode(copy: &[u8]) -> Option<(Option<TopicPartition>, u64, Marks)> {
    let mut body = unseal(copy).filter(|_| copy.len() == COPY_LEN)?;
    let topic = TopicId::from_bytes(take(&mut body)?);
    let number = PartitionIndex(body.try_get_i32().ok()?);
    let in_use = body.try_get_u32().ok()? & IN_USE != 0;
    let sequence = body.try_get_u64().ok()?;
    let marks = Marks {
        log_start: Offset(body.try_get_i64().ok()?),
        recovery_point: Offset(body.try_get_i64().ok()?),
        durable: Offset(body.try_get_i64().ok()?),
        high_watermark: Offset(body.try_get_i64().ok()?),
        recovery_position: body.try_get_u64().ok()?,
        segments: body.try_get_u32().ok()?,
        segment_created: body.try_get_i64().ok()?,
        append_time: body.try_get_i64().ok()?,
        high_watermark_epoch: Some(body.try_get_i32().ok()?)
            .filter(|epoch| *epoch > 0)
            .map(|epoch| LeaderEpoch(epoch - 1)),
    };
    Some((in_use.then(|| TopicPartition::new(topic, number)), sequence, marks))
}

fn registration_bytes(registration: i64) -> [u8; REGISTRATION_LEN] {
    let mut bytes = [0; REGISTRATION_LEN];
    bytes[1] = 1;
    bytes[2..].copy_from_slice(&registration.to_be_bytes());
    bytes
}

fn registration_of(header: &[u8]) -> Option<i64> {
    let mut bytes = &header[REGISTRATION_AT..][..REGISTRATION_LEN];
    (bytes.get_u16() == 1).then(|| bytes.get_i64())
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Opens or creates the file and reads every slot.
    ///
    /// # Errors
    /// I/O errors, and [`io::ErrorKind::InvalidData`] when the file is of another kind or version.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        let names = Arc::new(DirectoryNames::new(Arc::clone(disk), dir));
        names.finish_renames()?;
        let file = disk.open(&dir.join(FILE_NAME), Open::Write)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(len);
        file.read_at(&mut bytes, 0, len)?;
        if bytes.len() < COPY_LEN {
            let mut header = [0; COPY_LEN];
            header[..4].copy_from_slice(MAGIC);
            header[4..6].copy_from_slice(&VERSION.to_be_bytes());
            header[REGISTRATION_AT..][..REGISTRATION_LEN].copy_from_slice(&registration_bytes(0));
            file.write_at(&header, 0)?;
            file.sync_data()?;
            names.sync()?;
            bytes = header.to_vec();
        }
        if &bytes[..4] != MAGIC || bytes[4..6] != VERSION.to_be_bytes() {
            let text = format!("{FILE_NAME} is not a checkpoint of version {VERSION}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let (disk, dir) = (Arc::clone(disk), dir.to_owned());
        let (free, slot_count, loaded) = (Vec::new(), 0, HashMap::new());
        let mut checkpoint = Self {
            file,
            free,
            slot_count,
            loaded,
            names,
            disk,
            dir,
            registration: registration_of(&bytes),
            broken: false,
            syncing: Arc::default(),
            syncs: (0, 0),
        };
        for slot in bytes[COPY_LEN..].chunks(SLOT_LEN) {
            checkpoint.load(slot);
        }
        Ok(checkpoint)
    }

    fn load(&mut self, bytes: &[u8]) {
        let number = self.slot_count;
        self.slot_count += 1;
        let copies = bytes.chunks_exact(COPY_LEN).filter_map(decode);
        match copies.max_by_key(|(_, sequence, _)| *sequence) {
            Some((Some(partition), sequence, marks)) => {
                self.loaded.insert(partition, (Slot { number, sequence, named: true }, marks));
            }
            // The sequence goes on where it was, or an old copy would win over the next owner's first.
            Some((None, sequence, _)) => self.free.push(Slot { number, sequence, named: false }),
            None => self.free.push(Slot { number, sequence: 0, named: false }),
        }
    }

    /// The latest registration of the node that the file, and so the logs beside it, have seen; 0: none. `None`: nobody
    /// knows.
    pub(crate) fn registration(&self) -> Option<i64> {
        self.registration
    }

    /// Notes a registration durably. A lower one changes nothing. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// I/O errors; calling again is safe.
    pub(crate) fn note_registration(checkpoint: &Mutex<Self>, registration: i64) -> io::Result<()> {
        {
            let locked = checkpoint.lock();
            if locked.registration.is_some_and(|known| known >= registration) {
                return Ok(());
            }
            locked.file.write_at(&registration_bytes(registration), REGISTRATION_AT as u64)?;
        }
        Self::sync(checkpoint)?;
        checkpoint.lock().registration = Some(registration);
        Ok(())
    }

    /// Whether no partition has ever had a slot in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.slot_count == 0
    }

    /// Takes over the slot of a partition: the one that was loaded, or a new one with zero marks.
    pub(crate) fn claim(&mut self, partition: TopicPartition) -> (Slot, Option<Marks>) {
        if let Some((slot, marks)) = self.loaded.remove(&partition) {
            return (slot, Some(marks));
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slot_count += 1;
            Slot { number: self.slot_count - 1, sequence: 0, named: false }
        });
        (slot, None)
    }

    /// Undoes a claim: the log could not be opened, and its marks must be there for the next attempt.
    pub(crate) fn unclaim(&mut self, partition: TopicPartition, slot: Slot, marks: Option<Marks>) {
        match marks {
            Some(marks) => drop(self.loaded.insert(partition, (slot, marks))),
            None => self.free.push(slot),
        }
    }

    /// Makes marks those of a partition that nobody has claimed, durably: its log is about to come from elsewhere, without
    /// any where there are `None`. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub(crate) fn take_over(
        checkpoint: &Mutex<Self>,
        partition: TopicPartition,
        marks: Option<Marks>,
    ) -> io::Result<()> {
        let mut slots = checkpoint.lock();
        let (mut slot, _) = slots.claim(partition);
        let written = marks.map_or(Ok(()), |marks| slots.write(&mut slot, partition, &marks));
        slots.unclaim(partition, slot, marks);
        drop(slots);
        written?;
        Self::sync(checkpoint)
    }

    /// The marks of a partition that nobody has claimed.
    pub(crate) fn marks(&self, partition: TopicPartition) -> Option<Marks> {
        self.loaded.get(&partition).map(|(_, marks)| *marks)
    }

    /// The names of the partitions' directories, which lie beside the file.
    pub(crate) fn names(&self) -> Arc<DirectoryNames> {
        Arc::clone(&self.names)
    }

    /// Partitions that have marks and were not claimed.
    pub fn unclaimed(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.loaded.keys().copied()
    }

    /// Writes a slot, without making it durable.
    pub(crate) fn write(&self, slot: &mut Slot, partition: TopicPartition, marks: &Marks) -> io::Result<()> {
        slot.sequence += 1;
        slot.named = true;
        self.put(*slot, &encode(Some(partition), slot.sequence, marks))
    }

    /// Gives a slot back after its partition is gone.
    pub(crate) fn release(&mut self, mut slot: Slot) -> io::Result<()> {
        self.erase(&mut slot)?;
        self.free(slot);
        Ok(())
    }

    /// Takes the marks out of a slot, before its partition is removed: a start that finds half of it then does not take
    /// the rest for lost. The slot is not given to another partition before [`Checkpoint::free`].
    pub(crate) fn erase(&mut self, slot: &mut Slot) -> io::Result<()> {
        slot.sequence += 1;
        self.put(*slot, &encode(None, slot.sequence, &Marks::default()))?;
        slot.named = false;
        Ok(())
    }

    /// The same, where it may have any. Whether it has none now.
    pub(crate) fn forget(&mut self, slot: &mut Slot) -> bool {
        !slot.named || self.erase(slot).is_ok()
    }

    /// Gives back a slot that was erased, after its partition is gone.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    fn put(&self, slot: Slot, copy: &[u8; COPY_LEN]) -> io::Result<()> {
        let at = COPY_LEN as u64 + slot.number * SLOT_LEN as u64 + (slot.sequence % 2) * COPY_LEN as u64;
        self.file.write_at(copy, at)
    }

    /// Makes all slots durable that were written before the call. Blocks as long as the disk takes, without holding
    /// the lock while it syncs.
    ///
    /// A file whose sync failed is never synced again (rule R30): all slots are written to a new one, which takes its
    /// place.
    ///
    /// # Errors
    /// When the new file cannot be written either; the next call tries with another one.
    pub fn sync(checkpoint: &Mutex<Self>) -> io::Result<()> {
        let begun = checkpoint.lock().syncs.0;
        Self::sync_after(checkpoint, begun)
    }

    /// Makes durable what was written while `begun` syncs had begun.
    fn sync_after(checkpoint: &Mutex<Self>, begun: u64) -> io::Result<()> {
        let syncing = Arc::clone(&checkpoint.lock().syncing);
        let _one_at_a_time = syncing.lock();
        let (file, broken, number) = {
            let mut locked = checkpoint.lock();
            if locked.syncs.1 > begun {
                // A later one was made meanwhile for somebody who waited, too.
                return Ok(());
            }
            locked.syncs.0 += 1;
            (Arc::clone(&locked.file), locked.broken, locked.syncs.0)
        };
        if !broken && let Err(error) = file.sync_data() {
            tracing::error!(%error, "the checkpoint could not be synced; it is written anew");
            checkpoint.lock().broken = true;
        }
        let mut locked = checkpoint.lock();
        if locked.broken {
            locked.replace()?;
        }
        locked.syncs.1 = number;
        Ok(())
    }

    /// How many syncs have begun, and the number of the last one that has succeeded: what was written while fewer than
    /// that had begun is durable.
    pub(crate) fn syncs(&self) -> (u64, u64) {
        self.syncs
    }

    /// Writes all slots to a new file, durably.
    fn replace(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let len = usize::try_from(self.file.len()?).map_err(io::Error::other)?;
        self.file.read_at(&mut bytes, 0, len)?;
        let path = self.dir.join(FILE_NAME);
        let temporary = path.with_extension("tmp");
        remove_file_if_any(&*self.disk, &temporary)?;
        let file = self.disk.open(&temporary, Open::Write)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        self.disk.rename(&temporary, &path)?;
        self.names.sync()?;
        (self.file, self.broken) = (file, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
