//! Appending: the only way records get into a log.

use std::io::{self, IoSlice};
use std::sync::Arc;

use walser_model::{EpochStart, LeaderEpoch, Timestamp, TimestampType, whole_millis};
use walser_record_batch::BatchHeader;

use super::{Condition, Log, LogError};
use crate::active::{ActiveSegment, Admission};
use crate::disk::{out_of_files, out_of_space};
use crate::run::Run;

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
        let begun = &mut self.state.epochs_mut().begun;
        if begun.is_none_or(|before| before.epoch < epoch) {
            *begun = Some(EpochStart { epoch, start });
            self.flushing.epochs_changed(wanted);
        }
    }

    /// The latest leader epoch that this node began to lead and whose start is on stable storage, for as long as the log
    /// reaches there; or [`LeaderEpoch::NONE`].
    pub fn begun_epoch(&self) -> LeaderEpoch {
        let begun = self.state.epochs().begun();
        if self.epoch_on_disk >= begun { begun } else { LeaderEpoch::NONE }
    }

    /// Whether a batch can be appended without waiting for the disk, behind `before` bytes that come first. It has the
    /// offsets that it would have then; one that is in the log already fits as far as these are concerned.
    pub fn admission(&self, before: usize, batch: &BatchHeader) -> Admission {
        match &self.active {
            Some(active) if self.producers.is_some() => {
                active.admission(before, batch, self.config.segment_bytes, self.segment_age_millis())
            }
            _ => Admission::AfterPreparation,
        }
    }

    /// Does what has to wait for the disk before `next` can be appended: loads the producers, opens the last segment, or
    /// closes it and begins the next one. [`Log::append`] does so itself where it was not done.
    ///
    /// # Errors
    /// As for [`Log::append`]. The producers may be known all the same: see [`Log::knows_producers`].
    pub fn prepare_append(&mut self, next: &BatchHeader, now: Timestamp) -> Result<(), AppendError> {
        // First: what is in the log already can be told of whatever keeps more from being written.
        self.producers().map_err(LogError::from)?;
        self.writable()?;
        if self.active.is_none() {
            self.open_active(now).map_err(|error| self.append_failed(error))?;
        }
        match self.admission(0, next) {
            Admission::Fits => Ok(()),
            Admission::AfterExtension => Err(AppendError::Extending),
            Admission::AfterPreparation => self.roll(now).map_err(|error| self.append_failed(error)),
        }
    }

    /// Whether retries are recognised without reading anything from the disk.
    pub fn knows_producers(&self) -> bool {
        self.producers.is_some()
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
    pub fn append(&mut self, run: &Run, headers: &[BatchHeader], now: Timestamp) -> Result<(), (usize, AppendError)> {
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

    /// The same for batches that another node has decided and this one follows: what they say of their producers is taken
    /// as it is.
    ///
    /// # Errors
    /// As for [`Log::append`].
    ///
    /// # Panics
    /// As for [`Log::append`].
    pub fn append_decided(
        &mut self,
        run: &Run,
        headers: &[BatchHeader],
        now: Timestamp,
    ) -> Result<(), (usize, AppendError)> {
        let producers = self.producers().map_err(|error| (0, AppendError::Log(error.into())))?;
        headers.iter().for_each(|header| producers.record(header, now));
        self.append(run, headers, now)
    }

    fn append_admitted(&mut self, run: &Run, headers: &[BatchHeader], now: Timestamp) -> Result<(), AppendError> {
        self.writable()?;
        assert_eq!(headers.iter().map(|header| header.size).sum::<usize>(), run.len(), "headers describe the run");
        let (mut position, mut left) = (0, headers);
        while let Some(first) = left.first() {
            self.prepare_append(first, now)?;
            let (mut count, mut bytes) = (1, first.size);
            for header in &left[1..] {
                if self.admission(bytes, header) != Admission::Fits {
                    break;
                }
                (count, bytes) = (count + 1, bytes + header.size);
            }
            self.write_run(&mut run.slices(position..position + bytes), &left[..count])?;
            (position, left) = (position + bytes, &left[count..]);
        }
        Ok(())
    }

    pub(super) fn segment_age_millis(&self) -> i64 {
        whole_millis(self.config.segment_age)
    }

    fn write_run(&mut self, run: &mut [IoSlice<'_>], headers: &[BatchHeader]) -> Result<(), AppendError> {
        let end = headers.first().map_or_else(|| self.log_end(), |first| first.base_offset);
        let continued = headers.iter().try_fold(end, |end, next| (next.base_offset == end).then(|| next.next_offset()));
        assert!(end == self.log_end() && continued.is_some(), "batches continue the log");
        let active = self.active.as_mut().expect("a segment is prepared before a run is written");
        let written = active.write(run, headers, self.config.index_interval_bytes);
        let count = written.as_ref().map_or_else(|(count, _)| *count, |()| headers.len());
        for header in &headers[..count] {
            self.note_appended(header);
        }
        written.map_err(|(_, error)| {
            self.cut_behind_end(&error);
            self.append_failed(error)
        })
    }

    /// Takes into account what is in the active segment.
    fn note_appended(&mut self, header: &BatchHeader) {
        if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
            self.marks.append_time = header.max_timestamp;
        }
        if self.state.epochs_mut().of_records.assign(header.leader_epoch, header.base_offset) {
            self.flushing.epochs_changed(false);
        }
        self.state.set_end(header.next_offset());
        self.flushing.appended(header.size as u64);
    }

    /// Cuts what a failed append may have left behind the end of the log, or recovery would bring it back.
    fn cut_behind_end(&mut self, error: &io::Error) {
        if let Some(Err(cut)) = self.active.as_mut().map(ActiveSegment::cut_behind_end) {
            self.fail(format!("{cut}, after {error}"));
        }
    }

    /// A full disk, a running extension and a file that somebody has removed leave the log in service; everything else does
    /// not. Of a removed file whoever meets it is to look what else is missing ([`Log::missing_from`]).
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
        if error.kind() != io::ErrorKind::NotFound {
            self.fail(error.to_string());
        }
        AppendError::Log(error.into())
    }

    /// Opens the last segment for appending, or makes the first one. The partition's directory appears here. The
    /// producers of a log that rested are known by now: the snapshot that has them is at its end.
    fn open_active(&mut self, now: Timestamp) -> io::Result<()> {
        let last = self.state.last_segment();
        let Some(segment) = last else {
            self.names.disk().create_dir(self.names.path())?;
            return self.begin_segment(now);
        };
        if segment.size() == 0 {
            // With the directory, somebody may have removed it, and no record with it.
            self.names.disk().create_dir(self.names.path())?;
            self.flushing.names_changed();
        }
        match ActiveSegment::open(segment, self.log_end())? {
            Ok(active) => self.active = Some(active),
            Err(end) => {
                self.note_damage(end);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the last segment is damaged"));
            }
        }
        if self.marks.segment_created == 0 {
            self.marks.segment_created = now;
        }
        #[cfg(feature = "faults")]
        if self.faults.age_restarts {
            self.marks.segment_created = now;
            self.active.iter_mut().for_each(ActiveSegment::restart_age);
        }
        Ok(())
    }

    fn begin_segment(&mut self, now: Timestamp) -> io::Result<()> {
        let active = ActiveSegment::create(&self.names, self.log_end())?;
        self.flushing.names_changed();
        if let Err(error) = active.file().set_len(0) {
            // A file that stays would say to the next start that the log ends here: nothing may be written behind it.
            active.segment().remove().unwrap_or_else(|stays| self.fail(format!("{stays}, after {error}")));
            return Err(error);
        }
        self.state.segments_mut().push(Arc::clone(active.segment()));
        self.active = Some(active);
        self.marks.segment_created = now;
        Ok(())
    }

    /// Closes the active segment and starts the next one at the log end. An empty segment stays: the next one would
    /// have its name.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] while an extension runs: it would write behind the end of the closed file.
    pub(super) fn roll(&mut self, now: Timestamp) -> io::Result<()> {
        if self.active.is_none() {
            self.producers()?;
            self.open_active(now)?;
        }
        let old = self.active.as_ref().expect("there is an active segment to close");
        if old.segment().size() == 0 {
            return Ok(());
        }
        if old.extension_running() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "an extension of the segment is running"));
        }
        old.trim()?;
        let index = old.segment().write_whole_index()?;
        // Only now, when nothing can fail before the file is among those that the next flush syncs.
        if let Some(old) = self.active.take() {
            self.flushing.segment_closed(Arc::clone(old.file()), index);
            old.segment().release_idle();
        }
        self.begin_segment(now)
    }
}
