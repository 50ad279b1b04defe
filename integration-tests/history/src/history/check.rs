//! Judges a history that is complete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::send::{Acknowledged, Attempts};
use super::{History, Place, Value};
use crate::verdict::{Anomaly, Example, Findings, HistoryCounts, Verdict};

/// How many values of one offset an example names.
const NAMED_MAX: usize = 3;

// === impl History ===

impl History {
    /// Judges what was read. Operations that have not ended count as `info`.
    ///
    /// Takes time in proportion to the events, and to sort the values and the offsets of partitions in which readers
    /// jumped.
    pub fn check(mut self) -> Verdict {
        self.end_open_sends();
        let mut found = std::mem::take(&mut self.found);
        let unread = self.check_values(&mut found);
        self.check_duplicates(&mut found);
        self.check_contested(&mut found);
        self.check_jumps(&mut found);
        self.check_order(&mut found);
        let counts = self.counts;
        let counts = HistoryCounts {
            processes: self.processes.len() as u64,
            partitions: self.logs.len() as u64,
            unknown: counts.sent - counts.acknowledged - counts.failed,
            unread,
            ..counts
        };
        found.verdict(counts, self.complete || self.final_since.is_some())
    }

    /// Compares what became of every value with what was read of it. Returns how many acknowledged ones were not read.
    fn check_values(&self, found: &mut Findings) -> u64 {
        let mut unread = 0;
        for (number, value) in (0..).zip(&self.values) {
            if let Some((place, line)) = value.polled {
                self.check_polled(number, value, place, line, found);
            } else if let Some(acknowledged) = value.acknowledged {
                unread += 1;
                self.check_unread(number, acknowledged, found);
            }
        }
        unread
    }

    fn check_polled(&self, number: u32, value: &Value, first: Place, line: u64, found: &mut Findings) {
        match value.attempts {
            Attempts::None => {
                let detail = "polled, and nobody sent it".to_owned();
                found.add(Anomaly::Phantom, || self.example_of(number, first, line, detail));
            }
            Attempts::Failed(failed) => {
                let detail = format!("polled, although its send failed in line {failed}");
                found.add(Anomaly::AbortedRead, || self.example_of(number, first, line, detail));
            }
            Attempts::Begun(begun) if line < begun => {
                let detail = format!("polled before it was sent in line {begun}");
                found.add(Anomaly::Phantom, || self.example_of(number, first, line, detail));
            }
            Attempts::Begun(_) => self.check_place(number, value, first, line, found),
        }
    }

    /// Compares where a value was polled with where it was acknowledged, or at least with where it was sent to.
    fn check_place(&self, number: u32, value: &Value, first: Place, line: u64, found: &mut Findings) {
        // Several acknowledgements at several places are a duplicate.
        if self.acknowledged_again.contains_key(&number) {
            return;
        }
        let again = self.polled_again.get(&number);
        let polled_in = |log| log == first.log || again.is_some_and(|places| places.keys().any(|at| at.log == log));
        if let Some(acknowledged) = value.acknowledged {
            let place = acknowledged.place();
            if place.map_or_else(|| polled_in(acknowledged.log), |place| self.polled_at(number, place)) {
                return;
            }
            let place = Place { log: acknowledged.log, offset: acknowledged.offset.unwrap_or_default() };
            let detail = format!("acknowledged here, and polled {}", self.place_in_words(first));
            found.add(Anomaly::InconsistentOffset, || Example {
                offset: acknowledged.offset,
                ..self.example_of(number, place, acknowledged.line, detail)
            });
        } else if let Some((topic, partition)) = value.target {
            if self.partitions.known(&(topic, partition)).is_some_and(polled_in) {
                return;
            }
            let detail = format!("polled, and only sent to partition {partition} of {:?}", self.topics.name(topic));
            found.add(Anomaly::Phantom, || self.example_of(number, first, line, detail));
        }
    }

    /// Says of an acknowledged value that was not read whether it should have been.
    fn check_unread(&self, number: u32, sent: Acknowledged, found: &mut Findings) {
        let highest = self.logs[sent.log as usize].highest_polled;
        let highest = highest.filter(|highest| sent.offset.is_some_and(|offset| offset <= *highest));
        let detail = if let Some(highest) = highest {
            format!("acknowledged and never polled, although polls have reached offset {highest}")
        } else if self.complete {
            "acknowledged and never polled, although the read was complete".to_owned()
        } else if self.final_since.is_some_and(|since| sent.line < since) {
            "acknowledged before the final polls, and never polled".to_owned()
        } else {
            return;
        };
        found.add(Anomaly::LostWrite, || {
            let place = Place { log: sent.log, offset: sent.offset.unwrap_or_default() };
            let example = self.example_of(number, place, sent.line, detail);
            Example { offset: sent.offset, process: Some(self.processes.name(sent.process).clone()), ..example }
        });
    }

    /// Finds values at two places, among those polled and those acknowledged.
    fn check_duplicates(&self, found: &mut Findings) {
        let numbers: BTreeSet<u32> = self.polled_again.keys().chain(self.acknowledged_again.keys()).copied().collect();
        for number in numbers {
            let value = &self.values[number as usize];
            let mut places: BTreeMap<Place, u64> = BTreeMap::new();
            if let Some(again) = self.acknowledged_again.get(&number) {
                let first = value.acknowledged.and_then(|first| Some((first.place()?, first.line)));
                places.extend(first.into_iter().chain(again.iter().map(|(place, line)| (*place, *line))));
            }
            let polled = value.polled.into_iter();
            for (place, line) in
                polled.chain(self.polled_again.get(&number).into_iter().flatten().map(|(p, l)| (*p, *l)))
            {
                places.entry(place).or_insert(line);
            }
            let latest =
                places.iter().max_by_key(|(place, line)| (**line, **place)).map(|(place, line)| (*place, *line));
            let Some((place, line)) = latest else { continue };
            let Some(other) = places.keys().find(|other| **other != place) else { continue };
            let detail = format!("here and {}", self.place_in_words(*other));
            found.add(Anomaly::Duplicate, || self.example_of(number, place, line, detail));
        }
    }

    /// Finds offsets with several values.
    fn check_contested(&self, found: &mut Findings) {
        for (log, of_log) in (0..).zip(&self.logs) {
            for (offset, values) in &of_log.contested {
                found.add(Anomaly::InconsistentOffset, || {
                    let named = values.keys().take(NAMED_MAX).map(|number| self.labels.name(*number).to_string());
                    let named: Vec<String> = named.collect();
                    let more = if values.len() > NAMED_MAX { ", …" } else { "" };
                    let detail = format!("has {} values: {}{more}", values.len(), named.join(", "));
                    let line = values.values().max().copied();
                    Example { line, detail, ..self.example(Place { log, offset: *offset }) }
                });
            }
        }
    }

    /// Whether a value was polled at a place.
    fn polled_at(&self, number: u32, place: Place) -> bool {
        let first = self.values[number as usize].polled;
        first.is_some_and(|(first, _)| first == place)
            || self.polled_again.get(&number).is_some_and(|places| places.contains_key(&place))
    }

    /// The offsets of a partition that hold a value, without those that were acknowledged for a value that is elsewhere.
    fn held_offsets(&self, log: u32) -> impl Iterator<Item = u64> {
        let of_log = &self.logs[log as usize];
        let held = move |(offset, number): (&u64, &u32)| {
            let held = self.values[*number as usize].polled.is_none()
                || of_log.contested.contains_key(offset)
                || self.polled_at(*number, Place { log, offset: *offset });
            held.then_some(*offset)
        };
        of_log.values.iter().filter_map(held)
    }

    /// Finds known values that readers jumped over.
    fn check_jumps(&self, found: &mut Findings) {
        let mut offsets: HashMap<u32, Vec<u64>> = HashMap::new();
        for jump in &self.jumps {
            let offsets = offsets.entry(jump.log).or_insert_with(|| {
                let mut offsets: Vec<u64> = self.held_offsets(jump.log).collect();
                offsets.sort_unstable();
                offsets
            });
            let skipped = &offsets[offsets.partition_point(|offset| *offset <= jump.after)..];
            let skipped = &skipped[..skipped.partition_point(|offset| *offset < jump.before)];
            let Some(first) = skipped.first().copied() else { continue };
            found.add(Anomaly::PollSkip, || {
                let place = Place { log: jump.log, offset: first };
                let value = self.logs[jump.log as usize].values.get(&first);
                let detail = format!(
                    "the first of {} known offsets that were skipped between {} and {}",
                    skipped.len(),
                    jump.after,
                    jump.before
                );
                Example {
                    value: value.map(|number| self.labels.name(*number).clone()),
                    process: Some(self.processes.name(jump.process).clone()),
                    line: Some(jump.line),
                    detail,
                    ..self.example(place)
                }
            });
        }
    }

    pub(super) fn example_of(&self, number: u32, place: Place, line: u64, detail: String) -> Example {
        let value = Some(self.labels.name(number).clone());
        Example { value, line: Some(line), detail, ..self.example(place) }
    }

    fn place_in_words(&self, place: Place) -> String {
        let (topic, partition) = *self.partitions.name(place.log);
        format!("at offset {} of partition {partition} of {:?}", place.offset, self.topics.name(topic))
    }
}
