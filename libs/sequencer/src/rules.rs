//! Which rules hold. All of them, except in tests that show that each is needed.
//!
//! With the feature `mutations` a rule can be switched off, and the simulation must then find a violation. Without it
//! [`Rules`] has no state and every rule holds.

/// A rule that a mutation drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A batch that may be written keeps its sequence until its outcome is known.
    AmbiguousKeepsNumber,
    /// A new session begins only once no batch is in flight and none may be written.
    SessionWaits,
    /// What was sent and not answered may be written, and its caller hears so.
    SentMayBeWritten,
    /// Every caller is answered, also when its time is over before its batch is.
    EveryCallerIsAnswered,
    /// A batch that was refused is sent again before later ones are.
    RefusedGoFirst,
    /// Without sequences, a refused batch is not sent again behind one that may be written.
    OvertakenIsNotResent,
    /// Without sequences, a batch that may be written is not sent again.
    UnnumberedIsSentOnce,
    /// What has not left by its deadline does not leave.
    DeadlineHoldsBack,
    /// Records leave a batch that was sent only when it is certainly not written.
    UnwrittenShrinks,
}

impl Rule {
    /// Every rule there is.
    pub const ALL: &[Self] = &[
        Self::AmbiguousKeepsNumber,
        Self::SessionWaits,
        Self::SentMayBeWritten,
        Self::EveryCallerIsAnswered,
        Self::RefusedGoFirst,
        Self::OvertakenIsNotResent,
        Self::UnnumberedIsSentOnce,
        Self::DeadlineHoldsBack,
        Self::UnwrittenShrinks,
    ];
}

/// Each has a bit in [`Rules`].
#[cfg(feature = "mutations")]
const _: () = assert!(Rule::ALL.len() <= 32);

/// The rules that hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    #[cfg(feature = "mutations")]
    dropped: u32,
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
    #[expect(clippy::unused_self, reason = "the same interface as with mutations")]
    pub const fn hold(self, _rule: Rule) -> bool {
        true
    }
}
