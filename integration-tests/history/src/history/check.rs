//! Judges a history that is complete.

use std::collections::HashMap;

use super::{Fate, History, Place, Sent};
use crate::verdict::{Anomaly, Example, Findings, HistoryCounts, Verdict};

/// How many values of one offset an example names.
const NAMED_MAX: usize = 3;

// === impl History ===

impl History {
    /// Judges what was read so far. Operations that have not ended count as `info`.
    ///
    /// Takes time in proportion to the values, and to sort the offsets of partitions in which readers jumped.
    pub fn check(&self) -> Verdict {
        let mut found = self.found.clone();
        let unread = self.check_values(&mut found);
        self.check_places(&mut found);
        self.check_jumps(&mut found);
        self.check_order(&mut found);
        let counts = self.counts;
        found.verdict(HistoryCounts {
            processes: self.processes.len() as u64,
            partitions: self.logs.len() as u64,
            unknown: counts.sent - counts.acknowledged - counts.failed,
            unread,
            ..counts
        })
    }

    /// Compares the fate of every value with what was read of it. Returns how many acknowledged ones were not read.
    fn check_values(&self, found: &mut Findings) -> u64 {
        let mut unread = 0;
        for (number, value) in (0..).zip(&self.values) {
            match (value.sent, value.polled) {
                (None, Some((place, line))) => {
                    let detail = "polled, and nobody sent it".to_owned();
                    found.add(Anomaly::Phantom, || self.example_of(number, place, line, detail));
                }
                (Some(Sent { fate: Fate::Failed, line: failed, .. }), Some((place, line))) => {
                    let detail = format!("polled, although its send failed in line {failed}");
                    found.add(Anomaly::AbortedRead, || self.example_of(number, place, line, detail));
                }
                (Some(sent), None) => unread += u64::from(self.check_unread(number, sent, found)),
                (Some(Sent { fate: Fate::Acknowledged { log, offset: Some(offset) }, line, .. }), Some((first, _))) => {
                    let place = Place { log, offset };
                    let elsewhere = || self.elsewhere.get(&number).is_some_and(|places| places.contains_key(&place));
                    if place != first && !elsewhere() {
                        let detail = format!("acknowledged here, and polled {}", self.place_in_words(first));
                        found.add(Anomaly::InconsistentOffset, || self.example_of(number, place, line, detail));
                    }
                }
                _ => {}
            }
        }
        unread
    }

    /// Whether an acknowledged value was not read; and whether it should have been.
    fn check_unread(&self, number: u32, sent: Sent, found: &mut Findings) -> bool {
        let Fate::Acknowledged { log, offset } = sent.fate else { return false };
        let highest = self.logs[log as usize].highest_polled;
        let detail = if let Some(highest) = highest.filter(|highest| offset.is_some_and(|offset| offset < *highest)) {
            format!("acknowledged and never polled, although polls have reached offset {highest}")
        } else if self.final_since.is_some_and(|since| sent.line < since) {
            "acknowledged before the final polls, and never polled".to_owned()
        } else {
            return true;
        };
        found.add(Anomaly::LostWrite, || {
            let example = self.example_of(number, Place { log, offset: offset.unwrap_or_default() }, sent.line, detail);
            Example { offset, process: Some(self.processes.name(sent.process).clone()), ..example }
        });
        true
    }

    /// Finds values at two places, and places with two values.
    fn check_places(&self, found: &mut Findings) {
        for (number, places) in &self.elsewhere {
            let Some((first, _)) = self.values[*number as usize].polled else { continue };
            let Some((place, line)) = places.first_key_value() else { continue };
            let detail = format!("polled here and {}", self.place_in_words(first));
            found.add(Anomaly::Duplicate, || self.example_of(*number, *place, *line, detail));
        }
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

    /// Finds known values that readers jumped over.
    fn check_jumps(&self, found: &mut Findings) {
        let mut offsets: HashMap<u32, Vec<u64>> = HashMap::new();
        for jump in &self.jumps {
            let offsets = offsets.entry(jump.log).or_insert_with(|| {
                let mut offsets: Vec<u64> = self.logs[jump.log as usize].values.keys().copied().collect();
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

    /// Compares the order of acknowledged values of one process and partition with their offsets. Of a value that was
    /// acknowledged without an offset it is the one at which it was polled.
    fn check_order(&self, found: &mut Findings) {
        let mut highest: HashMap<(u32, u32), (u64, u32)> = HashMap::new();
        for number in &self.acknowledged {
            let value = &self.values[*number as usize];
            let Some(Sent { process, fate: Fate::Acknowledged { log, offset }, line }) = value.sent else { continue };
            let polled = value.polled.filter(|(place, _)| place.log == log).map(|(place, _)| place.offset);
            let Some(offset) = offset.or(polled) else { continue };
            let before = highest.entry((process, log)).or_insert((offset, *number));
            if before.0 > offset {
                let detail = format!("sent after {}, which is at offset {}", self.labels.name(before.1), before.0);
                found.add(Anomaly::Reorder, || {
                    let process = Some(self.processes.name(process).clone());
                    Example { process, ..self.example_of(*number, Place { log, offset }, line, detail) }
                });
            } else {
                *before = (offset, *number);
            }
        }
    }

    fn example_of(&self, number: u32, place: Place, line: u64, detail: String) -> Example {
        let value = Some(self.labels.name(number).clone());
        Example { value, line: Some(line), detail, ..self.example(place) }
    }

    fn place_in_words(&self, place: Place) -> String {
        let (topic, partition) = *self.partitions.name(place.log);
        format!("at offset {} of partition {partition} of {:?}", place.offset, self.topics.name(topic))
    }
}
