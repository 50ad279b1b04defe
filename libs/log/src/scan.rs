//! Walking the batches of a segment file.

use std::io;

use walser_model::Offset;
use walser_record_batch::{BatchHeader, HEADER_LEN, verify_crc};

use crate::disk::DiskFile;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// A window over a file that moves forward.
pub(crate) struct Scan<'a> {
    file: &'a dyn DiskFile,
    /// Where the log ends in the file; nothing behind it is looked at.
    end: u64,
    /// File position of `window[0]`.
    start: u64,
    window: Vec<u8>,
    /// Next batch, in the file.
    position: u64,
}

/// A batch found by a scan.
pub(crate) struct Found<'a> {
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    pub(crate) bytes: &'a [u8],
}

/// The outcome of one step.
pub(crate) enum Step<'a> {
    /// A whole batch with a right checksum.
    Batch(Found<'a>),
    /// The end that was given.
    End,
    /// Only zeros from this position to the end that was given: space that was filled ahead of the log.
    Zeros(u64),
    /// Something that is no batch at this position.
    Invalid(u64),
}

impl<'a> Scan<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, from: u64, end: u64) -> Self {
        Self { file, end, start: from, window: Vec::new(), position: from }
    }

    /// The next batch. After anything else the scan stays where it is.
    pub(crate) fn step(&mut self) -> io::Result<Step<'_>> {
        let position = self.position;
        if position >= self.end {
            return Ok(Step::End);
        }
        let Some(header) = self.header()? else {
            let zeros = zeros_between(self.file, position, self.end)?;
            return Ok(if zeros { Step::Zeros(position) } else { Step::Invalid(position) });
        };
        self.position += header.size as u64;
        let at = usize::try_from(position - self.start).map_err(io::Error::other)?;
        Ok(Step::Batch(Found { position, header, bytes: &self.window[at..at + header.size] }))
    }

    /// Where the batches end, where each follows the one before, from the offset `base` on, and is `sound`. `None`:
    /// something else lies before the end that was given.
    pub(crate) fn end_in_order(
        mut self,
        base: Offset,
        sound: impl Fn(&BatchHeader) -> bool,
    ) -> io::Result<Option<Offset>> {
        let mut end = base;
        loop {
            match self.step()? {
                Step::Batch(found) if found.header.base_offset == end && sound(&found.header) => {
                    end = found.header.next_offset();
                }
                Step::End => return Ok(Some(end)),
                Step::Batch(_) | Step::Zeros(_) | Step::Invalid(_) => return Ok(None),
            }
        }
    }

    /// The header of a whole and valid batch at the position, if there is one.
    fn header(&mut self) -> io::Result<Option<BatchHeader>> {
        if !self.fill(HEADER_LEN)? {
            return Ok(None);
        }
        let Ok(header) = BatchHeader::parse(self.ahead()) else { return Ok(None) };
        let fits = self.position.checked_add(header.size as u64).is_some_and(|end| end <= self.end);
        if !fits || !self.fill(header.size)? {
            return Ok(None);
        }
        // One without records stands for those that are gone, and has nothing behind its header.
        let whole = header.record_count > 0 || header.record_count == 0 && header.size == HEADER_LEN;
        let valid = whole && header.last_offset_delta >= 0 && verify_crc(&self.ahead()[..header.size]).is_ok();
        Ok(valid.then_some(header))
    }

    fn ahead(&self) -> &[u8] {
        let at = usize::try_from(self.position - self.start).unwrap_or(usize::MAX);
        self.window.get(at..).unwrap_or_default()
    }

    /// Makes sure that `len` bytes from the position on are in the window. False: the file has fewer.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        if self.ahead().len() >= len {
            return Ok(true);
        }
        self.window.clear();
        self.start = self.position;
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        self.file.read_at(&mut self.window, self.start, len.max(WINDOW_BYTES).min(left))?;
        Ok(self.window.len() >= len)
    }
}

/// Whether a file has only zeros from `position` to `end`, or to its own end.
fn zeros_between(file: &dyn DiskFile, mut position: u64, end: u64) -> io::Result<bool> {
    const CHUNK: usize = 256 << 10;
    while position < end {
        let mut chunk = Vec::new();
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        file.read_at(&mut chunk, position, CHUNK.min(left))?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if chunk.is_empty() {
            break;
        }
        position += chunk.len() as u64;
    }
    Ok(true)
}
