//! What the directory of a partition holds, when its log is opened.

use std::io;
use std::path::Path;
use std::sync::Arc;

use walser_model::Offset;

use super::compaction::COMPACTED_NAME;
use super::damage;
use crate::checkpoint::Marks;
use crate::compaction::swap;
use crate::disk::Disk;
use crate::epochs;
use crate::segment::Segment;
use crate::segment_names::{base_of, log_name, moved_name};
use crate::snapshots;

/// What a partition's directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By base offset.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Ends of producer snapshots, ascending.
    pub(super) snapshots: Vec<Offset>,
    /// Offsets from which files say that records are damaged.
    pub(super) damage_notes: Vec<Offset>,
    /// There is a file of leader epochs.
    pub(super) epochs_file: bool,
    /// There is one that says up to where the log is compacted.
    pub(super) compacted_file: bool,
    /// The directory exists.
    pub(super) exists: bool,
}

impl Listing {
    /// Removes segments that begin within what one before them spans, durably: compaction has put that one in their place, and
    /// a loss of power has brought their names back, because the sync that was to remove them had failed. That one is read as
    /// a whole before: checksums do not cover offsets, and where anything does not fit nothing goes.
    pub(super) fn remove_spanned(&mut self, disk: &dyn Disk, dir: &Path, marks: &Marks) -> io::Result<()> {
        if !self.compacted_file || self.rests(marks) {
            return Ok(());
        }
        let (mut at, count) = (0, self.segments.len());
        while let [segment, next, ..] = &self.segments[at..] {
            let (base, seems_to_end, next_base) = (segment.base, segment.end()?, next.base);
            segment.close();
            at += 1;
            if seems_to_end <= next_base {
                continue;
            }
            let Some(end) = swap::end_of(disk, &dir.join(log_name(base)), base)? else { continue };
            let behind = at + self.segments[at..].partition_point(|segment| segment.base < end);
            if self.segments.get(behind).is_some_and(|next| next.base == end) {
                self.segments[at..behind].iter().try_for_each(|spanned| spanned.remove())?;
                self.segments.drain(at..behind);
            }
        }
        if self.segments.len() < count { disk.sync_dir(dir) } else { Ok(()) }
    }

    /// Whether it is as a clean stop has left it, with as many segments.
    fn rests(&self, marks: &Marks) -> bool {
        self.segments
            .last()
            .is_some_and(|last| last.base <= marks.recovery_point && last.size() == marks.recovery_position)
            && usize::try_from(marks.segments) == Ok(self.segments.len())
    }
}

/// Lists the directory, once what an interruption has left of a compaction is finished.
pub(super) fn list(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Listing> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
        other => other?,
    };
    let entries = if swap::finish(disk, dir, &entries)? { disk.list(dir)? } else { entries };
    let mut listing = Listing { exists: true, ..Listing::default() };
    for entry in &entries {
        let returned = moved_name(&entry.name);
        if let Some(name) = &returned {
            if entries.iter().any(|other| other.name == *name) {
                // Left from before: a failed sync has lost that it had got its name back, and the file was made anew.
                disk.remove_file(&dir.join(&entry.name))?;
                continue;
            }
            disk.rename(&dir.join(&entry.name), &dir.join(name))?;
        }
        let name = returned.as_deref().unwrap_or(&entry.name);
        if name.ends_with(".tmp") {
            disk.remove_file(&dir.join(name))?;
        } else if let Some(base) = base_of(name) {
            listing.segments.push(Arc::new(Segment::new(Arc::clone(disk), dir, base, entry.len)));
        } else if let Some(end) = snapshots::snapshot_end(name) {
            listing.snapshots.push(end);
        } else if let Some(from) = damage::noted(name) {
            listing.damage_notes.push(from);
        } else if name == epochs::FILE_NAME {
            listing.epochs_file = true;
        } else if name == COMPACTED_NAME {
            listing.compacted_file = true;
        }
    }
    listing.segments.sort_unstable_by_key(|segment| segment.base);
    listing.snapshots.sort_unstable();
    Ok(listing)
}
