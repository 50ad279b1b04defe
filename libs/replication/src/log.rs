//! What decisions need to know of a log. It is asked at every step, so that nobody has another opinion of it.

use walser_model::{LeaderEpoch, Offset};

/// The log of a replica on this node. What it answers MUST NOT change during a step.
pub trait ReplicaLog {
    /// Where the log begins. Inclusive.
    fn start(&self) -> Offset;

    /// Where the oldest batch begins that is still there: at or below the start, which may lie within a batch or behind
    /// others that are not removed yet. A follower can be pushed everything from here on. Inclusive.
    fn retained(&self) -> Offset {
        self.start()
    }

    /// Where it ends. Exclusive.
    fn end(&self) -> Offset;

    /// Everything below is on stable storage. Exclusive, never beyond the end, nor beyond what the log was cut to.
    fn durable(&self) -> Offset;

    /// The latest leader epoch that has records: of the last one, also where that was deleted. Not one that was begun here and
    /// has none yet.
    fn latest_epoch(&self) -> LeaderEpoch;

    /// The latest leader epoch that this node began to lead and whose start in the log is on stable storage,
    /// for as long as the log reaches there; also where it has no records, and others of earlier epochs follow.
    fn begun(&self) -> LeaderEpoch;

    /// The largest epoch at or below `epoch`, and where it ends (exclusive; the log end for the latest). `None` when every
    /// epoch is higher.
    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;

    /// What can be read of it: the latest leader epoch, also one that was begun, and the end (exclusive). Of a damaged log
    /// that is what lies before the damage.
    fn readable(&self) -> (LeaderEpoch, Offset) {
        (self.latest_epoch().max(self.begun()), self.end())
    }

    /// Tombstones below may be gone: a log that ends before that may have what they deleted, and does not get it deleted by
    /// the records that it lacks. Exclusive, and never lower after a restart, but for a log that was cut.
    fn tombstone_floor(&self) -> Offset {
        Offset::ZERO
    }

    /// Whether records are known to be damaged. Nothing is appended to such a log: people give its records up, or the
    /// leader's log takes its place.
    fn damaged(&self) -> bool {
        false
    }
}
