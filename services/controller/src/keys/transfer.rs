//! `import`: metadata of another store is being written into this one, and is not all there.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;

pub(crate) const KEY: &str = "import";

/// Which export it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedImport {
    pub(crate) fingerprint: String,
}

impl Value for UnfinishedImport {}

#[test]
fn the_form_is_the_documented_one() {
    super::assert_form(&UnfinishedImport { fingerprint: "a-7-00000000".into() }, r#"{"fingerprint":"a-7-00000000"}"#);
}
