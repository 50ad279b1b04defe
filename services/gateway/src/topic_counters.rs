//! The counters of one topic, which its view carries.

use prometheus::IntCounter;

/// The counters of a topic, found once and kept with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct TopicCounters {
    pub(crate) produced_records: IntCounter,
    pub(crate) produced_bytes: IntCounter,
    pub(crate) consumed_bytes: IntCounter,
}
