//! Which rules hold. All of them, except in tests that show that each is needed.
//!
//! With the feature `mutations` a rule can be switched off, and the simulator must then find a violation. Without
//! it [`Rules`] has no state and every rule holds.

/// A rule that a mutation drops; the names follow the table in `docs/replication.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// R1: a node acts only on metadata that includes its own registration.
    FreshMetadata,
    /// R2: nothing counts in an epoch before its start is on stable storage.
    EpochStartIsDurable,
    /// §13: what the metadata says waits for a cut or a copy that is under way.
    WorkHoldsRoles,
    /// §13: a node whose log has failed, or that cannot lead, gives up the lead.
    LeadIsGivenUp,
    /// R3: the high watermark waits while too few replicas are in sync.
    HighWatermarkNeedsMinIsr,
    /// R3: the high watermark waits for the maximal in-sync set, not only for the one in the metadata.
    MaximalIsr,
    /// R3: with fsync a position is what is on stable storage.
    DurablePositions,
    /// R3: with page cache, a log end counts only where an unclean stop will be told.
    LazyIsTold,
    /// R6: a smaller in-sync set counts only once the controller has written it.
    ShrinkIsWritten,
    /// R7: a refused proposal does not make the maximal in-sync set smaller.
    RefusalKeepsMaximal,
    /// R8: who joins the in-sync set has everything that the leader had when it began.
    JoinFromEpochStart,
    /// R8: with fsync, who joins has it on stable storage.
    JoinOnDurable,
    /// R11: opens of another leader epoch are refused.
    EpochFence,
    /// R14, A1: answers and acknowledgements count only for the latest open.
    OpenSequence,
    /// R14: what is said on an open counts only for the incarnation that opened.
    OpenNamesProcess,
    /// R8: a node that the controller has refused is not proposed again before it is heard again.
    RefusedIsHeardFirst,
    /// R15: a follower does not cut its log to its high watermark.
    NoCutToHighWatermark,
    /// R10, KIP-903: who joins the in-sync set is the incarnation that caught up.
    NodeEpoch,
    /// R18: a node registers only once it is in no in-sync set and leads nothing.
    SweepBeforeRegistration,
    /// R18: a node registers only once its old incarnation is fenced.
    FenceBeforeRegistration,
    /// R19: who left an in-sync set that became too small may still be elected.
    EligibleLeaders,
    /// R20: a node that may have lost unflushed records is not eligible.
    UncleanIsNotEligible,
    /// R20: it stays so until a registration says it.
    UncleanIsSticky,
    /// §1.7: a write compares what was read of the partition and of the nodes.
    CompareAll,
    /// §1.7: a write compares what was read of the nodes, not of the partition only.
    CompareNodes,
    /// §1.7: a write compares who the controller is.
    ElectionGuard,
    /// §1.7: a transaction of several decisions compares what each of them was taken on.
    MergeKeepsComparisons,
    /// §1.7: the creation of a partition compares what was read of its nodes.
    CreationComparesNodes,
    /// §13: nodes and partitions of a view are of one revision.
    OneRevision,
    /// A10: a fenced node comes back once it has seen the fence, and is swept.
    UnfenceAfterSeen,
    /// §13: the in-sync sets of a restored store are not trusted.
    RestoreAsksAll,
    /// §13: each start of a controller begins leader epochs of its own.
    EpochsOfOneStart,
    /// §13: a log that may have what tombstones deleted that are gone is replaced.
    TombstonesAreThere,
    /// A2: a repeated batch is answered when the first one would be.
    RepeatWaits,
    /// R24: a leader epoch begins whenever a replica leaves the set.
    MoveBeginsEpoch,
    /// A3: a changed `min.insync.replicas` recomputes the eligible leaders.
    MinIsrRecomputes,
}

impl Rule {
    /// Every rule there is.
    pub const ALL: &[Self] = &[
        Self::FreshMetadata,
        Self::EpochStartIsDurable,
        Self::WorkHoldsRoles,
        Self::LeadIsGivenUp,
        Self::HighWatermarkNeedsMinIsr,
        Self::MaximalIsr,
        Self::DurablePositions,
        Self::LazyIsTold,
        Self::ShrinkIsWritten,
        Self::RefusalKeepsMaximal,
        Self::JoinFromEpochStart,
        Self::JoinOnDurable,
        Self::EpochFence,
        Self::OpenSequence,
        Self::OpenNamesProcess,
        Self::RefusedIsHeardFirst,
        Self::NoCutToHighWatermark,
        Self::NodeEpoch,
        Self::SweepBeforeRegistration,
        Self::FenceBeforeRegistration,
        Self::EligibleLeaders,
        Self::UncleanIsNotEligible,
        Self::UncleanIsSticky,
        Self::CompareAll,
        Self::CompareNodes,
        Self::ElectionGuard,
        Self::MergeKeepsComparisons,
        Self::CreationComparesNodes,
        Self::OneRevision,
        Self::UnfenceAfterSeen,
        Self::RestoreAsksAll,
        Self::EpochsOfOneStart,
        Self::TombstonesAreThere,
        Self::RepeatWaits,
        Self::MoveBeginsEpoch,
        Self::MinIsrRecomputes,
    ];
}

/// Each has a bit in [`Rules`].
#[cfg(feature = "mutations")]
const _: () = assert!(Rule::ALL.len() <= 64);

/// The rules that hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    #[cfg(feature = "mutations")]
    dropped: u64,
}

impl Rules {
    /// Every rule there is.
    pub const ALL: Self = Self {
        #[cfg(feature = "mutations")]
        dropped: 0,
    };

    /// Returns all rules but one.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub fn without(rule: Rule) -> Self {
        Self { dropped: 1 << rule as u8 }
    }

    /// Whether a rule holds.
    #[cfg(feature = "mutations")]
    pub fn hold(self, rule: Rule) -> bool {
        self.dropped & (1 << rule as u8) == 0
    }

    /// Whether a rule holds.
    #[cfg(not(feature = "mutations"))]
    #[expect(clippy::unused_self, reason = "the same face as with mutations")]
    pub const fn hold(self, _rule: Rule) -> bool {
        true
    }
}
