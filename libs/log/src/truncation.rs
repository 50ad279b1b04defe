//! Giving up the newest records: for a replica that must follow another log (KIP-101).

use std::sync::atomic::Ordering;

use walser_model::Offset;

use crate::log::{Log, LogError};

impl Log {
    /// Cuts everything at and above `to`, durably: for a replica that must follow another log (KIP-101).
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when `to` is outside the log or inside a batch, [`LogError::Busy`] while a flush or an
    /// extension runs.
    pub fn truncate(&mut self, to: Offset) -> Result<(), LogError> {
        self.writable()?;
        self.idle()?;
        let (start, end) = (self.log_start(), self.log_end());
        let out_of_range = LogError::OutOfRange { offset: to, start, end };
        if to >= end {
            return if to == end { Ok(()) } else { Err(out_of_range) };
        }
        if to < start {
            return Err(out_of_range);
        }
        let segments = self.shared.segments.read().clone();
        let at = segments.partition_point(|segment| segment.base <= to).saturating_sub(1);
        let position = crate::reader::position_of(&segments[at], to)?.ok_or(out_of_range)?;
        self.active = None;
        for segment in &segments[at + 1..] {
            segment.remove()?;
        }
        self.shared.segments.write().truncate(at + 1);
        segments[at].cut(position)?.sync_data()?;
        self.shared.end.store(to.0, Ordering::Release);
        self.shared.epochs.write().truncate(to);
        let epochs = self.shared.epochs.read().clone();
        crate::epochs::replace(&epochs, &*self.disk, &self.dir.join(crate::epochs::FILE_NAME))?;
        self.producers = Some(crate::snapshots::load_producers(self, to)?);
        crate::snapshots::remove_above(self, to)?;
        self.marks.durable = self.marks.durable.min(to);
        if self.marks.recovery_point > to {
            self.marks.recovery_point = to;
            self.marks.recovery_position = position;
        }
        self.marks.high_watermark = self.marks.high_watermark.min(to);
        self.write_marks()?;
        Ok(())
    }
}
