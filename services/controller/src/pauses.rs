//! Whether this process did not run between two looks: nobody could be heard then, and it counts for nobody's session
//! (amendment A8 of the reliability rules).

use std::time::Duration;

/// Watches the time between looks.
#[derive(Debug)]
pub(crate) struct Pauses {
    /// The time between two looks, when the process runs.
    every: Duration,
    last: Duration,
}

// === impl Pauses ===

impl Pauses {
    /// Looks begin now, in monotonic time.
    pub(crate) fn new(every: Duration, now: Duration) -> Self {
        Self { every, last: now }
    }

    /// For how long the process did not run before a look; zero: it ran.
    pub(crate) fn before(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last).saturating_sub(2 * self.every)
    }

    /// A look is over. That it took its time is no pause: everybody is heard meanwhile.
    pub(crate) fn looked(&mut self, now: Duration) {
        self.last = now;
    }
}

#[test]
fn a_look_that_is_a_little_late_is_no_pause() {
    let millis = Duration::from_millis;
    let mut pauses = Pauses::new(millis(100), millis(1_000));
    assert_eq!((pauses.before(millis(1_200)), pauses.before(millis(3_700))), (Duration::ZERO, millis(2_500)));
    pauses.looked(millis(3_800));
    assert_eq!(pauses.before(millis(3_900)), Duration::ZERO);
}
