//! Which group coordinator has a shard of groups.

use serde::{Deserialize, Serialize};

use super::{UnknownFields, Value};

/// The coordinator to which a shard of groups is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupShardValue {
    /// Its id, a UUID that is new with every start of a process.
    pub coordinator: String,
    /// host:port of its internal listener; empty inside one process.
    pub address: String,
    /// Grows with every coordinator to which the shard is given. It writes this to the shard's log before it serves: see
    /// `docs/decisions/0016-coordinator-fence.md`.
    pub epoch: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

impl Value for GroupShardValue {}

#[test]
fn the_form_is_the_documented_one() {
    let (coordinator, address) = ("c".into(), "127.0.0.1:7".into());
    let value = GroupShardValue { coordinator, address, epoch: 3, ..GroupShardValue::default() };
    super::assert_form(&value, r#"{"coordinator":"c","address":"127.0.0.1:7","epoch":3}"#);
}
