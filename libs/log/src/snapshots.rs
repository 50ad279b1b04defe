//! Snapshots of the producers of a partition: files beside the segments, each named by the offset it stands for.

use std::io;
use std::sync::Arc;

use walser_model::{Offset, Timestamp};

use crate::directory_names::DirectoryNames;
use crate::disk::{Open, read_file};
use crate::producers::Producers;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

const SNAPSHOT_SUFFIX: &str = ".producers";
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// The name of a producer snapshot.
pub(crate) fn snapshot_name(end: Offset) -> String {
    format!("{:020}{SNAPSHOT_SUFFIX}", end.0)
}

pub(crate) fn snapshot_end(name: &str) -> Option<Offset> {
    name.strip_suffix(SNAPSHOT_SUFFIX)?.parse().ok().map(Offset)
}

/// The snapshots of one partition.
#[derive(Debug)]
pub(crate) struct Snapshots {
    names: Arc<DirectoryNames>,
    /// A recovery point, and how many syncs of the checkpoint had begun when it was written.
    unsynced_point: (Offset, u64),
}

/// Removes snapshots before `end`, keeping the one before the last as a spare.
pub(crate) fn remove_below(names: &DirectoryNames, end: Offset) -> io::Result<()> {
    let below: Vec<_> = list(names)?.into_iter().filter(|snapshot| *snapshot < end).collect();
    below.iter().rev().skip(1).try_for_each(|old| remove(names, *old))
}

fn list(names: &DirectoryNames) -> io::Result<Vec<Offset>> {
    let entries = match names.disk().list(names.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ends: Vec<_> = entries.iter().filter_map(|entry| snapshot_end(&entry.name)).collect();
    ends.sort_unstable();
    Ok(ends)
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

/// The producers as of `to`: from the newest snapshot and the batches behind it. They count as used at `now`.
pub(crate) fn load(
    names: &DirectoryNames,
    segments: &[Arc<Segment>],
    to: Offset,
    now: Timestamp,
) -> io::Result<Producers> {
    let (mut producers, from) = newest(names, &list(names)?, to)?;
    let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
    for (number, segment) in segments.iter().enumerate().skip(first) {
        let below = segments.get(number + 1).map_or(to, |next| to.min(next.base));
        if from >= to || segment.base >= to || segment.size() == 0 {
            break;
        }
        let file = segment.file(Open::Read)?;
        let mut scan = Scan::new(&*file, segment.place_for(from)?.0, segment.size());
        while let Step::Batch(found) = scan.step()? {
            if found.header.base_offset >= from && found.header.base_offset < below {
                producers.record(&found.header, now);
            }
        }
    }
    Ok(producers)
}

impl Snapshots {
    /// Of a log whose recovery point was found when `begun` syncs of the checkpoint had begun: it may be in the cache only.
    pub(crate) fn new(names: Arc<DirectoryNames>, point: Offset, begun: u64) -> Self {
        Self { names, unsynced_point: (point, begun) }
    }

    /// The ends of the snapshots, ascending.
    pub(crate) fn list(&self) -> io::Result<Vec<Offset>> {
        list(&self.names)
    }

    /// Writes a snapshot durably.
    pub(crate) fn write(&self, producers: &Producers, end: Offset) -> io::Result<()> {
        self.names.replace_file(&snapshot_name(end), &producers.encode(end))
    }

    /// The recovery point goes back to here.
    pub(crate) fn point_goes_back(&mut self, to: Offset) {
        self.unsynced_point.0 = self.unsynced_point.0.min(to);
    }

    /// Removes snapshots of what was cut.
    pub(crate) fn remove_above(&mut self, end: Offset) -> io::Result<()> {
        self.point_goes_back(end);
        self.list()?.into_iter().filter(|snapshot| *snapshot > end).try_for_each(|cut| remove(&self.names, cut))
    }

    /// The last recovery point that a power loss cannot take back, if it is known: the checkpoint is synced only now and
    /// then. `completed`: the number of its last sync that has succeeded.
    pub(crate) fn durable_point(&self, completed: u64) -> Option<Offset> {
        let (written, during) = self.unsynced_point;
        (completed > during).then_some(written)
    }

    /// A recovery point was written after `begun` syncs of the checkpoint had begun, of which `completed` have succeeded.
    pub(crate) fn note_point(&mut self, point: Offset, (begun, completed): (u64, u64)) {
        if self.durable_point(completed).is_some() {
            self.unsynced_point = (point, begun);
        }
    }
}
