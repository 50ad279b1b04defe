//! A log that consists of its ends.

use walser_model::{LeaderEpoch, LeaderEpochs, Offset};

use crate::ReplicaLog;

#[derive(Debug, Clone)]
pub(crate) struct TestLog {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) durable: i64,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) begun: LeaderEpoch,
    pub(crate) damaged: bool,
}

impl TestLog {
    /// From offset 0 on, with epoch 1, and from offset 6 on with epoch 3; every epoch has begun durably.
    pub(crate) fn new(end: i64, durable: i64) -> Self {
        let mut epochs = LeaderEpochs::default();
        epochs.assign(LeaderEpoch(1), Offset(0));
        epochs.assign(LeaderEpoch(3), Offset(6));
        Self { start: 0, end, durable, epochs, begun: LeaderEpoch(i32::MAX), damaged: false }
    }

    pub(crate) fn trim(&mut self, start: i64) {
        self.start = start;
        self.epochs.forget_before(Offset(start));
    }

    pub(crate) fn cut(&mut self, end: i64) {
        (self.end, self.durable) = (end, self.durable.min(end));
        self.epochs.truncate(Offset(end));
    }
}

impl ReplicaLog for TestLog {
    fn start(&self) -> Offset {
        Offset(self.start)
    }

    fn end(&self) -> Offset {
        Offset(self.end)
    }

    fn durable(&self) -> Offset {
        Offset(self.durable)
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        self.epochs.latest()
    }

    fn begun(&self) -> LeaderEpoch {
        self.begun
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, self.end())
    }

    fn damaged(&self) -> bool {
        self.damaged
    }
}
