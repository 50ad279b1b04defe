//! The files of the repository: manifests, sources, and what the sources say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::TokenStream;

use crate::items::{Items, items};
use crate::tokens::{Segments, inner_docs, paths, without_tests, words};

/// A Rust file, read without its strings, comments and `#[cfg(test)]` items.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    /// Whether all of the file is test code.
    pub(crate) test: bool,
    /// See [`paths`].
    pub(crate) paths: Vec<Segments>,
    /// See [`Items`].
    pub(crate) items: Items,
    /// Every identifier, also in test code.
    pub(crate) identifiers: BTreeSet<String>,
    /// Every word in a literal, also in test code.
    pub(crate) literals: BTreeSet<String>,
    /// The text of its `//!` comments.
    pub(crate) inner_docs: String,
}

static SOURCES: LazyLock<Vec<Source>> =
    LazyLock::new(|| read_sources(source_files().iter().map(|path| read(path)).collect()));

/// The folders that have crates in them.
const CRATE_FOLDERS: [&str; 3] = ["integration-tests", "libs", "services"];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Each crate's directory and manifest, by its name.
pub(crate) fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let mut found = BTreeMap::new();
    for group in CRATE_FOLDERS {
        for entry in std::fs::read_dir(root().join(group)).unwrap() {
            let path = entry.unwrap().path().join("Cargo.toml");
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let table: toml::Table = text.parse().unwrap();
            let name = table["package"]["name"].as_str().unwrap().to_owned();
            found.insert(name, (path.parent().unwrap().to_owned(), table));
        }
    }
    found
}

/// The names of what a crate depends on outside its tests.
pub(crate) fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

/// Every Rust file, sorted.
pub(crate) fn source_files() -> Vec<PathBuf> {
    CRATE_FOLDERS.into_iter().flat_map(|folder| files_of(folder, "rs")).collect()
}

/// The path from the root and the text of every proto file, sorted.
pub(crate) fn proto_files() -> Vec<(String, String)> {
    files_of("proto", "proto").iter().map(|path| read(path)).collect()
}

/// The path from the root and the text of every document.
pub(crate) fn document_files() -> Vec<(String, String)> {
    let documents = all_paths().into_iter().filter(|path| path.ends_with(".md"));
    documents.map(|path| read(&root().join(path))).collect()
}

/// The path of every file and folder from the root, without what is hidden and what cargo builds.
pub(crate) fn all_paths() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![String::new()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(root().join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with('.') || entry.path().join("CACHEDIR.TAG").exists() {
                continue;
            }
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if entry.path().is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> (String, String) {
    let text = std::fs::read_to_string(path).unwrap();
    (path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text)
}

/// Every Rust file, read once for all checks.
pub(crate) fn sources() -> &'static [Source] {
    &SOURCES
}

/// Reads files, given as path and text.
pub(crate) fn read_sources(files: Vec<(String, String)>) -> Vec<Source> {
    let mut tests = BTreeSet::new();
    let mut read = Vec::with_capacity(files.len());
    for (path, text) in files {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let (identifiers, literals) = words(tokens.clone());
        let inner_docs = inner_docs(tokens.clone());
        let (left, modules) = without_tests(tokens);
        tests.extend(modules.into_iter().map(|module| format!("{}/{module}", folder_of(&path))));
        let test = ["/tests/", "/benches/"].iter().any(|dir| path.contains(dir));
        let items = items(left.clone()).unwrap_or_else(|error| panic!("{path}: {error}"));
        read.push(Source { path, test, paths: paths(left), items, identifiers, literals, inner_docs });
    }
    for source in &mut read {
        let stem = source.path.trim_end_matches(".rs");
        source.test |= tests.iter().any(|test| is_within(stem, test));
    }
    read
}

impl Source {
    /// The folder of the crate.
    pub(crate) fn krate(&self) -> &str {
        krate_of(&self.path).unwrap_or(&self.path)
    }
}

/// The folder of the crate that a file of any kind belongs to: `libs/log` of `libs/log/src/segment.rs`.
pub(crate) fn krate_of(path: &str) -> Option<&str> {
    let (group, rest) = path.split_once('/')?;
    let name = rest.split('/').next()?;
    CRATE_FOLDERS.contains(&group).then(|| &path[..group.len() + 1 + name.len()])
}

/// The folder of a file's child modules: `foo/` of `foo.rs`, and `src/` of `lib.rs` and `main.rs`.
pub(crate) fn folder_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((folder, "lib.rs" | "main.rs")) => folder,
        _ => path.trim_end_matches(".rs"),
    }
}

/// Whether a module's path, without `.rs`, is `module` or lies below it.
pub(crate) fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Sources for the tests of the checks.
pub(crate) fn example(files: &[(&str, &str)]) -> Vec<Source> {
    read_sources(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}

#[test]
fn test_files_are_known_by_their_folder_or_their_declaration() {
    let sources = example(&[
        ("libs/a/src/lib.rs", "#[cfg(test)] mod simulation; mod queue;"),
        ("libs/a/src/queue.rs", "#[cfg(test)] mod tests;"),
        ("libs/a/src/queue/tests.rs", ""),
        ("libs/a/src/simulation.rs", ""),
        ("libs/a/src/simulation/world.rs", ""),
        ("libs/a/src/simulations.rs", ""),
        ("libs/a/tests/a.rs", ""),
    ]);
    let tests: Vec<&str> = sources.iter().filter(|source| source.test).map(|source| source.path.as_str()).collect();
    let wanted = [
        "libs/a/src/queue/tests.rs",
        "libs/a/src/simulation.rs",
        "libs/a/src/simulation/world.rs",
        "libs/a/tests/a.rs",
    ];
    assert_eq!(tests, wanted);
}
