//! What happens to old records of a topic.

use std::str::FromStr;

use crate::config_value::ValueError;

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// Whole segments go away by age and size.
    Delete,
    /// Of each key the newest record stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

// === impl CleanupPolicy ===

impl FromStr for CleanupPolicy {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let has = |policy: &str| text.split(',').any(|found| found.trim() == policy);
        let known = text.split(',').all(|found| matches!(found.trim(), "compact" | "delete"));
        match (has("compact"), has("delete")) {
            (true, true) if known => Ok(Self::CompactAndDelete),
            (true, false) if known => Ok(Self::Compact),
            (false, true) if known => Ok(Self::Delete),
            _ => Err(ValueError::one_of(text, &["delete", "compact", "compact,delete"])),
        }
    }
}

impl CleanupPolicy {
    /// Whether of each key the newest record stays.
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// Whether segments go away by age and size.
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }
}
