//! `cluster`: the cluster itself.

use serde::{Deserialize, Serialize};

use super::Value;

pub(crate) const KEY: &str = "cluster";

/// Made once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_ms: i64,
}

impl Value for Cluster {}

#[test]
fn the_form_is_the_documented_one() {
    let value = Cluster { id: "c".into(), name: "walser".into(), created_ms: 5 };
    super::assert_form(&value, r#"{"id":"c","name":"walser","created_ms":5}"#);
}
