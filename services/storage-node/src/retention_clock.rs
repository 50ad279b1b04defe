//! Whether retention by time may believe the wall clock: records that a jump forward makes old must not be deleted for it.
//!
//! A jump is what the wall clock gains on the monotonic one. Across a restart there is no monotonic clock: a start more
//! than [`REST_MAX`] after the last note of the server before may be one on a wrong clock, and so may one after a server
//! that did not believe its own.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_log::{ClockMark, DataDirectory};
use walser_model::{Clock, Timestamp};

/// The wall clock may run ahead of the monotonic one by this much between two looks.
const JUMP_MAX: Duration = Duration::from_secs(60);
/// A server may have rested this long before a start.
const REST_MAX: Duration = Duration::from_secs(3600);
/// For so long after a jump nothing is deleted for its age.
const HOLD: Duration = Duration::from_secs(3600);
/// How often the wall clock is noted in the directory.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Watches the wall clock for jumps. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct RetentionClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Both clocks at the last look.
    last: (Timestamp, Duration),
    /// Retention by time is held until then, in monotonic time.
    held_until: Duration,
    /// When the mark was written last, in monotonic time, and whether it says that the clock is not believed.
    noted: Option<(Duration, bool)>,
}

impl RetentionClock {
    /// Begins with what the server before has noted in the directory.
    pub(crate) fn start(directory: &DataDirectory, clock: &dyn Clock) -> Self {
        let mark = directory.clock_mark().unwrap_or_else(|error| {
            tracing::warn!(%error, "it cannot be read when a server ran here last");
            Some(ClockMark { wall: clock.now_millis(), hold: HOLD })
        });
        Self::after(mark, clock.now_millis(), clock.monotonic())
    }

    fn after(mark: Option<ClockMark>, wall: Timestamp, monotonic: Duration) -> Self {
        let rested = mark.map_or(Duration::ZERO, |mark| span(wall.saturating_sub(mark.wall)));
        // What is left of a hold goes on.
        let left = mark.map_or(Duration::ZERO, |mark| mark.hold.min(HOLD));
        let hold = if rested > REST_MAX { HOLD } else { left };
        if !hold.is_zero() {
            let (rested_seconds, hold_seconds) = (rested.as_secs(), hold.as_secs());
            tracing::warn!(
                rested_seconds,
                hold_seconds,
                "the server has not run for long, or the wall clock jumped: retention by time is held"
            );
        }
        let held_until = if hold.is_zero() { Duration::ZERO } else { monotonic + hold };
        Self(Arc::new(Mutex::new(State { last: (wall, monotonic), held_until, noted: None })))
    }

    /// Whether retention by time may believe the wall clock. After a jump forward of more than a minute against the
    /// monotonic clock it may not for an hour.
    pub(crate) fn is_trusted(&self, clock: &dyn Clock) -> bool {
        self.0.lock().look(clock.now_millis(), clock.monotonic())
    }

    /// Notes the wall clock in the directory, once a minute, and at once when it is believed no more. Blocks as long as the
    /// disk takes.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn note(&self, directory: &DataDirectory, clock: &dyn Clock) -> std::io::Result<()> {
        let (wall, now) = (clock.now_millis(), clock.monotonic());
        let held = !self.0.lock().look(wall, now);
        let noted = self.0.lock().noted;
        if noted.is_some_and(|(at, before)| before == held && now.saturating_sub(at) < NOTE_EVERY) {
            return Ok(());
        }
        let hold = self.0.lock().held_until.saturating_sub(now);
        directory.note_clock(ClockMark { wall, hold })?;
        self.0.lock().noted = Some((now, held));
        Ok(())
    }
}

impl State {
    fn look(&mut self, wall: Timestamp, monotonic: Duration) -> bool {
        let (wall_before, monotonic_before) = std::mem::replace(&mut self.last, (wall, monotonic));
        let gained = span(wall.saturating_sub(wall_before)).saturating_sub(monotonic.saturating_sub(monotonic_before));
        if gained > JUMP_MAX {
            self.held_until = monotonic + HOLD;
            let (jump_seconds, hold_seconds) = (gained.as_secs(), HOLD.as_secs());
            tracing::warn!(jump_seconds, hold_seconds, "the wall clock jumped forward: retention by time is held");
        }
        monotonic >= self.held_until
    }
}

/// A distance in milliseconds; backwards is none.
fn span(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WALL: Timestamp = 1_700_000_000_000;

    fn look(clock: &RetentionClock, wall: Timestamp, monotonic: Duration) -> bool {
        clock.0.lock().look(wall, monotonic)
    }

    fn mark(ago: Duration, hold: Duration) -> Option<ClockMark> {
        Some(ClockMark { wall: WALL - i64::try_from(ago.as_millis()).unwrap(), hold })
    }

    #[test]
    fn a_wall_clock_that_jumps_forward_is_not_believed_for_an_hour() {
        let clock = RetentionClock::after(None, 1_000_000, SECOND);
        assert!(look(&clock, 1_060_000, 2 * SECOND), "59 s ahead");
        assert!(!look(&clock, 1_122_000, 3 * SECOND), "61 s ahead");
        assert!(!look(&clock, 1_123_000, 3 * SECOND + HOLD - Duration::from_millis(1)));
        assert!(look(&clock, 1_124_000, 3 * SECOND + HOLD), "backwards is not a jump forward");
    }

    #[test]
    fn a_wall_clock_that_jumps_back_is_believed() {
        let clock = RetentionClock::after(None, 9_000_000, Duration::ZERO);
        assert!(look(&clock, 1_000_000, SECOND));
        assert!(look(&RetentionClock::after(mark(Duration::ZERO, Duration::ZERO), 5, SECOND), 6, SECOND));
    }

    #[test]
    fn a_start_on_a_clock_that_may_be_wrong_is_not_believed_for_an_hour() {
        let none = Duration::ZERO;
        for (mark, held_for) in [
            (None, none),
            (mark(10 * SECOND, none), none),
            (mark(REST_MAX, none), none),
            (mark(REST_MAX + SECOND, none), HOLD),
            (mark(SECOND, 60 * SECOND), 60 * SECOND),
            (mark(SECOND, Duration::MAX), HOLD),
        ] {
            let clock = RetentionClock::after(mark, WALL, SECOND);
            assert_eq!(look(&clock, WALL + 1000, 2 * SECOND), held_for == none, "{mark:?}");
            assert!(look(&clock, WALL + 1000, SECOND + held_for), "{mark:?}");
        }
    }

    #[test]
    fn what_a_server_noted_is_known_to_the_next() {
        use walser_log::MemoryDisk;
        #[derive(Debug)]
        struct Set(Timestamp, Duration);
        impl Clock for Set {
            fn now_millis(&self) -> Timestamp {
                self.0
            }
            fn monotonic(&self) -> Duration {
                self.1
            }
        }
        let disk = Arc::new(MemoryDisk::new(1 << 20));
        let directory = DataDirectory::open(disk, std::path::Path::new("/data"), "test").unwrap();
        let first = RetentionClock::start(&directory, &Set(WALL, SECOND));
        first.note(&directory, &Set(WALL, SECOND)).unwrap();
        let jumped = Set(WALL + 86_400_000, 2 * SECOND);
        first.note(&directory, &jumped).unwrap();
        let next = RetentionClock::start(&directory, &jumped);
        assert!(!next.is_trusted(&jumped), "a restart does not end the hold");
        let later = Set(WALL + 86_400_000 + 3_600_000, 2 * SECOND + HOLD);
        next.note(&directory, &later).unwrap();
        assert!(RetentionClock::start(&directory, &later).is_trusted(&later));
    }
}
