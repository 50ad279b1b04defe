//! The partitions that a member has, and how far it has read them.

use std::collections::BTreeMap;

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

/// A topic and a partition.
type Place = (String, i32);

/// The partitions of a member.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    held: BTreeMap<Place, Held>,
}

/// A partition of a member.
#[derive(Debug, Default)]
struct Held {
    /// On this stream. Else it may be assigned again.
    assigned: bool,
    /// Id of its topic.
    topic_id: String,
    /// The end of what was delivered since it was assigned, and its leader epoch.
    delivered: Option<(i64, i32)>,
    /// The caller wants none of its records until it says otherwise.
    paused: bool,
}

// === impl Holdings ===

impl Holdings {
    /// Takes partitions that were assigned; those of them that are to be paused again.
    pub(super) fn add(&mut self, assigned: &[pb::AssignedPartition]) -> Vec<pb::TopicPartition> {
        let mut paused = Vec::new();
        for assigned in assigned {
            let Some(partition) = &assigned.topic_partition else { continue };
            let held = self.held.entry(key(partition)).or_default();
            (held.assigned, held.delivered) = (true, None);
            held.topic_id.clone_from(&assigned.topic_id);
            if held.paused {
                paused.push(partition.clone());
            }
        }
        paused
    }

    /// Another stream of the same member begins: the server assigns again what has not moved meanwhile. A stream that broke
    /// before it assigned anything says nothing of that.
    pub(super) fn expect_again(&mut self) {
        if self.held.values().any(|held| held.assigned) {
            self.held.retain(|_, held| std::mem::take(&mut held.assigned));
        }
    }

    pub(super) fn remove(&mut self, revoked: &[pb::TopicPartition]) {
        for place in revoked {
            self.held.remove(&key(place));
        }
    }

    pub(super) fn remove_all(&mut self) -> Vec<pb::TopicPartition> {
        let wire = |((topic, partition), _)| pb::TopicPartition { topic, partition };
        std::mem::take(&mut self.held).into_iter().map(wire).collect()
    }

    /// Notes that records were delivered.
    pub(super) fn deliver(&mut self, chunk: &pb::RecordChunk) {
        if let Some(held) = self.held.get_mut(&(chunk.topic.clone(), chunk.partition)) {
            held.delivered = Some((chunk.next_offset, chunk.leader_epoch));
        }
    }

    /// The ends of what was delivered.
    pub(super) fn delivered(&self) -> Vec<pb::OffsetCommit> {
        let commit = |(place, held): (&Place, &Held)| {
            let (offset, leader_epoch) = held.delivered.filter(|_| held.assigned)?;
            let topic_partition = Some(pb::TopicPartition { topic: place.0.clone(), partition: place.1 });
            Some(pb::OffsetCommit { topic_partition, offset, leader_epoch: Some(leader_epoch), ..Default::default() })
        };
        self.held.iter().filter_map(commit).collect()
    }

    /// Names the topics of commits by their ids, too: a topic that is created again under the name is another one.
    pub(super) fn name_topics(&self, offsets: &mut [pb::OffsetCommit]) {
        for commit in offsets.iter_mut().filter(|commit| commit.topic_id.is_empty()) {
            let held = commit.topic_partition.as_ref().and_then(|partition| self.held.get(&key(partition)));
            commit.topic_id = held.map(|held| held.topic_id.clone()).unwrap_or_default();
        }
    }

    pub(super) fn set_paused(&mut self, partition: &pb::TopicPartition, paused: bool) -> Result<(), ApiError> {
        self.find(partition)?.paused = paused;
        Ok(())
    }

    /// Notes that a partition is read from elsewhere.
    pub(super) fn forget_delivered(&mut self, partition: &pb::TopicPartition) -> Result<(), ApiError> {
        self.find(partition)?.delivered = None;
        Ok(())
    }

    fn find(&mut self, partition: &pb::TopicPartition) -> Result<&mut Held, ApiError> {
        let unknown = || {
            let text = format!("{}/{} is not assigned to this member", partition.topic, partition.partition);
            ApiError::new(Reason::PartitionNotOwned, text).with("topic", &partition.topic)
        };
        self.held.get_mut(&key(partition)).filter(|held| held.assigned).ok_or_else(unknown)
    }
}

fn key(partition: &pb::TopicPartition) -> Place {
    (partition.topic.clone(), partition.partition)
}
