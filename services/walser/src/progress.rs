//! One line that shows how far long work is, while standard error is a terminal. Whatever else is said to people goes
//! above it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::records::time::duration;
use crate::words;

/// Time between two drawings.
const REDRAW: Duration = Duration::from_millis(250);
/// What is over sooner shows no line.
const PATIENCE: Duration = Duration::from_millis(500);

/// The line that is shown now, so that notes can go above it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// How much there is to do, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Total {
    Unknown,
    Bytes(u64),
    Records(u64),
    Time(Duration),
}

/// Work of which people see how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    total: Total,
    started: Instant,
    drawn: Instant,
    records: u64,
    bytes: u64,
}

// === impl Progress ===

impl Progress {
    /// Begins. Nothing is shown when standard error is not a terminal, or when `shown` is false.
    pub(crate) fn start(total: Total, shown: bool) -> Self {
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        let now = Instant::now();
        Self { bar, total, started: now, drawn: now, records: 0, bytes: 0 }
    }

    /// So much more is done.
    pub(crate) fn add(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        let now = Instant::now();
        if now - self.drawn >= REDRAW && now - self.started >= PATIENCE && !self.bar.is_hidden() {
            self.drawn = now;
            self.bar.set_message(line(self.total, self.records, self.bytes, now - self.started));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        SHOWN.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Takes the line away, at the end of the program.
pub(crate) fn clear() {
    if let Some(bar) = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}

/// Writes to standard error while the line is away.
pub(crate) fn beside(write: impl FnOnce()) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn line(total: Total, records: u64, bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = |count: u64| count as f64 / seconds;
    #[expect(clippy::cast_possible_truncation, reason = "rates and times for people")]
    let whole = |value: f64| value as i64;
    let done = match total {
        Total::Unknown => None,
        Total::Bytes(all) => Some((per_second(bytes), all.saturating_sub(bytes))),
        Total::Records(all) => Some((per_second(records), all.saturating_sub(records))),
        Total::Time(all) => Some((1000.0, u64::try_from(all.saturating_sub(elapsed).as_millis()).unwrap_or(u64::MAX))),
    };
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    let left = done.filter(|(rate, _)| *rate > 0.0).map(|(rate, left)| whole(left as f64 / rate * 1000.0));
    let left = left.map_or_else(String::new, |millis| format!(" · {} left", duration(millis)));
    format!(
        "{} · {} · {} records/s · {}/s{left}",
        words::plural(i64::try_from(records).unwrap_or(i64::MAX), "record"),
        words::bytes(i64::try_from(bytes).unwrap_or(i64::MAX)),
        words::count(whole(per_second(records))),
        words::bytes(whole(per_second(bytes))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_records_bytes_rate_and_what_is_left() {
        let two = Duration::from_secs(2);
        let line = |total| line(total, 1000, 1 << 20, two);
        assert_eq!(line(Total::Unknown), "1,000 records · 1.0 MiB · 500 records/s · 512.0 KiB/s");
        assert!(line(Total::Bytes(3 << 20)).ends_with(" · 4s left"));
        assert!(line(Total::Records(61_000)).ends_with(" · 2m left"));
        assert!(line(Total::Time(Duration::from_secs(5))).ends_with(" · 3s left"));
    }
}
