//! Giving up the oldest records: by age, by size, and on demand.

use std::sync::Arc;

use walser_model::{Offset, Timestamp, whole_millis};

use super::{Condition, Log, LogError};
use crate::segment::Segment;

/// Segments that one call removes at most: each may take the disk some milliseconds, and whoever has the log has it for
/// as long.
const REMOVED_AT_ONCE: usize = 32;

impl Log {
    /// Raises the log start to `before` and removes segments that lie wholly below it: a few, the rest is left to
    /// [`Log::remove_deleted`].
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] above the log end. A lower value than the present start changes nothing.
    pub fn delete_records(&mut self, before: Offset, now: Timestamp) -> Result<Offset, LogError> {
        if before > self.log_end() {
            let (start, end) = (self.log_start(), self.log_end());
            return Err(LogError::OutOfRange { offset: before, start, end });
        }
        if before <= self.log_start() {
            return Ok(self.log_start());
        }
        if before == self.log_end() && self.condition == Condition::Healthy && !self.extension_running() {
            // All of it goes: what follows starts in a segment of its own, whose name keeps the log end.
            self.roll(now)?;
        }
        if self.flushing.names_wait() {
            // The segment that keeps the end of the log has to be there before the others go.
            self.names.sync()?;
        }
        self.keep_producers_of(before);
        let start = self.log_start();
        self.state.set_log_start(before);
        if let Err(error) = self.write_marks().and_then(|()| self.sync_marks()) {
            // Nobody is told a start that would not be there after a loss of power.
            self.state.set_log_start(start);
            return Err(error.into());
        }
        self.remove_segments_below(before)?;
        Ok(before)
    }

    /// Whether there are segments below the log start whose files are still there.
    pub fn has_deleted(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// Goes on removing segments that lie below the log start, a few at a time.
    ///
    /// # Errors
    /// I/O errors while removing; what was removed stays so.
    pub fn remove_deleted(&mut self) -> Result<(), LogError> {
        if self.deleted.is_empty() {
            return Ok(());
        }
        // An earlier process may have begun the deletion.
        self.write_marks()?;
        self.sync_marks()?;
        self.remove_segments_below(self.log_start())
    }

    /// Removes segments below `up_to` (exclusive) by age and size, oldest first and a few at a time, and returns how
    /// many. With `trusted` false the wall clock `now` is not believed, and only the size counts. What cannot be read is kept, with
    /// everything behind it: its age is not known. While an extension runs the last segment stays.
    ///
    /// # Errors
    /// I/O errors while removing; what was removed stays so.
    pub fn apply_retention(&mut self, now: Timestamp, trusted: bool, up_to: Offset) -> Result<usize, LogError> {
        if self.condition != Condition::Healthy {
            return Ok(0);
        }
        let left_before = self.deleted.len();
        self.remove_deleted()?;
        if self.has_deleted() {
            return Ok(left_before.saturating_sub(self.deleted.len()));
        }
        let segments = self.state.segments().clone();
        let mut total: u64 = segments.iter().map(|segment| segment.size()).sum();
        let mut keep_from = None;
        for (at, segment) in segments.iter().enumerate().take(REMOVED_AT_ONCE) {
            let last = at + 1 == segments.len();
            if last && self.extension_running() {
                break;
            }
            let end = segments.get(at + 1).map_or_else(|| self.log_end(), |next| next.base);
            let size = segment.size();
            let too_large = !last && self.config.retention_bytes.is_some_and(|limit| total - size >= limit);
            let newest = if size > 0 { segment.max_timestamp()? } else { Ok(Timestamp::MAX) };
            let newest = match newest {
                Ok(newest) => newest,
                Err(damaged_from) => {
                    self.note_damage(damaged_from);
                    break;
                }
            };
            let too_old = trusted && self.past_retention(newest, now);
            if end > up_to || !(too_large || too_old) {
                break;
            }
            total -= size;
            keep_from = Some(end);
        }
        let Some(keep_from) = keep_from else { return Ok(0) };
        let below = |segments: &[Arc<Segment>]| segments.iter().filter(|segment| segment.base < keep_from).count();
        let before = below(&segments);
        self.delete_records(keep_from, now)?;
        Ok(before.saturating_sub(below(&self.state.segments())))
    }

    /// Whether [`Log::apply_retention`] may have something to do. Nothing here waits for the disk: what is not in memory may
    /// be something.
    pub fn retention_due(&self, now: Timestamp, trusted: bool, up_to: Offset) -> bool {
        if self.condition != Condition::Healthy {
            return false;
        }
        if !self.deleted.is_empty() {
            return true;
        }
        let segments = self.state.segments();
        let Some(first) = segments.first() else { return false };
        let (size, next) = (first.size(), segments.get(1));
        if next.map_or_else(|| self.log_end(), |next| next.base) > up_to || next.is_none() && self.extension_running() {
            return false;
        }
        let total = || segments.iter().map(|segment| segment.size()).sum::<u64>();
        let too_large = next.is_some() && self.config.retention_bytes.is_some_and(|limit| total() - size >= limit);
        let may_be_old = || first.newest_in_memory().is_none_or(|newest| self.past_retention(newest, now));
        too_large || trusted && size > 0 && self.config.retention.is_some() && may_be_old()
    }

    /// Forgets producers that have written nothing for long; only while the wall clock is believed.
    pub fn expire_producers(&mut self, now: Timestamp) {
        self.producers.iter_mut().for_each(|producers| producers.expire(now, self.config.producer_expiry));
    }

    /// Closes a segment that was created long ago and to which nothing more is written, so that what compaction and
    /// retention by size look at does not depend on the next append. Returns whether it did.
    ///
    /// # Errors
    /// I/O errors.
    pub fn close_old_segment(&mut self, now: Timestamp) -> Result<bool, LogError> {
        let closes = self.has_old_segment(now);
        if closes {
            self.roll(now)?;
        }
        Ok(closes)
    }

    /// Whether [`Log::close_old_segment`] has something to do.
    pub fn has_old_segment(&self, now: Timestamp) -> bool {
        let age = now.saturating_sub(self.marks.segment_created);
        let filled = self.state.segments().last().is_some_and(|last| last.size() > 0);
        let possible = self.condition == Condition::Healthy && !self.extension_running();
        possible && filled && self.marks.segment_created != 0 && age >= self.segment_age_millis()
    }

    /// Whether records up to `newest` are older than retention keeps them.
    pub fn past_retention(&self, newest: Timestamp, now: Timestamp) -> bool {
        let Some(retention) = self.config.retention else { return false };
        // Records stamped in the future keep their segment; it goes by size or when their time has come.
        newest < now.saturating_sub(whole_millis(retention))
    }

    /// Writes down which producers the segments below `offset` tell of, before those segments go: a restart could not
    /// read it from them any more, and would take a batch that is sent again for a gap or a new one.
    fn keep_producers_of(&mut self, offset: Offset) {
        let first_kept = {
            let segments = self.state.segments();
            let above = segments.partition_point(|segment| segment.base <= offset);
            segments.get(above.saturating_sub(1)).map(|segment| segment.base)
        };
        let Some(end) = first_kept.filter(|base| *base > self.marks.recovery_point) else { return };
        let written = if end == self.log_end() && self.producers.is_some() {
            self.producers.as_ref().map_or(Ok(()), |producers| self.snapshots.write(producers, end))
        } else {
            self.load_producers(end).and_then(|producers| self.snapshots.write(&producers, end))
        };
        match written {
            Ok(()) => (self.marks.recovery_point, self.marks.recovery_position) = (end, 0),
            // Deleting is what a full disk needs. The producers are still known, and are written with the next flush.
            Err(error) => tracing::warn!(partition = %self.partition, %error, "the producers are not written down yet"),
        }
    }

    /// The log start is durable.
    fn remove_segments_below(&mut self, offset: Offset) -> Result<(), LogError> {
        let mut gone = std::mem::take(&mut self.deleted);
        {
            let mut segments = self.state.segments_mut();
            let below = segments.iter().skip(1).take_while(|next| next.base <= offset).count();
            gone.extend(segments.drain(..below));
        }
        self.deleted = gone.split_off(gone.len().min(REMOVED_AT_ONCE));
        let failed = gone.iter().enumerate().find_map(|(at, segment)| Some((at, segment.remove().err()?)));
        if let Some((at, error)) = failed {
            drop(self.deleted.splice(..0, gone.drain(at..)));
            return Err(error.into());
        }
        // The first epoch starts at the log start, which says it a second time where the marks are lost.
        let news = {
            let mut epochs = self.state.epochs_mut();
            let before = epochs.of_records.clone();
            epochs.of_records.forget_before(offset);
            epochs.of_records != before
        };
        if news || !gone.is_empty() {
            self.replace_epochs()?;
        }
        Ok(())
    }
}
