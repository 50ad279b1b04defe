//! What is cut from a log and may be wanted again: it is kept in a file beside the log, until somebody removes that.

use std::io;
use std::path::{Path, PathBuf};

use walser_model::Offset;

use super::findings::CutTail;
use super::{KEPT_PREFIX, Log};
use crate::disk::{DiskFile, Open, open_if_any};
use crate::recovery_scan::LogPosition;

/// At most this much is kept of what is cut at once, in bytes.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// A file with what was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it has.
    pub bytes: u64,
    /// Bytes that were to be kept: more where that was too much, with room that files have beyond their records then.
    pub cut: u64,
}

impl Log {
    /// Copies everything from a position on, up to a bound, into a file beside the log, durably. A file that is there already
    /// stays: what was killed between that and the cut has left it, and may have removed some of what it has. One that has
    /// all of it is enough.
    pub(super) fn keep_tail(&self, from: &LogPosition, stem: &str) -> io::Result<Kept> {
        let unfinished = self.names.path().join(format!("{stem}.bytes.tmp"));
        let kept = self.write_tail(from, stem, &unfinished);
        if kept.is_err() {
            // Others need the space until it is tried again.
            let _ = self.names.disk().remove_file(&unfinished);
        }
        kept
    }

    fn write_tail(&self, from: &LogPosition, stem: &str, unfinished: &Path) -> io::Result<Kept> {
        let (disk, dir) = (self.names.disk(), self.names.path());
        let file = disk.open(unfinished, Open::Write)?;
        file.set_len(0)?;
        let segments = self.state.segments().clone();
        let mut kept = Kept { path: dir.join(format!("{stem}.bytes")), bytes: 0, cut: 0 };
        for (number, segment) in segments.iter().enumerate().skip(from.segment) {
            let begin = if number == from.segment { from.position } else { 0 };
            match segment.file(Open::Read) {
                Ok(old) => copy(&*old, begin, &*file, &mut kept)?,
                // Somebody has removed it: what is left is kept.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // There may be more of them than files may be open.
            segment.close();
        }
        file.sync_data()?;
        let (mut number, mut found) = (1, open_if_any(&**disk, &kept.path)?);
        while let Some(other) = found {
            if begins_with(&*other, &*file, kept.bytes)? {
                disk.remove_file(unfinished)?;
                self.names.sync()?;
                return Ok(kept);
            }
            number += 1;
            kept.path = dir.join(format!("{stem}.{number}.bytes"));
            found = open_if_any(&**disk, &kept.path)?;
        }
        disk.rename(unfinished, &kept.path)?;
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

/// Whether a file begins with the first `len` bytes of another one.
fn begins_with(file: &dyn DiskFile, other: &dyn DiskFile, len: u64) -> io::Result<bool> {
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).map_or(CHUNK, |left| left.min(CHUNK));
        let (mut here, mut there) = (Vec::new(), Vec::new());
        file.read_at(&mut here, at, count)?;
        other.read_at(&mut there, at, count)?;
        if here != there {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Appends everything up to the last byte that is not zero, as far as there is room for it.
fn copy(from: &dyn DiskFile, start: u64, to: &dyn DiskFile, kept: &mut Kept) -> io::Result<()> {
    let (mut position, before) = (start, kept.cut);
    loop {
        if kept.cut > KEPT_BYTES_MAX {
            // Nothing more of it is kept, and it may be large.
            kept.cut = before + from.len()?.saturating_sub(start);
            return Ok(());
        }
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
