//! What becomes of a partition of which no replica that has everything is in service.

use std::str::FromStr;

use crate::config_value::ValueError;

/// How a leader is found then (KIP-966, unclean recovery).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RecoveryPolicy {
    /// An operator decides.
    #[default]
    Manual,
    /// When all that were the last to have everything are in service again, and have lost some of it: the one that has
    /// most.
    Balanced,
    /// Soon, of the replicas that are in service: the one that has most. What only the others have is lost.
    Proactive,
}

impl RecoveryPolicy {
    /// The value of the topic setting `recovery.policy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Balanced => "balanced",
            Self::Proactive => "proactive",
        }
    }
}

impl FromStr for RecoveryPolicy {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let all = [Self::Manual, Self::Balanced, Self::Proactive];
        let found = all.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| ValueError::one_of(text, &all.map(Self::name)))
    }
}
