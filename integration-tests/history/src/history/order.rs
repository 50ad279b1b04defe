//! Compares the offsets of values with the order in which they were sent.

use std::collections::{BTreeMap, HashMap};

use super::send::{Acknowledged, Attempts};
use super::{History, Place};
use crate::verdict::{Anomaly, Example, Findings};

/// A value whose place is known.
#[derive(Debug, Clone, Copy)]
struct Placed {
    number: u32,
    place: Place,
    /// The line where its first send began that has not failed.
    begun: u64,
    /// The first line that shows that it was written.
    written: u64,
}

/// A value that was written in or before a line, at the highest offset of those.
#[derive(Debug, Clone, Copy)]
struct Highest {
    written: u64,
    offset: u64,
    number: u32,
}

// === impl History ===

impl History {
    /// Finds values with a lower offset than one that was written before they were sent, and values of one send out of
    /// order. Takes the time to sort all values.
    pub(super) fn check_order(&self, found: &mut Findings) {
        let mut placed: Vec<Placed> = (0..).zip(&self.values).filter_map(|(number, _)| self.placed(number)).collect();
        placed.sort_unstable_by_key(|value| (value.place.log, value.written));
        // The value that is out of order, with one that it should be behind.
        let mut reordered = BTreeMap::new();
        for of_log in placed.chunk_by(|one, other| one.place.log == other.place.log) {
            let mut highest: Vec<Highest> = Vec::new();
            for Placed { number, place, written, .. } in of_log.iter().copied() {
                if highest.last().is_none_or(|last| last.offset < place.offset) {
                    highest.push(Highest { written, offset: place.offset, number });
                }
            }
            for value in of_log {
                let before = highest[..highest.partition_point(|last| last.written < value.begun)].last();
                if let Some(before) = before.filter(|before| before.offset > value.place.offset) {
                    reordered.insert(value.number, before.number);
                }
            }
        }
        self.check_batches(&mut reordered);
        for (number, before) in reordered {
            found.add(Anomaly::Reorder, || self.reorder_example(number, before));
        }
    }

    fn check_batches(&self, reordered: &mut BTreeMap<u32, u32>) {
        let mut highest: HashMap<u32, (u64, u32)> = HashMap::new();
        for batch in self.batches.chunk_by(|one, other| one.0 == other.0) {
            highest.clear();
            for Placed { number, place, .. } in batch.iter().filter_map(|(_, number)| self.placed(*number)) {
                let before = highest.entry(place.log).or_insert((place.offset, number));
                if before.0 > place.offset {
                    reordered.entry(number).or_insert(before.1);
                } else {
                    *before = (place.offset, number);
                }
            }
        }
    }

    /// A value at a place that is beyond doubt. What is at two places, or was polled before it was sent, is an anomaly
    /// of another kind.
    fn placed(&self, number: u32) -> Option<Placed> {
        let value = &self.values[number as usize];
        let Attempts::Begun(begun) = value.attempts else { return None };
        if self.polled_again.contains_key(&number) || self.acknowledged_again.contains_key(&number) {
            return None;
        }
        let acknowledged = value.acknowledged.map(|first| first.line);
        let polled = value.polled.map(|(_, line)| line);
        let place =
            value.polled.map(|(place, _)| place).or_else(|| value.acknowledged.and_then(Acknowledged::place))?;
        let written = acknowledged.into_iter().chain(polled).min()?;
        (begun < written).then_some(Placed { number, place, begun, written })
    }

    fn reorder_example(&self, number: u32, before: u32) -> Example {
        let (Some(value), Some(before_it)) = (self.placed(number), self.placed(before)) else {
            return Example::default();
        };
        let detail = if value.begun == before_it.begun {
            format!("sent behind {}, which is at offset {}", self.labels.name(before), before_it.place.offset)
        } else {
            format!(
                "sent in line {}, after line {} showed {} at offset {}",
                value.begun,
                before_it.written,
                self.labels.name(before),
                before_it.place.offset
            )
        };
        let process = self.values[number as usize].acknowledged.map(|first| first.process);
        let process = process.map(|process| self.processes.name(process).clone());
        Example { process, ..self.example_of(number, value.place, value.written, detail) }
    }
}
