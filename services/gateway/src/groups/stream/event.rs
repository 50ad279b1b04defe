//! What the client of a member is told.

use std::time::Duration;

use walser_group::{CommittedOffset, RemovalCause};
use walser_model::{Timestamp, TopicId};

use crate::reading::{Chunk, PartitionFailure, PartitionName, Progress, Reset};

/// What comes next on the stream of a member.
#[derive(Debug)]
pub(crate) enum GroupEvent {
    Joined {
        member_id: String,
        token: String,
        session_timeout: Duration,
        processing_timeout: Duration,
    },
    Assigned(Vec<Assigned>),
    /// The client is asked to let partitions go.
    Revoking {
        id: i64,
        partitions: Vec<PartitionName>,
        timeout: Duration,
    },
    Revoked {
        partitions: Vec<PartitionName>,
        cause: RevocationCause,
    },
    Chunk(Chunk),
    /// Of a commit, what was refused.
    Committed {
        id: i64,
        refused: Vec<PartitionFailure>,
    },
    Heartbeat {
        server_time: Timestamp,
        progress: Vec<Progress>,
    },
    CaughtUp(Vec<Progress>),
    Reset(Reset),
    Problem(PartitionFailure),
    /// The stream ends, and takes no longer than this.
    Drain(Duration),
}

impl GroupEvent {
    /// How much it holds, in partitions and errors.
    pub(super) fn item_count(&self) -> usize {
        match self {
            Self::Assigned(all) => all.len(),
            Self::Revoking { partitions, .. } | Self::Revoked { partitions, .. } => partitions.len(),
            Self::Committed { refused, .. } => 1 + refused.len(),
            Self::Heartbeat { progress, .. } | Self::CaughtUp(progress) => progress.len(),
            _ => 1,
        }
    }
}

/// A partition that the member reads from here on.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) of: PartitionName,
    pub(crate) topic: TopicId,
    pub(crate) start_offset: i64,
    pub(crate) committed: Option<CommittedOffset>,
}

/// Why partitions have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevocationCause {
    Rebalance,
    Fenced,
    SessionExpired,
    ProcessingTimeout,
    TopicDeleted,
}

impl From<RemovalCause> for RevocationCause {
    fn from(cause: RemovalCause) -> Self {
        match cause {
            RemovalCause::Fenced => Self::Fenced,
            RemovalCause::Left | RemovalCause::SessionExpired => Self::SessionExpired,
            RemovalCause::ProcessingTimeout => Self::ProcessingTimeout,
        }
    }
}
