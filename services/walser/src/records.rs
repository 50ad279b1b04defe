//! Records as text: what [`envelope`] writes as JSON it reads back to the byte, and a [`format`] string works in both
//! directions.

pub(crate) mod envelope;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod reading;
pub(crate) mod time;

/// A name and its value, which may be null.
pub(crate) type Header = (Vec<u8>, Option<Vec<u8>>);

/// A record that is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewRecord {
    /// `None` is null.
    pub(crate) key: Option<Vec<u8>>,
    /// `None` is null: a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    /// In order, with duplicates.
    pub(crate) headers: Vec<Header>,
    /// Unix milliseconds; `None`: the time of writing.
    pub(crate) timestamp: Option<i64>,
    /// The partition that the input names.
    pub(crate) partition: Option<i32>,
}
