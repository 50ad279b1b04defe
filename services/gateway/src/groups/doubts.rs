//! Whether the coordinator may believe a member to be at this gateway that is not: it has not answered what was asked for the
//! member last, and may do it yet.
//!
//! While it may, the gateway keeps a session with it, on which it names the members that it has: the coordinator lets go of
//! all others.

use std::sync::atomic::{AtomicU64, Ordering};

use walser_group::DetachGrace;
use walser_rpc::MemberRequest;

/// The doubts of one shard, numbered in their order.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    last: AtomicU64,
    settled: AtomicU64,
}

/// What a question without an answer leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftover {
    Nothing,
    /// A member, where the question has been sent.
    MemberIfSent,
    /// A member that has gone from here.
    Member,
}

// === impl Doubts ===

impl Doubts {
    /// There is one more.
    pub(super) fn add(&self) {
        self.last.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of the last one; 0: there was none.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Those up to a number are over.
    pub(super) fn settle(&self, number: u64) {
        self.settled.fetch_max(number, Ordering::SeqCst);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.settled.load(Ordering::SeqCst) >= self.last()
    }
}

// === impl Leftover ===

impl Leftover {
    pub(super) fn of(request: &MemberRequest) -> Self {
        match request {
            MemberRequest::Join(_) | MemberRequest::Attach(_) => Self::MemberIfSent,
            // A dynamic member may come back until its session timeout: that is what the coordinator gives it anyway.
            MemberRequest::Detach { member, grace: DetachGrace::Session } if member.instance.is_none() => Self::Nothing,
            MemberRequest::Detach { .. } | MemberRequest::Leave { .. } => Self::Member,
            MemberRequest::Release { .. }
            | MemberRequest::Commit(_)
            | MemberRequest::Heartbeat(_)
            | MemberRequest::Report(_)
            | MemberRequest::Alive
            | MemberRequest::Offsets { .. } => Self::Nothing,
        }
    }
}
