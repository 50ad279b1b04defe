//! What became of the records of the input.

use crate::output;

/// Counts by what is known of each record.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    /// Records of the input that were passed over.
    pub(super) skipped: i64,
    /// Records that were taken from the input.
    pub(super) read: i64,
    /// Acknowledged; with acks none: handed to the server.
    pub(super) written: i64,
    /// Sent, and what became of them is not known.
    pub(super) unknown: i64,
    /// Number of the first record, from 1, that is known not to be written, or not known to be.
    pub(super) first_missing: Option<i64>,
}

// === impl Tally ===

impl Tally {
    /// A batch that begins with record `first` is not known to be written.
    pub(super) fn missing(&mut self, first: i64) {
        self.first_missing = Some(self.first_missing.map_or(first, |before| before.min(first)));
    }

    /// Records at the beginning of the input, with those that were passed over, of which all are written.
    pub(super) fn complete(&self) -> i64 {
        self.skipped + self.first_missing.map_or(self.read, |first| first - 1)
    }

    /// What became of them, and how to go on. `verb`: "written", or "sent" where nothing is acknowledged; `bad_input`: the
    /// input has to be corrected first.
    pub(super) fn lines(&self, verb: &str, bad_input: bool) -> Vec<String> {
        let not = self.read - self.written - self.unknown;
        let (written, read) = (output::count(self.written), output::plural(self.read, "record"));
        let mut lines = vec![format!(
            "{written} of {read} {verb}, {} unknown, {} not {verb}",
            output::count(self.unknown),
            output::count(not)
        )];
        let complete = self.complete();
        let beyond = self.skipped + self.written - complete;
        let first = if bad_input { "correct the input, then " } else { "" };
        let mut next = match complete {
            0 => format!("to go on: {first}the same command again"),
            _ => format!("to go on: {first}the same command and input with --skip {complete}"),
        };
        if beyond > 0 {
            let them = output::plural(beyond, "later record");
            next.push_str(&format!(" ({them} would be {verb} again)"));
        } else if self.unknown > 0 {
            next.push_str(" (those unknown may come twice)");
        }
        lines.push(next);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_known_and_how_to_go_on() {
        let mut tally = Tally { read: 100_000, written: 100_000, ..Tally::default() };
        assert_eq!(tally.complete(), 100_000);
        tally = Tally { skipped: 10, read: 1000, written: 700, unknown: 100, ..Tally::default() };
        tally.missing(601);
        tally.missing(901);
        assert_eq!(tally.complete(), 610);
        let lines = tally.lines("written", false);
        assert_eq!(lines[0], "700 of 1,000 records written, 100 unknown, 200 not written");
        assert!(lines[1].contains("--skip 610 (100 later records would be written again)"), "{}", lines[1]);
    }
}
