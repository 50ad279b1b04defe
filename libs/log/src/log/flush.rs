//! Flushes and extensions of a log: what is handed out, and what becomes of it.

use std::io;
use std::sync::Arc;

use walser_model::{Durability, Offset};

use super::{Condition, Log, LogError};
use crate::epochs;
use crate::extension::Extension;
use crate::flush::{FlushJob, FlushOutcome, RecoveryPoint};

impl Log {
    /// Whether there is something that no flush covers yet, and one could. A log that has failed is never flushed again.
    pub fn dirty(&self) -> bool {
        self.flushing.dirty() && self.in_service().is_ok()
    }

    /// Whether somebody waits for the start of a leader epoch to be durable.
    pub fn epoch_wanted(&self) -> bool {
        self.flushing.epochs_wanted()
    }

    /// Bytes of log that a restart would have to read, and that nothing is being done about.
    pub fn unclaimed_recovery_bytes(&self) -> u64 {
        self.flushing.unclaimed_recovery_bytes()
    }

    /// Has the next flush move the recovery point to the log end.
    pub fn move_recovery_point(&mut self) {
        self.flushing.move_recovery_point();
    }

    /// Whether a flush is under way.
    pub fn flush_running(&self) -> bool {
        self.flushing.busy()
    }

    /// Takes the work that makes everything appended so far durable. `None`: there is nothing to do, or the last
    /// job has not been answered by [`Log::finish_flush`]. Nothing here waits for the disk.
    ///
    /// # Errors
    /// When the log is out of service.
    pub fn begin_flush(&mut self) -> Result<Option<FlushJob>, LogError> {
        self.in_service()?;
        if self.flushing.busy() || !self.flushing.dirty() {
            return Ok(None);
        }
        Ok(Some(self.take_job()))
    }

    fn take_job(&mut self) -> FlushJob {
        let up_to = self.log_end();
        let last = self.state.last_segment();
        // A snapshot stands for what a restart need not read. Producers that are to be read again first have none.
        let moving = last.zip(self.producers.as_ref()).filter(|_| self.flushing.recovery_point_due());
        let recovery_position = moving.as_ref().map(|(last, _)| last.size());
        let recovery_point = moving.map(|(last, producers)| {
            let snapshot = producers.encode(up_to);
            RecoveryPoint { index: last.unwritten_index().map(|tail| (last, tail)), snapshot }
        });
        let unflushed = self.flushing.begin(up_to, recovery_position, self.state.epochs().begun());
        let needed_from = || self.snapshots.durable_point(self.checkpoint.lock().syncs().1);
        let names = unflushed.names || unflushed.epochs;
        let active = self.active.as_ref().map(|active| Arc::clone(active.file()));
        FlushJob {
            partition: self.partition,
            generation: self.state.generation(),
            up_to,
            names: Arc::clone(&self.names),
            around: names.then(|| self.checkpoint.lock().names()),
            epochs: unflushed.epochs.then(|| epochs::encode(&self.state.epochs())),
            files: unflushed.closed.into_iter().chain(active).collect(),
            snapshots_needed_from: recovery_point.as_ref().and_then(|_| needed_from()),
            recovery_point,
        }
    }

    /// Takes the outcome of a job. An error takes the log out of service for good (rule R30). An outcome from
    /// before a truncation, a repair or another opening changes nothing.
    ///
    /// # Errors
    /// When writing the marks fails, which has the same consequence.
    pub fn finish_flush(&mut self, outcome: &FlushOutcome) -> Result<Offset, LogError> {
        if outcome.generation != self.state.generation() {
            return Ok(self.marks.durable);
        }
        let running = self.flushing.end();
        if let Some(error) = outcome.error() {
            self.fail(format!("sync: {error}"));
        }
        self.in_service()?;
        let (Some(running), Ok(flushed)) = (running, &outcome.result) else { return Ok(self.marks.durable) };
        if flushed.postponed.is_some() {
            self.flushing.put_back(running);
            return Ok(self.marks.durable);
        }
        self.marks.durable = self.marks.durable.max(running.up_to);
        self.epoch_on_disk = running.begun;
        if !flushed.recovery_point {
            self.flushing.recovery_point_stays(running);
        }
        // Deleting may have moved it further meanwhile.
        let moved = flushed.recovery_point && running.up_to >= self.marks.recovery_point;
        if let Some(position) = running.recovery_position.filter(|_| moved) {
            (self.marks.recovery_point, self.marks.recovery_position) = (running.up_to, position);
        }
        if let Err(error) = self.write_marks() {
            self.fail(error.to_string());
            return Err(error.into());
        }
        if moved {
            let syncs = self.checkpoint.lock().syncs();
            self.snapshots.note_point(running.up_to, syncs);
        }
        Ok(self.marks.durable)
    }

    /// Whether space is being filled ahead.
    pub fn extension_running(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.extension_running())
    }

    /// Takes the work of taking more space, when the log comes near the end of what it has. With fsync it is filled with
    /// zeros.
    pub fn begin_extension(&mut self) -> Option<Extension> {
        if self.condition != Condition::Healthy {
            return None;
        }
        let active = self.active.as_mut()?;
        let zeros = self.config.durability == Durability::Fsync;
        let (from, to) = active.begin_extension(self.config.segment_bytes, zeros)?;
        let (generation, segment) = (self.state.generation(), Arc::clone(active.segment()));
        Some(Extension { generation, segment, from, to, zeros })
    }

    /// Takes the outcome of an extension. One from before a truncation, a repair or another opening changes nothing.
    pub fn finish_extension(&mut self, extension: &Extension, outcome: &io::Result<()>) {
        if extension.generation != self.state.generation() {
            return;
        }
        let Some(active) = &mut self.active else { return };
        if let Err(error) = active.finish_extension(extension, outcome) {
            self.fail(format!("extend: {error}"));
        }
    }
}
