//! The log of a shard: fenced by the epoch of the writer, and compacted for those who replay it.

use std::collections::BTreeMap;

use walser_group::{EncodedEvent, Event, EventCodecError, GroupShard};

/// Batches, in the order in which they were accepted.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) writer_epoch: i64,
    events: Vec<EncodedEvent>,
    newest: BTreeMap<Vec<u8>, usize>,
}

impl Log {
    pub(super) fn append(&mut self, batch: Vec<EncodedEvent>) {
        for event in batch {
            self.newest.insert(event.key.clone(), self.events.len());
            self.events.push(event);
        }
    }

    /// Replays the log as it is, or what a compaction has left of it.
    pub(super) fn replay(&self, compacted: bool, shard: &mut GroupShard) -> Result<(), EventCodecError> {
        let mut positions: Vec<usize> = self.newest.values().copied().collect();
        if compacted {
            positions.sort_unstable();
        } else {
            positions = (0..self.events.len()).collect();
        }
        for position in positions {
            let event = &self.events[position];
            if compacted && event.value.is_none() {
                continue;
            }
            if let Some(event) = Event::decode(&event.key, event.value.as_deref())? {
                shard.replay(event);
            }
        }
        Ok(())
    }
}
