//! Snapshots of the producers of a partition: files beside the segments, each named by the offset it stands for.

use std::io;

use walser_model::Offset;

use crate::directory_names::DirectoryNames;
use crate::disk::{Open, read_file};
use crate::log::Log;
use crate::producers::Producers;
use crate::scan::{Scan, Step};

const SNAPSHOT_SUFFIX: &str = ".producers";
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// The name of a producer snapshot.
pub(crate) fn snapshot_name(end: Offset) -> String {
    format!("{:020}{SNAPSHOT_SUFFIX}", end.0)
}

pub(crate) fn snapshot_end(name: &str) -> Option<Offset> {
    name.strip_suffix(SNAPSHOT_SUFFIX)?.parse().ok().map(Offset)
}

/// The ends of the snapshots in a directory, ascending.
pub(crate) fn list(names: &DirectoryNames) -> io::Result<Vec<Offset>> {
    let entries = match names.disk().list(names.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ends: Vec<_> = entries.iter().filter_map(|entry| snapshot_end(&entry.name)).collect();
    ends.sort_unstable();
    Ok(ends)
}

/// Writes a snapshot durably.
pub(crate) fn write(names: &DirectoryNames, producers: &Producers, end: Offset) -> io::Result<()> {
    names.replace_file(&snapshot_name(end), &producers.encode(end))
}

/// Removes snapshots before `end`, keeping the one before the last as a spare.
pub(crate) fn remove_below(names: &DirectoryNames, end: Offset) -> io::Result<()> {
    let below: Vec<_> = list(names)?.into_iter().filter(|snapshot| *snapshot < end).collect();
    below.iter().rev().skip(1).try_for_each(|old| remove(names, *old))
}

/// Removes snapshots of what was cut.
pub(crate) fn remove_above(names: &DirectoryNames, end: Offset) -> io::Result<()> {
    list(names)?.into_iter().filter(|snapshot| *snapshot > end).try_for_each(|cut| remove(names, cut))
}

fn remove(names: &DirectoryNames, snapshot: Offset) -> io::Result<()> {
    names.disk().remove_file(&names.path().join(snapshot_name(snapshot)))
}

/// The newest readable one of the snapshots `ends` (ascending) at or below `end`; nothing at all stands for offset 0.
pub(crate) fn newest(names: &DirectoryNames, ends: &[Offset], end: Offset) -> io::Result<(Producers, Offset)> {
    for snapshot in ends.iter().rev().filter(|snapshot| **snapshot <= end) {
        let path = names.path().join(snapshot_name(*snapshot));
        let bytes = read_file(&**names.disk(), &path, SNAPSHOT_BYTES_MAX)?;
        if let Some(loaded) = bytes.as_deref().and_then(Producers::decode) {
            return Ok(loaded);
        }
    }
    Ok((Producers::default(), Offset::ZERO))
}

/// The producers as of `to`: from the newest snapshot and the batches behind it.
pub(crate) fn load_producers(log: &Log, to: Offset) -> io::Result<Producers> {
    let (mut producers, from) = newest(&log.names, &list(&log.names)?, to)?;
    let segments = log.shared.segments.read().clone();
    let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
    for segment in segments.iter().skip(first) {
        if from >= to || segment.base >= to || segment.size() == 0 {
            break;
        }
        let file = segment.file(Open::Read)?;
        let mut scan = Scan::new(&*file, segment.position_for(from)?, segment.size());
        while let Step::Batch(found) = scan.step()? {
            if found.header.base_offset >= from && found.header.base_offset < to {
                producers.record(&found.header, log.opened_at);
            }
        }
    }
    Ok(producers)
}
