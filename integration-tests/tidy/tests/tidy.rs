//! What can be checked of `docs/STYLE.md` and `docs/ARCHITECTURE.md` is checked here: layers, dependencies, names,
//! sizes of files and functions, and words that mark unfinished work.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Crates that no other name may hide behind.
const BANNED_NAMES: [&str; 8] = ["common", "util", "utils", "core", "shared", "types", "helpers", "manager"];

/// Layers: a crate depends only on crates of lower layers, or of its own within `libs`.
const LAYERS: [(&str, u8); 11] = [
    ("walser-model", 0),
    ("walser-record-batch", 1),
    ("walser-proto", 1),
    ("walser-log", 2),
    ("walser-replication", 2),
    ("walser-sequencer", 2),
    ("walser-metastore", 2),
    ("walser-service", 2),
    ("walser-metadata", 3),
    ("walser-rpc", 4),
    ("walser-client", 5),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let mut found = BTreeMap::new();
    for group in ["libs", "services", "integration-tests"] {
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

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("libs"), root().join("services"), root().join("integration-tests")];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn arrows_go_down_only() {
    let layers = BTreeMap::from(LAYERS);
    let mut broken = Vec::new();
    for (name, (dir, manifest)) in manifests() {
        let service = dir.starts_with(root().join("services"));
        for dependency in dependencies(&manifest).into_iter().filter(|name| name.starts_with("walser-")) {
            let to_service = !layers.contains_key(dependency.as_str());
            let allowed = match layers.get(name.as_str()) {
                Some(layer) => layers.get(dependency.as_str()).is_some_and(|below| below < layer),
                None => !to_service || name == "walser" || !service,
            };
            if !allowed {
                broken.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn pure_crates_stay_free_of_the_network() {
    let manifests = manifests();
    for name in [
        "walser-model",
        "walser-record-batch",
        "walser-log",
        "walser-replication",
        "walser-sequencer",
        "walser-metadata",
    ] {
        let used = dependencies(&manifests[name].1);
        for banned in ["tonic", "tokio", "prost", "redb"] {
            assert!(!used.contains(banned), "{name} must not depend on {banned}");
        }
    }
    for (name, (_, manifest)) in &manifests {
        let etcd = dependencies(manifest).contains("etcd-client");
        assert!(!etcd || name == "walser-metastore", "{name} must not talk to the metadata store");
    }
}

/// Modules that decide have no wire types: those belong into `api` and into the crates that carry them.
#[test]
fn versions_are_written_once() {
    for (name, (_, manifest)) in manifests() {
        for (dependency, value) in manifest.get("dependencies").and_then(toml::Value::as_table).into_iter().flatten() {
            let workspace = value.get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(workspace, Some(true), "{name}: {dependency} takes its version from the root");
        }
    }
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{} has {} lines", path.display(), lines.len()));
        }
        let mut open: Option<(usize, usize, &str)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let begins = ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub(crate) async fn ", "pub async fn "];
            if open.is_none() && begins.iter().any(|begin| code.starts_with(begin)) {
                open = Some((number, indent, code));
            }
            if let Some((start, level, head)) = open
                && (code == "}" || code.ends_with(';') && number == start || code.ends_with('}') && number == start)
                && indent == level
            {
                if number - start + 1 > FUNCTION_LINES_MAX + 2 {
                    long.push(format!("{}:{}: {head} has {} lines", path.display(), start + 1, number - start + 1));
                }
                open = None;
            }
        }
    }
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn names_say_what_is_there() {
    for path in sources() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!BANNED_NAMES.contains(&stem), "{}", path.display());
        assert_ne!(stem, "mod", "{}: write foo.rs and foo/", path.display());
    }
    for (name, _) in manifests() {
        let last = name.trim_start_matches("walser-");
        assert!(!BANNED_NAMES.contains(&last), "{name}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together, so that this file does not find itself.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["todo", "!("].concat(),
        ["unimple", "mented!("].concat(),
        ["#[ig", "nore"].concat(),
        ["should_", "panic"].concat(),
        ["for n", "ow"].concat(),
    ];
    let mut found = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            found.extend(
                words
                    .iter()
                    .filter(|word| line.contains(word.as_str()))
                    .map(|word| format!("{}:{}: {word}", path.display(), number + 1)),
            );
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_service_has_its_page() {
    for service in ["controller", "storage-node", "gateway", "walser"] {
        let page = root().join("services").join(service).join("README.md");
        assert!(page.exists(), "{}", page.display());
    }
    for page in ["README.md", "CONTRIBUTING.md", "LICENSE", "docs/ARCHITECTURE.md", "docs/STYLE.md", "docs/GLOSSARY.md"]
    {
        assert!(root().join(page).exists(), "{page}");
    }
}

/// The page quotes log lines as they are: someone who searches for one must find it.
#[test]
fn log_lines_in_the_operators_page_exist() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let table = page.split("## What to do when").nth(1).unwrap().split("\n## ").next().unwrap();
    let signs = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted: Vec<_> = signs.flat_map(|sign| sign.split('`').skip(1).step_by(2)).collect();
    // Parts between what differs from case to case, and not the names of reasons, metrics and settings.
    let fixed = quoted.iter().flat_map(|sign| sign.split(|part: char| part == '…' || part.is_ascii_uppercase()));
    let fixed: Vec<_> = fixed.map(str::trim).filter(|part| part.contains(' ')).collect();
    assert!(fixed.len() > 10, "{quoted:?}");
    let joined = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.split("\\\n").map(str::trim_start).collect::<String>()
    };
    let programs = sources().into_iter().filter(|path| !path.starts_with(root().join("integration-tests")));
    let sources: Vec<String> = programs.map(joined).collect();
    let missing: Vec<_> = fixed.iter().filter(|part| !sources.iter().any(|source| source.contains(**part))).collect();
    assert!(missing.is_empty(), "nothing says {missing:?}");
}

/// Every issue that `walser status` shows has a row that says what to do.
#[test]
fn every_health_issue_is_in_the_operators_page() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut codes = BTreeSet::new();
    for path in sources().into_iter().filter(|path| path.starts_with(root().join("services"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        let written = text.split("code: \"").skip(1).filter_map(|rest| rest.split('"').next());
        codes.extend(written.map(str::to_owned));
    }
    assert!(codes.contains("NODE_DOWN"), "{codes:?}");
    let missing: Vec<_> = codes.iter().filter(|code| !page.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/operations.md has no row for {missing:?}");
}
