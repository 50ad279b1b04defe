//! Histories of a log that does what it should are valid, and every kind of damage to them is found.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use walser_history::{Anomaly, Event, History, HistoryOp, HistoryRecord, Label, Phase, Verdict};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 2;
const PRODUCERS: u64 = 3;
const CONSUMERS: u64 = 2;
/// Added to the number of a consumer, it is the process that commits for it, so that commits and polls overlap.
const COMMITTER: u64 = 100;
/// Who reads everything at the end.
const FINAL: &str = "final";

/// A log that does what it should, its clients, and what they recorded.
#[derive(Default)]
struct Model {
    logs: [Vec<(u64, u64)>; PARTITIONS as usize],
    events: Vec<Event>,
    next_value: u64,
    /// What producers have begun: the event, with the offsets that it got if it was written.
    sending: BTreeMap<u64, (Event, Option<Vec<u64>>)>,
    /// How many records of each partition a consumer has read.
    positions: BTreeMap<(u64, u32), usize>,
    committing: BTreeMap<u64, Event>,
    /// What was committed last, by partition.
    committed: [u64; PARTITIONS as usize],
}

// === impl Model ===

impl Model {
    fn step(&mut self, [what, who, how]: [u8; 3]) {
        let producer = u64::from(who) % PRODUCERS;
        let consumer = PRODUCERS + u64::from(who) % CONSUMERS;
        match what % 12 {
            0..=3 => self.send(producer, how),
            4..=5 => self.write(producer, how),
            6..=7 => self.answer(producer, how),
            8..=9 => self.poll(consumer, how),
            10 => self.assign(consumer, how),
            _ => self.commit(consumer, how),
        }
    }

    /// Begins to send one value or three.
    fn send(&mut self, producer: u64, how: u8) {
        if self.sending.contains_key(&producer) {
            return self.answer(producer, how);
        }
        let count = if how.is_multiple_of(4) { 3 } else { 1 };
        let partition = u32::from(how / 4) % PARTITIONS;
        let values = self.next_value..self.next_value + count;
        self.next_value = values.end;
        let event = if count == 1 {
            Event::send(producer, TOPIC, partition, values.start)
        } else {
            Event::send_all(producer, values.map(|value| HistoryRecord::new(TOPIC, partition, value)).collect())
        };
        self.events.push(event.clone());
        self.sending.insert(producer, (event, None));
    }

    /// The log takes what was sent, if it did not before, behind offsets that have no records.
    fn write(&mut self, producer: u64, how: u8) {
        let Some((event, offsets @ None)) = self.sending.get_mut(&producer) else { return };
        let mut given = Vec::new();
        for (partition, value) in values(event) {
            let log = &mut self.logs[partition as usize];
            let offset = log.last().map_or(0, |(offset, _)| offset + 1) + u64::from(how.is_multiple_of(8));
            log.push((offset, value));
            given.push(offset);
        }
        *offsets = Some(given);
    }

    fn answer(&mut self, producer: u64, how: u8) {
        let Some((event, offsets)) = self.sending.remove(&producer) else { return };
        let answer = match offsets {
            _ if how.is_multiple_of(5) => event.info(),
            None => event.fail(),
            Some(_) if how.is_multiple_of(7) => event.ok(),
            Some(offsets) => match event.records.clone() {
                Some(records) => event
                    .ok()
                    .with(records.into_iter().zip(offsets).map(|(record, offset)| record.at(offset)).collect()),
                None => event.ok().at(offsets[0]),
            },
        };
        self.events.push(answer);
    }

    fn poll(&mut self, consumer: u64, how: u8) {
        let mut records = Vec::new();
        for (partition, log) in (0..).zip(&self.logs) {
            let position = self.positions.entry((consumer, partition)).or_default();
            let end = log.len().min(*position + usize::from(how % 6));
            records.extend(log[*position..end].iter().map(|(offset, value)| record(partition, *offset, *value)));
            *position = end;
        }
        self.events.extend([Event::poll(consumer), Event::poll(consumer).ok().with(records)]);
    }

    fn assign(&mut self, consumer: u64, how: u8) {
        for partition in 0..PARTITIONS {
            let position = self.positions.entry((consumer, partition)).or_default();
            *position = usize::from(how) * *position / 256;
        }
        let event = Event::assign(consumer, TOPIC, &[0, 1]);
        self.events.extend([event.clone(), if how.is_multiple_of(2) { event.ok() } else { event.info() }]);
    }

    /// Begins or ends a commit. Two of them may overlap, and end in any order.
    fn commit(&mut self, consumer: u64, how: u8) {
        if let Some(event) = self.committing.remove(&consumer) {
            self.events.push(if how.is_multiple_of(4) { event.info() } else { event.ok() });
        } else if !self.committing.is_empty() || how.is_multiple_of(2) {
            let partition = u32::from(how / 2) % PARTITIONS;
            let committed = &mut self.committed[partition as usize];
            *committed += u64::from(how % 3);
            let event = Event::commit(COMMITTER + consumer, "group", TOPIC, partition, *committed);
            self.events.push(event.clone());
            self.committing.insert(consumer, event);
        }
    }

    /// Ends what has begun, and reads everything. What damage needs is there whatever happened before.
    fn finish(mut self) -> Vec<Event> {
        for producer in 0..PRODUCERS {
            self.answer(producer, 1);
        }
        for consumer in PRODUCERS..PRODUCERS + CONSUMERS {
            if self.committing.contains_key(&consumer) {
                self.commit(consumer, 1);
            }
        }
        for _ in 0..3 {
            self.send(0, 5);
            self.write(0, 1);
            self.answer(0, 1);
        }
        let commit = Event::commit(COMMITTER, "group", TOPIC, 0, self.committed[0] + 1);
        self.events.extend([commit.clone(), commit.ok()]);
        for (partition, log) in (0..).zip(&self.logs) {
            let records = log.iter().map(|(offset, value)| record(partition, *offset, *value)).collect();
            self.events.extend([Event::poll(FINAL), Event::poll(FINAL).ok().with(records).last()]);
        }
        self.events
    }
}

fn record(partition: u32, offset: u64, value: u64) -> HistoryRecord {
    HistoryRecord::new(TOPIC, partition, value).at(offset)
}

fn number(label: &Label) -> u64 {
    label.to_string().parse().unwrap()
}

/// Partitions and values of a send.
fn values(event: &Event) -> Vec<(u32, u64)> {
    let of = |partition: Option<u32>, value: &Option<Label>| (partition.unwrap(), number(value.as_ref().unwrap()));
    match &event.records {
        Some(records) => records.iter().map(|record| of(record.partition, &record.value)).collect(),
        None => vec![of(event.partition, &event.value)],
    }
}

/// Where events are of which `wanted` is true.
fn places(events: &[Event], wanted: impl Fn(&Event) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|at| wanted(&events[*at])).collect()
}

fn chosen<T: Copy>(of: &[T], choice: usize) -> T {
    assert!(!of.is_empty(), "the model gives every kind of damage something to damage");
    of[choice % of.len()]
}

/// Acknowledged sends of one value with its offset, that are read at the end.
fn acknowledged(events: &[Event]) -> Vec<usize> {
    places(events, |event| event.op == HistoryOp::Send && event.phase == Phase::Ok && event.offset.is_some())
}

/// Every record that was polled.
fn polled(events: &mut [Event]) -> impl Iterator<Item = &mut HistoryRecord> {
    let polls = events.iter_mut().filter(|event| event.op == HistoryOp::Poll);
    polls.flat_map(|event| event.records.iter_mut().flatten())
}

/// The final read of the partition in which process 0 has written last.
fn final_read(events: &mut [Event]) -> &mut Vec<HistoryRecord> {
    let partition = events[*acknowledged(events).last().unwrap()].partition;
    let of = |records: &Vec<HistoryRecord>| records.first().is_some_and(|record| record.partition == partition);
    let reads = events.iter_mut().filter(|event| event.last == Some(true));
    reads.filter_map(|event| event.records.as_mut()).find(|records| of(records)).unwrap()
}

/// Damages a history so that it has an anomaly of this kind.
fn damage(kind: Anomaly, events: &mut Vec<Event>, choice: usize) {
    let sent = chosen(&acknowledged(events), choice);
    let value = events[sent].value.clone();
    match kind {
        Anomaly::LostWrite => {
            for event in events.iter_mut().filter(|event| event.op == HistoryOp::Poll) {
                event.records.iter_mut().for_each(|records| records.retain(|record| record.value != value));
            }
        }
        Anomaly::Duplicate | Anomaly::Phantom => {
            let value = if kind == Anomaly::Phantom { Some("nobody's".into()) } else { value };
            let read = final_read(events);
            let last = read.last().unwrap().clone();
            read.push(HistoryRecord { offset: last.offset.map(|offset| offset + 1), value, ..last });
        }
        Anomaly::InconsistentOffset => events[sent].offset = events[sent].offset.map(|offset| offset + 1_000),
        Anomaly::Reorder => reorder(events, choice),
        Anomaly::PollSkip => {
            let read = final_read(events);
            // What process 0 has acknowledged last is known, also if nobody has polled it.
            read.remove(read.len() - 2);
        }
        Anomaly::NonmonotonicPoll => {
            let polls =
                places(events, |event| event.records.iter().flatten().next().is_some() && event.op == HistoryOp::Poll);
            let at = chosen(&polls, choice);
            let again = [Event::poll(events[at].process.clone()), events[at].clone()];
            events.splice(at + 1..at + 1, again);
        }
        Anomaly::OffsetRegress => {
            let commits = places(events, |event| {
                event.op == HistoryOp::Commit && event.phase == Phase::Ok && event.offset > Some(0)
            });
            let ok = events[chosen(&commits, choice)].clone();
            let lower = Event { process: "late".into(), offset: ok.offset.map(|offset| offset - 1), ..ok };
            events.extend([Event { phase: Phase::Invoke, ..lower.clone() }, lower]);
        }
        Anomaly::AbortedRead => {
            events[sent].phase = Phase::Fail;
            events[sent].offset = None;
        }
    }
}

/// Exchanges the places of two values that one process has sent one after the other, everywhere.
fn reorder(events: &mut [Event], choice: usize) {
    let sends = acknowledged(events);
    let mut pairs = Vec::new();
    for (at, first) in sends.iter().enumerate() {
        let same = |second: &&usize| {
            let (first, second) = (&events[*first], &events[**second]);
            first.process == second.process && first.partition == second.partition
        };
        pairs.extend(sends[at + 1..].iter().filter(same).map(|second| (*first, *second)));
    }
    let (first, second) = chosen(&pairs, choice);
    let [one, other] = [first, second].map(|at| (events[at].value.clone(), events[at].offset));
    (events[first].offset, events[second].offset) = (other.1, one.1);
    for record in polled(events) {
        if record.value == one.0 {
            record.value = other.0.clone();
        } else if record.value == other.0 {
            record.value = one.0.clone();
        }
    }
}

fn judge(events: &[Event]) -> Verdict {
    let mut history = History::default();
    for event in events {
        history.push(event.clone()).unwrap();
    }
    history.check()
}

fn modelled(steps: Vec<[u8; 3]>) -> Vec<Event> {
    let mut model = Model::default();
    steps.into_iter().for_each(|step| model.step(step));
    model.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_right_history_is_valid_and_damage_is_found(
        steps in proptest::collection::vec(any::<[u8; 3]>(), 0..200),
        choice in any::<prop::sample::Index>(),
    ) {
        let events = modelled(steps);
        let verdict = judge(&events);
        prop_assert!(verdict.valid, "{:#?}\n{events:#?}", verdict.anomalies);
        for kind in Anomaly::ALL {
            let mut damaged = events.clone();
            damage(kind, &mut damaged, choice.index(events.len()));
            let verdict = judge(&damaged);
            prop_assert!(!verdict.valid && verdict.anomalies.contains_key(&kind), "{kind:?}: {verdict:#?}");
        }
    }

    /// Whatever lines there are, they are judged or refused.
    #[test]
    fn foreign_lines_never_panic(steps in proptest::collection::vec(any::<[u8; 3]>(), 0..60), order in any::<u64>()) {
        let mut events = modelled(steps);
        let length = events.len();
        events.swap(usize::try_from(order % 97).unwrap() % length, usize::try_from(order % 89).unwrap() % length);
        let mut bytes = Vec::new();
        for event in &events {
            bytes.extend(serde_json::to_vec(event).unwrap());
            bytes.push(b'\n');
        }
        let cut = usize::try_from(order).unwrap() % bytes.len();
        let _ = History::read(bytes.as_slice()).map(|history| history.check());
        let _ = History::read(&bytes[..cut]).map(|history| history.check());
    }
}
