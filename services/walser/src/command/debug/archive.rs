//! The file of a bundle: a compressed tar archive, with a list of what is in it and of what could not be had.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::json;
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use crate::error::{CliError, EXISTS};
use crate::records::time;

/// Most bytes of one file in it, and of all.
const FILE_BYTES_MAX: usize = 64 << 20;
const BUNDLE_BYTES_MAX: usize = 512 << 20;
/// What all files are below.
const ROOT: &str = "walser-debug";

/// An archive that is being made. It has its name once it is whole.
pub(super) struct Archive {
    tar: Builder<GzEncoder<NamedTempFile>>,
    path: PathBuf,
    overwrite: bool,
    manifest: Manifest,
}

/// What is in an archive.
#[derive(Debug, Default, Serialize)]
pub(super) struct Manifest {
    /// Milliseconds since the epoch.
    #[serde(skip)]
    made: i64,
    files: Vec<Included>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Included {
    name: String,
    bytes: usize,
}

/// What could not be had.
#[derive(Debug, Serialize)]
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) why: String,
}

// === impl Archive ===

impl Archive {
    /// Begins one. `made`: milliseconds since the epoch.
    ///
    /// # Errors
    /// When there is a file of this name already, unless it may be overwritten, or none can be made.
    pub(super) fn create(path: &Path, overwrite: bool, made: i64) -> Result<Self, CliError> {
        match path.symlink_metadata() {
            // A device, or a link to something else, would be gone.
            Ok(there) if !there.is_file() => {
                return Err(CliError::usage(format!("{} is there and is no file", path.display())));
            }
            Ok(_) if !overwrite => return Err(exists(path)),
            _ => {}
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // Nobody else can read it: it says how a cluster is built.
        let file = NamedTempFile::new_in(directory);
        let file = file.map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
        let tar = Builder::new(GzEncoder::new(file, Compression::default()));
        let manifest = Manifest { made, ..Manifest::default() };
        Ok(Self { tar, path: path.to_owned(), overwrite, manifest })
    }

    /// Adds a file. What is larger than a file may be, or than there is room for, is not in it, which the list says.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn add(&mut self, name: &str, contents: &[u8]) -> Result<(), CliError> {
        let room = BUNDLE_BYTES_MAX - self.manifest.bytes();
        if contents.len() > FILE_BYTES_MAX.min(room) {
            let why = format!("it has {} bytes, more than is put into a bundle", contents.len());
            self.lacks(name, why);
            return Ok(());
        }
        self.append(name, contents)?;
        self.manifest.files.push(Included { name: name.to_owned(), bytes: contents.len() });
        Ok(())
    }

    fn append(&mut self, name: &str, contents: &[u8]) -> Result<(), CliError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(contents.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.manifest.made / 1000).unwrap_or(0));
        let written = self.tar.append_data(&mut header, format!("{ROOT}/{name}"), contents);
        written.map_err(|error| CliError::failed(format!("{}: {error}", self.path.display())))
    }

    /// Says in the list what could not be had.
    pub(super) fn lacks(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.manifest.missing.push(Missing { what: what.into(), why: why.into() });
    }

    /// Adds the list, beginning with `about`, and gives the file its name. Returns the list.
    ///
    /// # Errors
    /// What the disk says; that a file of this name has come meanwhile.
    pub(super) fn finish(mut self, about: serde_json::Value) -> Result<Manifest, CliError> {
        let mut list = json!({ "made": time::time(self.manifest.made), "about": about });
        list["files"] = serde_json::to_value(&self.manifest.files)?;
        list["missing"] = serde_json::to_value(&self.manifest.missing)?;
        self.append("MANIFEST.json", serde_json::to_string_pretty(&list)?.as_bytes())?;
        let Self { tar, path, overwrite, manifest } = self;
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        let mut file = tar.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
        file.flush().map_err(failed)?;
        let persisted: Result<File, _> = if overwrite { file.persist(&path) } else { file.persist_noclobber(&path) };
        persisted.map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&path),
            _ => failed(error.error),
        })?;
        Ok(manifest)
    }
}

fn exists(path: &Path) -> CliError {
    let error = CliError::failed(format!("{} is there already", path.display())).with_code(EXISTS);
    error.with_help("name another file, or say --force to overwrite it")
}

// === impl Manifest ===

impl Manifest {
    pub(super) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files, before they are compressed.
    pub(super) fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether there are only files of such names.
    pub(super) fn has_only(&self, expected: impl Fn(&str) -> bool) -> bool {
        self.files.iter().all(|file| expected(&file.name))
    }

    pub(super) fn missing(&self) -> &[Missing] {
        &self.missing
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn read(path: &Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_has_what_was_added_and_says_what_it_lacks() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.tar.gz");
        let mut archive = Archive::create(&path, false, 1_700_000_000_000).unwrap();
        archive.add("cluster/topics.json", b"[]").unwrap();
        archive.add("large", &vec![0; FILE_BYTES_MAX + 1]).unwrap();
        archive.lacks("metrics of a:1", "no answer");
        assert!(!path.exists(), "it is not whole");
        let manifest = archive.finish(json!({ "program": "x" })).unwrap();
        assert_eq!((manifest.file_count(), manifest.bytes(), manifest.missing().len()), (1, 2, 2));
        let found = read(&path);
        assert_eq!(found[0], ("walser-debug/cluster/topics.json".to_owned(), "[]".to_owned()));
        let list: serde_json::Value = serde_json::from_str(&found[1].1).unwrap();
        assert_eq!((&list["made"], &list["about"]["program"]), (&"2023-11-14T22:13:20.000Z".into(), &"x".into()));
        assert_eq!((&list["missing"][0]["what"], &list["missing"][1]["why"]), (&"large".into(), &"no answer".into()));
    }

    #[test]
    fn a_file_that_is_there_is_overwritten_only_when_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.tar.gz");
        std::fs::write(&path, "mine").unwrap();
        assert!(Archive::create(&path, false, 0).err().unwrap().what().contains("is there already"));
        Archive::create(&path, true, 0).unwrap().finish(json!({})).unwrap();
        assert_eq!(read(&path).len(), 1);
        let late = place.path().join("b.tar.gz");
        let archive = Archive::create(&late, false, 0).unwrap();
        std::fs::write(&late, "mine").unwrap();
        assert!(archive.finish(json!({})).is_err());
        assert_eq!(std::fs::read(&late).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left over");
    }
}
