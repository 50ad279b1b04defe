//! How much a client that grants credit may still be sent.

use crate::reading::Decoded;

/// What a client grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// What is left of the credit of a client.
#[derive(Debug, Clone, Copy)]
pub(super) enum Credit {
    Unlimited,
    Limited {
        bytes: u64,
        /// `None`: without limit.
        records: Option<u64>,
    },
}

impl Credit {
    /// The first grant; `None`: without limit. A first grant of no records leaves their number open for good.
    pub(super) fn new(first: Option<Grant>) -> Self {
        match first {
            None => Self::Unlimited,
            Some(Grant { bytes, records }) => Self::Limited { bytes, records: (records > 0).then_some(records) },
        }
    }

    /// Adds a grant. False: the client has no use for it.
    pub(super) fn add(&mut self, grant: Grant) -> bool {
        match self {
            Self::Unlimited => false,
            Self::Limited { bytes, records } => {
                *bytes = bytes.saturating_add(grant.bytes);
                if let Some(records) = records {
                    *records = records.saturating_add(grant.records);
                }
                true
            }
        }
    }

    /// How many records may be sent now: none without bytes.
    pub(super) fn records_left(self) -> usize {
        match self {
            Self::Unlimited => usize::MAX,
            Self::Limited { bytes: 0, .. } => 0,
            Self::Limited { records, .. } => {
                records.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
            }
        }
    }

    /// Takes what is sent.
    pub(super) fn take(&mut self, sent: &Decoded) {
        if let Self::Limited { bytes, records } = self {
            *bytes = bytes.saturating_sub(u64::try_from(sent.size_bytes).unwrap_or(u64::MAX));
            if let Some(records) = records {
                *records = records.saturating_sub(u64::try_from(sent.record_count).unwrap_or(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(size_bytes: usize, record_count: i64) -> Decoded {
        Decoded { size_bytes, record_count, ..Decoded::default() }
    }

    #[test]
    fn nothing_is_sent_beyond_the_credit_but_the_end_of_the_last_chunk() {
        let mut credit = Credit::new(Some(Grant { bytes: 100, records: 5 }));
        assert_eq!(credit.records_left(), 5);
        credit.take(&sent(60, 3));
        assert_eq!(credit.records_left(), 2);
        credit.take(&sent(60, 1));
        assert_eq!(credit.records_left(), 0, "no bytes are left");
        assert!(credit.add(Grant { bytes: 1, records: 0 }));
        assert_eq!(credit.records_left(), 1);
        let mut open = Credit::new(Some(Grant { bytes: 100, records: 0 }));
        open.add(Grant { bytes: 0, records: 7 });
        assert_eq!(open.records_left(), usize::MAX);
        let mut unlimited = Credit::new(None);
        assert!(!unlimited.add(Grant { bytes: 1, records: 1 }));
        unlimited.take(&sent(usize::MAX, i64::MAX));
        assert_eq!(unlimited.records_left(), usize::MAX);
    }
}
