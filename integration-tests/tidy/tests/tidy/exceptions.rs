//! Lists of what a check would refuse and the code still does. Each is a file in `exceptions/`: a header, then one
//! exception per line, sorted. A list only shrinks: what is not in it fails, and so does a line that is not needed.

use std::collections::BTreeSet;

use crate::tree::root;

const HEADER: &str = "may only shrink";

/// Fails unless `found` is exactly what `exceptions/{check}.txt` lists, in `max` lines.
pub(crate) fn assert_only_listed(check: &str, max: usize, found: &BTreeSet<String>) {
    let path = format!("integration-tests/tidy/exceptions/{check}.txt");
    let text = std::fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let problems = compare(&text, max, found);
    assert!(problems.is_empty(), "{path}:\n{}", problems.join("\n"));
}

/// Says what is wrong between a list of at most `max` lines and what was found.
fn compare(text: &str, max: usize, found: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines = text.lines();
    if !lines.next().is_some_and(|header| header.starts_with("# ") && header.contains(HEADER)) {
        problems.push(format!("the first line must be a comment that says what the list is, and that it {HEADER}"));
    }
    let lines: Vec<&str> = lines.collect();
    if !lines.is_sorted_by(|one, next| one < next) {
        problems.push("the lines must be sorted, each once".to_owned());
    }
    let listed: BTreeSet<&str> = lines.iter().copied().collect();
    let new = found.iter().filter(|finding| !listed.contains(finding.as_str()));
    problems.extend(new.map(|finding| format!("not allowed: {finding}")));
    let gone = listed.iter().filter(|line| !found.contains(**line));
    problems.extend(gone.map(|line| format!("no longer found, remove the line: {line}")));
    if lines.len() > max {
        problems.push(format!("{} lines exceed the limit of {max}: change the code, not the list", lines.len()));
    } else if lines.len() < max {
        problems.push(format!(
            "{} lines are left of {max}: lower the limit in the test to {}",
            lines.len(),
            lines.len()
        ));
    }
    problems
}

fn problems(lines: &str, max: usize, found: &[&str]) -> String {
    let found = found.iter().map(|finding| (*finding).to_owned()).collect();
    compare(&format!("# Test; may only shrink.\n{lines}"), max, &found).join("; ")
}

#[test]
fn a_list_allows_what_it_lists_and_nothing_else() {
    assert_eq!(problems("a\nb\n", 2, &["a", "b"]), "");
    assert_eq!(problems("", 0, &[]), "");
    assert_eq!(problems("a\n", 1, &["a", "c"]), "not allowed: c");
}

#[test]
fn a_line_that_is_not_needed_is_refused() {
    assert_eq!(problems("a\nb\n", 2, &["a"]), "no longer found, remove the line: b");
}

#[test]
fn a_list_has_exactly_the_lines_that_the_test_says() {
    let longer = "2 lines exceed the limit of 1: change the code, not the list";
    assert_eq!(problems("a\nb\n", 1, &["a", "b"]), longer);
    assert_eq!(problems("a\n", 2, &["a"]), "1 lines are left of 2: lower the limit in the test to 1");
}

#[test]
fn a_list_is_sorted_and_has_a_header() {
    assert_eq!(problems("b\na\n", 2, &["a", "b"]), "the lines must be sorted, each once");
    assert_eq!(problems("a\na\n", 2, &["a"]), "the lines must be sorted, each once");
    assert!(compare("a\n", 0, &BTreeSet::new())[0].starts_with("the first line must be a comment"));
}
