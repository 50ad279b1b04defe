//! `nodes/{id}/reg` and `nodes/{id}/live`: storage nodes.

use serde::{Deserialize, Serialize};

use super::Value;

pub(crate) const PREFIX: &str = "nodes/";

/// A registration. Written only by registering; its mod revision is the node epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) incarnation: String,
    /// Numbers of `walser.v1.NodeRole`.
    pub(crate) roles: Vec<i32>,
    pub(crate) internal_address: String,
    pub(crate) public_address: String,
    pub(crate) rack: String,
    pub(crate) version: String,
    pub(crate) started_ms: i64,
    /// The data directory, as 32 hexadecimal digits; empty where an older version has registered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) directory: String,
}

/// Whether the node counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) fenced: bool,
}

impl Value for Registration {}
impl Value for Live {}

pub(crate) fn registration_key(node: i32) -> String {
    format!("{PREFIX}{node:010}/reg")
}

pub(crate) fn live_key(node: i32) -> String {
    format!("{PREFIX}{node:010}/live")
}

/// The node in a key, and whether it is the registration.
pub(crate) fn parse(key: &str) -> Option<(i32, bool)> {
    let (node, part) = key.strip_prefix(PREFIX)?.split_once('/')?;
    Some((node.parse().ok()?, part == "reg"))
}

#[test]
fn the_form_is_the_documented_one() {
    super::assert_form(&Live { fenced: true }, r#"{"fenced":true}"#);
    let value = Registration {
        incarnation: "i".into(),
        roles: vec![2],
        internal_address: String::new(),
        public_address: "127.0.0.1:7460".into(),
        rack: String::new(),
        version: "0.1.0".into(),
        started_ms: 9,
        directory: "d".into(),
    };
    let text = r#"{"incarnation":"i","roles":[2],"internal_address":"","public_address":"127.0.0.1:7460","rack":"","version":"0.1.0","started_ms":9,"directory":"d"}"#;
    super::assert_form(&value, text);
    assert_eq!(parse(&registration_key(12)), Some((12, true)));
    assert_eq!(parse(&live_key(3)), Some((3, false)));
}
