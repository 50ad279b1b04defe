//! What people are told while the server does not let a member in: once, and once more when it has.

use std::time::Duration;

use tokio::time::Instant;
use walser_client::{ApiError, Reason};

use crate::error::{CHECK_COORDINATORS, in_words};
use crate::output;

/// A join that takes no longer is nothing to tell.
const QUIET: Duration = Duration::from_millis(1500);
/// Time between two looks at whether the member is in.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether a member is in, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Since when it is not in.
    since: Option<Instant>,
    told: bool,
}

// === impl Waiting ===

impl Waiting {
    /// Notes whether the member is in. Returns whether it is to be told that it is waited for.
    pub(super) fn is_long(&mut self, joined: bool, now: Instant) -> bool {
        if joined {
            self.since = None;
            return false;
        }
        let long = now.duration_since(*self.since.get_or_insert(now)) >= QUIET;
        long && !std::mem::replace(&mut self.told, true)
    }

    /// The server is away: returns whether that is to be told.
    pub(super) fn away(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// The member is in. Returns whether it was told that it was waited for.
    pub(super) fn over(&mut self) -> bool {
        self.since = None;
        std::mem::take(&mut self.told)
    }
}

/// Says that nothing has come of a join.
pub(super) fn tell_silence(group: &str, server: &str, patience: u64) {
    output::warning(&format!(
        "waiting to join group \"{group}\": its coordinator has not answered {server} yet; trying for up to {patience} s"
    ));
    output::help(CHECK_COORDINATORS);
}

/// Says why the member is not in.
pub(super) fn tell_away(failure: &ApiError, group: &str, server: &str, patience: u64) {
    let why = in_words(failure, server);
    if failure.reason() != Reason::CoordinatorNotAvailable {
        return output::warning(&format!(
            "cannot read in group \"{group}\" now: {why}; retrying for up to {patience} s"
        ));
    }
    output::warning(&format!(
        "waiting for the coordinator of group \"{group}\": {why}; retrying for up to {patience} s"
    ));
    output::help(CHECK_COORDINATORS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_is_told_once_and_its_end_only_then() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!waiting.is_long(false, at(0)) && !waiting.is_long(false, at(1000)));
        assert!(!waiting.over(), "it was short");
        assert!(!waiting.is_long(true, at(60_000)) && !waiting.is_long(false, at(60_000)));
        assert!(waiting.is_long(false, at(62_000)) && !waiting.is_long(false, at(99_000)));
        assert!(!waiting.away(), "the same outage");
        assert!(waiting.over() && !waiting.over());
        assert!(waiting.away() && !waiting.is_long(false, at(200_000)) && !waiting.is_long(false, at(300_000)));
    }
}
