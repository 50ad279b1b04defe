//! Where a reader stands, and what it asks for whenever it opens its stream. Pure.
//!
//! A stream that breaks is opened again from what is kept here. For that to lose nothing, every position has to be a
//! fixed one: positions that move while the reader is disconnected, such as LATEST, are replaced by offsets before the
//! first stream is opened. A partition that is added to a topic meanwhile is in no list, and is read from its start.

use std::collections::{BTreeMap, BTreeSet};

use walser_proto::v1 as pb;
use walser_proto::v1::position::At;

/// A topic and a partition.
pub(super) type Place = (String, i32);

/// Where a reader stands in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    next_offset: i64,
    leader_epoch: Option<i32>,
}

/// The positions of a reader.
#[derive(Debug, Default)]
pub(super) struct Positions {
    targets: Vec<pb::ReadTarget>,
    known: BTreeMap<Place, Progress>,
    /// Partitions whose place could not be found yet.
    unknown: BTreeSet<Place>,
    ended: BTreeSet<Place>,
}

/// Whether a position means the same whenever it is asked for.
pub(super) fn is_fixed(position: Option<&pb::Position>) -> bool {
    match position.and_then(|position| position.at.as_ref()) {
        // An empty position is refused by the server.
        None | Some(At::Offset(_)) => true,
        Some(At::Bound(bound)) => *bound == i32::from(pb::Bound::Earliest),
        Some(At::Timestamp(_) | At::TailCount(_) | At::Age(_)) => false,
    }
}

/// An offset as a position.
fn at(offset: i64) -> pb::Position {
    pb::Position { at: Some(At::Offset(offset)) }
}

// === impl Positions ===

impl Positions {
    /// Adds a target whose positions are fixed, and where its reader stands already.
    pub(super) fn add(&mut self, mut target: pb::ReadTarget) {
        for resume in std::mem::take(&mut target.resume) {
            let progress = Progress { next_offset: resume.next_offset, leader_epoch: resume.leader_epoch };
            self.known.insert((target.topic.clone(), resume.partition), progress);
        }
        self.targets.push(target);
    }

    /// Adds a topic that is read without an end, from `starts` in the partitions that it has. `unknown`: partitions whose
    /// place could not be found, which begin at the target's start once they can.
    pub(super) fn add_topic(
        &mut self,
        target: &pb::ReadTarget,
        starts: impl IntoIterator<Item = (i32, i64)>,
        unknown: impl IntoIterator<Item = i32>,
    ) {
        for (partition, next_offset) in starts {
            self.known.insert((target.topic.clone(), partition), Progress { next_offset, leader_epoch: None });
        }
        self.unknown.extend(unknown.into_iter().map(|partition| (target.topic.clone(), partition)));
        self.add(target.clone());
    }

    /// What to ask for when a stream is opened.
    pub(super) fn targets(&self) -> Vec<pb::ReadTarget> {
        self.targets.iter().filter_map(|target| self.resumed(target)).collect()
    }

    /// A target from where it stands. `None`: it is done.
    fn resumed(&self, target: &pb::ReadTarget) -> Option<pb::ReadTarget> {
        let mut target = target.clone();
        match target.partition {
            Some(partition) => {
                let place = (target.topic.clone(), partition);
                if self.ended.contains(&place) {
                    return None;
                }
                if let Some(progress) = self.known.get(&place) {
                    target.start = Some(at(progress.next_offset));
                    target.last_leader_epoch = progress.leader_epoch;
                }
            }
            None => {
                let of_topic = (target.topic.clone(), i32::MIN)..=(target.topic.clone(), i32::MAX);
                let resume = |((_, partition), progress): (&Place, &Progress)| pb::PartitionResume {
                    partition: *partition,
                    next_offset: progress.next_offset,
                    leader_epoch: progress.leader_epoch,
                };
                target.resume = self.known.range(of_topic.clone()).map(resume).collect();
                let unknown = self.unknown.range(of_topic).any(|place| !self.known.contains_key(place));
                if !is_fixed(target.start.as_ref()) && !unknown {
                    // What is not known now was added later.
                    target.start = None;
                }
            }
        }
        Some(target)
    }

    /// Takes the progress that a chunk means.
    pub(super) fn chunk(&mut self, chunk: &pb::RecordChunk) {
        let progress = Progress { next_offset: chunk.next_offset, leader_epoch: Some(chunk.leader_epoch) };
        self.known.insert((chunk.topic.clone(), chunk.partition), progress);
    }

    /// Takes progress of partitions from which nothing may have come yet.
    pub(super) fn progress(&mut self, progress: &[pb::PartitionProgress]) {
        for progress in progress {
            if let Some(partition) = &progress.topic_partition {
                let place = (partition.topic.clone(), partition.partition);
                let found = Progress { next_offset: progress.next_offset, leader_epoch: None };
                self.known.entry(place).or_insert(found);
            }
        }
    }

    /// Takes a position that the server has moved.
    pub(super) fn reset(&mut self, reset: &pb::OffsetReset) {
        if let Some(partition) = &reset.topic_partition {
            let progress = Progress { next_offset: reset.actual_offset, leader_epoch: None };
            self.known.insert((partition.topic.clone(), partition.partition), progress);
        }
    }

    /// A bounded partition is done.
    pub(super) fn end_reached(&mut self, place: &pb::TopicPartition) {
        self.ended.insert((place.topic.clone(), place.partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(partition: i32, next_offset: i64) -> pb::RecordChunk {
        pb::RecordChunk { topic: "t".to_owned(), partition, next_offset, leader_epoch: 3, ..Default::default() }
    }

    fn place(partition: i32) -> pb::TopicPartition {
        pb::TopicPartition { topic: "t".to_owned(), partition }
    }

    #[test]
    fn a_topic_is_resumed_with_what_was_seen_and_the_rest_from_its_start() {
        let mut positions = Positions::default();
        let latest = pb::Position { at: Some(At::Bound(pb::Bound::Latest.into())) };
        let target = pb::ReadTarget { topic: "t".to_owned(), start: Some(latest), ..Default::default() };
        positions.add_topic(&target, [(0, 7), (1, 9)], [2]);
        assert_eq!(positions.targets()[0].start, Some(latest), "one partition could not be asked");
        positions.chunk(&chunk(1, 12));
        positions.progress(&[pb::PartitionProgress {
            topic_partition: Some(place(2)),
            next_offset: 4,
            ..Default::default()
        }]);
        let targets = positions.targets();
        let [target] = targets.as_slice() else { panic!("one target: {targets:?}") };
        assert_eq!((target.partition, target.start, target.end), (None, None, None));
        let resume: Vec<_> = target.resume.iter().map(|found| (found.partition, found.next_offset)).collect();
        assert_eq!(resume, [(0, 7), (1, 12), (2, 4)], "partitions that come later begin at the earliest record");
        assert_eq!(target.resume[1].leader_epoch, Some(3));
    }

    #[test]
    fn what_a_reader_stored_is_where_it_begins() {
        let mut positions = Positions::default();
        let stored = pb::PartitionResume { partition: 1, next_offset: 40, leader_epoch: Some(2) };
        positions.add(pb::ReadTarget { topic: "t".to_owned(), resume: vec![stored], ..Default::default() });
        assert_eq!(positions.targets()[0].resume, [stored]);
        positions.chunk(&chunk(1, 50));
        assert_eq!(positions.targets()[0].resume[0].next_offset, 50);
    }

    #[test]
    fn a_partition_is_resumed_until_its_end_and_then_left_out() {
        let mut positions = Positions::default();
        for partition in 0..3 {
            let (topic, partition) = ("t".to_owned(), Some(partition));
            positions.add(pb::ReadTarget { topic, partition, end: Some(at(20)), ..Default::default() });
        }
        positions.chunk(&chunk(0, 20));
        positions.chunk(&chunk(2, 5));
        positions.end_reached(&place(0));
        let targets = positions.targets();
        let asked: Vec<_> = targets.iter().map(|target| (target.partition, target.start, target.end)).collect();
        assert_eq!(asked, [(Some(1), None, Some(at(20))), (Some(2), Some(at(5)), Some(at(20)))]);
        positions.end_reached(&place(1));
        positions.end_reached(&place(2));
        assert!(positions.targets().is_empty());
    }

    #[test]
    fn positions_that_move_are_told_from_fixed_ones() {
        let bound = |bound: pb::Bound| pb::Position { at: Some(At::Bound(bound.into())) };
        assert!(is_fixed(None) && is_fixed(Some(&at(3))) && is_fixed(Some(&bound(pb::Bound::Earliest))));
        assert!(!is_fixed(Some(&bound(pb::Bound::Latest))));
        assert!(!is_fixed(Some(&pb::Position { at: Some(At::TailCount(3)) })));
    }
}
