//! Takes the sends of a history.

use super::{Cell, History, Open, Place, Problem};
use crate::event::{Event, HistoryOp, Phase};

/// What became of the sends of a value. A value may be sent again: all its sends are attempts to write one record.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Attempts {
    /// No send of it has ended, if there was one.
    #[default]
    None,
    /// All have failed, the last one in this line.
    Failed(u64),
    /// One was acknowledged, or nobody knows; the first of these began in this line.
    Begun(u64),
}

/// The first acknowledgement of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) log: u32,
    pub(super) offset: Option<u64>,
    pub(super) process: u32,
    pub(super) line: u64,
}

// === impl Acknowledged ===

impl Acknowledged {
    pub(super) fn place(self) -> Option<Place> {
        self.offset.map(|offset| Place { log: self.log, offset })
    }
}

// === impl History ===

impl History {
    pub(super) fn begin_send(&mut self, open: &Open) -> Result<(), Problem> {
        let missing = || Problem::Missing { op: HistoryOp::Send, field: "value" };
        if open.cells.is_empty() {
            return Err(missing());
        }
        for cell in &open.cells {
            let number = cell.value.ok_or_else(missing)?;
            let (Some(topic), Some(partition)) = (cell.topic, cell.partition) else { continue };
            let target = *self.values[number as usize].target.get_or_insert((topic, partition));
            if target != (topic, partition) {
                return Err(Problem::SentElsewhere {
                    value: self.labels.name(number).clone(),
                    topic: self.topics.name(target.0).clone(),
                    partition: target.1,
                });
            }
        }
        self.counts.sent += open.cells.len() as u64;
        Ok(())
    }

    pub(super) fn end_send(&mut self, process: u32, open: &Open, event: &Event) -> Result<(), Problem> {
        let cells = self.merged(open, event)?;
        let several = cells.len() > 1;
        for cell in cells {
            let number = cell.value.ok_or(Problem::Missing { op: HistoryOp::Send, field: "value" })?;
            match event.phase {
                Phase::Ok => {
                    self.acknowledge(process, number, cell)?;
                    self.begun(number, open.line);
                    if several {
                        self.batches.push((open.line, number));
                    }
                }
                Phase::Fail => {
                    self.counts.failed += 1;
                    let attempts = &mut self.values[number as usize].attempts;
                    if !matches!(attempts, Attempts::Begun(_)) {
                        *attempts = Attempts::Failed(self.line);
                    }
                }
                Phase::Invoke | Phase::Info => self.begun(number, open.line),
            }
        }
        Ok(())
    }

    /// Operations that have no end count as `info`.
    pub(super) fn end_open_sends(&mut self) {
        for process in 0..self.running.len() {
            let Some(open) = self.running[process].open.take().filter(|open| open.op == HistoryOp::Send) else {
                continue;
            };
            for number in open.cells.iter().filter_map(|cell| cell.value) {
                self.begun(number, open.line);
            }
        }
    }

    /// A send of a value that began in `line` has perhaps written it.
    fn begun(&mut self, number: u32, line: u64) {
        let attempts = &mut self.values[number as usize].attempts;
        *attempts = match *attempts {
            Attempts::Begun(first) => Attempts::Begun(first.min(line)),
            Attempts::None | Attempts::Failed(_) => Attempts::Begun(line),
        };
    }

    fn acknowledge(&mut self, process: u32, number: u32, cell: Cell) -> Result<(), Problem> {
        let log = self.log(cell, HistoryOp::Send)?;
        self.counts.acknowledged += 1;
        let now = Acknowledged { log, offset: cell.offset, process, line: self.line };
        if let Some(place) = now.place() {
            self.is_at(number, place);
        }
        let first = self.values[number as usize].acknowledged.get_or_insert(now);
        match (first.offset, now.place()) {
            (None, Some(place)) if first.log == log => first.offset = Some(place.offset),
            (_, Some(place)) if first.place() != Some(place) => {
                self.acknowledged_again.entry(number).or_default().entry(place).or_insert(self.line);
            }
            _ => {}
        }
        Ok(())
    }
}
