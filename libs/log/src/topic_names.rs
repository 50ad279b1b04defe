//! The names of topics in a data directory, for people and tools: partitions are named by the ids of their topics.
//!
//! ```text
//! walser topic names, format 1
//! TOPIC-ID NAME
//! ```
//!
//! Nothing depends on the file: it may be missing or behind, it is not made durable, and lines that make no sense are
//! passed over.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use walser_model::{TopicId, TopicName};

use crate::disk::{Disk, Open, read_file};

/// Name of the file in a data directory.
pub(crate) const FILE_NAME: &str = "topic-names";
/// Of the file that replaces it.
pub(crate) const TEMPORARY_NAME: &str = "topic-names.tmp";

const HEADER: &str = "walser topic names, format 1";
/// A larger file is not read: names are no reason to fill the memory.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Names by topic id.
pub type NamesById = BTreeMap<TopicId, Arc<str>>;

/// Reads the names in a data directory. None of them when there is no file, or one of another format.
///
/// # Errors
/// I/O errors.
pub fn read_topic_names(disk: &dyn Disk, root: &Path) -> io::Result<NamesById> {
    let bytes = read_file(disk, &root.join(FILE_NAME), FILE_BYTES_MAX)?;
    Ok(bytes.map(|bytes| decode(&String::from_utf8_lossy(&bytes))).unwrap_or_default())
}

/// Replaces the names, as one step for those who read them.
pub(crate) fn write(disk: &dyn Disk, root: &Path, names: &NamesById) -> io::Result<()> {
    let temporary = root.join(TEMPORARY_NAME);
    let file = disk.open(&temporary, Open::Write)?;
    file.set_len(0)?;
    file.write_at(encode(names).as_bytes(), 0)?;
    disk.rename(&temporary, &root.join(FILE_NAME))
}

fn encode(names: &NamesById) -> String {
    let mut text = format!("{HEADER}\n");
    for (id, name) in names {
        let _ = writeln!(text, "{id} {name}");
    }
    text
}

fn decode(text: &str) -> NamesById {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return NamesById::new();
    }
    let line = |line: &str| {
        let (id, name) = line.split_once(' ')?;
        let name: TopicName = name.parse().ok()?;
        Some((id.parse().ok()?, Arc::from(name.as_str())))
    };
    lines.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    #[test]
    fn names_survive_and_are_replaced_as_a_whole() {
        let (disk, root) = (MemoryDisk::new(1 << 20), Path::new("/data"));
        disk.create_dir(root).unwrap();
        assert!(read_topic_names(&disk, root).unwrap().is_empty());
        let names = NamesById::from([(id(1), "orders".into()), (id(2), "payments.eu".into())]);
        write(&disk, root, &names).unwrap();
        assert_eq!(read_topic_names(&disk, root).unwrap(), names);
        let fewer = NamesById::from([(id(3), "a".into())]);
        write(&disk, root, &fewer).unwrap();
        assert_eq!(read_topic_names(&disk, root).unwrap(), fewer);
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let text = "walser topic names, format 1\n01010101-0101-0101-0101-010101010101 orders\n";
        assert_eq!(encode(&NamesById::from([(id(1), "orders".into())])), text);
        let damaged = format!("{text}\u{0}\u{0}\nnot-an-id x\n{} not a name\n{} ok\n{}", id(2), id(3), id(4));
        assert_eq!(decode(&damaged), NamesById::from([(id(1), "orders".into()), (id(3), "ok".into())]));
        assert!(decode(&text.replace("format 1", "format 2")).is_empty());
    }
}
