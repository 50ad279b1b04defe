//! Where each leader epoch of a log starts.
//!
//! Answers "where does epoch E end", on which truncation after a leader change rests (KIP-101, KIP-279).

use crate::{LeaderEpoch, Offset};

/// Where an epoch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    /// Offset of its first record, or the log end while it has none.
    pub start: Offset,
}

/// The epochs of a log, ascending in both epoch and start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    starts: Vec<EpochStart>,
}

// === impl LeaderEpochs ===

impl LeaderEpochs {
    /// All of them, ascending.
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Begins `epoch` at `start`, which is the end of the log. An entry without records gives way, also one of a higher epoch;
    /// an epoch that is not above the one of the record before changes nothing else. Gives back whether anything changed.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        let entry = EpochStart { epoch, start };
        let with_records = self.starts.partition_point(|known| known.start < start);
        if self.starts[with_records..] == [entry] {
            return false;
        }
        let gives_way = self.starts.len() > with_records;
        self.starts.truncate(with_records);
        let begins = self.starts.last().is_none_or(|last| epoch > last.epoch);
        if begins {
            self.starts.push(entry);
        }
        begins || gives_way
    }

    /// The latest epoch, or [`LeaderEpoch::NONE`].
    pub fn latest(&self) -> LeaderEpoch {
        self.starts.last().map_or(LeaderEpoch::NONE, |last| last.epoch)
    }

    /// The epoch that a record at `offset` was written under, or [`LeaderEpoch::NONE`].
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        let after = self.starts.partition_point(|start| start.start <= offset);
        after.checked_sub(1).map_or(LeaderEpoch::NONE, |at| self.starts[at].epoch)
    }

    /// The largest epoch at or below `epoch`, and where it ends (exclusive; `log_end` for the latest). `None` when
    /// every epoch is higher.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|start| start.epoch <= epoch);
        let found = self.starts[after.checked_sub(1)?];
        let end = self.starts.get(after).map_or(log_end, |next| next.start);
        Some((found.epoch, end))
    }

    /// Drops epochs that start at or after `end`.
    pub fn truncate(&mut self, end: Offset) {
        self.starts.retain(|start| start.start < end);
    }

    /// Moves the start of what lies before `log_start` up to it, dropping epochs that have no records left.
    pub fn forget_before(&mut self, log_start: Offset) {
        let keep_from = self.starts.partition_point(|start| start.start <= log_start).saturating_sub(1);
        self.starts.drain(..keep_from);
        if let Some(first) = self.starts.first_mut() {
            first.start = first.start.max(log_start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(starts: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in starts {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    #[test]
    fn an_epoch_without_records_is_replaced() {
        assert_eq!(epochs(&[(1, 0), (2, 10), (3, 10)]), epochs(&[(1, 0), (3, 10)]));
        assert_eq!(epochs(&[(3, 0), (2, 10)]), epochs(&[(3, 0)]));
        // What was begun or cut here, and is followed by records of an earlier leader.
        assert_eq!(epochs(&[(1, 0), (4, 10), (2, 10)]), epochs(&[(1, 0), (2, 10)]));
        assert_eq!(epochs(&[(4, 0), (1, 0)]), epochs(&[(1, 0)]));
        let mut same = epochs(&[(1, 0), (4, 10)]);
        assert!(!same.assign(LeaderEpoch(4), Offset(10)), "nothing changes");
        assert!(same.assign(LeaderEpoch(1), Offset(10)), "what has no records is gone");
    }

    #[test]
    fn ends_are_those_of_kip_279() {
        let epochs = epochs(&[(1, 0), (3, 10), (5, 30)]);
        let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(50)).map(|(epoch, end)| (epoch.0, end.0));
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(4), Some((3, 30)));
        assert_eq!(end(9), Some((5, 50)));
        assert_eq!(epochs.epoch_of(Offset(29)), LeaderEpoch(3));
    }

    #[test]
    fn deleted_records_take_their_epochs_along() {
        let mut all = epochs(&[(1, 0), (3, 10), (5, 30)]);
        all.forget_before(Offset(12));
        assert_eq!(all, epochs(&[(3, 12), (5, 30)]));
    }
}
