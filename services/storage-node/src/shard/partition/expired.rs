//! Records that are older than the topic keeps them when they come: they are appended and acknowledged, and the next
//! retention check may remove them.

use std::time::Duration;

use walser_model::Timestamp;
use walser_record_batch::BatchHeader;

use super::Partition;
use crate::shard::ShardContext;

/// A partition reports such records at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Such records of one partition that were not reported yet.
#[derive(Debug, Default)]
pub(super) struct ExpiredRecords {
    unreported: u64,
    /// In monotonic time.
    reported_at: Option<Duration>,
}

impl ExpiredRecords {
    /// Counts `records`; returns how many are to be reported now, if it is time to.
    fn note(&mut self, records: u64, now: Duration) -> Option<u64> {
        self.unreported = self.unreported.saturating_add(records);
        if self.reported_at.is_some_and(|at| now.saturating_sub(at) < REPORT_INTERVAL) {
            return None;
        }
        self.reported_at = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

impl Partition {
    /// Counts the records of batches that are older than retention keeps them, by the newest record of each batch.
    pub(super) fn note_expired(&mut self, appended: &[BatchHeader], context: &ShardContext, now: Timestamp) {
        let expired = appended.iter().filter(|header| self.log.past_retention(header.max_timestamp, now));
        let records: u64 = expired.map(|header| u64::from(header.record_count.unsigned_abs())).sum();
        if records == 0 {
            return;
        }
        context.metrics.appended_expired(records);
        if let Some(records) = self.expired.note(records, context.clock.monotonic()) {
            let retention_ms = self.config.retention.map_or(-1, |kept| i64::try_from(kept.as_millis()).unwrap_or(-1));
            tracing::warn!(
                partition = %context.named(self.log.partition()), records, retention_ms,
                "records were older than retention.ms when they came: they are acknowledged, and the next check removes them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_reports_once_a_minute_and_counts_what_came_between() {
        let mut expired = ExpiredRecords::default();
        let second = Duration::from_secs(1);
        assert_eq!(expired.note(3, 5 * second), Some(3));
        assert_eq!(expired.note(4, 6 * second), None);
        assert_eq!(expired.note(5, 64 * second), None);
        assert_eq!(expired.note(6, 65 * second), Some(15));
        assert_eq!(expired.note(1, 66 * second), None);
    }
}
