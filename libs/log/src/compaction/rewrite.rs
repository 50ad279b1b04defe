//! The second pass: segments are written anew without what is not needed any more.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use walser_model::{LeaderEpoch, Offset, Timestamp};
use walser_record_batch::{BatchHeader, HEADER_LEN, Producer, Retainable, Retained, empty_batch, retain};

use super::swap::cleaned_name;
use super::{ClosedSegment, CompactionJob, CompactionRest, Pace, Pass, WaitingTombstone, damaged, interrupted};
use crate::disk::{DiskFile, Open};
use crate::epochs::has_epoch_of;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

const BUFFER_BYTES: usize = 1 << 20;

/// Segments, and the one that takes their place.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// Adjacent ones.
    pub(crate) old: Vec<Arc<Segment>>,
    pub(crate) new: Arc<Segment>,
}

/// Offsets of which nothing is left, of one leader epoch.
#[derive(Debug, Clone, Copy)]
struct Gone {
    base: Offset,
    next: Offset,
    epoch: LeaderEpoch,
}

/// A segment that is being written.
struct Output<'a> {
    job: &'a CompactionJob,
    file: Arc<dyn DiskFile>,
    segment: Arc<Segment>,
    buffer: Vec<u8>,
    /// Bytes that are in the file.
    written: u64,
    /// The file that it is made of, where that is one.
    only: Option<Arc<dyn DiskFile>>,
    /// Bytes from its beginning that stay as they are. They are written once something differs, since often nothing does.
    same: u64,
    /// Bytes that were read once more to be written.
    copied: usize,
    gone: Option<Gone>,
    /// It differs from what it is made of.
    changed: bool,
}

/// Writes a group of segments anew. `None`: nothing would change, and the file is to be removed.
pub(super) fn rewrite(
    job: &CompactionJob,
    group: &[ClosedSegment],
    pass: &mut Pass,
    pace: Pace<'_>,
) -> io::Result<Option<Replacement>> {
    let Some(base) = group.first().map(|first| first.segment.base) else { return Ok(None) };
    let path = job.names.path().join(cleaned_name(base, job.generation));
    let file = job.names.disk().open(&path, Open::Write)?;
    file.set_len(0)?;
    let segment = Arc::new(Segment::new(Arc::clone(job.names.disk()), job.names.path(), base, 0));
    segment.start_index();
    let only = match group {
        [only] => Some(only.segment.file(Open::Read)?),
        _ => None,
    };
    let (buffer, changed) = (Vec::new(), only.is_none());
    let mut output = Output { job, file, segment, buffer, written: 0, only, same: 0, copied: 0, gone: None, changed };
    for ClosedSegment { segment: old, end: next } in group {
        let old_file = old.file(Open::Read)?;
        let mut scan = Scan::new(&*old_file, 0, old.size());
        let mut expected = old.base;
        while expected < *next {
            // Checksums cover neither the base offset nor the leader epoch: what does not follow is damaged, and is not
            // copied over the original.
            let found = match scan.step()? {
                Step::Batch(found)
                    if found.header.base_offset == expected && has_epoch_of(&job.epochs, &found.header) =>
                {
                    found
                }
                _ => return Err(damaged(old, expected)),
            };
            expected = found.header.next_offset();
            output.take(&found.header, found.bytes, pass)?;
            if !pace(found.bytes.len() + std::mem::take(&mut output.copied)) {
                return Err(interrupted());
            }
        }
        // There may be more of them than files may be open.
        old.close();
    }
    output.finish(group)
}

impl Output<'_> {
    fn take(&mut self, header: &BatchHeader, bytes: &[u8], pass: &mut Pass) -> io::Result<()> {
        let is_last = pass.keeps_empty(header);
        if header.record_count == 0 {
            return if is_last { self.put(bytes) } else { self.forget(header) };
        }
        if header.attributes.control() || header.base_offset >= pass.end {
            return self.put(bytes);
        }
        let batch = Bytes::copy_from_slice(bytes);
        // What a tombstone deletes has gone once its whole batch was looked at.
        let horizon = Some(self.job.rules.horizon()).filter(|_| header.next_offset() <= pass.end);
        let (mut left, mut rest) = (None, CompactionRest::default());
        let kept = retain(header, &batch, horizon, |record, horizon| {
            let stays = self.job.keeps(pass, record, horizon);
            // What has neither key nor value stays for ever.
            let tombstone = record.tombstone && record.key.is_some();
            left = left.or_else(|| (stays && tombstone).then_some(record.offset));
            *(if tombstone { &mut rest.tombstones } else { &mut rest.records }) += u64::from(stays);
            stays
        });
        let horizon = match &kept {
            Ok(Retained::Some(rest)) => BatchHeader::parse(rest).map_err(io::Error::other)?.delete_horizon(),
            Ok(Retained::All) => header.delete_horizon(),
            Ok(Retained::Nothing | Retained::TooLarge) | Err(_) => None,
        };
        let waits =
            left.filter(|at| *at < pass.uncleaned.first).zip(horizon).map(|(at, over)| WaitingTombstone { over, at });
        pass.tombstone = WaitingTombstone::first(pass.tombstone, waits);
        pass.left.records += rest.records;
        pass.left.tombstones += rest.tombstones;
        match kept {
            Ok(Retained::Nothing) if is_last => {
                let BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence, .. } = *header;
                let producer = Producer { id, epoch, base_sequence };
                let empty = empty_batch(header.base_offset, header.next_offset(), header.leader_epoch, producer);
                self.changed = true;
                self.put(&empty)
            }
            Ok(Retained::Nothing) => {
                self.changed = true;
                self.forget(header)
            }
            Ok(Retained::Some(rest)) => {
                self.changed = true;
                self.put(&rest)
            }
            Ok(Retained::All) => self.put(bytes),
            // What cannot be decoded has no keys, and stays for whoever can.
            Ok(Retained::TooLarge) | Err(_) => {
                pass.uncleaned.add(header.base_offset);
                self.put(bytes)
            }
        }
    }

    /// Nothing of a batch is left.
    fn forget(&mut self, header: &BatchHeader) -> io::Result<()> {
        let (base, next, epoch) = (header.base_offset, header.next_offset(), header.leader_epoch);
        self.changed |= header.size != HEADER_LEN;
        if let Some(gone) = &mut self.gone
            && gone.epoch == epoch
            && i32::try_from(next.since(gone.base)).is_ok()
        {
            gone.next = next;
            self.changed = true;
            return Ok(());
        }
        self.put_gone()?;
        self.gone = Some(Gone { base, next, epoch });
        Ok(())
    }

    fn put_gone(&mut self) -> io::Result<()> {
        let Some(Gone { base, next, epoch }) = self.gone.take() else { return Ok(()) };
        self.write(&empty_batch(base, next, epoch, Producer::NONE))
    }

    /// Writes a batch behind what is gone before it.
    fn put(&mut self, batch: &[u8]) -> io::Result<()> {
        self.put_gone()?;
        self.write(batch)
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let header = BatchHeader::parse(batch).map_err(io::Error::other)?;
        if !self.changed {
            self.segment.note(&header, self.same, self.job.interval_bytes)?;
            self.same += batch.len() as u64;
            return Ok(());
        }
        self.write_same()?;
        let position = self.written + self.buffer.len() as u64;
        self.segment.note(&header, position, self.job.interval_bytes)?;
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= BUFFER_BYTES { self.drain() } else { Ok(()) }
    }

    /// Writes what stays as it is before the first difference.
    fn write_same(&mut self) -> io::Result<()> {
        let Some(only) = self.only.take() else { return Ok(()) };
        while self.written < self.same {
            let count = usize::try_from(self.same - self.written).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            only.read_at(&mut self.buffer, self.written, count)?;
            if self.buffer.len() != count {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.copied += count;
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, group: &[ClosedSegment]) -> io::Result<Option<Replacement>> {
        self.put_gone()?;
        if !self.changed {
            return Ok(None);
        }
        self.drain()?;
        if !self.job.faults.swaps_unsynced {
            self.file.sync_data()?;
        }
        self.segment.adopt_file(self.file);
        Ok(Some(Replacement {
            old: group.iter().map(|closed| Arc::clone(&closed.segment)).collect(),
            new: self.segment,
        }))
    }
}

impl CompactionJob {
    /// Whether a record stays.
    fn keeps(&self, pass: &Pass, record: Retainable<'_>, horizon: Option<Timestamp>) -> bool {
        // Nothing can take the place of a record without a key.
        let Some(key) = record.key else { return true };
        if pass.map.latest(key).is_some_and(|latest| latest > record.offset) {
            return false;
        }
        let floor = self.rules.tombstone_floor.min(pass.end).min(pass.uncleaned.first);
        let over = record.offset < floor && horizon.is_some_and(|from| from < self.rules.now);
        !record.tombstone || !over
    }
}
