//! What a member has processed, and which commits say so.

use std::collections::BTreeMap;

use walser_client::{ApiError, CommitAnswer, CommitOutcome, GroupReader};
use walser_proto::v1 as pb;

type Place = (String, i32);

/// How far the partitions of a member are processed. One commit is under way at a time; what is processed meanwhile is
/// gathered for the next one.
#[derive(Debug, Default)]
pub(crate) struct Processed {
    /// The partitions that the member has, or had before its stream broke.
    shares: BTreeMap<Place, Share>,
    /// Not committed yet.
    gathered: BTreeMap<Place, pb::OffsetCommit>,
    under_way: Option<(i64, Vec<(Place, i64)>)>,
}

/// A partition.
#[derive(Debug, Default)]
struct Share {
    /// On this stream. Else it may be assigned again.
    assigned: bool,
    /// The next offset to process. `None`: it is not known.
    end: Option<i64>,
    /// What the server has last said is committed.
    committed: Option<i64>,
}

// === impl Processed ===

impl Processed {
    /// Takes partitions that were assigned. Where nothing is committed, the start is to be: a break would move what it
    /// was made of, such as the end of the log.
    pub(crate) fn assign(&mut self, assigned: &[pb::AssignedPartition]) {
        for added in assigned {
            let Some(partition) = &added.topic_partition else { continue };
            let share = self.shares.entry(key(partition)).or_default();
            // Less than was committed before: these are other records, or an operator wants them again.
            if share.committed.is_none_or(|before| added.committed_offset.is_none_or(|now| now < before)) {
                share.end = None;
            }
            (share.assigned, share.committed) = (true, added.committed_offset);
            if added.committed_offset.is_none() {
                let topic_partition = Some(partition.clone());
                let commit = pb::OffsetCommit { topic_partition, offset: added.start_offset, ..Default::default() };
                self.gathered.insert(key(partition), commit);
            }
        }
    }

    /// Another stream begins: what the member still has is assigned again. A stream that broke before it assigned anything
    /// says nothing of what has moved.
    pub(crate) fn expect_again(&mut self) {
        if self.assigned_count() > 0 {
            self.shares.retain(|_, share| std::mem::take(&mut share.assigned));
        }
    }

    /// Partitions that the member has.
    pub(crate) fn assigned_count(&self) -> usize {
        self.shares.values().filter(|share| share.assigned).count()
    }

    /// How many records at the beginning of a chunk were processed before: after a break the server begins at the
    /// committed offset, and a commit may not have arrived.
    pub(crate) fn known(&self, chunk: &pb::RecordChunk) -> usize {
        let end = self.shares.get(&(chunk.topic.clone(), chunk.partition)).and_then(|share| share.end);
        end.map_or(0, |end| chunk.records.partition_point(|record| record.offset < end))
    }

    /// So many records at the beginning of a chunk are processed. Of a partition that is gone, others say that.
    pub(crate) fn add(&mut self, chunk: &pb::RecordChunk, count: usize) {
        let end = match count.checked_sub(1).and_then(|last| chunk.records.get(last)) {
            // Behind the last record there may be offsets that hold none.
            _ if count >= chunk.records.len() => chunk.next_offset,
            Some(last) => last.offset + 1,
            None => return,
        };
        let place = (chunk.topic.clone(), chunk.partition);
        let Some(share) = self.shares.get_mut(&place) else { return };
        share.end = Some(share.end.map_or(end, |known| known.max(end)));
        let commit = pb::OffsetCommit {
            topic_partition: Some(pb::TopicPartition { topic: chunk.topic.clone(), partition: chunk.partition }),
            offset: end,
            leader_epoch: Some(chunk.leader_epoch),
            ..Default::default()
        };
        self.gathered.insert(place, commit);
    }

    /// Partitions are gone: others say what is processed of them.
    pub(crate) fn remove(&mut self, partitions: &[pb::TopicPartition]) {
        for partition in partitions {
            self.shares.remove(&key(partition));
            self.gathered.remove(&key(partition));
        }
    }

    /// A partition is read from elsewhere: what comes now was not processed.
    pub(crate) fn forget(&mut self, partition: &pb::TopicPartition) {
        if let Some(share) = self.shares.get_mut(&key(partition)) {
            share.end = None;
        }
    }

    /// Takes what is not committed yet of these partitions.
    pub(crate) fn take(&mut self, partitions: &[pb::TopicPartition]) -> Vec<pb::OffsetCommit> {
        partitions.iter().filter_map(|partition| self.gathered.remove(&key(partition))).collect()
    }

    /// Whether everything is committed.
    pub(crate) fn is_committed(&self) -> bool {
        self.gathered.is_empty() && self.under_way.is_none()
    }

    /// Commits what was gathered, unless a commit is under way.
    pub(crate) fn commit(&mut self, reader: &mut GroupReader) -> Result<(), ApiError> {
        if self.under_way.is_none() { self.commit_all(reader) } else { Ok(()) }
    }

    /// Commits what was gathered.
    pub(crate) fn commit_all(&mut self, reader: &mut GroupReader) -> Result<(), ApiError> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            let places = gathered.iter().map(|(place, commit)| (place.clone(), commit.offset)).collect();
            self.under_way = Some((reader.commit(gathered.into_values().collect())?, places));
        }
        Ok(())
    }

    /// Takes an answer; the partitions that were refused, with why.
    pub(crate) fn answered(&mut self, answer: CommitAnswer) -> Vec<pb::PartitionError> {
        let places = self.under_way.take_if(|(id, _)| *id == answer.id).map(|(_, places)| places).unwrap_or_default();
        match answer.outcome {
            CommitOutcome::Done => {
                for (place, offset) in places {
                    self.shares.entry(place).and_modify(|share| share.committed = Some(offset));
                }
                Vec::new()
            }
            CommitOutcome::Refused(errors) => errors,
            // The records come again, and are committed again.
            CommitOutcome::Unknown(_) => Vec::new(),
        }
    }
}

fn key(partition: &pb::TopicPartition) -> Place {
    (partition.topic.clone(), partition.partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> pb::TopicPartition {
        pb::TopicPartition { topic: "t".to_owned(), partition: 1 }
    }

    fn assigned(start_offset: i64, committed_offset: Option<i64>) -> [pb::AssignedPartition; 1] {
        let topic_partition = Some(place());
        [pb::AssignedPartition { topic_partition, start_offset, committed_offset, ..Default::default() }]
    }

    fn processed() -> Processed {
        let mut processed = Processed::default();
        processed.assign(&assigned(3, Some(3)));
        processed
    }

    fn chunk(offsets: &[i64], next_offset: i64) -> pb::RecordChunk {
        let record = |offset: &i64| pb::ConsumedRecord { offset: *offset, ..Default::default() };
        let records = offsets.iter().map(record).collect();
        pb::RecordChunk { topic: "t".to_owned(), partition: 1, records, next_offset, ..Default::default() }
    }

    fn gathered(processed: &Processed) -> Vec<i64> {
        processed.gathered.values().map(|commit| commit.offset).collect()
    }

    #[test]
    fn exactly_what_is_processed_is_committed() {
        let mut processed = processed();
        processed.add(&chunk(&[3, 5, 6], 9), 0);
        assert_eq!(gathered(&processed), [0; 0]);
        processed.add(&chunk(&[3, 5, 6], 9), 2);
        assert_eq!(gathered(&processed), [6], "behind the second record");
        processed.add(&chunk(&[6], 9), 1);
        assert_eq!(gathered(&processed), [9], "behind the offsets without records, too");
        processed.add(&chunk(&[], 12), 0);
        assert_eq!(gathered(&processed), [12], "a chunk without records");
        let mut bare = Processed::default();
        bare.assign(&assigned(7, None));
        assert_eq!(gathered(&bare), [7], "where it starts");
    }

    #[test]
    fn what_comes_again_is_known_while_the_member_has_the_partition() {
        let again = chunk(&[3, 5, 6], 9);
        let mut processed = processed();
        processed.add(&again, 2);
        assert_eq!((processed.known(&again), processed.known(&chunk(&[9], 10))), (2, 0));
        processed.expect_again();
        processed.assign(&assigned(3, Some(3)));
        assert_eq!((processed.known(&again), processed.assigned_count()), (2, 1), "after a break");
        processed.expect_again();
        processed.expect_again();
        processed.assign(&assigned(3, Some(3)));
        assert_eq!(processed.known(&again), 2, "after two");
        processed.expect_again();
        let other = pb::TopicPartition { partition: 2, ..place() };
        let [mut added] = assigned(0, Some(0));
        added.topic_partition = Some(other);
        processed.assign(&[added]);
        processed.expect_again();
        processed.assign(&assigned(3, Some(3)));
        assert_eq!(processed.known(&again), 0, "it was another member's meanwhile");
        processed.add(&again, 3);
        processed.forget(&place());
        assert_eq!((processed.known(&again), processed.take(&[place()]).len()), (0, 1));
        processed.add(&again, 3);
        processed.remove(&[place()]);
        processed.add(&again, 3);
        assert_eq!((processed.known(&again), gathered(&processed)), (0, Vec::new()), "others say what is processed");
    }

    #[test]
    fn a_topic_that_was_created_again_is_read_from_its_start() {
        for committed in [None, Some(2)] {
            let mut processed = processed();
            processed.add(&chunk(&[3], 4), 1);
            processed.expect_again();
            processed.assign(&assigned(0, committed));
            assert_eq!(processed.known(&chunk(&[0, 1, 2, 3], 4)), 0, "{committed:?}");
        }
    }
}
