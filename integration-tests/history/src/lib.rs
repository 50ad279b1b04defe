//! Judges what clients of a replicated log have seen, in the manner of Jepsen's workload for Kafka.
//!
//! A history is a file of JSON lines, written by a test in any language; README.md describes it. [`History`] reads it
//! and gives a [`Verdict`]; [`Recorder`] writes one from Rust.

mod event;
mod history;
mod label;
mod recorder;
mod verdict;

pub use event::{Assigned, Event, HistoryOp, HistoryRecord, Phase};
pub use history::{FormatError, History, Problem};
pub use label::Label;
pub use recorder::Recorder;
pub use verdict::{Anomalies, Anomaly, Example, HistoryCounts, Verdict};
