//! Damage to durable records: noted when it is met, kept over restarts, and given up by a repair.
//!
//! What a read has met lies below the recovery point, where no start looks. So a log that is damaged says so by the name
//! of an empty file in its directory, until it is repaired: otherwise a restart would take writes again.

use std::collections::HashSet;
use std::io;

use walser_model::Offset;

use super::findings::{Damage, Recovery};
use super::{Condition, Log, LogError};
use crate::disk::{Open, remove_file_if_any};
use crate::epochs::has_epoch_of;
use crate::scan::Scan;
use crate::segment_names::base_of;

/// The name of a file that says that records are damaged from an offset on.
fn note_name(from: Offset) -> String {
    format!("damaged-from-{:020}", from.0)
}

/// The offset that such a name has.
pub(super) fn noted(name: &str) -> Option<Offset> {
    let digits = name.strip_prefix("damaged-from-")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Offset)).flatten()
}

impl Log {
    /// Notes that durable records are damaged from an offset on: the log takes no writes. False: it was known, from there
    /// or from further below, or the log does not reach that far. It is kept over a restart once [`Log::keep_damage`] has
    /// written it down.
    pub fn note_damage(&mut self, from: Offset) -> bool {
        let fresh = match self.condition {
            Condition::Healthy => from < self.log_end(),
            Condition::Corrupt { from: known } => from < known,
            Condition::Failed { .. } => false,
        };
        if fresh {
            self.set_damaged(from);
        }
        fresh
    }

    fn set_damaged(&mut self, from: Offset) {
        self.condition = Condition::Corrupt { from };
        self.state.set_corrupt_from(Some(from));
    }

    /// Looks whether the files of its segments are there. Gives back from where on records are missing with one of them; `None`:
    /// with none. Blocks.
    ///
    /// # Errors
    /// I/O errors.
    pub fn missing_from(&self) -> io::Result<Option<Offset>> {
        let there = self.bases_there()?;
        let segments = self.state.segments().clone();
        let missing = segments.iter().find(|segment| segment.size() > 0 && !there.contains(&segment.base));
        let from = missing.map(|segment| segment.base.max(self.log_start()));
        Ok(from.filter(|from| *from < self.log_end()))
    }

    /// Begins a log that has no record anew where a file of it is missing: what is appended would go into a file that nobody
    /// finds again. Returns whether it did. Blocks.
    ///
    /// # Errors
    /// I/O errors; after one of the beginning the log is out of service. [`LogError::Busy`] while a flush or an extension runs.
    pub fn begin_for_missing(&mut self) -> Result<bool, LogError> {
        self.writable()?;
        self.idle()?;
        let (start, end) = (self.log_start(), self.log_end());
        let there = self.bases_there()?;
        let missing = self.state.segments().iter().any(|segment| !there.contains(&segment.base));
        if !missing || end > start {
            return Ok(false);
        }
        let begun = self.state.epochs().begun;
        self.begin_at(end, begun).inspect_err(|error| self.fail(format!("begin anew: {error}")))?;
        Ok(true)
    }

    /// Takes out the segments whose files are not there: what is left is repaired.
    pub(super) fn forget_missing(&mut self) -> io::Result<()> {
        let there = self.bases_there()?;
        self.state.segments_mut().retain(|segment| there.contains(&segment.base));
        Ok(())
    }

    /// Of which segments there are files.
    fn bases_there(&self) -> io::Result<HashSet<Offset>> {
        let entries = match self.names.disk().list(self.names.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        Ok(entries.iter().filter_map(|entry| base_of(&entry.name)).collect())
    }

    /// Writes down that the log is damaged, if it is, for the next start. Blocks.
    ///
    /// # Errors
    /// I/O errors.
    pub fn keep_damage(&mut self) -> io::Result<()> {
        let Condition::Corrupt { from } = self.condition else { return Ok(()) };
        if self.damage_notes.contains(&from) {
            return Ok(());
        }
        // With marks from before, a start would take what is damaged for a torn end, and the note for one of records that
        // are gone.
        self.write_marks()?;
        self.sync_marks()?;
        // What is damaged may be that there is nothing, not even the directory.
        self.names.disk().create_dir(self.names.path())?;
        self.names.disk().open(&self.names.path().join(note_name(from)), Open::Write)?;
        self.sync_names()?;
        self.damage_notes.push(from);
        Ok(())
    }

    /// Nothing says any more that records from an offset of at least `up` are damaged: they were repaired, or are gone.
    pub(super) fn forget_damage(&mut self, up: Offset) -> io::Result<()> {
        let (gone, kept) = self.damage_notes.iter().partition(|from| **from >= up);
        let gone: Vec<Offset> = gone;
        for from in &gone {
            remove_file_if_any(&**self.names.disk(), &self.names.path().join(note_name(*from)))?;
        }
        if !gone.is_empty() {
            self.names.sync()?;
        }
        self.damage_notes = kept;
        Ok(())
    }

    /// Whether all records from an offset on can be read: the files may be back. They are on the disk then.
    fn reads_from(&self, from: Offset) -> io::Result<bool> {
        let segments = self.state.segments().clone();
        let epochs = self.state.epochs().of_records.clone();
        let from = from.max(self.log_start());
        let Some(first) = segments.partition_point(|segment| segment.base <= from).checked_sub(1) else {
            return Ok(false);
        };
        let mut expected = segments[first].base;
        for segment in &segments[first..] {
            let file = segment.file(Open::Read)?;
            let scan = Scan::new(&*file, 0, segment.size());
            let end = scan.end_in_order(expected, |header| has_epoch_of(&epochs, header))?;
            let Some(end) = end else { return Ok(false) };
            segment.close();
            expected = end;
        }
        if expected != self.log_end() {
            return Ok(false);
        }
        // Whoever has put them there need not have synced them; and after a sync that failed they are in the cache, clean, and
        // another one writes nothing (rule R30). That holds for their names, too, which are there before the note goes.
        segments[first..].iter().filter(|segment| segment.size() > 0).try_for_each(|segment| segment.write_again(0))?;
        self.names.sync()?;
        Ok(true)
    }

    /// Takes up what was found, and what an earlier process has written down. Notes from the log end on are of records
    /// that are gone: they go before others have these offsets. So do all of them where everything can be read again.
    ///
    /// # Errors
    /// I/O errors while notes are removed.
    pub(super) fn take_up_damage(&mut self, recovery: &mut Recovery) -> io::Result<()> {
        self.forget_damage(self.log_end())?;
        let noted = self.damage_notes.iter().copied().min();
        let sound = recovery.damage.is_none() && self.log_end() >= self.marks.durable;
        if let Some(from) = noted.filter(|from| sound && self.reads_from(*from).unwrap_or(false)) {
            tracing::warn!(partition = %self.partition, %from, "records that were damaged are whole again");
            return self.forget_damage(Offset::ZERO);
        }
        if let Some(from) = noted.filter(|from| self.note_damage(*from)) {
            recovery.damage = Some(Damage { from, durable: self.marks.durable });
        }
        if let Err(error) = self.keep_damage() {
            tracing::warn!(partition = %self.partition, %error, "it is not written down that the log is damaged");
        }
        Ok(())
    }

    /// Everything below the durable mark, and below `end`, is taken for what there was: the log takes no writes from here on.
    pub(super) fn declare_damage(&mut self, from: Offset, end: Offset, recovery: &mut Recovery) {
        let durable = self.marks.durable;
        recovery.damage = Some(Damage { from, durable });
        self.set_damaged(from);
        self.set_end(durable.max(end).max(self.marks.log_start));
    }
}
