//! How a stream ends, and what becomes of its member.

use tokio::time::Instant;
use walser_group::{DetachGrace, RemovalCause};
use walser_rpc::{ApiError, Effect, Reason};

use crate::error::draining;
use crate::groups::request::CommitMode;

use super::{GroupEvent, GroupStream, RevocationCause};

/// How long commits that are under way, and the last words to the client, are waited for.
const LAST: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a client that has half-closed its stream may take to reset it: some libraries do one right after the other when
/// a stream is dropped, and it has not left then.
const RESET_WITHIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Why a stream ends.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// The client leaves.
    Leave { keep_static_assignment: bool },
    /// The client has half-closed its stream, at this time: it leaves, if it waits for the end.
    HalfClosed(Instant),
    /// The gateway stops, or the connection has reached its age.
    Drain,
    /// The client has broken the protocol, or the gateway has met a bug. The member may come back.
    Failed(ApiError),
    /// The connection of the client is broken.
    Vanished,
    /// The client is stuck.
    Stuck,
    /// The coordinator has removed the member.
    Removed(RemovalCause),
    /// The member is gone, or attached elsewhere.
    Fenced(ApiError),
}

impl GroupStream {
    /// Begins to end, unless that has begun. Nothing more is read from here on.
    pub(super) fn end_with(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        let causes = match &ending {
            Ending::Stuck => Some(RevocationCause::ProcessingTimeout),
            Ending::Removed(cause) => Some((*cause).into()),
            Ending::Fenced(failure) if failure.reason() == Reason::SessionExpired => {
                Some(RevocationCause::SessionExpired)
            }
            Ending::Fenced(_) => Some(RevocationCause::Fenced),
            _ => None,
        };
        let polite = matches!(ending, Ending::Leave { .. } | Ending::HalfClosed(_) | Ending::Drain);
        self.outgoing.drop_uncommitted(polite && self.settings.commit_mode == CommitMode::BeforeDelivery);
        let mut lost = Vec::new();
        for partition in self.holdings.partitions() {
            lost.extend(self.forget(&partition).filter(|held| held.announced).map(|held| held.name));
        }
        let asked = std::mem::take(&mut self.revocations).into_values();
        lost.extend(asked.flat_map(|revocation| revocation.held).map(|(_, held)| held.name));
        if let Some(cause) = causes {
            self.tell_gone(lost.into_iter(), cause);
        }
        self.timing.ends_at = Some(Instant::now() + LAST);
        if let Ending::HalfClosed(at) = ending {
            self.timing.wake_at(at + RESET_WITHIN);
        }
        self.ending = Some(ending);
    }

    /// Whether nothing is left to be done before the end.
    pub(super) fn is_done(&self) -> bool {
        let late = self.timing.ends_at.is_some_and(|at| at <= Instant::now());
        match &self.ending {
            None => false,
            Some(Ending::HalfClosed(at)) if at.elapsed() < RESET_WITHIN => false,
            Some(Ending::Leave { .. } | Ending::HalfClosed(_) | Ending::Drain) => {
                late || self.commits.is_idle() && self.outgoing.is_idle()
            }
            Some(_) => true,
        }
    }

    /// Ends the stream of a client that is still there.
    pub(super) async fn finish(self: Box<Self>) {
        let (calls, grace) = (self.membership.calls.clone(), self.end.grace());
        let Self { ending, mut outgoing, counted, settings, commits, membership, .. } = *self;
        let unanswered = || {
            let text = "the member has left, and the coordinator has not answered its last commits";
            ApiError::new(Reason::CoordinatorNotAvailable, text).with_effect(Effect::Maybe)
        };
        let unanswered = (!commits.is_idle()).then(unanswered);
        let failure = match ending {
            // A static member has its session timeout either way, and may be back at once.
            None | Some(Ending::Vanished) if settings.instance.is_some() => {
                calls.detach(DetachGrace::Session).await;
                counted.closed().await;
                return;
            }
            None | Some(Ending::Vanished) => {
                // At once: where its client has not read its new token, the one before is good from here on. How long it may stay
                // away is known a moment later; of both times the shorter counts.
                let away = calls.clone().detach(DetachGrace::Session);
                let grace = async { calls.detach(counted.closed().await).await };
                tokio::join!(away, grace);
                return;
            }
            Some(Ending::Leave { keep_static_assignment }) => {
                calls.leave(RemovalCause::Left, keep_static_assignment).await;
                unanswered
            }
            // As in Kafka, a static member that stops is expected back.
            Some(Ending::HalfClosed(_)) => {
                calls.leave(RemovalCause::Left, true).await;
                unanswered
            }
            Some(Ending::Drain) => {
                calls.detach(DetachGrace::Session).await;
                outgoing.tell(GroupEvent::Drain(grace));
                Some(draining())
            }
            Some(Ending::Failed(failure)) => {
                calls.detach(DetachGrace::Brief).await;
                Some(failure)
            }
            Some(Ending::Stuck) => {
                calls.leave(RemovalCause::ProcessingTimeout, false).await;
                let text =
                    "nothing was heard of the client for its processing_timeout while records were not committed";
                Some(ApiError::new(Reason::SessionExpired, text).with("cause", "processing-timeout"))
            }
            Some(Ending::Removed(cause)) => {
                let text = match cause {
                    RemovalCause::Fenced => "an operator has removed the member",
                    _ => "the coordinator has not heard of the member for its session timeout",
                };
                Some(ApiError::new(Reason::SessionExpired, text))
            }
            Some(Ending::Fenced(failure)) => Some(failure),
        };
        // Reports name it no more, however long its client takes.
        drop(membership);
        outgoing.end(failure, LAST).await;
    }

    /// The client is gone: its member may come back, unless it has left before.
    pub(super) async fn vanish(mut self: Box<Self>) {
        if matches!(self.ending, None | Some(Ending::HalfClosed(_))) {
            self.ending = Some(Ending::Vanished);
        }
        self.finish().await;
    }
}
