//! The time that a leader stamps on batches of topics with LogAppendTime.

use walser_model::Timestamp;

/// How far the clock may be behind the latest LogAppendTime without the stamp going back, in milliseconds: what is
/// more was not a correction of the clock, but a wrong time.
const CLOCK_SET_BACK: i64 = 3_600_000;

/// The LogAppendTime after `latest`. It does not go back, unless the clock was set back by more than
/// [`CLOCK_SET_BACK`]: the wrong time would stay for as long as it is ahead, and keep retention from its records.
pub(crate) fn next_append_time(latest: Timestamp, now: Timestamp) -> Timestamp {
    if latest.saturating_sub(now) > CLOCK_SET_BACK { now } else { latest.max(now) }
}
