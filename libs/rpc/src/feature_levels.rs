//! Feature levels: what processes of different versions may expect of each other.
//!
//! A level stands for everything that processes of one cluster say to each other and write into the metadata. A version
//! that changes the meaning of something raises the highest level that it can work at, and keeps the lower ones for as
//! long as clusters are upgraded node by node. Processes whose ranges do not overlap do not talk.

use walser_proto::internal::v1::FeatureRange;

use crate::{ApiError, Reason};

/// Levels at which a process can work. Inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureLevels {
    pub min: i32,
    pub max: i32,
}

/// Levels of this version.
pub const FEATURE_LEVELS: FeatureLevels = FeatureLevels { min: 1, max: 1 };

impl FeatureLevels {
    /// What a caller says; one that says nothing is older than the levels, and works at 1.
    pub fn of_caller(range: Option<&FeatureRange>) -> Self {
        range.map_or(Self { min: 1, max: 1 }, |range| Self { min: range.min_level, max: range.max_level })
    }

    /// Refuses a caller that cannot work with this process. `who`: what it is called in the error.
    ///
    /// # Errors
    /// `FEATURE_DISABLED`, when the ranges do not overlap.
    pub fn check(self, caller: Self, who: &str) -> Result<(), ApiError> {
        if caller.min <= self.max && self.min <= caller.max {
            return Ok(());
        }
        let (newer, what) = if caller.min > self.max {
            ("newer", "upgrade the controllers first, or start the version that they have")
        } else {
            ("older", "start the version that the controllers have")
        };
        let text = format!(
            "{who} works at feature levels {} to {}, this cluster at {} to {}: it is of a {newer} version; {what}",
            caller.min, caller.max, self.min, self.max
        );
        let failure = ApiError::new(Reason::FeatureDisabled, text).with("feature", "feature-level");
        Err(failure.with("requiredLevel", caller.min).with("level", self.max))
    }
}

impl From<FeatureLevels> for FeatureRange {
    fn from(FeatureLevels { min: min_level, max: max_level }: FeatureLevels) -> Self {
        Self { min_level, max_level }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(min: i32, max: i32) -> FeatureLevels {
        FeatureLevels { min, max }
    }

    #[test]
    fn ranges_that_overlap_work_together() {
        for caller in [levels(1, 3), levels(3, 9), levels(5, 5), levels(0, 100)] {
            assert!(levels(3, 5).check(caller, "node 1").is_ok(), "{caller:?}");
        }
        let newer = levels(3, 5).check(levels(6, 7), "node 1").unwrap_err();
        assert!(newer.message().contains("newer") && newer.message().contains("upgrade the controllers"), "{newer}");
        let older = levels(3, 5).check(FeatureLevels::of_caller(None), "node 1").unwrap_err();
        assert!(older.message().contains("node 1 works at feature levels 1 to 1, this cluster at 3 to 5"), "{older}");
    }
}
