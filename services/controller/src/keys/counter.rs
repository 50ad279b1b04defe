//! `pids/next` and `pids/internal`: numbers.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;

pub(crate) const PRODUCER_IDS: &str = "pids/next";
pub(crate) const INTERNAL_PRODUCER_IDS: &str = "pids/internal";

/// A number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) value: i64,
}

impl Value for Counter {}

#[test]
fn the_form_is_the_documented_one() {
    super::assert_form(&Counter { value: 7 }, r#"{"value":7}"#);
}
