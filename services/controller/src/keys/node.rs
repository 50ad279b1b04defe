//! `nodes/{id}/reg` and `nodes/{id}/live`: storage nodes.

use walser_model::NodeId;

pub(crate) const PREFIX: &str = "nodes/";

/// Which key of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKey {
    Registration,
    Liveness,
}

pub(crate) fn registration_key(node: NodeId) -> String {
    format!("{PREFIX}{:010}/reg", node.0)
}

pub(crate) fn live_key(node: NodeId) -> String {
    format!("{PREFIX}{:010}/live", node.0)
}

/// The node in a key, and which of its keys that is.
pub(crate) fn parse(key: &str) -> Option<(NodeId, NodeKey)> {
    let (node, part) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let which = match part {
        "reg" => NodeKey::Registration,
        "live" => NodeKey::Liveness,
        _ => return None,
    };
    Some((NodeId(node.parse().ok()?), which))
}

#[test]
fn keys_are_read_as_they_are_written() {
    assert_eq!(parse(&registration_key(NodeId(12))), Some((NodeId(12), NodeKey::Registration)));
    assert_eq!(parse(&live_key(NodeId(3))), Some((NodeId(3), NodeKey::Liveness)));
    assert_eq!(parse("nodes/0000000003/rack"), None, "of a newer version");
}
