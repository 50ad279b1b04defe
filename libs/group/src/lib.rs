//! Consumer groups as one pure state machine, in the manner of KIP-848: membership, assignment, incremental hand-over of
//! partitions, and committed offsets.
//!
//! A [`GroupShard`] holds the groups of one coordinator shard. Its driver, the coordinator, owns the log, the clock and
//! the network. For each request it calls one method, which gives an answer and an [`Output`]:
//!
//! ```text
//!   request --> GroupShard --> answer, notices   released once the events, and all before them, are replicated
//!                    |
//!                    +-------> events            appended as one batch; applied already, so that the next request may
//!                                                be handled before they are replicated
//! ```
//!
//! [`Event`]s have keys; the log is compacted. A coordinator that takes over replays them, calls [`GroupShard::start`],
//! and continues. If an append fails, the coordinator drops the shard, releases no answer, and replays.
//!
//! The member is played by a gateway. It attaches members, with numbers that fence earlier attachments; it hears of
//! assignments in notices and in the answers to heartbeats; it stops delivering what is being revoked and releases it, at
//! once or when its client confirms. Only the gateway knows which records are outstanding, and for how long: it removes a
//! member whose processing timeout has passed with [`GroupShard::leave`].
//!
//! A coordinator, without its network and log:
//!
//! ```
//! use walser_group::{Config, Event, EventCodecError, GroupShard, Join, Now, Output, Subscription, TopicChange};
//!
//! fn takes_over(log: &[(Vec<u8>, Option<Vec<u8>>)], topics: Vec<TopicChange>) -> Result<GroupShard, EventCodecError> {
//!     let mut shard = GroupShard::new(Config::default());
//!     for (key, value) in log {
//!         if let Some(event) = Event::decode(key, value.as_deref())? {
//!             shard.replay(event);
//!         }
//!     }
//!     let mut out = Output::default();
//!     shard.start(Now::default(), topics, &mut out);
//!     append(out, || ());
//!     Ok(shard)
//! }
//!
//! fn joins(shard: &mut GroupShard, now: Now, join: Join) {
//!     let mut out = Output::default();
//!     let answer = shard.join(now, join, &mut out);
//!     append(out, move || println!("{answer:?}"));
//! }
//!
//! fn time_passes(shard: &mut GroupShard, now: Now) {
//!     while shard.next_deadline().is_some_and(|due| due <= now.monotonic) {
//!         let mut out = Output::default();
//!         shard.tick(now, &mut out);
//!         append(out, || ());
//!     }
//! }
//!
//! /// Appends the events with acks=all, and then, in the order of all appends, answers and sends the notices. An output
//! /// without events waits for those before it.
//! fn append(out: Output, answer: impl FnOnce()) {
//!     let batch: Vec<_> = out.events.iter().map(Event::encode).collect();
//! #   drop(batch);
//!     answer();
//! }
//! ```
//!
//! Three epochs count on one line. The group epoch grows when members, subscriptions or topics change. The assignment
//! epoch is the group epoch for which targets were computed. The member epoch is the assignment epoch that a member has
//! reached: it first releases what is not in its target, and then takes what is free.
//!
//! What holds:
//!
//! 1. **One owner.** No two members hold a partition at one time. It moves on when its holder has released it, has had its
//!    revocation timeout, or is gone.
//! 2. **Commits are fenced.** A member commits what it holds, in an epoch at or above that of the assignment and at most
//!    its own (KIP-1251), from its newest attachment, in the order of its commits.
//! 3. **A takeover revokes nothing.** Sessions begin anew, in full. Attachment numbers are never used twice.
//! 4. **Replay is the state.** [`Event`]s alone change what is durable.
//! 5. **Bounds.** [`Config`] limits everything that requests can grow. The cost of a request depends on its own group only.
//!
//! Invariant: no clock, no I/O, no randomness, no order of a hash map.

mod assignor;
mod config;
mod deadlines;
mod error;
mod event;
mod group;
mod id;
mod lag;
mod rules;
mod shard;
mod state;
mod subscription;
mod topics;

pub use assignor::{AssignorMember, assign};
pub use config::Config;
pub use error::GroupError;
pub use event::{
    AssignedPartitions, AttachmentRecord, CommittedOffset, CurrentAssignment, EncodedEvent, Event, EventCodecError,
    GroupRecord, MemberRecord,
};
pub use group::GroupPhase;
pub use id::{
    AttachmentNumber, CoordinatorEpoch, GatewayId, GroupEpoch, GroupId, InstanceId, MemberId, NAME_BYTES_MAX,
    NameError, TokenKey,
};
pub use lag::{LogEnds, partitions_read, total_lag};
pub use rules::{GroupRule, GroupRules};
pub use shard::{
    Attach, Attached, Commit, CommitAuthor, DetachGrace, GroupDescription, GroupShard, GroupSummary, Join,
    MemberDescription, MemberRef, Notice, NoticeContent, Now, OffsetMove, OffsetToCommit, Output, RemovalCause,
};
pub use subscription::{Assignor, Subscription};
pub use topics::TopicChange;
