//! Histories of a log that does what it should are valid, and every kind of damage to them is found, and no other.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};

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
    /// The same for what they will send again.
    retrying: BTreeMap<u64, (Event, Option<Vec<u64>>)>,
    /// Sends with an unknown outcome that the log may still take.
    late: Vec<Event>,
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
        if let Some((event, offsets)) = self.retrying.remove(&producer) {
            self.events.push(event.clone());
            self.sending.insert(producer, (event, offsets));
            return;
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
        if let Some(event) = self.late.pop() {
            append(&mut self.logs, &event, how);
        }
        let Some((event, offsets @ None)) = self.sending.get_mut(&producer) else { return };
        *offsets = Some(append(&mut self.logs, event, how));
    }

    fn answer(&mut self, producer: u64, how: u8) {
        let Some((event, offsets)) = self.sending.remove(&producer) else { return };
        if how % 15 < 6 && (offsets.is_none() || how.is_multiple_of(5)) {
            self.retrying.insert(producer, (event.clone(), offsets.clone()));
        } else if offsets.is_none() && how.is_multiple_of(5) {
            self.late.push(event.clone());
        }
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
        self.retrying.clear();
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

/// Appends what was sent, and returns its offsets.
fn append(logs: &mut [Vec<(u64, u64)>], event: &Event, how: u8) -> Vec<u64> {
    let append = |(partition, value): (u32, u64)| {
        let log = &mut logs[partition as usize];
        let offset = log.last().map_or(0, |(offset, _)| offset + 1) + u64::from(how.is_multiple_of(8));
        log.push((offset, value));
        offset
    };
    values(event).into_iter().map(append).collect()
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

/// Acknowledged sends of one value with its offset, that are read at the end and were sent once.
fn acknowledged(events: &[Event]) -> Vec<usize> {
    let mut invokes: BTreeMap<&Label, usize> = BTreeMap::new();
    for value in events.iter().filter(|event| event.phase == Phase::Invoke).filter_map(|event| event.value.as_ref()) {
        *invokes.entry(value).or_default() += 1;
    }
    places(events, |event| {
        let once = event.value.as_ref().is_some_and(|value| invokes.get(value) == Some(&1));
        event.op == HistoryOp::Send && event.phase == Phase::Ok && event.offset.is_some() && once
    })
}

/// Every record that was polled.
fn polled(events: &mut [Event]) -> impl Iterator<Item = &mut HistoryRecord> {
    let polls = events.iter_mut().filter(|event| event.op == HistoryOp::Poll);
    polls.flat_map(|event| event.records.iter_mut().flatten())
}

/// Every record that was polled before a place in the history.
fn polled_before(events: &[Event], end: usize) -> impl Iterator<Item = &HistoryRecord> {
    events[..end].iter().filter(|event| event.op == HistoryOp::Poll).flat_map(|event| event.records.iter().flatten())
}

/// The final read of the partition in which process 0 has written last.
fn final_read(events: &mut [Event]) -> &mut Vec<HistoryRecord> {
    let partition = events[*acknowledged(events).last().unwrap()].partition;
    let of = |records: &Vec<HistoryRecord>| records.first().is_some_and(|record| record.partition == partition);
    let reads = events.iter_mut().filter(|event| event.last == Some(true));
    reads.filter_map(|event| event.records.as_mut()).find(|records| of(records)).unwrap()
}

/// Damages a history so that it has an anomaly of this kind, and of no other.
fn damage(kind: Anomaly, events: &mut Vec<Event>, choice: usize) {
    let sent = chosen(&acknowledged(events), choice);
    let value = events[sent].value.clone();
    match kind {
        Anomaly::LostWrite => {
            for event in events.iter_mut().filter(|event| event.op == HistoryOp::Poll) {
                event.records.iter_mut().for_each(|records| records.retain(|record| record.value != value));
            }
            // Where its offset is known, polls have skipped it, too.
            events[sent].offset = None;
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
            // Another reader sees everything, so that nothing is lost.
            let reads = places(events, |event| event.process == FINAL.into());
            let reads: Vec<Event> = reads.into_iter().map(|at| events[at].clone()).collect();
            events.extend(reads.into_iter().map(|event| Event { process: "other".into(), ..event }));
            let read = final_read(events);
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

/// Exchanges the places of two values everywhere, of which one was sent after the other was acknowledged.
fn reorder(events: &mut [Event], choice: usize) {
    let sends = acknowledged(events);
    let mut pairs = Vec::new();
    for second in &sends {
        let invoked = |event: &Event| event.op == HistoryOp::Send && event.value == events[*second].value;
        let begun = events.iter().position(invoked).unwrap();
        let of_partition = |first: &&usize| **first < begun && events[**first].partition == events[*second].partition;
        // Nobody has polled the first before the second is sent.
        let polled: BTreeSet<_> = polled_before(events, begun).map(|record| &record.value).collect();
        let unseen = |first: &&usize| !polled.contains(&events[**first].value);
        pairs.extend(sends.iter().filter(of_partition).filter(unseen).map(|first| (*first, *second)));
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
            let found: BTreeSet<Anomaly> = verdict.anomalies.keys().copied().collect();
            prop_assert!(!verdict.valid);
            prop_assert_eq!(found, BTreeSet::from([kind]), "{:#?}", verdict);
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
