//! The meta file of a data directory: its format, and whose it is.

use std::fmt::Write as _;
use std::path::Path;

use walser_model::{ClusterId, NodeId};

use super::error::{DirectoryError, FORMAT};
use crate::disk::{Disk, read_file};

pub(super) const FILE_NAME: &str = "meta";

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// The directory itself, as 16 random bytes.
    pub directory: [u8; 16],
}

/// The text of the file.
pub(super) fn encode(identity: &Identity) -> String {
    let directory = ClusterId::from_bytes(identity.directory).to_hex();
    let mut text = String::new();
    let _ = writeln!(text, "format={FORMAT}");
    let _ = writeln!(text, "cluster-id={}", identity.cluster);
    let _ = writeln!(text, "node-id={}", identity.node);
    let _ = writeln!(text, "directory-id={directory}");
    text
}

/// Reads the file of a directory. `None`: there is none.
pub(super) fn read(disk: &dyn Disk, root: &Path) -> Result<Option<Identity>, DirectoryError> {
    let path = root.join(FILE_NAME);
    let broken = |problem: String| DirectoryError::Meta { path: path.clone(), problem };
    let bytes = read_file(disk, &path, 4096).map_err(|error| broken(error.to_string()))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| broken("it is not text".to_owned()))?;
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| broken(format!("{name} is missing")))
    };
    let bad = |name: &str| broken(format!("{name} is not valid"));
    let found: u32 = value("format")?.parse().map_err(|_| bad("format"))?;
    if found > FORMAT {
        return Err(DirectoryError::Newer { path: root.to_owned(), found });
    }
    let cluster: ClusterId = value("cluster-id")?.parse().map_err(|_| bad("cluster-id"))?;
    let node = NodeId(value("node-id")?.parse().map_err(|_| bad("node-id"))?);
    let directory: ClusterId = value("directory-id")?.parse().map_err(|_| bad("directory-id"))?;
    Ok(Some(Identity { cluster, node, directory: directory.to_bytes() }))
}
