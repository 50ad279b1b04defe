//! What every [`ReplicaLog`] must answer: the same changes are made to it and to a list of records, and both are asked.
//!
//! The logs of the storage node, of the simulator and of the tests here go through it, so that what holds over one of them
//! holds over the others.

use walser_model::{LeaderEpoch, Offset};

use crate::ReplicaLog;

/// A log that can be changed.
pub trait LogUnderTest {
    /// Asks the log as decisions do.
    fn ask<R>(&self, question: impl FnOnce(&dyn ReplicaLog) -> R) -> R;
    /// Appends a record of a leader epoch that is not below the one before.
    fn append(&mut self, epoch: LeaderEpoch);
    /// Begins to lead in a leader epoch, at the end.
    fn begin(&mut self, epoch: LeaderEpoch);
    /// Makes everything durable.
    fn flush(&mut self);
    /// Cuts what lies at `to` and above.
    fn cut(&mut self, to: Offset);
    /// Deletes what lies below `before`.
    fn delete(&mut self, before: Offset);
}

/// The same as a list.
#[derive(Debug, Default)]
struct Model {
    /// The epoch of each record from offset 0 on.
    records: Vec<LeaderEpoch>,
    start: usize,
    durable: usize,
    /// The epoch that was begun last and where, and the one whose beginning is durable.
    begun: Option<(LeaderEpoch, usize)>,
    begun_durably: Option<(LeaderEpoch, usize)>,
    /// All records that were not deleted were cut, and none came since.
    cut_to_nothing: bool,
}

/// Makes `steps` changes that follow from `seed`, and asks after each.
///
/// # Panics
/// When an answer is wrong.
pub fn check(log: &mut impl LogUnderTest, seed: u64, steps: usize) {
    let (mut random, mut model, mut epoch) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, Model::default(), 1);
    let mut below = move |bound: usize| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        usize::try_from(random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % bound
    };
    model.compare(log);
    for _ in 0..steps {
        match below(20) {
            0..9 => {
                let last = model.records.last().map_or(epoch, |last| last.0.max(epoch));
                model.records.push(LeaderEpoch(last));
                model.cut_to_nothing = false;
                log.append(LeaderEpoch(last));
            }
            9..12 => {
                epoch = epoch.max(model.records.last().map_or(0, |last| last.0)) + 1 + i32::from(below(3) == 0);
                model.begun = Some((LeaderEpoch(epoch), model.records.len()));
                log.begin(LeaderEpoch(epoch));
            }
            12..16 => {
                model.durable = model.records.len();
                model.begun_durably = model.begun;
                log.flush();
            }
            16..18 => {
                let to = model.start + below(model.records.len() - model.start + 1);
                model.cut(to);
                log.cut(offset(to));
            }
            _ => {
                // What is deleted was durable, as everything below the high watermark is.
                let before = model.start + below(model.durable.saturating_sub(model.start) + 1);
                model.start = before.max(model.start);
                log.delete(offset(model.start));
            }
        }
        model.compare(log);
    }
}

fn offset(at: usize) -> Offset {
    Offset(i64::try_from(at).unwrap_or(i64::MAX))
}

impl Model {
    fn cut(&mut self, to: usize) {
        self.cut_to_nothing |= to == self.start;
        self.records.truncate(to);
        self.durable = self.durable.min(to);
        let reached = |(_, start): &(LeaderEpoch, usize)| *start <= to;
        (self.begun, self.begun_durably) = (self.begun.filter(reached), self.begun_durably.filter(reached));
    }

    fn compare(&self, log: &impl LogUnderTest) {
        log.ask(|log| {
            let ends = (log.start(), log.end(), log.durable());
            assert_eq!(ends, (offset(self.start), offset(self.records.len()), offset(self.durable)), "{self:?}");
            let latest = self.records.last().copied().unwrap_or(LeaderEpoch::NONE);
            // Of a log without records that was cut it need not be known what was deleted before.
            let cut_to_nothing = self.cut_to_nothing && log.latest_epoch() == LeaderEpoch::NONE;
            assert!(log.latest_epoch() == latest || cut_to_nothing, "of the last record, deleted or not: {self:?}");
            match (self.begun, self.begun_durably) {
                (Some(begun), Some(durably)) if begun == durably => assert_eq!(log.begun(), begun.0, "{self:?}"),
                (Some((begun, _)), _) => assert!(log.begun() < begun, "{begun} is not durable: {self:?}"),
                // The one before it may be known or not.
                (None, durably) => {
                    let before = durably.map_or(LeaderEpoch::NONE, |(epoch, _)| epoch);
                    assert!([LeaderEpoch::NONE, before].contains(&log.begun()), "{self:?}");
                }
            }
            for epoch in -1..=latest.0 + 1 {
                self.compare_end(log, LeaderEpoch(epoch));
            }
        });
    }

    /// Epochs of which all records are deleted may be known or not.
    fn compare_end(&self, log: &dyn ReplicaLog, asked: LeaderEpoch) {
        let after = self.records.partition_point(|epoch| *epoch <= asked);
        let found = log.end_of(asked);
        let expected = after.checked_sub(1).map(|last| (self.records[last], offset(after)));
        if after > self.start || (after == self.records.len() && after > 0 && !self.cut_to_nothing) {
            assert_eq!(found, expected, "the end of {asked}: {self:?}");
        } else {
            assert!(found.is_none() || found == expected || found.is_some_and(|(_, end)| end <= offset(self.start)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_log::TestLog;

    struct Under {
        log: TestLog,
        begun: Option<(LeaderEpoch, i64)>,
    }

    impl LogUnderTest for Under {
        fn ask<R>(&self, question: impl FnOnce(&dyn ReplicaLog) -> R) -> R {
            question(&self.log)
        }

        fn append(&mut self, epoch: LeaderEpoch) {
            self.log.epochs.assign(epoch, Offset(self.log.end));
            self.log.end += 1;
        }

        fn begin(&mut self, epoch: LeaderEpoch) {
            self.begun = Some((epoch, self.log.end));
        }

        fn flush(&mut self) {
            self.log.durable = self.log.end;
            self.log.begun = self.begun.map_or(LeaderEpoch::NONE, |(epoch, _)| epoch);
        }

        fn cut(&mut self, to: Offset) {
            self.log.cut(to.0);
            if self.begun.is_some_and(|(_, start)| start > to.0) {
                (self.begun, self.log.begun) = (None, LeaderEpoch::NONE);
            }
        }

        fn delete(&mut self, before: Offset) {
            self.log.trim(before.0);
        }
    }

    #[test]
    fn the_log_of_the_tests_answers_as_others_do() {
        for seed in 0..200 {
            let log = TestLog { epochs: Default::default(), begun: LeaderEpoch::NONE, ..TestLog::new(0, 0) };
            check(&mut Under { log, begun: None }, seed, 100);
        }
    }
}
