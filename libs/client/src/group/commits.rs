//! Commits that are not answered yet.

use std::collections::VecDeque;

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use super::{CommitAnswer, CommitOutcome};

/// Commits that may wait for their answers.
const UNANSWERED_MAX: usize = 1_024;

/// Numbers commits, and keeps those without an answer, oldest first.
#[derive(Debug, Default)]
pub(super) struct Commits {
    last_id: i64,
    unanswered: VecDeque<Unanswered>,
}

/// A commit on its way.
#[derive(Debug)]
struct Unanswered {
    id: i64,
    /// Messages whose answers are missing: one that would be too large is sent in parts.
    parts: usize,
    errors: Vec<pb::PartitionError>,
}

// === impl Commits ===

impl Commits {
    /// Gives a commit of so many messages its number. Numbers are not used again on another stream.
    pub(super) fn begin(&mut self, parts: usize) -> Result<i64, ApiError> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            let text = format!("{UNANSWERED_MAX} commits are not answered, which is the limit");
            return Err(ApiError::new(Reason::InFlightLimitExceeded, text));
        }
        self.last_id += 1;
        self.unanswered.push_back(Unanswered { id: self.last_id, parts, errors: Vec::new() });
        Ok(self.last_id)
    }

    /// Takes the answer to a message. `None`: more of the commit is to come, or nothing waits for it.
    pub(super) fn answered(&mut self, result: pb::CommitResult) -> Option<CommitAnswer> {
        let index = self.unanswered.iter().position(|commit| commit.id == result.commit_id)?;
        let commit = self.unanswered.get_mut(index)?;
        commit.errors.extend(result.errors);
        commit.parts -= 1;
        if commit.parts > 0 {
            return None;
        }
        let Unanswered { id, errors, .. } = self.unanswered.remove(index)?;
        let outcome = if errors.is_empty() { CommitOutcome::Done } else { CommitOutcome::Refused(errors) };
        Some(CommitAnswer { id, outcome })
    }

    /// Whether every commit is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Waits for no answer any more.
    pub(super) fn give_up(&mut self, failure: &ApiError) -> Vec<CommitAnswer> {
        let unknown =
            |commit: Unanswered| CommitAnswer { id: commit.id, outcome: CommitOutcome::Unknown(failure.clone()) };
        self.unanswered.drain(..).map(unknown).collect()
    }
}
