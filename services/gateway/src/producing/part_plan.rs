//! How a write is cut into parts: one for each batch that its records become.

use crate::producing::batches::RecordSize;

/// Which records of a write make a part.
#[derive(Debug, Clone)]
pub(crate) struct PartPlan {
    pub(crate) partition: i32,
    /// Indexes into the write's records; empty for a batch.
    pub(crate) records: Vec<usize>,
    pub(crate) record_count: i32,
    pub(crate) size: RecordSize,
}

impl PartPlan {
    /// A part of `records`, without their size.
    #[cfg(test)]
    pub(crate) fn of(partition: i32, records: impl IntoIterator<Item = usize>) -> Self {
        let records: Vec<usize> = records.into_iter().collect();
        let record_count = i32::try_from(records.len()).unwrap();
        Self { partition, records, record_count, size: RecordSize::default() }
    }
}
