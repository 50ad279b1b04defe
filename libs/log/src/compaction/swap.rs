//! Putting segments in the place of others, in steps of which each leaves a log that opens (docs/decisions/0012).

use std::io;
use std::path::Path;
use std::sync::Arc;

use walser_model::Offset;

use crate::disk::{Disk, Entry, Open, remove_file_if_any};
use crate::generation::Generation;
use crate::scan::Scan;
use crate::segment_names::{base_before, base_of, index_name, log_name};

const CLEANED_SUFFIX: &str = ".cleaned";
const SWAP_SUFFIX: &str = ".swap";
/// Of one whose name is being written again.
const AGAIN_SUFFIX: &str = ".swap-again";

/// Of a file that is being written.
pub(crate) fn cleaned_name(base: Offset, generation: Generation) -> String {
    // A job of an earlier content of the log may not have ended yet.
    format!("{:020}-{generation}{CLEANED_SUFFIX}", base.0)
}

/// Of one that counts, in the place of the segments that it spans.
pub(crate) fn swap_name(base: Offset) -> String {
    format!("{:020}{SWAP_SUFFIX}", base.0)
}

/// Puts files that count in the place of the segments that each of them spans, ascending: those go, and the files get the
/// names of the first ones. The names of what counts MUST be durable before. `sync` makes names in the directory durable.
pub(crate) fn put_in_place(
    disk: &dyn Disk,
    dir: &Path,
    replaced: &[Vec<Offset>],
    sync: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    for bases in replaced {
        for (at, base) in bases.iter().enumerate().rev() {
            remove_file_if_any(disk, &dir.join(index_name(*base)))?;
            // The renaming replaces the first one.
            if at > 0 {
                remove_file_if_any(disk, &dir.join(log_name(*base)))?;
            }
        }
    }
    sync()?;
    for base in replaced.iter().filter_map(|bases| bases.first()) {
        disk.rename(&dir.join(swap_name(*base)), &dir.join(log_name(*base)))?;
    }
    sync()
}

/// Continues what an interruption has left of replacements, and removes what does not count. To be called before the
/// directory is listed. `entries`: what is in it now. Returns whether anything was changed.
///
/// # Errors
/// I/O errors; calling again continues.
pub(crate) fn finish(disk: &Arc<dyn Disk>, dir: &Path, entries: &[Entry]) -> io::Result<bool> {
    let mut changed = false;
    let mut replaced = Vec::new();
    for entry in entries {
        if entry.name.ends_with(CLEANED_SUFFIX) {
            remove_file_if_any(&**disk, &dir.join(&entry.name))?;
            changed = true;
            continue;
        }
        let (swap, again) = (base_before(&entry.name, SWAP_SUFFIX), base_before(&entry.name, AGAIN_SUFFIX));
        let Some(base) = swap.or(again) else { continue };
        let Some(end) = end_of(&**disk, &dir.join(&entry.name), base)? else {
            let path = dir.join(&entry.name);
            tracing::error!(path = %path.display(), "what a compaction has written cannot be read, and is not used");
            continue;
        };
        // The name may be in the cache only, clean, after a sync that failed: it is written once more (rule R30).
        let path = dir.join(swap_name(base));
        let moved = path.with_extension(&AGAIN_SUFFIX[1..]);
        if swap.is_some() {
            disk.rename(&path, &moved)?;
        }
        disk.rename(&moved, &path)?;
        let spanned = entries.iter().filter_map(|entry| base_of(&entry.name));
        let mut bases: Vec<_> = spanned.filter(|found| *found > base && *found < end).collect();
        bases.sort_unstable();
        bases.insert(0, base);
        replaced.push(bases);
    }
    if replaced.is_empty() {
        return Ok(changed);
    }
    // Nothing goes before it is certain that the names stay.
    disk.sync_dir(dir)?;
    put_in_place(&**disk, dir, &replaced, || disk.sync_dir(dir))?;
    Ok(true)
}

/// Where the batches of a file end. `None`: not all of it are batches, so that it cannot stand for others.
pub(crate) fn end_of(disk: &dyn Disk, path: &Path, base: Offset) -> io::Result<Option<Offset>> {
    let file = disk.open(path, Open::Read)?;
    let end = Scan::new(&*file, 0, file.len()?).end_in_order(base, |_| true)?;
    Ok(end.filter(|end| *end > base))
}
