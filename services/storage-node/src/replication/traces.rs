//! Traces of batches that were appended lately, for the frames that carry the batches to followers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use walser_model::Offset;

/// Traces that are kept for each partition. A batch that is pushed after so many others is pushed without its own.
const TRACES_MAX: usize = 128;

/// The trace of a batch, by the offset of its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchTrace {
    pub(crate) base_offset: Offset,
    /// W3C trace context.
    pub(crate) traceparent: Arc<str>,
}

/// Traces of the latest batches of a partition.
#[derive(Debug, Default)]
pub(crate) struct BatchTraces {
    /// There was one: most partitions never have any, and nobody needs a lock for that.
    any: AtomicBool,
    latest: Mutex<VecDeque<BatchTrace>>,
}

impl BatchTraces {
    /// Notes the trace of a batch that is about to be appended.
    pub(crate) fn note(&self, trace: BatchTrace) {
        // What was to be there before has not been appended.
        self.cut(trace.base_offset);
        let mut latest = self.latest.lock();
        if latest.len() == TRACES_MAX {
            latest.pop_front();
        }
        latest.push_back(trace);
        self.any.store(true, Ordering::Release);
    }

    /// The log ends at `end`: what was to be behind it is not there.
    pub(crate) fn cut(&self, end: Offset) {
        if self.any.load(Ordering::Acquire) {
            let mut latest = self.latest.lock();
            while latest.back().is_some_and(|last| last.base_offset >= end) {
                latest.pop_back();
            }
        }
    }

    /// Those of the batches from `from` (inclusive) to `below` (exclusive).
    pub(crate) fn of(&self, from: Offset, below: Offset) -> Vec<BatchTrace> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let latest = self.latest.lock();
        latest.iter().filter(|trace| trace.base_offset >= from && trace.base_offset < below).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(base: i64, text: &str) -> BatchTrace {
        BatchTrace { base_offset: Offset(base), traceparent: text.into() }
    }

    #[test]
    fn a_batch_has_the_trace_that_was_noted_last_for_its_offset() {
        let traces = BatchTraces::default();
        assert_eq!(traces.of(Offset(0), Offset(100)), []);
        ["a", "b", "c"].iter().zip([0, 5, 9]).for_each(|(text, base)| traces.note(trace(base, text)));
        assert_eq!(traces.of(Offset(5), Offset(9)), [trace(5, "b")]);
        // Offsets are used again where an append has failed.
        traces.note(trace(4, "d"));
        assert_eq!(traces.of(Offset(0), Offset(100)), [trace(0, "a"), trace(4, "d")]);
        traces.cut(Offset(4));
        assert_eq!(traces.of(Offset(0), Offset(100)), [trace(0, "a")]);
    }

    #[test]
    fn only_the_latest_are_kept() {
        let traces = BatchTraces::default();
        (0..10_000).for_each(|base| traces.note(trace(base, "a")));
        let kept = traces.of(Offset(0), Offset(10_000));
        assert_eq!((kept.len(), kept[0].base_offset), (TRACES_MAX, Offset(10_000 - 128)));
    }
}
