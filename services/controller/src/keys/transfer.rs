//! `import`: metadata of another store is being written into this one, and is not all there. `moved`: the metadata of this
//! one was exported; with it, `election/controller` is held by nobody who lives, so that no controller leads here.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;

pub(crate) const KEY: &str = "import";
pub(crate) const MOVED: &str = "moved";

/// Which export it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedImport {
    pub(crate) fingerprint: String,
}

/// That the metadata was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {}

impl Value for UnfinishedImport {}
impl Value for Moved {}

#[test]
fn the_form_is_the_documented_one() {
    super::assert_form(&UnfinishedImport { fingerprint: "a-7-00000000".into() }, r#"{"fingerprint":"a-7-00000000"}"#);
}
