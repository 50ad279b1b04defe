//! Certificates and passwords in files, which others replace: they are read again and again, and taken when they are new.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;

use crate::settings::{Key, Kind, Settings};
use crate::shutdown::Shutdown;
use crate::vital;

/// How often that is.
pub(crate) const INTERVAL: Key = Key {
    name: "tls.reload.interval.ms",
    kind: Kind::Millis(100, 86_400_000),
    default: "10000",
    doc: "How often the files of certificates and passwords are read again; new contents are taken without a restart.",
};

/// Looks at files until the stop, at once and then at every `tls.reload.interval.ms`.
///
/// `look` takes what is new, and answers whether there was something, or why what is there cannot be used. It is called on a
/// thread that may wait for a disk. `of` is what the files are for, in the log.
///
/// # Panics
/// Outside a runtime.
pub fn follow<E: std::fmt::Display + Send + 'static>(
    of: &'static str,
    settings: &Settings,
    stop: &Shutdown,
    look: impl Fn() -> Result<bool, E> + Send + Sync + 'static,
) {
    let (every, shutdown, look) = (settings.duration(INTERVAL.name), stop.clone(), Arc::new(look));
    let looks = async move {
        let mut news = News { of, wrong: None };
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let look = Arc::clone(&look);
            match tokio::task::spawn_blocking(move || look()).await {
                Ok(read) => news.tell(read),
                Err(error) => tracing::error!(of, %error, "reading the certificates"),
            }
        }
    };
    vital::task("certificates", stop, async move {
        tokio::select! {
            () = looks => {}
            () = shutdown.wait() => {}
        }
    });
}

/// What is told of the looks.
struct News {
    of: &'static str,
    /// What was wrong at the last one, and whether that has been told.
    wrong: Option<(String, bool)>,
}

// === impl News ===

impl News {
    fn tell(&mut self, read: Result<bool, impl std::fmt::Display>) {
        let error = match read {
            Ok(new) => {
                self.wrong = None;
                if new {
                    tracing::info!(
                        of = self.of,
                        "what is new in the files of certificates and passwords is taken for new connections"
                    );
                }
                return;
            }
            Err(error) => error.to_string(),
        };
        // Files that are replaced one by one do not fit for a moment: what is still so at the next look is told.
        match &mut self.wrong {
            Some((before, true)) if *before == error => {}
            Some((before, told)) if *before == error => {
                *told = true;
                tracing::error!(of = self.of, error, "new certificates cannot be used, the old ones stay");
            }
            _ => self.wrong = Some((error, false)),
        }
    }
}
