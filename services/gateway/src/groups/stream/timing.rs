//! When the driver of a stream wakes by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::groups::request::CommitMode;
use crate::reading::in_messages;

use super::ending::Ending;
use super::{GroupEvent, GroupStream};

/// What was sent counts as processed after this long, in streams that commit by themselves.
const PROCESSED_AFTER: Duration = Duration::from_secs(5);
/// Time between two looks at what counts as processed.
const AUTO_COMMIT: Duration = Duration::from_secs(1);
/// First and longest pause before the coordinator is asked again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The clocks of one stream.
#[derive(Debug)]
pub(super) struct Timing {
    processing_timeout: Duration,
    /// Without a sign of the client until then, it is stuck.
    processing_at: Instant,
    pub(super) heartbeat_at: Instant,
    auto_commit_at: Instant,
    /// The coordinator is not asked again before.
    retry_at: Option<Instant>,
    retry: Duration,
    /// The driver looks at the ending of its stream then.
    looks_at: Option<Instant>,
    /// The stream ends then, whatever is not done.
    pub(super) ends_at: Option<Instant>,
}

impl Timing {
    /// `heartbeat`: time until the first heartbeat.
    pub(super) fn new(processing_timeout: Duration, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self {
            processing_timeout,
            processing_at: now + processing_timeout,
            heartbeat_at: now + heartbeat,
            auto_commit_at: now + AUTO_COMMIT,
            retry_at: None,
            retry: RETRY_FIRST,
            looks_at: None,
            ends_at: None,
        }
    }

    /// The client has given a sign that it goes on.
    pub(super) fn client_goes_on(&mut self) {
        self.processing_at = self.processing_at.max(Instant::now() + self.processing_timeout);
    }

    /// The client needs longer: so long from now.
    pub(super) fn extend(&mut self, extension: Duration) {
        self.processing_at = Instant::now() + extension;
    }

    /// The coordinator is asked again after a pause, each longer than the one before.
    pub(super) fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    /// Wakes the driver at a time.
    pub(super) fn wake_at(&mut self, at: Instant) {
        self.looks_at = Some(at);
    }

    /// The coordinator has answered.
    pub(super) fn retried(&mut self) {
        (self.retry_at, self.retry) = (None, RETRY_FIRST);
    }

    /// Whether the coordinator may be asked now.
    pub(super) fn may_ask(&self) -> bool {
        self.retry_at.is_none()
    }
}

impl GroupStream {
    /// When something is due.
    pub(super) fn wakes(&self) -> Instant {
        let timing = &self.timing;
        if let Some(ends_at) = timing.ends_at {
            return [timing.retry_at, timing.looks_at].into_iter().flatten().fold(ends_at, Instant::min);
        }
        let auto = (self.settings.commit_mode == CommitMode::Auto).then_some(timing.auto_commit_at);
        let revocation = self.revocations.values().map(|revocation| revocation.until).min();
        let silent = self.heard_until().filter(|_| !self.suspended);
        let others = [auto, Some(timing.processing_at), timing.retry_at, revocation, silent, self.end.age_reached()];
        others.into_iter().flatten().fold(timing.heartbeat_at, Instant::min)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        self.timing.retry_at.take_if(|at| *at <= now);
        self.timing.looks_at.take_if(|at| *at <= now);
        if self.timing.ends_at.is_some() {
            return;
        }
        if self.end.begun() {
            return self.end_with(Ending::Drain);
        }
        if !self.suspended && self.is_silent(now) {
            tracing::debug!(member = self.membership.id(), "the coordinator is silent: nothing more is sent");
            // What it says of the member next decides what is sent from there on.
            (self.suspended, self.session) = (true, None);
        }
        self.give_up_revocations(now);
        if self.settings.commit_mode == CommitMode::Auto && self.timing.auto_commit_at <= now {
            self.commit_processed(now);
        }
        if self.timing.processing_at <= now || self.outgoing.are_many() {
            self.check_processing();
        }
        if self.timing.heartbeat_at <= now {
            self.heartbeat_later();
            // A client that does not take what it was told before learns nothing from more of it.
            if self.outgoing.is_idle() {
                let all = self.holdings.iter().filter_map(|(_, held)| held.progress());
                let parts = in_messages(all, self.settings.options.shape.message_bytes_max);
                let server_time = self.groups.reading.heartbeats().server_time();
                for progress in parts {
                    self.outgoing.tell(GroupEvent::Heartbeat { server_time, progress });
                }
            }
        }
    }

    /// Something was sent: the next heartbeat comes later.
    pub(super) fn heartbeat_later(&mut self) {
        self.timing.heartbeat_at = Instant::now() + self.groups.reading.heartbeats().delay();
    }

    /// Whether the coordinator may have given the member up.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.heard_until().is_some_and(|until| until <= now)
    }

    /// Until when the coordinator keeps the member, as far as it has been heard.
    fn heard_until(&self) -> Option<Instant> {
        Some((*self.membership.heard.borrow())? + self.membership.session_timeout)
    }

    /// Whether the client is stuck: it has taken nothing of what waits for it, or committed nothing of what it was sent, for
    /// its processing timeout.
    fn check_processing(&mut self) {
        let (now, limit) = (Instant::now(), self.settings.processing_timeout);
        let due = self.timing.processing_at <= now;
        let counts = due && self.settings.commit_mode == CommitMode::Manual && self.commits.is_idle();
        let oldest = self.holdings.iter().filter_map(|(_, held)| held.outstanding_since()).filter(|_| counts).min();
        if oldest.is_some_and(|since| since + limit <= now) || self.outgoing.is_stuck(limit) {
            self.end_with(Ending::Stuck);
        } else if due {
            self.timing.processing_at = oldest.unwrap_or(now) + limit;
        }
    }

    /// Commits what was taken long enough ago.
    fn commit_processed(&mut self, now: Instant) {
        self.timing.auto_commit_at = now + AUTO_COMMIT;
        let (mut processed, taken) = (Vec::new(), self.outgoing.taken());
        for (partition, held) in self.holdings.iter_mut() {
            if let Some(read_to) = held.processed((now, PROCESSED_AFTER), taken) {
                processed.push((*partition, read_to));
            }
        }
        for part in processed.chunks(crate::groups::commits::OFFSETS_MAX) {
            self.commit_for_client(part);
        }
    }
}
