//! The log of a process while it runs: which lines are written, changed without a restart, and the newest of them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Level;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, Registry};

use super::recent_lines::RecentLines;
use super::with_level;
use crate::settings::check_log_filter;

/// Most bytes of a filter: every part of it is compared with every place that logs.
pub(crate) const FILTER_BYTES_MAX: usize = 4096;

/// Changes which lines are written, and has the newest. Clones share it.
#[derive(Debug, Clone)]
pub struct LogControl {
    shared: Arc<Shared>,
}

/// Why a filter is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// It is too long.
    #[error("the filter has {0} bytes; at most {FILTER_BYTES_MAX} are taken")]
    Long(usize),
    /// Some part of it is neither a level nor a module with its level.
    #[error("{0}")]
    Directive(String),
    /// The log is not written any more.
    #[error("the log cannot be changed: {0}")]
    Gone(String),
}

#[derive(Debug)]
struct Shared {
    /// The setting `log.level`.
    configured: String,
    handle: Handle<EnvFilter, Registry>,
    recent: RecentLines,
    in_force: Mutex<InForce>,
}

/// The filter by which lines are written.
#[derive(Debug)]
struct InForce {
    filter: String,
    /// How often it has been changed.
    changes: u64,
    /// When the configured one is back, and what waits for that. `None`: it stays.
    until: Option<(Instant, AbortHandle)>,
}

// === impl LogControl ===

impl LogControl {
    pub(super) fn new(configured: &str, handle: Handle<EnvFilter, Registry>, recent: RecentLines) -> Self {
        let in_force = Mutex::new(InForce { filter: configured.to_owned(), changes: 0, until: None });
        Self { shared: Arc::new(Shared { configured: configured.to_owned(), handle, recent, in_force }) }
    }

    /// Writes the lines that `filter` lets through from now on, for `limit` where there is one. Needs a runtime.
    ///
    /// # Errors
    /// [`LogFilterError`]; the filter stays as it was.
    pub fn set(&self, filter: &str, limit: Option<Duration>) -> Result<(), LogFilterError> {
        let mut in_force = self.shared.in_force.lock();
        self.replace(&mut in_force, filter)?;
        in_force.until = limit.map(|limit| {
            let (control, change) = (self.clone(), in_force.changes);
            let restoring = async move {
                tokio::time::sleep(limit).await;
                control.restore(change);
            };
            (Instant::now() + limit, tokio::spawn(restoring).abort_handle())
        });
        Ok(())
    }

    /// The configured filter again, unless another one was set after this change.
    fn restore(&self, change: u64) {
        let mut in_force = self.shared.in_force.lock();
        if in_force.changes == change
            && let Err(error) = self.replace(&mut in_force, &self.shared.configured)
        {
            tracing::error!(%error, "the log level cannot be set back");
        }
    }

    fn replace(&self, in_force: &mut InForce, filter: &str) -> Result<(), LogFilterError> {
        if filter.len() > FILTER_BYTES_MAX {
            return Err(LogFilterError::Long(filter.len()));
        }
        check_log_filter(filter).map_err(LogFilterError::Directive)?;
        let directive = |error: &dyn std::error::Error| LogFilterError::Directive(error.to_string());
        let parsed = EnvFilter::try_new(with_level(filter)).map_err(|error| directive(&error))?;
        let (from, to) = (std::mem::replace(&mut in_force.filter, filter.to_owned()), filter);
        let changed = || tracing::info!(from, to, "log level changed");
        // The line is written by whichever filter lets it through.
        let told = tracing::enabled!(Level::INFO);
        if told {
            changed();
        }
        let reloaded = self.shared.handle.reload(parsed);
        if let Err(error) = reloaded {
            in_force.filter = from;
            return Err(LogFilterError::Gone(error.to_string()));
        }
        if !told {
            changed();
        }
        in_force.changes += 1;
        if let Some((_, waiting)) = in_force.until.take() {
            waiting.abort();
        }
        Ok(())
    }

    /// The filter in force, and in a second line what is configured where that is another.
    pub fn describe(&self) -> String {
        let (configured, in_force) = (&self.shared.configured, self.shared.in_force.lock());
        let back = in_force.until.as_ref().map(|(until, _)| until.saturating_duration_since(Instant::now()).as_secs());
        match back {
            Some(seconds) => format!("{}\nlog.level is {configured}, in force again in {seconds} s\n", in_force.filter),
            None if in_force.filter == *configured => format!("{configured}\n"),
            None => format!("{}\nlog.level is {configured}, in force again after a restart\n", in_force.filter),
        }
    }

    /// The newest lines, oldest first.
    pub fn recent(&self) -> String {
        // A line that was cut may end within a character.
        String::from_utf8_lossy(&self.shared.recent.all()).into_owned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tracing_subscriber::reload;

    use super::*;

    /// A control whose log goes nowhere. The layer has to live as long as it.
    pub(crate) fn control(configured: &str) -> (LogControl, reload::Layer<EnvFilter, Registry>) {
        let (layer, handle) = reload::Layer::new(EnvFilter::new(configured));
        (LogControl::new(configured, handle, RecentLines::default()), layer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_for_a_while_gives_way_to_the_configured_one() {
        let (log, _layer) = control("warn");
        assert_eq!(log.describe(), "warn\n");
        log.set("info,walser_gateway=debug", Some(Duration::from_secs(600))).unwrap();
        assert_eq!(log.describe(), "info,walser_gateway=debug\nlog.level is warn, in force again in 600 s\n");
        tokio::time::sleep(Duration::from_secs(601)).await;
        assert_eq!(log.describe(), "warn\n");
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_filter_holds() {
        let (log, _layer) = control("info");
        log.set("debug", Some(Duration::from_secs(10))).unwrap();
        log.set("trace", None).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(log.describe(), "trace\nlog.level is info, in force again after a restart\n");
        log.set("info", None).unwrap();
        assert_eq!(log.describe(), "info\n");
    }

    #[tokio::test]
    async fn a_filter_that_is_none_changes_nothing() {
        let (log, _layer) = control("info");
        for bad in ["loud", "", "info,,debug", "[span]=trace"] {
            let refused = log.set(bad, None).unwrap_err();
            assert!(matches!(refused, LogFilterError::Directive(_)), "{bad}: {refused}");
        }
        let refused = log.set(&"info,".repeat(1000), None).unwrap_err();
        assert!(matches!(refused, LogFilterError::Long(5000)), "{refused}");
        assert_eq!(log.describe(), "info\n");
    }
}
