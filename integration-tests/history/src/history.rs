//! Takes a history event by event, and keeps of it what a verdict needs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use crate::event::{Event, HistoryOp, HistoryRecord, Phase};
use crate::label::Label;
use crate::verdict::{Anomaly, Example, Findings, HistoryCounts};

mod check;
mod names;
mod order;
mod read;
mod send;

use names::Names;
pub use read::{FormatError, Problem};
use send::{Acknowledged, Attempts};

/// A history, of which events and records are kept only as far as a verdict needs them: about 350 bytes for every
/// value, and nothing for every line.
#[derive(Debug, Default)]
pub struct History {
    line: u64,
    counts: HistoryCounts,
    topics: Names<String>,
    partitions: Names<(u32, u32)>,
    labels: Names<Label>,
    groups: Names<Label>,
    processes: Names<Label>,
    running: Vec<Process>,
    logs: Vec<Log>,
    values: Vec<Value>,
    /// Acknowledged values of sends with several values, in the order of each send, with the line where the send began.
    batches: Vec<(u64, u32)>,
    /// Where a value was polled, other than where it was polled first, each with the line.
    polled_again: BTreeMap<u32, BTreeMap<Place, u64>>,
    /// Where a value was acknowledged, other than where it was acknowledged first, each with the line.
    acknowledged_again: BTreeMap<u32, BTreeMap<Place, u64>>,
    jumps: Vec<Jump>,
    /// What was committed for a group and a partition, only ever growing: the line, and the highest offset since.
    committed: HashMap<(u32, u32), Vec<(u64, u64)>>,
    /// Where the first of the final polls began.
    final_since: Option<u64>,
    /// Whether all polls together are a complete read.
    complete: bool,
    /// What can be said before the end.
    found: Findings,
}

/// What a process does, and where it has read to.
#[derive(Debug, Default)]
struct Process {
    open: Option<Open>,
    positions: HashMap<u32, Position>,
}

/// An operation that has begun.
#[derive(Debug)]
struct Open {
    op: HistoryOp,
    line: u64,
    topic: Option<u32>,
    partition: Option<u32>,
    group: Option<u32>,
    last: Option<bool>,
    cells: Vec<Cell>,
}

/// How far a process has read in a partition since its last `assign`.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// The highest offset that the latest poll with records of the partition returned.
    offset: u64,
    /// The highest offset that any poll returned.
    highest: u64,
    /// The line where the latest poll with records of the partition began.
    poll: u64,
}

/// What an event says of one record, as far as it says anything.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    topic: Option<u32>,
    partition: Option<u32>,
    offset: Option<u64>,
    value: Option<u32>,
}

/// What is known of a partition.
#[derive(Debug, Default)]
struct Log {
    /// The first value that was seen at an offset.
    values: HashMap<u64, u32>,
    /// All values of an offset that has several, each with the line that shows it.
    contested: BTreeMap<u64, BTreeMap<u32, u64>>,
    highest_polled: Option<u64>,
}

/// What is known of a value.
#[derive(Debug, Default, Clone, Copy)]
struct Value {
    /// The topic and the partition that the first send of it named.
    target: Option<(u32, u32)>,
    attempts: Attempts,
    acknowledged: Option<Acknowledged>,
    /// Where it was polled first, and in which line.
    polled: Option<(Place, u64)>,
}

/// An offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    log: u32,
    offset: u64,
}

/// A process read on behind offsets that it has not seen. Both bounds were read.
#[derive(Debug)]
struct Jump {
    process: u32,
    log: u32,
    after: u64,
    before: u64,
    line: u64,
}

// === impl History ===

impl History {
    /// Takes all polls together for a complete read: every acknowledged value must have been polled.
    #[must_use]
    pub fn complete(self) -> Self {
        Self { complete: true, ..self }
    }

    /// Adds an event.
    ///
    /// # Errors
    ///
    /// If the event cannot follow what was there before. Then the history must not be judged. The line is the number
    /// of the event, from 1.
    pub fn push(&mut self, event: Event) -> Result<(), FormatError> {
        self.line += 1;
        self.take(event).map_err(|problem| FormatError { line: self.line, problem })
    }

    fn take(&mut self, event: Event) -> Result<(), Problem> {
        self.counts.events += 1;
        let process = self.processes.number(&event.process)?;
        if process as usize == self.running.len() {
            self.running.push(Process::default());
        }
        match event.phase {
            Phase::Invoke => self.begin(process, event),
            Phase::Ok | Phase::Fail | Phase::Info => self.end(process, event),
        }
    }

    fn begin(&mut self, process: u32, event: Event) -> Result<(), Problem> {
        if let Some(open) = &self.running[process as usize].open {
            return Err(Problem::Busy { process: event.process, op: event.op, open: open.op, since: open.line });
        }
        let topic = self.topic(event.topic.as_ref())?;
        let mut cells = self.cells(&event)?;
        for cell in &mut cells {
            cell.topic = cell.topic.or(topic);
            cell.partition = cell.partition.or(event.partition);
            if event.op == HistoryOp::Send {
                // Only the server knows where a value is.
                cell.offset = None;
            }
        }
        let open = Open {
            op: event.op,
            line: self.line,
            topic,
            partition: event.partition,
            last: event.last,
            group: event.group.as_ref().map(|group| self.groups.number(group)).transpose()?,
            cells,
        };
        if event.op == HistoryOp::Send {
            self.begin_send(&open)?;
        }
        self.running[process as usize].open = Some(open);
        Ok(())
    }

    fn end(&mut self, process: u32, event: Event) -> Result<(), Problem> {
        let open = self.running[process as usize].open.take().filter(|open| open.op == event.op);
        let Some(open) = open else { return Err(Problem::NotBegun { process: event.process, op: event.op }) };
        match (event.op, event.phase) {
            (HistoryOp::Send, _) => self.end_send(process, &open, &event),
            (HistoryOp::Poll, Phase::Ok) => self.polled(process, &open, &event),
            (HistoryOp::Commit, Phase::Ok) => self.commit(process, &open, &event),
            // Nobody knows what such a poll has skipped.
            (HistoryOp::Poll | HistoryOp::Assign, Phase::Info) | (HistoryOp::Assign, Phase::Ok) => {
                self.running[process as usize].positions.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn polled(&mut self, process: u32, open: &Open, event: &Event) -> Result<(), Problem> {
        let missing = |field| Problem::Missing { op: HistoryOp::Poll, field };
        self.counts.polls += 1;
        if event.last.or(open.last) == Some(true) {
            self.final_since = Some(self.final_since.map_or(open.line, |since| since.min(open.line)));
        }
        if event.records.is_none() {
            return Err(missing("records"));
        }
        let topic = self.topic(event.topic.as_ref())?.or(open.topic);
        let partition = event.partition.or(open.partition);
        for cell in self.cells(event)? {
            let cell = Cell { topic: cell.topic.or(topic), partition: cell.partition.or(partition), ..cell };
            let log = self.log(cell, HistoryOp::Poll)?;
            let place = Place { log, offset: cell.offset.ok_or_else(|| missing("offset"))? };
            let value = cell.value.ok_or_else(|| missing("value"))?;
            self.counts.polled += 1;
            self.moves_to(process, open.line, place, value);
            self.is_at(value, place);
            let highest = &mut self.logs[log as usize].highest_polled;
            *highest = (*highest).max(Some(place.offset));
            let known = &mut self.values[value as usize].polled;
            match known {
                None => *known = Some((place, self.line)),
                Some((first, _)) if *first == place => {}
                Some(_) => {
                    self.polled_again.entry(value).or_default().entry(place).or_insert(self.line);
                }
            }
        }
        Ok(())
    }

    /// Compares a polled record with the position of the process, which moves behind it.
    fn moves_to(&mut self, process: u32, poll: u64, place: Place, value: u32) {
        let Place { log, offset } = place;
        let position = match self.running[process as usize].positions.entry(log) {
            Entry::Vacant(entry) => {
                entry.insert(Position { offset, highest: offset, poll });
                return;
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let before = *position;
        // Within a poll the highest counts, so that one record out of order is found once.
        let offset_now = if before.poll == poll { offset.max(before.offset) } else { offset };
        *position = Position { offset: offset_now, highest: offset.max(before.highest), poll };
        if offset > before.offset {
            // What the process has read before it went back, it has not skipped.
            if offset > before.highest && offset - before.highest > 1 {
                self.jumps.push(Jump { process, log, after: before.highest, before: offset, line: self.line });
            }
            return;
        }
        let (kind, where_) = if before.poll == poll {
            (Anomaly::Reorder, "the same poll")
        } else {
            (Anomaly::NonmonotonicPoll, "an earlier poll of the process")
        };
        let detail = format!("polled after offset {} in {where_}", before.offset);
        let example = Example { value: Some(self.labels.name(value).clone()), ..self.example(place) };
        let example = Example { process: Some(self.processes.name(process).clone()), detail, ..example };
        self.found.add(kind, || Example { line: Some(self.line), ..example });
    }

    /// A value was seen at a place, by its sender or a reader.
    fn is_at(&mut self, value: u32, place: Place) {
        let line = self.line;
        let log = &mut self.logs[place.log as usize];
        let first = *log.values.entry(place.offset).or_insert(value);
        if first != value {
            let contested = log.contested.entry(place.offset).or_insert_with(|| BTreeMap::from([(first, line)]));
            contested.entry(value).or_insert(line);
        }
    }

    fn commit(&mut self, process: u32, open: &Open, event: &Event) -> Result<(), Problem> {
        let missing = |field| Problem::Missing { op: HistoryOp::Commit, field };
        let group = event.group.as_ref().map(|group| self.groups.number(group)).transpose()?;
        if differs(open.group, group) {
            return Err(Problem::Contradiction { op: HistoryOp::Commit, line: open.line });
        }
        let group = group.or(open.group).ok_or_else(|| missing("group"))?;
        let cells = self.merged(open, event)?;
        if cells.is_empty() {
            return Err(missing("offset"));
        }
        for cell in cells {
            let log = self.log(cell, HistoryOp::Commit)?;
            let offset = cell.offset.ok_or_else(|| missing("offset"))?;
            self.counts.commits += 1;
            let earlier = self.committed.entry((group, log)).or_default();
            let known = earlier[..earlier.partition_point(|(line, _)| *line < open.line)].last().copied();
            if earlier.last().is_none_or(|(_, highest)| *highest < offset) {
                earlier.push((self.line, offset));
            }
            let Some((line, highest)) = known.filter(|(_, highest)| *highest > offset) else { continue };
            let group = self.groups.name(group);
            let detail = format!("group {group} committed this after {highest}, which line {line} acknowledged");
            let process = Some(self.processes.name(process).clone());
            let example = Example { process, line: Some(self.line), detail, ..self.example(Place { log, offset }) };
            self.found.add(Anomaly::OffsetRegress, || example);
        }
        Ok(())
    }

    /// What an event says of each of its records, without what it says of all of them.
    fn cells(&mut self, event: &Event) -> Result<Vec<Cell>, Problem> {
        if let Some(records) = &event.records {
            return records.iter().map(|record| self.cell(record)).collect();
        }
        if event.value.is_none() && event.offset.is_none() {
            return Ok(Vec::new());
        }
        let record = HistoryRecord { offset: event.offset, value: event.value.clone(), ..HistoryRecord::default() };
        Ok(vec![self.cell(&record)?])
    }

    fn cell(&mut self, record: &HistoryRecord) -> Result<Cell, Problem> {
        let topic = self.topic(record.topic.as_ref())?;
        let value = record.value.as_ref().map(|value| self.labels.number(value)).transpose()?;
        self.values.resize(self.labels.len(), Value::default());
        Ok(Cell { topic, partition: record.partition, offset: record.offset, value })
    }

    fn topic(&mut self, name: Option<&String>) -> Result<Option<u32>, Problem> {
        name.map(|name| self.topics.number(name)).transpose()
    }

    /// What `invoke` and outcome say together. An outcome may leave out what the `invoke` has said.
    fn merged(&mut self, open: &Open, event: &Event) -> Result<Vec<Cell>, Problem> {
        let contradiction = || Problem::Contradiction { op: open.op, line: open.line };
        let topic = self.topic(event.topic.as_ref())?;
        if differs(open.topic, topic) || differs(open.partition, event.partition) {
            return Err(contradiction());
        }
        let mut cells = self.cells(event)?;
        if cells.is_empty() {
            cells = vec![Cell::default(); open.cells.len()];
        }
        if !open.cells.is_empty() && cells.len() != open.cells.len() {
            return Err(contradiction());
        }
        for (at, cell) in cells.iter_mut().enumerate() {
            let said = open.cells.get(at).copied().unwrap_or_default();
            let said = Cell { topic: said.topic.or(open.topic), partition: said.partition.or(open.partition), ..said };
            // What is said of all records again does not overrule what the `invoke` said of this one.
            let topic = cell.topic.or_else(|| topic.filter(|_| open.topic.is_none()));
            let partition = cell.partition.or_else(|| event.partition.filter(|_| open.partition.is_none()));
            if differs(said.topic, topic)
                || differs(said.partition, partition)
                || differs(said.offset, cell.offset)
                || differs(said.value, cell.value)
            {
                return Err(contradiction());
            }
            *cell = Cell {
                topic: topic.or(said.topic),
                partition: partition.or(said.partition),
                offset: cell.offset.or(said.offset),
                value: cell.value.or(said.value),
            };
        }
        Ok(cells)
    }

    fn log(&mut self, cell: Cell, op: HistoryOp) -> Result<u32, Problem> {
        let topic = cell.topic.ok_or(Problem::Missing { op, field: "topic" })?;
        let partition = cell.partition.ok_or(Problem::Missing { op, field: "partition" })?;
        let number = self.partitions.number(&(topic, partition))?;
        if number as usize == self.logs.len() {
            self.logs.push(Log::default());
        }
        Ok(number)
    }

    /// An example of something at a place.
    fn example(&self, place: Place) -> Example {
        let (topic, partition) = *self.partitions.name(place.log);
        let topic = Some(self.topics.name(topic).clone());
        Example { topic, partition: Some(partition), offset: Some(place.offset), ..Example::default() }
    }
}

/// Whether an outcome says something else than its `invoke`.
fn differs<T: PartialEq>(said: Option<T>, now: Option<T>) -> bool {
    said.is_some() && now.is_some() && said != now
}
