//! Topics that a command deals with one by one: several calls at once, and no further ones once a call has failed, or
//! somebody has interrupted it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};

use crate::error::CliError;
use crate::output::{first_of, plural};
use crate::signal::{Interrupt, Interrupts};

/// Calls that are under way at once.
const CONCURRENT_MAX: usize = 16;
/// After an interrupt, calls that are under way are waited for so long.
const GRACE: Duration = Duration::from_secs(5);

/// Topics that an error names one by one.
const NAMED_MAX: usize = 20;

/// What became of the topics.
#[derive(Debug)]
pub(super) struct Dealt<T> {
    /// What the calls that succeeded gave, in the order of the names.
    pub(super) done: Vec<T>,
    /// Why others failed, in the same order.
    failed: Vec<CliError>,
    /// Names for which no call was made.
    left: usize,
    /// Names whose calls may have been carried out, or not: they had no answer when the waiting ended, or one that does not
    /// tell.
    unknown: Vec<String>,
    interrupted: Option<Interrupt>,
}

/// Makes a call for each name. One that gives `None` found nothing to deal with.
pub(super) async fn each<T, F>(names: Vec<String>, call: impl Fn(String) -> F) -> Dealt<T>
where
    F: Future<Output = Result<Option<T>, CliError>>,
{
    let (stop, begun, call) = (&AtomicBool::new(false), &AtomicUsize::new(0), &call);
    let all = &names;
    let calls = names.iter().cloned().map(|name| async move {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        begun.fetch_add(1, Ordering::Relaxed);
        let outcome = call(name).await;
        stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
        Some(outcome)
    });
    let mut outcomes = stream::iter(calls).buffered(CONCURRENT_MAX);
    let mut dealt = Dealt { done: Vec::new(), failed: Vec::new(), left: 0, unknown: Vec::new(), interrupted: None };
    let mut interrupts = Interrupts::listen().ok();
    let mut answered = 0;
    let mut deadline = None;
    loop {
        let outcome = tokio::select! {
            outcome = outcomes.next() => outcome,
            interrupt = next_of(&mut interrupts) => {
                stop.store(true, Ordering::Relaxed);
                dealt.interrupted = Some(interrupt);
                let now = tokio::time::Instant::now();
                // Another one: no more waiting.
                deadline = Some(if deadline.is_some() { now } else { now + GRACE });
                continue;
            }
            () = until(deadline) => None,
        };
        match outcome {
            None => break,
            Some(None) => {}
            Some(Some(outcome)) => {
                // Calls begin in the order of the names, and so do their outcomes come.
                let name = &all[answered];
                answered += 1;
                match outcome {
                    Ok(done) => dealt.done.extend(done),
                    Err(error) => {
                        dealt.unknown.extend(error.is_in_doubt().then(|| name.clone()));
                        dealt.failed.push(error);
                    }
                }
            }
        }
    }
    let begun = begun.load(Ordering::Relaxed);
    dealt.unknown.extend_from_slice(&all[answered..begun]);
    dealt.left = all.len() - begun;
    drop(outcomes);
    dealt
}

async fn next_of(interrupts: &mut Option<Interrupts>) -> Interrupt {
    match interrupts {
        Some(interrupts) => interrupts.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl<T> Dealt<T> {
    /// One that was dealt with.
    pub(super) fn one(done: T) -> Self {
        Self { done: vec![done], failed: Vec::new(), left: 0, unknown: Vec::new(), interrupted: None }
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

    /// The error of the command, if a call has failed or it was interrupted; what other calls failed with is shown before.
    pub(super) fn error(self) -> Option<CliError> {
        let mut failed = self.failed;
        failed.dedup_by(|error, before| error.what() == before.what());
        let last = match self.interrupted {
            Some(interrupt) => CliError::interrupted(interrupt),
            None => failed.pop()?,
        };
        failed.iter().for_each(CliError::show);
        let last = if self.unknown.is_empty() { last } else { last.with_why(in_doubt(&self.unknown)) };
        let left = plural(i64::try_from(self.left).unwrap_or(i64::MAX), "topic");
        Some(match (self.done.is_empty(), self.left) {
            (true, 0) => last,
            (true, _) => last.with_why(format!("nothing was begun for {left} more")),
            (false, 0) => last.with_why("those listed above are done"),
            (false, _) => last.with_why(format!("those listed above are done, nothing was begun for {left} more")),
        })
    }
}

fn in_doubt(names: &[String]) -> String {
    let count = plural(i64::try_from(names.len()).unwrap_or(i64::MAX), "topic");
    let named = first_of(names.iter().cloned(), names.len(), NAMED_MAX);
    format!("it is not known whether it was done for {count}: {named}; look before you repeat it")
}

#[cfg(test)]
mod tests {
    use walser_proto::v1::Effect;
    use walser_rpc::{ApiError, Reason};

    use super::*;

    #[tokio::test]
    async fn no_call_is_made_after_one_that_failed_and_those_under_way_are_waited_for() {
        let names: Vec<_> = (0..10_000).map(|number| number.to_string()).collect();
        let dealt = each(names, |name| async move {
            tokio::task::yield_now().await;
            let number: usize = name.parse().unwrap();
            if number == 40 { Err(CliError::failed("no")) } else { Ok((number != 7).then_some(number)) }
        });
        let Dealt { done, failed, left, unknown, interrupted } = dealt.await;
        assert_eq!((unknown.len(), interrupted, done.contains(&7)), (0, None, false));
        assert!(done.is_sorted() && done.len() >= 39 && done.len() < 40 + CONCURRENT_MAX, "{}", done.len());
        assert_eq!((failed.len(), 1 + done.len() + failed.len() + left), (1, 10_000));
    }

    #[tokio::test]
    async fn calls_of_which_it_is_not_known_what_became_are_named() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let dealt = each(names, |name| async move {
            tokio::task::yield_now().await;
            let lost = ApiError::new(Reason::ControllerNotAvailable, "lost").with_effect(Effect::Maybe);
            match name.as_str() {
                "a" => Ok(Some(name)),
                "b" => Err(CliError::server(lost, "here")),
                _ => Err(CliError::failed("refused")),
            }
        });
        let dealt = dealt.await;
        assert_eq!(dealt.unknown, ["b"]);
        let told = format!("{:?}", dealt.error());
        assert!(told.contains("not known whether it was done for 1 topic: b;"), "{told}");
    }
}
