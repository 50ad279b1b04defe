//! What can be checked of `docs/STYLE.md` and `docs/ARCHITECTURE.md` is checked here: layers, dependencies, names,
//! sizes of files and functions, and words that mark unfinished work.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/exceptions.rs"]
mod exceptions;
#[path = "tidy/impls.rs"]
mod impls;
#[path = "tidy/items.rs"]
mod items;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/markdown.rs"]
mod markdown;
#[path = "tidy/tokens.rs"]
mod tokens;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/type_names.rs"]
mod type_names;
#[path = "tidy/wire_types.rs"]
mod wire_types;

use std::collections::BTreeSet;
use std::path::PathBuf;

use tree::{manifests, root, source_files};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Crates that no other name may hide behind.
const BANNED_NAMES: [&str; 8] = ["common", "util", "utils", "core", "shared", "types", "helpers", "manager"];

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
    for path in source_files() {
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
    for path in source_files() {
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
    for path in source_files() {
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
    for service in ["controller", "storage-node", "group-coordinator", "gateway", "walser"] {
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
    let programs = source_files().into_iter().filter(|path| !path.starts_with(root().join("integration-tests")));
    let sources: Vec<String> = programs.map(joined).collect();
    let missing: Vec<_> = fixed.iter().filter(|part| !sources.iter().any(|source| source.contains(**part))).collect();
    assert!(missing.is_empty(), "nothing says {missing:?}");
}

/// Every issue that `walser status` shows has a row that says what to do, and a test in which that is done.
#[test]
fn every_health_issue_is_in_the_operators_page() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut codes = BTreeSet::new();
    for path in source_files().into_iter().filter(|path| path.starts_with(root().join("services"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        for begin in ["code: \"", " critical(\"", " issue(\"", " of_disk(\""] {
            let written = text.split(begin).skip(1).filter_map(|rest| rest.split('"').next());
            codes.extend(written.map(str::to_owned));
        }
    }
    for known in ["NODE_DOWN", "PARTITIONS_OFFLINE", "DISK_FULL"] {
        assert!(codes.contains(known), "{codes:?}");
    }
    let missing: Vec<_> = codes.iter().filter(|code| !page.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/operations.md has no row for {missing:?}");
    let tests = source_files().into_iter().filter(|path| path.starts_with(root().join("integration-tests/standalone")));
    let tests: String = tests.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let untried: Vec<_> = codes.iter().filter(|code| !tests.contains(code.as_str())).collect();
    assert!(untried.is_empty(), "no test has {untried:?} happen, with what the page says to do");
}
