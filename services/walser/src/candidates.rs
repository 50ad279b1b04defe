//! What the shell offers for a word that is begun.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;

use crate::context::Contexts;

pub(crate) fn candidates(word: &OsStr, names: Vec<(String, Option<String>)>) -> Vec<CompletionCandidate> {
    let word = word.to_string_lossy();
    let fits = names.into_iter().filter(|(name, _)| name.starts_with(&*word));
    fits.map(|(name, help)| CompletionCandidate::new(name).help(help.map(Into::into))).collect()
}

/// Names of contexts.
pub(crate) fn contexts(word: &OsStr) -> Vec<CompletionCandidate> {
    let contexts = Contexts::load().unwrap_or_default();
    candidates(word, contexts.all().map(|(name, server)| (name.to_owned(), Some(server.to_owned()))).collect())
}
