//! What is cut from a log and may be wanted again: it is kept in a file beside the log, until somebody removes that.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use walser_model::Offset;

use super::findings::CutTail;
use super::{KEPT_PREFIX, Log};
use crate::disk::{DiskFile, Open};
use crate::recovery_scan::LogPosition;

/// At most this much is kept of what is cut at once, in bytes.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// A file with what was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it has.
    pub bytes: u64,
    /// Bytes that were to be kept: more where that was too much.
    pub cut: u64,
}

impl Log {
    /// Copies everything from a position on, up to a bound, into a file beside the log, durably. A file that is there already
    /// stays: what was killed between that and the cut has left it, and may have removed some of what it has.
    pub(super) fn keep_tail(&self, from: &LogPosition, stem: &str) -> io::Result<Kept> {
        let (disk, dir) = (self.names.disk(), self.names.path());
        let there: HashSet<String> = disk.list(dir)?.into_iter().map(|entry| entry.name).collect();
        let mut name = format!("{stem}.bytes");
        for number in 2..=there.len() + 1 {
            if !there.contains(&name) {
                break;
            }
            name = format!("{stem}.{number}.bytes");
        }
        let (path, unfinished) = (dir.join(&name), dir.join(format!("{name}.tmp")));
        let file = disk.open(&unfinished, Open::Write)?;
        file.set_len(0)?;
        let segments = self.state.segments().clone();
        let mut kept = Kept { path, bytes: 0, cut: 0 };
        for (number, segment) in segments.iter().enumerate().skip(from.segment) {
            let begin = if number == from.segment { from.position } else { 0 };
            copy(&*segment.file(Open::Write)?, begin, &*file, &mut kept)?;
        }
        file.sync_data()?;
        disk.rename(&unfinished, &kept.path)?;
        self.names.sync()?;
        Ok(kept)
    }

    /// Moves everything from `invalid` on out of the log, into one file beside it.
    pub(super) fn cut_tail(&self, invalid: &LogPosition, offset: Offset) -> io::Result<CutTail> {
        let kept = self.keep_tail(invalid, &format!("{KEPT_PREFIX}{:020}", offset.0))?;
        let segments = self.state.segments().clone();
        // A segment of which nothing is left does not stay: its base lies behind the end of the log.
        let keep = if invalid.position == 0 && invalid.segment > 0 { invalid.segment } else { invalid.segment + 1 };
        for segment in &segments[keep..] {
            segment.remove()?;
        }
        if keep > invalid.segment {
            segments[invalid.segment].cut(invalid.position)?.sync_data()?;
        }
        self.state.segments_mut().truncate(keep);
        self.names.sync()?;
        Ok(CutTail { offset, kept })
    }
}

/// Appends everything up to the last byte that is not zero, as far as there is room for it.
fn copy(from: &dyn DiskFile, start: u64, to: &dyn DiskFile, kept: &mut Kept) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let (mut position, before) = (start, kept.cut);
    loop {
        let mut chunk = Vec::new();
        from.read_at(&mut chunk, position, CHUNK)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            let at = before + (position - start);
            kept.cut = at + last as u64 + 1;
            if kept.cut <= KEPT_BYTES_MAX {
                to.write_at(&chunk[..=last], at)?;
                kept.bytes = kept.cut;
            }
        }
        position += chunk.len() as u64;
        if chunk.len() < CHUNK {
            return Ok(());
        }
    }
}
