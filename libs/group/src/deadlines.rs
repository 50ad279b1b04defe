//! When something is due: one structure for all groups of a shard, with at most one deadline per [`Timer`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{GroupId, MemberId};

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The session of a member may be over.
    Session(GroupId, MemberId),
    /// The member has had its time to release what it was asked for.
    Revocation(GroupId, MemberId),
    /// The group gets another assignment.
    Assignment(GroupId),
    /// The offsets of a group without members may have expired.
    Expiry(GroupId),
}

/// Deadlines in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    at: BTreeMap<Timer, Duration>,
    due: BTreeSet<(Duration, Timer)>,
}

impl Deadlines {
    /// Sets a deadline, or moves it.
    pub(crate) fn set(&mut self, timer: Timer, at: Duration) {
        match self.at.insert(timer.clone(), at) {
            Some(before) if before == at => return,
            Some(before) => {
                self.due.remove(&(before, timer.clone()));
            }
            None => {}
        }
        self.due.insert((at, timer));
    }

    /// Forgets a deadline, if there is one.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// Whether there is a deadline.
    pub(crate) fn is_set(&self, timer: &Timer) -> bool {
        self.at.contains_key(timer)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer whose deadline is at or before `now`.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<Timer> {
        let (at, timer) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (at, timer) = (*at, timer.clone());
        self.at.remove(&timer);
        self.due.remove(&(at, timer.clone()));
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_has_one_deadline_and_is_taken_once() {
        let (mut deadlines, second) = (Deadlines::default(), Duration::from_secs(1));
        let timer = |name: &str| Timer::Assignment(name.parse().unwrap());
        deadlines.set(timer("a"), second * 3);
        deadlines.set(timer("a"), second);
        deadlines.set(timer("b"), second * 2);
        deadlines.set(timer("c"), second * 2);
        deadlines.cancel(timer("c"));
        assert_eq!(deadlines.next(), Some(second));
        assert_eq!(deadlines.take_due(second / 2), None);
        assert_eq!(deadlines.take_due(second * 2), Some(timer("a")));
        assert_eq!(deadlines.take_due(second * 2), Some(timer("b")));
        assert_eq!(deadlines.take_due(second * 9), None);
    }
}
