//! Storage nodes.

use serde::{Deserialize, Serialize};
use walser_model::Timestamp;

use super::{UnknownFields, Value, is_zero};

/// A registration. Written only by registering; the revision of its key is the node epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// Unique per start of the process.
    #[serde(default)]
    pub incarnation: String,
    /// Roles of the process, as numbers of `walser.v1.NodeRole`.
    #[serde(default)]
    pub roles: Vec<i32>,
    /// HOST:PORT of its internal listener. Empty: it serves its own process only.
    #[serde(default)]
    pub internal_address: String,
    /// HOST:PORT of its public listener.
    #[serde(default)]
    pub public_address: String,
    /// Failure domain in which the node runs.
    #[serde(default)]
    pub rack: String,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// The highest feature level at which it can work.
    #[serde(default = "first_level", skip_serializing_if = "is_first_level")]
    pub feature_level_max: i32,
    /// When it registered, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub started_ms: Timestamp,
    /// The data directory, as 32 hexadecimal digits; empty where an older version has registered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Whether a node counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLiveness {
    /// It neither leads nor counts.
    #[serde(default)]
    pub fenced: bool,
    /// It is about to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shutting_down: bool,
    /// The latest node epoch in which it has counted: a data directory that has not seen so much of the metadata is an
    /// older copy. 0: none is known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub served_epoch: i64,
    /// It gets no new replicas.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// It leads nothing that another one can lead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// The feature level of what says nothing of levels.
pub const FIRST_LEVEL: i32 = 1;

/// The same, as a default of a field.
pub fn first_level() -> i32 {
    FIRST_LEVEL
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
/// Whether a field need not be written.
pub fn is_first_level(level: &i32) -> bool {
    *level == FIRST_LEVEL
}

impl Default for NodeRegistration {
    fn default() -> Self {
        Self {
            incarnation: String::new(),
            roles: Vec::new(),
            internal_address: String::new(),
            public_address: String::new(),
            rack: String::new(),
            version: String::new(),
            feature_level_max: FIRST_LEVEL,
            started_ms: 0,
            directory: String::new(),
            unknown: UnknownFields::default(),
        }
    }
}

impl Value for NodeRegistration {}
impl Value for NodeLiveness {}

#[test]
fn the_form_is_the_documented_one() {
    let liveness = NodeLiveness { fenced: true, ..NodeLiveness::default() };
    super::assert_form(&liveness, r#"{"fenced":true}"#);
    let all = NodeLiveness { shutting_down: true, served_epoch: 7, ..liveness };
    super::assert_form(&all, r#"{"fenced":true,"shutting_down":true,"served_epoch":7}"#);
    let drained = NodeLiveness { cordoned: true, drained: true, ..NodeLiveness::default() };
    super::assert_form(&drained, r#"{"fenced":false,"cordoned":true,"drained":true}"#);
    let value = NodeRegistration {
        incarnation: "i".into(),
        roles: vec![2],
        public_address: "127.0.0.1:7460".into(),
        version: "0.1.0".into(),
        feature_level_max: 2,
        started_ms: 9,
        directory: "d".into(),
        ..NodeRegistration::default()
    };
    let text = r#"{"incarnation":"i","roles":[2],"internal_address":"","public_address":"127.0.0.1:7460","rack":"","version":"0.1.0","feature_level_max":2,"started_ms":9,"directory":"d"}"#;
    super::assert_form(&value, text);
    assert_eq!(super::decode::<NodeRegistration>(b"{}").unwrap(), NodeRegistration::default());
}
