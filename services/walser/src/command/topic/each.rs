//! Topics that a command deals with one by one: several calls at once, and no further ones once a call has failed.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, StreamExt as _};

use crate::error::CliError;
use crate::output::plural;

/// Calls that are under way at once.
const CONCURRENT_MAX: usize = 16;

/// What became of the topics.
#[derive(Debug)]
pub(super) struct Dealt<T> {
    /// What the calls that succeeded gave, in the order of the names.
    pub(super) done: Vec<T>,
    /// Why others failed, in the same order.
    failed: Vec<CliError>,
    /// Names for which no call was made.
    left: usize,
}

/// Makes a call for each name.
pub(super) async fn each<T, F>(names: Vec<String>, call: impl Fn(String) -> F) -> Dealt<T>
where
    F: Future<Output = Result<T, CliError>>,
{
    let (stop, call) = (&AtomicBool::new(false), &call);
    let calls = names.into_iter().map(|name| async move {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let outcome = call(name).await;
        stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
        Some(outcome)
    });
    let mut outcomes = stream::iter(calls).buffered(CONCURRENT_MAX);
    let mut dealt = Dealt { done: Vec::new(), failed: Vec::new(), left: 0 };
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            None => dealt.left += 1,
            Some(Ok(done)) => dealt.done.push(done),
            Some(Err(error)) => dealt.failed.push(error),
        }
    }
    dealt
}

impl<T> Dealt<T> {
    /// One that was dealt with.
    pub(super) fn one(done: T) -> Self {
        Self { done: vec![done], failed: Vec::new(), left: 0 }
    }

    /// What all calls gave.
    ///
    /// # Errors
    /// Why the first of those that failed has.
    pub(super) fn all(self) -> Result<Vec<T>, CliError> {
        match self.failed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(self.done),
        }
    }

    /// The error of the command, if a call has failed; what other calls failed with is shown before.
    pub(super) fn error(self) -> Option<CliError> {
        let mut failed = self.failed;
        failed.dedup_by(|error, before| error.what() == before.what());
        let last = failed.pop()?;
        failed.iter().for_each(CliError::show);
        let left = plural(i64::try_from(self.left).unwrap_or(i64::MAX), "topic");
        Some(match (self.done.is_empty(), self.left) {
            (true, 0) => last,
            (true, _) => last.with_why(format!("nothing was begun for {left} more")),
            (false, 0) => last.with_why("those listed above are done"),
            (false, _) => last.with_why(format!("those listed above are done, nothing was begun for {left} more")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_call_is_made_after_one_that_failed_and_those_under_way_are_waited_for() {
        let names: Vec<_> = (0..10_000).map(|number| number.to_string()).collect();
        let dealt = each(names, |name| async move {
            tokio::task::yield_now().await;
            let number: usize = name.parse().unwrap();
            if number == 40 { Err(CliError::failed("no")) } else { Ok(number) }
        });
        let Dealt { done, failed, left } = dealt.await;
        assert!(done.is_sorted() && done.len() >= 40 && done.len() <= 40 + CONCURRENT_MAX, "{}", done.len());
        assert_eq!((failed.len(), done.len() + failed.len() + left), (1, 10_000));
    }
}
