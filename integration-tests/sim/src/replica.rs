//! One replica of a partition: its log in memory and on its disk, and the state machine that runs on it.

use walser_model::{Acks, LeaderEpoch, LeaderEpochs, Offset};
use walser_replication::{Follower, FollowerAction, FollowerEvent, Leader, OpenId, ReplicaLog};

use crate::store::Record;

/// A record: who wrote it, and under which leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) producer: usize,
    pub(crate) sequence: u32,
}

/// What runs on a replica.
#[derive(Debug, Clone, Default)]
pub(crate) enum Machine {
    #[default]
    Rest,
    Leads(Box<Leader>),
    Follows(Box<Follower>),
}

/// A write that is in the leader's log and not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) producer: usize,
    pub(crate) sequence: u32,
    pub(crate) next_offset: Offset,
    pub(crate) acks: Acks,
    pub(crate) repeated: bool,
}

/// A follower to whom records are pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) follower: usize,
    pub(crate) open: OpenId,
    pub(crate) next: usize,
    /// The high watermark that was told last.
    pub(crate) told: Offset,
}

/// A replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    /// Of the partition. 0: there is none.
    pub(crate) generation: u32,
    /// From offset 0; what lies below `start` is deleted.
    pub(crate) log: Vec<Entry>,
    pub(crate) start: usize,
    /// Entries on stable storage.
    pub(crate) durable: usize,
    /// An unclean stop is told: what is only in its page cache may have been counted. On its disk.
    pub(crate) lazy: bool,
    /// Until so many entries are on stable storage.
    pub(crate) lazy_until: Option<usize>,
    /// A flush that runs, and what it covers.
    pub(crate) flushing: Option<usize>,
    pub(crate) machine: Machine,
    /// Opens of this process.
    pub(crate) open_sequence: u64,
    /// The epochs of the log, as its records have them.
    pub(crate) epochs: LeaderEpochs,
    /// The epoch that it began to lead last, and where, for as long as its log reaches there. On its disk, as R2 wants it.
    pub(crate) led: Option<(LeaderEpoch, usize)>,
    pub(crate) high_watermark: Offset,
    pub(crate) high_watermark_epoch: LeaderEpoch,
    /// Entries from the start that are what was committed.
    pub(crate) good: usize,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) pushes: Vec<Push>,
}

/// The log of a replica, beside the state machine that asks about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogView<'a> {
    start: usize,
    end: usize,
    durable: usize,
    epochs: &'a LeaderEpochs,
}

impl ReplicaLog for LogView<'_> {
    fn start(&self) -> Offset {
        offset(self.start)
    }

    fn end(&self) -> Offset {
        offset(self.end)
    }

    fn durable(&self) -> Offset {
        offset(self.durable)
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        self.epochs.latest()
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, offset(self.end))
    }
}

pub(crate) fn offset(index: usize) -> Offset {
    Offset(i64::try_from(index).unwrap_or(i64::MAX))
}

pub(crate) fn index(offset: Offset) -> usize {
    usize::try_from(offset.0).unwrap_or(0)
}

impl Replica {
    /// The state machine, and the log that it is asked about.
    pub(crate) fn split(&mut self) -> (&mut Machine, LogView<'_>) {
        let Self { machine, start, log, durable, epochs, .. } = self;
        (machine, LogView { start: *start, end: log.len(), durable: *durable, epochs })
    }

    /// Its log, for a question.
    pub(crate) fn view(&self) -> LogView<'_> {
        LogView { start: self.start, end: self.log.len(), durable: self.durable, epochs: &self.epochs }
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.epochs.assign(entry.epoch, self.end());
        self.log.push(entry);
    }

    /// Deletes what lies before an entry.
    pub(crate) fn trim(&mut self, start: usize) {
        self.start = start;
        self.epochs.forget_before(offset(start));
    }

    /// The latest epoch of the log: of its last record, or begun after that.
    pub(crate) fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.latest().max(self.led.map_or(LeaderEpoch::NONE, |(epoch, _)| epoch))
    }

    pub(crate) fn end(&self) -> Offset {
        offset(self.log.len())
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        match &self.machine {
            Machine::Leads(leader) => Some(leader),
            _ => None,
        }
    }

    /// Gives an event to the follower, if one runs.
    pub(crate) fn step(&mut self, event: FollowerEvent, actions: &mut Vec<FollowerAction>) {
        if let (Machine::Follows(follower), log) = self.split() {
            follower.step(event, &log, actions);
        }
    }

    /// Keeps only so many entries.
    pub(crate) fn cut(&mut self, len: usize) {
        self.log.truncate(len);
        self.epochs.truncate(offset(len));
        self.led = self.led.filter(|(_, start)| *start <= len);
        self.start = self.start.min(len);
        self.durable = self.durable.min(len);
        self.good = self.good.min(len);
        self.flushing = self.flushing.map(|covered| covered.min(len));
    }

    /// Stops whatever runs on it; the log stays.
    pub(crate) fn rest(&mut self) {
        self.machine = Machine::Rest;
        self.waiting.clear();
        self.pushes.clear();
    }

    /// The process is gone, and with it everything that was not in the log.
    pub(crate) fn crash(&mut self) {
        self.rest();
        self.flushing = None;
        self.open_sequence = 0;
        self.high_watermark = Offset::ZERO;
        self.high_watermark_epoch = LeaderEpoch::NONE;
    }

    /// Nothing is left of it.
    pub(crate) fn lose(&mut self) {
        let Self { generation, open_sequence, .. } = *self;
        *self = Self { generation, open_sequence, ..Self::default() };
    }

    /// Nothing yet, of a partition.
    pub(crate) fn of(known: Option<&Record>) -> Self {
        Self { generation: known.map_or(0, |known| known.key.generation), ..Self::default() }
    }

    /// Looks again how much of the log is what was committed.
    pub(crate) fn compare(&mut self, committed: &[Entry]) {
        while self.good < self.log.len()
            && self.good < committed.len()
            && (self.good < self.start || self.log[self.good] == committed[self.good])
        {
            self.good += 1;
        }
    }

    /// Where a producer's write is, if it is in the log.
    pub(crate) fn find(&self, producer: usize, sequence: u32) -> Option<usize> {
        self.log.iter().rposition(|entry| entry.producer == producer && entry.sequence == sequence)
    }

    /// The sequence that a producer writes next.
    pub(crate) fn expected(&self, producer: usize) -> u32 {
        let last = self.log.iter().rev().find(|entry| entry.producer == producer);
        last.map_or(0, |entry| entry.sequence + 1)
    }
}
