//! `lineages/{number}` and `lineages/accepted/{id}`: which starts of a controller the metadata has gone through.
//!
//! Each start adds one; its creation revision says where it begins. A copy of the metadata that is started again goes
//! another way from there on, whatever revisions it reaches later: what nodes have seen tells the two apart.

use serde::{Deserialize, Serialize};
use walser_metadata::value::Value;
use walser_metastore::Revision;

pub(crate) const PREFIX: &str = "lineages/";
const ACCEPTED_PREFIX: &str = "lineages/accepted/";
/// Stands for all lineages that are not known, up to a revision: what nodes have seen of a history that was given up.
const UNKNOWN: &str = "unknown";

/// A start of a controller, or an accepted one of another copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) id: String,
    /// Where it begins, where that is not the creation revision of its key: it was written into another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<Revision>,
}

impl Value for Lineage {}

impl Lineage {
    /// One that begins where it is written.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), first: None }
    }

    /// All lineages that are not known, up to a revision.
    pub(crate) fn unknown_through(revision: Revision) -> Self {
        Self { id: UNKNOWN.to_owned(), first: Some(revision) }
    }

    /// Where it begins, as its key was created at this revision.
    pub(crate) fn first(&self, created: Revision) -> Revision {
        self.first.unwrap_or(created)
    }
}

/// The lineages of a store, as far as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineages {
    /// Number, id and first revision, ascending.
    pub(crate) starts: Vec<(i64, String, Revision)>,
    pub(crate) accepted: Vec<String>,
    /// What was seen up to here (inclusive) of lineages that are not known is accepted, too.
    pub(crate) unknown_through: Revision,
}

pub(crate) fn key(number: i64) -> String {
    format!("{PREFIX}{number:010}")
}

pub(crate) fn accepted_key(id: &str) -> String {
    format!("{ACCEPTED_PREFIX}{id}")
}

/// The number in a key of a start.
pub(crate) fn parse(key: &str) -> Option<i64> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

impl Lineages {
    /// Adds a lineage as the store has it.
    pub(crate) fn put(&mut self, key: &str, id: String, first: Revision) {
        self.delete(key);
        match parse(key) {
            Some(number) => {
                let at = self.starts.partition_point(|(known, ..)| *known < number);
                self.starts.insert(at, (number, id, first));
            }
            None if id == UNKNOWN => self.unknown_through = first,
            None => self.accepted.push(id),
        }
    }

    /// Takes away a lineage that the store does not have any more.
    pub(crate) fn delete(&mut self, key: &str) {
        match parse(key) {
            Some(number) => self.starts.retain(|(known, ..)| *known != number),
            None if key == accepted_key(UNKNOWN) => self.unknown_through = 0,
            None => self.accepted.retain(|id| accepted_key(id) != key),
        }
    }

    /// Whether it is one of these.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.starts.iter().any(|(_, start, _)| start == id)
    }

    /// The latest start; empty: none is known.
    pub(crate) fn latest(&self) -> &str {
        self.starts.last().map_or("", |(_, id, _)| id)
    }

    /// Whether metadata of these lineages continues what was seen: `version`, under lineage `id`.
    pub(crate) fn continues(&self, id: &str, version: Revision) -> bool {
        if id.is_empty() || self.accepted.iter().any(|accepted| accepted == id) {
            return true;
        }
        if !self.knows(id) && version <= self.unknown_through {
            return true;
        }
        match self.starts.iter().rposition(|(_, start, _)| start == id) {
            Some(at) => self.starts.get(at + 1).is_none_or(|(_, _, next)| version < *next),
            // Older ones are not kept.
            None => self.starts.first().is_some_and(|(number, _, first)| *number > 0 && version < *first),
        }
    }
}

#[test]
fn the_form_is_the_documented_one() {
    super::assert_form(&Lineage::new("a"), r#"{"id":"a"}"#);
    super::assert_form(&Lineage { first: Some(4), ..Lineage::new("a") }, r#"{"id":"a","first":4}"#);
    assert_eq!((parse(&key(7)), parse(&accepted_key("x"))), (Some(7), None));
    assert!(accepted_key("x").starts_with(PREFIX));
}

#[test]
fn a_copy_that_was_started_again_does_not_continue_what_was_seen_after_it() {
    let start = |number: i64, first| (number, format!("l{number}"), first);
    let mut lineages = Lineages { starts: vec![start(0, 1), start(1, 50)], ..Lineages::default() };
    assert!(lineages.continues("l1", 70) && lineages.continues("l0", 49) && lineages.continues("", 900));
    assert!(!lineages.continues("other", 3), "a lineage of another copy");
    // Started again at revision 60: it may reach 70 and more, and is another history.
    lineages.starts.push(start(2, 60));
    assert!(!lineages.continues("l1", 70) && lineages.continues("l1", 59));
    assert!(lineages.knows("l1") && !lineages.knows("other"));
    lineages.accepted.push("l1".to_owned());
    assert!(lineages.continues("l1", 70));
    assert!(!lineages.continues("other", 3));
    let through = Lineage::unknown_through(90);
    lineages.put(&accepted_key(&through.id), through.id.clone(), through.first(95));
    assert!(lineages.continues("other", 90) && !lineages.continues("other", 91), "it was given up as a whole");
    assert!(lineages.continues("l2", 95), "what goes on from there");
    lineages.delete(&accepted_key(&through.id));
    assert!(!lineages.continues("other", 3));
    let kept = Lineages { starts: vec![start(5, 400)], ..Lineages::default() };
    assert!(kept.continues("l0", 7) && !kept.continues("l0", 400));
}
