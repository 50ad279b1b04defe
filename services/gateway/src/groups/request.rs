//! What the client of a member asks for, checked.

use std::time::Duration;

use walser_group::{GatewayId, GroupId, InstanceId, Join, MemberId, Subscription};
use walser_model::{LeaderEpoch, Offset, TopicId};
use walser_rpc::SealedToken;

use crate::reading::{Options, PartitionName, ReadPosition};

use super::credit::Grant;

/// Who commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitMode {
    /// The client.
    Manual,
    /// The gateway, behind what the client has taken.
    Auto,
    /// The gateway, before it sends.
    BeforeDelivery,
}

/// How a client joins.
#[derive(Debug, Clone)]
pub(crate) struct JoinRequest {
    pub(crate) group: GroupId,
    pub(crate) instance: Option<InstanceId>,
    /// Neither a topic nor a pattern: as the member of the token had it.
    pub(crate) subscription: Subscription,
    pub(crate) token: Option<SealedToken>,
    /// Where a partition without a committed offset begins.
    pub(crate) start: ReadPosition,
    pub(crate) options: Options,
    pub(crate) session_timeout: Duration,
    pub(crate) processing_timeout: Duration,
    /// `None`: revocations need no word of the client.
    pub(crate) confirm_within: Option<Duration>,
    pub(crate) commit_mode: CommitMode,
    /// The first credit; `None`: there is no limit.
    pub(crate) credit: Option<Grant>,
    pub(crate) client_id: String,
    pub(crate) client_address: String,
}

impl JoinRequest {
    /// How long the coordinator waits for what is to be released. Where the client is not asked, the gateway releases it at
    /// once.
    pub(super) fn revocation_timeout(&self) -> Duration {
        self.confirm_within.unwrap_or(self.session_timeout)
    }

    /// What the coordinator is asked for a new member. `gateway`: `None` for one that polls.
    pub(super) fn join(&self, member: MemberId, gateway: Option<GatewayId>) -> Join {
        Join {
            group: self.group.clone(),
            member,
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_address: self.client_address.clone(),
            subscription: self.subscription.clone(),
            session_timeout: self.session_timeout,
            revocation_timeout: self.revocation_timeout(),
            gateway,
        }
    }
}

/// An offset to commit.
#[derive(Debug, Clone)]
pub(crate) struct OffsetCommit {
    pub(crate) of: PartitionName,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    pub(crate) metadata: String,
    /// `None`: whichever topic has the name.
    pub(crate) topic_id: Option<TopicId>,
}

/// A commit of the client.
#[derive(Debug, Clone)]
pub(crate) struct CommitRequest {
    /// 0: only failures are told.
    pub(crate) id: i64,
    pub(crate) offsets: Vec<OffsetCommit>,
}

/// Where to read on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) of: PartitionName,
    pub(crate) start: ReadPosition,
}

/// What a client says after it has joined.
#[derive(Debug, Clone)]
pub(crate) enum GroupRequest {
    Credit(Grant),
    Commit(CommitRequest),
    Confirm { revocation: i64, offsets: Vec<OffsetCommit> },
    Extend(Duration),
    Pause(PartitionName),
    Resume(PartitionName),
    Seek(Place),
    Leave { keep_static_assignment: bool },
    Heartbeat,
}
