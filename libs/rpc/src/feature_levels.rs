//! Feature levels: what processes of different versions may expect of each other.
//!
//! A level stands for everything that processes of one cluster say to each other and write into the metadata. A version
//! that changes the meaning of something raises the highest level that it can work at, and keeps the lower ones for as
//! long as clusters are upgraded process by process. The cluster works at one level, which its metadata has: the one at
//! which it was before an upgrade, until an operator ends that (as `metadata.version` of Kafka, KIP-584). A process that
//! cannot work at it is refused.
//!
//! | level | what it stands for |
//! |---|---|
//! | 1 | the first one |
//! | 2 | nodes can be cordoned and drained; offers of replicas name the epoch of their records; metadata can be imported |
//! | 3 | topics can be compacted |

use walser_proto::internal::v1::FeatureRange;

use crate::{ApiError, Reason};

/// Levels at which a process can work. Inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureLevels {
    pub min: i32,
    pub max: i32,
}

/// Levels of this version.
pub const FEATURE_LEVELS: FeatureLevels = FeatureLevels { min: 1, max: 3 };

impl FeatureLevels {
    /// What a caller says; one that says nothing is older than the levels, and works at 1.
    pub fn of_caller(range: Option<&FeatureRange>) -> Self {
        range.map_or(Self { min: 1, max: 1 }, |range| Self { min: range.min_level, max: range.max_level })
    }

    /// Whether a process can work at a level.
    pub fn include(self, level: i32) -> bool {
        (self.min..=self.max).contains(&level)
    }

    /// Refuses a caller that cannot work in a cluster of this process, which works at `level`. `who`: what the caller is
    /// called in the error.
    ///
    /// # Errors
    /// `FEATURE_DISABLED`.
    pub fn check(self, level: i32, caller: Self, who: &str) -> Result<(), ApiError> {
        if caller.include(level) {
            return Ok(());
        }
        let (other, what) = if caller.max < level {
            ("an older", "start the version that the controllers have")
        } else if caller.min <= self.max {
            ("a newer", "end the upgrade before this one first, with `walser cluster finalize-upgrade`")
        } else {
            ("a newer", "upgrade the controllers first, or start the version that they have")
        };
        let text = format!(
            "{who} works at feature levels {} to {}, this cluster at {level}: it is of {other} version; {what}",
            caller.min, caller.max
        );
        let failure = ApiError::new(Reason::FeatureDisabled, text).with("feature", "feature-level");
        Err(failure.with("requiredLevel", caller.min).with("level", level))
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
    fn a_process_works_at_the_level_of_the_cluster_or_is_told_what_to_do() {
        for caller in [levels(1, 3), levels(3, 9), levels(0, 100)] {
            assert!(levels(2, 5).check(3, caller, "node 1").is_ok(), "{caller:?}");
        }
        let told = |level, caller| levels(2, 5).check(level, caller, "node 1").unwrap_err().message().to_owned();
        let newer = told(5, levels(6, 7));
        assert!(newer.contains("a newer version") && newer.contains("upgrade the controllers"), "{newer}");
        let unfinished = told(3, levels(4, 7));
        assert!(unfinished.contains("a newer version") && unfinished.contains("finalize-upgrade"), "{unfinished}");
        let older = told(3, FeatureLevels::of_caller(None));
        assert!(older.contains("node 1 works at feature levels 1 to 1, this cluster at 3"), "{older}");
        assert!(older.contains("an older version; start the version"), "{older}");
    }
}
