//! Writes a history while it happens.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::event::Event;

/// Writes events as JSON lines, from any number of threads. Lines are in the order of the calls, so a caller records an
/// `invoke` before it begins and the outcome after it knows it.
#[derive(Debug)]
pub struct Recorder<W> {
    writer: Mutex<W>,
}

// === impl Recorder ===

impl Recorder<File> {
    /// Writes to a new file, or over an old one.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::create(path).map(Self::new)
    }
}

impl<W: Write> Recorder<W> {
    /// Writes to `writer`, with one call for every line.
    pub const fn new(writer: W) -> Self {
        Self { writer: Mutex::new(writer) }
    }

    /// Adds one line.
    ///
    /// # Errors
    ///
    /// If the line cannot be written. Part of it may have been.
    pub fn record(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// Flushes what the writer holds back, and returns it.
    ///
    /// # Errors
    ///
    /// If flushing fails.
    pub fn finish(self) -> io::Result<W> {
        let mut writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.flush()?;
        Ok(writer)
    }
}
