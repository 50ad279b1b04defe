//! One replica of a partition: its log in memory and on its disk, and the state machine that runs on it.

use std::time::Duration;

use walser_model::{
    Acks, LeaderEpoch, LeaderEpochs, NodeId, Offset, ProducerEpoch, ProducerWindow, RememberedBatch, SequenceCheck,
    Sequences,
};
use walser_replication::control::ReplicaIntegrity;
use walser_replication::{
    Leader, ReplicaActions, ReplicaEvent, ReplicaLog, ReplicaStart, ReplicationSessionId, Rules, WorkId,
};

use crate::producer::{PRODUCERS, is_idempotent};
use crate::records::{Entry, Segments};

/// A write that no other replica confirms is answered after so long.
/// How far a follower may lag, in time, and stay in sync.
pub(crate) const LAG_MAX: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The state machine that runs on a replica.
pub(crate) type Machine = walser_replication::Replica<Waiting>;

/// A write that is in the leader's log and not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Counts the writes that wait, from 0.
    pub(crate) number: u64,
    pub(crate) producer: usize,
    pub(crate) sequence: u32,
    /// Where its record ends. `None`: it was refused.
    pub(crate) end: Option<Offset>,
    pub(crate) acks: Acks,
}

/// A follower to whom records are pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) follower: usize,
    pub(crate) open: ReplicationSessionId,
    pub(crate) next: usize,
    /// The high watermark that was told last.
    pub(crate) told: Offset,
}

/// Where an epoch began that the node leads, or led.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Led {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) start: usize,
}

/// What takes time on the disk.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Cut(usize),
    Copy(Box<Segments>),
}

/// A flush that runs, and what it covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flush {
    entries: usize,
    led: Option<Led>,
}

/// A replica.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    /// Of the partition. 0: there is none.
    pub(crate) generation: u32,
    /// From offset 0; what lies below `start` is deleted.
    pub(crate) log: Vec<Entry>,
    pub(crate) start: usize,
    /// Entries on stable storage.
    pub(crate) durable: usize,
    /// Tombstones below may be gone. Exclusive.
    pub(crate) tombstone_floor: usize,
    flushing: Option<Flush>,
    pub(crate) machine: Machine,
    /// The high watermark with its epoch, as it was written with the last flush.
    noted: (Offset, LeaderEpoch),
    /// Work that has begun, and not ended.
    work: Option<(WorkId, Work)>,
    /// What the log says of idempotent producers.
    windows: [Option<ProducerWindow>; PRODUCERS],
    /// The epochs of the log, as its records have them.
    pub(crate) epochs: LeaderEpochs,
    /// The epoch that it has begun to lead last, for as long as its log reaches there.
    pub(crate) led: Option<Led>,
    /// The one whose start is on its disk.
    led_on_disk: Option<Led>,
    /// The high watermark, as readers see it.
    pub(crate) shown: Offset,
    /// Entries from the start that are what was committed.
    pub(crate) good: usize,
    pub(crate) pushes: Vec<Push>,
    /// Writes of this process that have waited, and those that were answered: those that ask for the leader only, and those that
    /// ask for all.
    pub(crate) waited: [u64; 2],
    pub(crate) answered: [u64; 2],
}

/// The log of a replica, beside the state machine that asks about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogView<'a> {
    start: usize,
    end: usize,
    durable: usize,
    epochs: &'a LeaderEpochs,
    begun: LeaderEpoch,
    tombstone_floor: usize,
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

    fn begun(&self) -> LeaderEpoch {
        self.begun
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, offset(self.end))
    }

    fn tombstone_floor(&self) -> Offset {
        offset(self.tombstone_floor)
    }
}

pub(crate) fn offset(index: usize) -> Offset {
    Offset(i64::try_from(index).unwrap_or(i64::MAX))
}

pub(crate) fn index(offset: Offset) -> usize {
    usize::try_from(offset.0).unwrap_or(0)
}

impl Replica {
    /// Nothing yet, of a partition, in a process that has begun.
    pub(crate) fn new(rules: Rules, node: NodeId, generation: u32) -> Self {
        let noted = (Offset::ZERO, LeaderEpoch::NONE);
        let machine = machine((rules, node), ReplicaIntegrity::Intact, false, noted);
        Self {
            generation,
            log: Vec::new(),
            start: 0,
            durable: 0,
            tombstone_floor: 0,
            flushing: None,
            machine,
            noted,
            work: None,
            windows: [const { None }; PRODUCERS],
            epochs: LeaderEpochs::default(),
            led: None,
            led_on_disk: None,
            shown: Offset::ZERO,
            good: 0,
            pushes: Vec::new(),
            waited: [0; 2],
            answered: [0; 2],
        }
    }

    /// Gives an event to the state machine.
    pub(crate) fn step(&mut self, now: Duration, event: ReplicaEvent, actions: &mut ReplicaActions<Waiting>) {
        let Self { machine, start, log, durable, epochs, led_on_disk, tombstone_floor, .. } = self;
        let begun = begun(*led_on_disk);
        let (end, tombstone_floor) = (log.len(), *tombstone_floor);
        let log = LogView { start: *start, end, durable: *durable, epochs, begun, tombstone_floor };
        machine.step(now, event, &log, actions);
    }

    /// Its log, for a question.
    pub(crate) fn view(&self) -> LogView<'_> {
        let begun = begun(self.led_on_disk);
        LogView {
            start: self.start,
            end: self.log.len(),
            durable: self.durable,
            epochs: &self.epochs,
            begun,
            tombstone_floor: self.tombstone_floor,
        }
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.epochs.assign(entry.epoch, self.end());
        self.note_producer(entry, self.end());
        self.log.push(entry);
    }

    fn note_producer(&mut self, Entry { producer, sequence, .. }: Entry, base_offset: Offset) {
        if is_idempotent(producer) {
            let window = &mut self.windows[producer % PRODUCERS];
            let batch = RememberedBatch { sequences: sequences(sequence), base_offset, max_timestamp: 0 };
            window.get_or_insert_with(|| ProducerWindow::new(ProducerEpoch(0))).record(ProducerEpoch(0), batch);
        }
    }

    /// What a producer's batch is to the log.
    pub(crate) fn check_sequence(&self, producer: usize, sequence: u32) -> SequenceCheck {
        let window = self.windows[producer % PRODUCERS].as_ref();
        ProducerWindow::check_sequence(window, ProducerEpoch(0), sequences(sequence))
    }

    /// Reads again from the log what it says of producers.
    fn read_producers(&mut self) {
        self.windows = [const { None }; PRODUCERS];
        for at in 0..self.log.len() {
            self.note_producer(self.log[at], offset(at));
        }
    }

    /// Deletes what lies before an entry.
    pub(crate) fn trim(&mut self, start: usize) {
        self.start = start;
        self.epochs.forget_before(offset(start));
    }

    pub(crate) fn end(&self) -> Offset {
        offset(self.log.len())
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        self.machine.leader()
    }

    /// Keeps only so many entries.
    pub(crate) fn cut(&mut self, len: usize) {
        self.log.truncate(len);
        self.read_producers();
        self.epochs.truncate(offset(len));
        let reached = |led: &Led| led.start <= len;
        (self.led, self.led_on_disk) = (self.led.filter(reached), self.led_on_disk.filter(reached));
        self.start = self.start.min(len);
        self.durable = self.durable.min(len);
        self.good = self.good.min(len);
        self.noted.0 = self.noted.0.min(offset(len));
        if let Some(flushing) = &mut self.flushing {
            *flushing = Flush { entries: flushing.entries.min(len), led: flushing.led.filter(reached) };
        }
    }

    /// Begins a flush, or ends the one that runs. False: there is nothing to flush.
    pub(crate) fn flush(&mut self) -> bool {
        if let Some(Flush { entries, led }) = self.flushing.take() {
            self.durable = self.durable.max(entries);
            self.led_on_disk = led.or(self.led_on_disk);
            self.noted = self.machine.high_watermark();
            return true;
        }
        let begun = self.led.filter(|led| led.epoch > begun(self.led_on_disk));
        let needed = self.durable < self.log.len() || begun.is_some();
        self.flushing = needed.then_some(Flush { entries: self.log.len(), led: begun });
        needed
    }

    /// Everything is on its disk.
    pub(crate) fn flush_all(&mut self) {
        self.durable = self.log.len();
        self.led_on_disk = self.led;
        self.noted = self.machine.high_watermark();
    }

    /// Begins what takes time.
    pub(crate) fn begin_work(&mut self, id: WorkId, work: Work) {
        self.work = Some((id, work));
    }

    /// Does what was begun, if anything was; what the replica is told.
    pub(crate) fn end_work(&mut self) -> Option<ReplicaEvent> {
        let (work, what) = self.work.take()?;
        match what {
            Work::Cut(to) => {
                self.cut(to);
                Some(ReplicaEvent::WorkDone { work })
            }
            Work::Copy(segments) => {
                self.cut(0);
                (self.led, self.led_on_disk) = (None, None);
                self.noted = (Offset::ZERO, LeaderEpoch::NONE);
                let Segments { start, log, epochs } = *segments;
                (self.start, self.durable, self.log, self.epochs) = (start, log.len(), log, epochs);
                self.read_producers();
                Some(ReplicaEvent::Replaced { work })
            }
        }
    }

    /// The process is gone, and with it everything that was not in the log; another one begins. `integrity`: what that
    /// will tell.
    pub(crate) fn crash(&mut self, of: (Rules, NodeId), integrity: ReplicaIntegrity, lazy: bool) {
        self.noted.0 = self.noted.0.min(self.end());
        self.machine = machine(of, integrity, lazy, self.noted);
        self.shown = Offset::ZERO;
        (self.waited, self.answered) = ([0; 2], [0; 2]);
        self.pushes.clear();
        (self.flushing, self.work, self.led) = (None, None, self.led_on_disk);
    }

    /// Nothing is left of its log.
    pub(crate) fn lose(&mut self) {
        self.cut(0);
        self.epochs = LeaderEpochs::default();
        (self.led, self.led_on_disk, self.flushing, self.work) = (None, None, None, None);
        (self.start, self.durable, self.good) = (0, 0, 0);
        self.noted = (Offset::ZERO, LeaderEpoch::NONE);
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
}

/// Of a process that begins, with the high watermark that the one before has noted.
fn machine(
    (rules, node): (Rules, NodeId),
    integrity: ReplicaIntegrity,
    lazy: bool,
    (high_watermark, high_watermark_epoch): (Offset, LeaderEpoch),
) -> Machine {
    Machine::new(ReplicaStart {
        node,
        first_open: 0,
        integrity,
        lazy,
        high_watermark,
        high_watermark_epoch,
        lag_max: LAG_MAX,
        wait_max: WAIT_MAX,
        rules,
    })
}

fn begun(led: Option<Led>) -> LeaderEpoch {
    led.map_or(LeaderEpoch::NONE, |led| led.epoch)
}

fn sequences(sequence: u32) -> Sequences {
    let sequence = i32::try_from(sequence).unwrap_or(i32::MAX);
    Sequences { first: sequence, last: sequence }
}

#[cfg(test)]
mod tests {
    use walser_replication::conformance::{LogUnderTest, check};

    use super::*;

    impl LogUnderTest for Replica {
        fn ask<R>(&self, question: impl FnOnce(&dyn ReplicaLog) -> R) -> R {
            question(&self.view())
        }

        fn append(&mut self, epoch: LeaderEpoch) {
            self.push(Entry { epoch, producer: 0, sequence: 0 });
        }

        fn begin(&mut self, epoch: LeaderEpoch) {
            self.led = Some(Led { epoch, start: self.log.len() });
        }

        fn flush(&mut self) {
            self.flush_all();
        }

        fn cut(&mut self, to: Offset) {
            Self::cut(self, index(to));
        }

        fn delete(&mut self, before: Offset) {
            self.trim(index(before));
        }
    }

    #[test]
    fn the_log_of_the_simulation_answers_as_others_do() {
        for seed in 0..200 {
            check(&mut Replica::new(Rules::ALL, NodeId(1), 1), seed, 100);
        }
    }
}
