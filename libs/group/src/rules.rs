//! Which rules hold. All of them, except in tests that show that each is needed.
//!
//! With the feature `mutations` a rule can be switched off, and the simulation must then find a violation. Without it
//! [`GroupRules`] has no state and every rule holds.

/// A rule that a mutation drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GroupRule {
    /// A partition is assigned only when no other member holds it (KIP-848).
    RevocationIsAwaited,
    /// A release counts only for the assignment epoch that it names.
    ReleaseNamesAssignment,
    /// A partition whose revocation timeout has passed is taken from its member.
    RevocationTimesOut,
    /// A member commits only partitions that it holds.
    CommitChecksOwner,
    /// A member commits a partition only with an epoch at or above the epoch in which it was assigned (KIP-1251).
    CommitChecksAssignmentEpoch,
    /// A commit that is older than one already applied, of the same attachment, is refused.
    CommitsKeepOrder,
    /// A commit without a member needs a group without members.
    SimpleCommitNeedsEmptyGroup,
    /// Requests of an attachment that is not the newest of its member are refused.
    AttachmentFences,
    /// Attachments are written, so that they fence after a takeover too.
    AttachmentIsWritten,
    /// Attachment numbers are reserved before they are handed out, so that no successor hands them out again.
    AttachmentsAreReserved,
    /// A member of which nothing was heard for its session timeout is removed.
    SessionEnds,
    /// A gateway's heartbeat extends the sessions of its members.
    GatewayExtendsSessions,
    /// A member that its gateway does not know is detached.
    OrphansAreDetached,
    /// A successor of a coordinator gives every member a full session.
    SessionsRestart,
    /// A static instance id belongs to one member.
    InstanceIsExclusive,
    /// A change of the subscribed partitions leads to another assignment.
    TopicsReassign,
    /// Offsets expire only while their group has no members.
    ExpiryNeedsEmptyGroup,
    /// A forced reset takes the partitions from their owners, and assigns them in a later epoch.
    ForcedResetReassigns,
}

impl GroupRule {
    /// Every rule there is.
    pub const ALL: &[Self] = &[
        Self::RevocationIsAwaited,
        Self::ReleaseNamesAssignment,
        Self::RevocationTimesOut,
        Self::CommitChecksOwner,
        Self::CommitChecksAssignmentEpoch,
        Self::CommitsKeepOrder,
        Self::SimpleCommitNeedsEmptyGroup,
        Self::AttachmentFences,
        Self::AttachmentIsWritten,
        Self::AttachmentsAreReserved,
        Self::SessionEnds,
        Self::GatewayExtendsSessions,
        Self::OrphansAreDetached,
        Self::SessionsRestart,
        Self::InstanceIsExclusive,
        Self::TopicsReassign,
        Self::ExpiryNeedsEmptyGroup,
        Self::ForcedResetReassigns,
    ];
}

/// Each has a bit in [`GroupRules`].
#[cfg(feature = "mutations")]
const _: () = assert!(GroupRule::ALL.len() <= 32);

/// The rules that hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupRules {
    #[cfg(feature = "mutations")]
    dropped: u32,
}

impl GroupRules {
    /// Every rule there is.
    pub const ALL: Self = Self {
        #[cfg(feature = "mutations")]
        dropped: 0,
    };

    /// Returns all rules but one.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub fn without(rule: GroupRule) -> Self {
        Self { dropped: 1 << rule as u8 }
    }

    /// Whether a rule holds.
    #[cfg(feature = "mutations")]
    pub fn hold(self, rule: GroupRule) -> bool {
        self.dropped & (1 << rule as u8) == 0
    }

    /// Whether a rule holds.
    #[cfg(not(feature = "mutations"))]
    #[expect(clippy::unused_self, reason = "the same interface as with mutations")]
    pub const fn hold(self, _rule: GroupRule) -> bool {
        true
    }
}
