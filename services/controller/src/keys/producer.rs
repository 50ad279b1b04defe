//! `pids/epochs/{slot}`: the latest epochs of producer ids that clients have raised.
//!
//! Ids share a fixed number of slots, each of which remembers the latest of its ids, so that producers that come and go
//! leave nothing behind that grows. What is forgotten is only that an older epoch was replaced: the leaders of the
//! partitions that the producer wrote to fence it all the same.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;

/// Slots.
const SLOTS: i64 = 1024;
/// Ids that a slot remembers.
const IDS_MAX: usize = 64;

/// Epochs by id, the one that was raised last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epochs {
    epochs: Vec<(i64, i16)>,
}

impl Value for Epochs {}

/// The key of the slot of a producer id.
pub(crate) fn key(id: i64) -> String {
    format!("pids/epochs/{}", id.rem_euclid(SLOTS))
}

impl Epochs {
    /// The latest epoch of an id, if it is remembered.
    pub(crate) fn latest(&self, id: i64) -> Option<i16> {
        self.epochs.iter().find(|(known, _)| *known == id).map(|(_, epoch)| *epoch)
    }

    /// Remembers the latest epoch of an id, in place of the id that was raised longest ago if there are too many.
    pub(crate) fn remember(&mut self, id: i64, epoch: i16) {
        self.epochs.retain(|(known, _)| *known != id);
        if self.epochs.len() >= IDS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push((id, epoch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_documented_one() {
        super::super::assert_form(&Epochs { epochs: vec![(7, 3)] }, r#"{"epochs":[[7,3]]}"#);
        assert_eq!(key(1025), "pids/epochs/1");
    }

    #[test]
    fn a_slot_remembers_the_ids_that_were_raised_last() {
        let mut epochs = Epochs::default();
        for id in 0..100 {
            epochs.remember(id, 1);
            epochs.remember(0, 2);
        }
        assert_eq!((epochs.latest(0), epochs.latest(99), epochs.latest(1)), (Some(2), Some(1), None));
        assert_eq!(epochs.epochs.len(), IDS_MAX);
    }
}
