//! Appending: the only way records get into a log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use walser_model::{EpochStart, LeaderEpoch, Offset, Timestamp, TimestampType};
use walser_record_batch::{BatchHeader, HEADER_LEN};

use crate::disk::{DiskFile, Open, out_of_files};
use crate::log::{Active, Condition, Log, LogError};
use crate::segment::Segment;

/// Why an append did not happen. Nothing of it is in the log then.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log does not take writes.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The disk is full. The log stays in service; once there is space, appends work again.
    #[error("no space left for the log")]
    NoSpace,
    /// Too many files are open. The log stays in service; once others are closed, appends work again.
    #[error("too many open files")]
    NoFiles,
    /// The append reaches into space that a running extension is filling with zeros, or needs the next segment while
    /// one runs. The log stays in service; the append works once [`Log::finish_extension`] has been called.
    #[error("an extension of the segment is running")]
    Extending,
}

impl Log {
    /// Begins to lead in a leader epoch: its start is the log end. It becomes durable with the next flush; that is one
    /// with records of the epoch, unless it is `wanted` before there are any.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch, wanted: bool) {
        let start = self.log_end();
        let begun = &mut self.shared.epochs.write().begun;
        if begun.is_none_or(|before| before.epoch < epoch) {
            *begun = Some(EpochStart { epoch, start });
            self.flushing.epochs_changed = true;
            self.flushing.epoch_wanted |= wanted;
        }
    }

    /// The latest leader epoch that this node began to lead and whose start is on stable storage, for as long as the log
    /// reaches there; or [`LeaderEpoch::NONE`].
    pub fn begun_epoch(&self) -> LeaderEpoch {
        let begun = self.shared.epochs.read().begun();
        if self.epoch_on_disk >= begun { begun } else { LeaderEpoch::NONE }
    }

    /// Whether an append of `bytes` is refused with [`AppendError::Extending`] at present.
    pub fn must_wait(&self, bytes: usize) -> bool {
        let Some(active) = &self.active else { return false };
        let end = active.segment.size() + bytes as u64;
        let Some(from) = active.extending_from else { return false };
        end > from || end > self.config.segment_bytes
    }

    /// Appends `run`: whole batches, one after the other, already admitted and stamped with their offsets and leader
    /// epoch, the first at the log end. `headers` describes them.
    ///
    /// # Errors
    /// How many of the batches are in the log, and why the rest is not. After [`AppendError::NoSpace`] the log takes
    /// appends again once there is space, and after [`AppendError::Extending`] once the extension has finished; after
    /// another I/O error it is out of service.
    ///
    /// # Panics
    /// When the batches do not continue the log or do not add up to `run`: the caller numbered them wrongly.
    pub fn append(&mut self, run: &[u8], headers: &[BatchHeader], now: Timestamp) -> Result<(), (usize, AppendError)> {
        let before = self.log_end();
        let outcome = self.append_admitted(run, headers, now);
        outcome.map_err(|error| {
            // What was admitted is not all in the log: the producers are read again from what is.
            self.producers = None;
            let end = self.log_end();
            let appended = headers.iter().take_while(|header| end > before && header.next_offset() <= end).count();
            (appended, error)
        })
    }

    fn append_admitted(&mut self, run: &[u8], headers: &[BatchHeader], now: Timestamp) -> Result<(), AppendError> {
        self.writable()?;
        assert_eq!(headers.iter().map(|header| header.size).sum::<usize>(), run.len(), "headers describe the run");
        let mut rest = run;
        let mut left = headers;
        while !left.is_empty() {
            self.prepare_segment(&left[0], now)?;
            let active = self.active.as_ref().expect("a segment was just prepared");
            let size = active.segment.size();
            let room = self.config.segment_bytes.saturating_sub(size);
            let (count, bytes) = fitting(left, room);
            let (count, bytes) = match active.extending_from {
                // The extension writes zeros from there on, whenever it gets to it.
                Some(from) if size + bytes as u64 > from => {
                    let (count, bytes) = fitting(left, from.saturating_sub(size));
                    if size + bytes as u64 > from {
                        return Err(AppendError::Extending);
                    }
                    (count, bytes)
                }
                _ => (count, bytes),
            };
            let (part, tail) = rest.split_at(bytes);
            self.write_run(part, &left[..count])?;
            rest = tail;
            left = &left[count..];
        }
        Ok(())
    }

    /// Makes sure that there is an active segment in which a batch fits, by size and by age, or an empty one.
    ///
    /// # Errors
    /// [`AppendError::Extending`] when that takes the next segment while an extension runs.
    fn prepare_segment(&mut self, next: &BatchHeader, now: Timestamp) -> Result<(), AppendError> {
        if self.active.is_none() {
            self.open_active(now).map_err(|error| self.append_failed(error))?;
        }
        let active = self.active.as_ref().expect("just opened");
        let size = active.segment.size();
        let full = size > 0 && size + next.size as u64 > self.config.segment_bytes;
        // By the time of records, as in Kafka: it is theirs that retention looks at.
        let first = active.first_timestamp.filter(|_| active.extending_from.is_none());
        let old = first.is_some_and(|first| next.max_timestamp.saturating_sub(first) >= self.segment_age_millis());
        if full || old {
            self.roll(now).map_err(|error| self.append_failed(error))?;
        }
        Ok(())
    }

    pub(crate) fn segment_age_millis(&self) -> i64 {
        i64::try_from(self.config.segment_age.as_millis()).unwrap_or(i64::MAX)
    }

    fn write_run(&mut self, run: &[u8], headers: &[BatchHeader]) -> Result<(), AppendError> {
        let active = self.active.as_ref().expect("a segment is prepared before a run is written");
        let (segment, file) = (Arc::clone(&active.segment), Arc::clone(&active.file));
        let start = segment.size();
        if let Err(error) = file.write_at(run, start) {
            self.cut_behind_end(&*file, start, &error);
            return Err(self.append_failed(error));
        }
        let mut position = start;
        for header in headers {
            assert_eq!(header.base_offset, self.log_end(), "batches continue the log");
            if let Err(error) = segment.note(header, position, self.config.index_interval_bytes) {
                // It is on the disk and not in the log: it must not lie behind the end.
                self.cut_behind_end(&*file, position, &error);
                return Err(self.append_failed(error));
            }
            position += header.size as u64;
            if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
                self.marks.append_time = header.max_timestamp;
            }
            if self.shared.epochs.write().of_records.assign(header.leader_epoch, header.base_offset) {
                self.flushing.epochs_changed = true;
            }
            self.shared.end.store(header.next_offset().0, Ordering::Release);
        }
        if let (Some(active), Some(first)) = (&mut self.active, headers.first()) {
            active.first_timestamp.get_or_insert(first.max_timestamp);
        }
        self.flushing.appended(run.len() as u64);
        Ok(())
    }

    /// Cuts what a failed append may have left behind the end of the log, or recovery would bring it back.
    fn cut_behind_end(&mut self, file: &dyn DiskFile, end: u64, error: &io::Error) {
        if let Err(cut) = file.set_len(end) {
            self.fail(format!("{cut}, after {error}"));
        } else if let Some(active) = &mut self.active {
            active.zeroed_to = active.zeroed_to.min(end);
        }
    }

    /// A full disk and a running extension leave the log in service; everything else does not.
    fn append_failed(&mut self, error: io::Error) -> AppendError {
        if let Condition::Corrupt { from } = self.condition {
            return AppendError::Log(LogError::Corrupt { from });
        }
        if out_of_space(&error) {
            return AppendError::NoSpace;
        }
        if error.kind() == io::ErrorKind::ResourceBusy {
            return AppendError::Extending;
        }
        if out_of_files(&error) {
            return AppendError::NoFiles;
        }
        self.fail(error.to_string());
        AppendError::Log(error.into())
    }

    /// Opens the last segment for appending, or makes the first one. The partition's directory appears here.
    fn open_active(&mut self, now: Timestamp) -> io::Result<()> {
        let last = self.shared.segments.read().last().cloned();
        let active = match last {
            Some(segment) => {
                let file = segment.file(Open::Write)?;
                let zeroed_to = file.len()?;
                // Everything that can fail for want of files does so before anything is written.
                let end = segment.end()?;
                if end != self.log_end() {
                    // Records that were there have become something else: nothing is written in their place.
                    self.note_damage(end);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the last segment is damaged"));
                }
                let first_timestamp = first_timestamp(&*file, segment.size())?;
                if self.marks.segment_created == 0 {
                    self.marks.segment_created = now;
                }
                Active { segment, file, first_timestamp, zeroed_to, extending_from: None }
            }
            None => {
                self.disk.create_dir(&self.dir)?;
                self.flushing.directories_changed = true;
                self.create_segment(self.log_end(), now)?
            }
        };
        #[cfg(feature = "faults")]
        let active = if self.age_restarts {
            self.marks.segment_created = now;
            Active { first_timestamp: None, ..active }
        } else {
            active
        };
        // Producers of a resting log are loaded before anything is appended, while the snapshot is at the end.
        self.producers()?;
        self.active = Some(active);
        Ok(())
    }

    fn create_segment(&mut self, base: Offset, now: Timestamp) -> io::Result<Active> {
        let segment = Arc::new(Segment::new(Arc::clone(&self.disk), &self.dir, base, 0));
        let file: Arc<dyn DiskFile> = segment.file(Open::Write)?;
        file.set_len(0)?;
        segment.start_index();
        self.shared.segments.write().push(Arc::clone(&segment));
        self.flushing.directories_changed = true;
        self.marks.segment_created = now;
        Ok(Active { segment, file, first_timestamp: None, zeroed_to: 0, extending_from: None })
    }

    /// Closes the active segment and starts the next one at the log end. An empty segment stays: the next one would
    /// have its name.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] while an extension runs: it would write behind the end of the closed file.
    pub(crate) fn roll(&mut self, now: Timestamp) -> io::Result<()> {
        if self.active.is_none() {
            self.open_active(now)?;
        }
        let old = self.active.as_ref().expect("there is an active segment to close");
        if old.segment.size() == 0 {
            return Ok(());
        }
        if old.extending_from.is_some() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "an extension of the segment is running"));
        }
        // Zeros may lie farther ahead than is known: an extension may have ended early.
        if old.file.len()? > old.segment.size() {
            old.file.set_len(old.segment.size())?;
        }
        let index = old.segment.write_index()?;
        // Only now, when nothing can fail before the file is among those that the next flush syncs.
        if let Some(old) = self.active.take() {
            self.flushing.segment_closed(old.file, index);
            old.segment.rest();
        }
        self.active = Some(self.create_segment(self.log_end(), now)?);
        Ok(())
    }
}

/// Whether a write failed only because there is no room.
pub(crate) fn out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Largest timestamp of the first batch of a segment with `size` bytes of log. `None`: it is empty.
fn first_timestamp(file: &dyn DiskFile, size: u64) -> io::Result<Option<Timestamp>> {
    if size == 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, 0, HEADER_LEN)?;
    Ok(BatchHeader::parse(&bytes).ok().map(|header| header.max_timestamp))
}

/// How many of the batches fit into `room` bytes, at least one, and their bytes.
fn fitting(headers: &[BatchHeader], room: u64) -> (usize, usize) {
    let mut bytes = headers[0].size;
    let mut count = 1;
    for header in &headers[1..] {
        if (bytes + header.size) as u64 > room {
            break;
        }
        bytes += header.size;
        count += 1;
    }
    (count, bytes)
}
