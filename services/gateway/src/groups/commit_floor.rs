//! How low a member may commit in a partition: not below the place at which it was assigned, unless it has gone back there itself.
//! What lies before was not read under this assignment, and another member may have committed more since.

use walser_model::Offset;
use walser_rpc::{ApiError, Reason};

use crate::reading::PartitionName;

/// The lowest offset that may be committed in a partition. Without a commit before the assignment there is nothing to go back
/// from: then it may be 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CommitFloor(Offset);

impl CommitFloor {
    /// Of a partition of which so much is committed when it is assigned.
    pub(super) fn of(committed: Option<Offset>) -> Self {
        Self(committed.unwrap_or(Offset::ZERO))
    }

    pub(super) fn offset(self) -> Offset {
        self.0
    }

    /// Reading begins here.
    pub(super) fn begin(&mut self, offset: Offset) {
        self.0 = self.0.max(offset);
    }

    /// Reading goes on here, because records are gone.
    pub(super) fn move_to(&mut self, offset: Offset) {
        self.0 = self.0.min(offset);
    }

    /// Whether an offset may be committed.
    ///
    /// # Errors
    /// It is none, or lies before everything that was read under this assignment.
    pub(super) fn check(self, of: &PartitionName, offset: Offset) -> Result<(), ApiError> {
        if offset < Offset::ZERO {
            return Err(ApiError::field("offset", format!("is {offset}; it must be at least 0")));
        }
        if offset >= self.0 {
            return Ok(());
        }
        let text = format!(
            "offset {offset} was read under an earlier assignment: this one began at {}; to go back, seek first on a stream, or \
             reset the group",
            self.0
        );
        let failure = ApiError::new(Reason::PartitionNotOwned, text).with("partition", of.partition);
        Err(failure.with("topic", &of.topic).with("startOffset", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_below_where_the_assignment_began_is_committed() {
        let of = PartitionName { topic: "t".into(), partition: 3 };
        let mut floor = CommitFloor::of(Some(Offset(50)));
        assert!(floor.check(&of, Offset(50)).is_ok() && floor.check(&of, Offset(i64::MAX)).is_ok());
        assert_eq!(floor.check(&of, Offset(49)).unwrap_err().reason(), Reason::PartitionNotOwned);
        assert_eq!(floor.check(&of, Offset(-1)).unwrap_err().reason(), Reason::FieldInvalid);
        floor.begin(Offset(40));
        assert!(floor.check(&of, Offset(49)).is_err());
        floor.move_to(Offset(5));
        assert!(floor.check(&of, Offset(5)).is_ok() && floor.check(&of, Offset(4)).is_err());
        assert!(CommitFloor::of(None).check(&of, Offset::ZERO).is_ok());
    }
}
