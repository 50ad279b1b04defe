//! Until when this node can be sure that nobody else leads what it leads (rule R29, amendment A4).
//!
//! The controller takes a lead away only from a node that it has not heard for a session, or whose connection is gone, after
//! what that node sent last; or by metadata that it tells that node. It gives it only to one that is in sync or eligible;
//! to others where an operator has a leader step down, which gives up what that one serves. So a leader that has had an
//! answer of the controller within a session, and has applied what that was given on, or has heard within one that every
//! such node still follows it, has not been replaced for longer than that. Otherwise it serves no reads, and takes no
//! writes that are answered by itself: both could be of a past that the new leader does not have.
//!
//! Time counts from when something was asked for, not from when its answer was read: what lay in a buffer while this
//! process was stopped says nothing about now. This bounds how stale an answer can be; nothing is lost without it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use walser_model::{Clock, NodeId};
use walser_replication::NodeSet;

/// Answers that wait for their metadata; beyond that, later ones do not count.
const ANSWERS_MAX: usize = 64;

/// When the controller and other nodes were heard last. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    clock: Arc<dyn Clock>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Of the controller, in microseconds.
    session: AtomicU64,
    /// When the last beat was sent that the controller has answered, on metadata that is applied here; monotonic, in
    /// microseconds.
    controller: AtomicU64,
    /// Answers on metadata that is not, with its version, oldest first.
    answers: Mutex<VecDeque<(Duration, i64)>>,
    /// The same of followers.
    followers: RwLock<HashMap<NodeId, Duration>>,
}

/// Microseconds, for an atomic; the longest time stands for ever.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

// === impl Contact ===

impl Contact {
    /// Nobody has been heard yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, heard: Arc::default() }
    }

    /// Monotonic, as everything here.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The controller ends the session of a node that it has not heard for so long.
    pub(crate) fn set_session(&self, session: Duration) {
        self.heard.session.store(micros(session), Ordering::Release);
    }

    /// The controller has answered what was sent then, on this version of the metadata. That says who leads only to those
    /// who have applied it: it may name another leader.
    pub(crate) fn controller_answered(&self, sent: Duration, version: i64) {
        let mut answers = self.heard.answers.lock();
        if answers.len() < ANSWERS_MAX {
            answers.push_back((sent, version));
        }
    }

    /// Metadata up to a version has been applied. Inclusive.
    pub(crate) fn applied(&self, version: i64) {
        let mut answers = self.heard.answers.lock();
        while let Some((sent, _)) = answers.pop_front_if(|(_, of)| *of <= version) {
            self.heard.controller.fetch_max(micros(sent), Ordering::AcqRel);
        }
    }

    /// A follower has answered what was sent to it then, or later. A time that has not come yet says nothing.
    pub(crate) fn follower_answered(&self, follower: NodeId, sent: Duration) {
        if sent <= self.now() {
            let mut followers = self.heard.followers.write();
            let last = followers.entry(follower).or_default();
            *last = sent.max(*last);
        }
    }

    /// Since when all of some followers have been heard: that of the one that was heard first. Without any: for ever.
    pub(crate) fn all_answered(&self, followers: &NodeSet) -> Duration {
        let heard = self.heard.followers.read();
        let each = followers.iter().map(|follower| heard.get(&follower).copied().unwrap_or_default());
        each.min().unwrap_or(Duration::MAX)
    }

    /// Whether the controller was heard within a session.
    pub(crate) fn with_controller(&self) -> bool {
        self.within_session(Duration::from_micros(self.heard.controller.load(Ordering::Acquire)))
    }

    /// Whether a time is within a session of now.
    pub(crate) fn within_session(&self, then: Duration) -> bool {
        let session = Duration::from_micros(self.heard.session.load(Ordering::Acquire));
        self.now() <= then.saturating_add(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands where it is put.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn advance(&self, by: Duration) {
            self.0.fetch_add(micros(by), Ordering::AcqRel);
        }
    }

    impl Clock for Hand {
        fn now_millis(&self) -> walser_model::Timestamp {
            0
        }

        fn monotonic(&self) -> Duration {
            Duration::from_micros(self.0.load(Ordering::Acquire))
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_session_counts_from_when_the_last_answer_was_asked_for() {
        let clock = Arc::new(Hand::default());
        let contact = Contact::new(clock.clone());
        clock.advance(at(10_000));
        contact.set_session(at(2_000));
        assert!(!contact.with_controller(), "nothing was asked for yet");
        contact.controller_answered(at(9_000), 7);
        contact.applied(6);
        assert!(!contact.with_controller(), "somebody else may lead by what is not applied");
        contact.applied(7);
        clock.advance(at(1_000));
        assert!(contact.with_controller(), "inclusive");
        clock.advance(at(1));
        assert!(!contact.with_controller());
        contact.controller_answered(at(8_000), 7);
        contact.applied(7);
        assert!(!contact.with_controller(), "an answer that comes late");
        for millis in 11_000..12_000 {
            contact.controller_answered(at(millis), 8);
        }
        clock.advance(at(1_500));
        contact.applied(8);
        assert!(contact.with_controller(), "those that were asked for first are enough");
    }

    #[test]
    fn followers_count_only_together_and_by_what_they_were_asked() {
        let clock = Arc::new(Hand::default());
        let contact = Contact::new(clock.clone());
        clock.advance(at(10_000));
        let (both, nobody) = ([NodeId(2), NodeId(3)].into_iter().collect(), NodeSet::EMPTY);
        assert_eq!(contact.all_answered(&nobody), Duration::MAX);
        contact.follower_answered(NodeId(2), at(9_500));
        assert_eq!(contact.all_answered(&both), Duration::ZERO, "one of them was never heard");
        contact.follower_answered(NodeId(3), at(9_000));
        contact.follower_answered(NodeId(3), at(8_000));
        contact.follower_answered(NodeId(3), at(11_000));
        assert_eq!(contact.all_answered(&both), at(9_000), "neither an earlier time nor one to come");
    }
}
