//! Signals that end the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::shutdown::Shutdown;
use crate::vital;

/// SIGHUP: the terminal is gone. Whoever was started with it ignored, as by nohup(1), lives on. It comes once: a shell and
/// the system both send it when a terminal is closed.
#[derive(Debug)]
pub struct HangUp(Option<Signal>);

// === impl HangUp ===

impl HangUp {
    /// Listens, unless it was ignored. From now on it does not end the process by itself.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn listen() -> std::io::Result<Self> {
        let kind = SignalKind::hangup();
        Ok(Self(if is_ignored(kind) { None } else { Some(signal(kind)?) }))
    }

    /// Waits for the first one; for ever after that.
    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

/// Whether the process was started with a signal ignored (`SigIgn` of proc_pid_status(5)). Listening would undo that.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// Asks for the stop at the first SIGINT, SIGTERM or SIGHUP; the second SIGINT or SIGTERM ends the process at once with exit
/// code 130 or 143. SIGHUP does not count: it comes with others, before or behind them, where a session ends.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = HangUp::listen()?;
    let parts = shutdown.clone();
    let _listening = vital::task("signals", &parts, async move {
        let mut asked = false;
        loop {
            let code = tokio::select! {
                _ = interrupt.recv() => Some(130),
                _ = terminate.recv() => Some(143),
                () = hang_up.recv() => None,
            };
            if let Some(code) = code
                && std::mem::replace(&mut asked, true)
            {
                std::process::exit(code);
            }
            if !shutdown.is_asked() {
                tracing::info!("a signal asks for the stop");
            }
            shutdown.ask();
        }
    });
    Ok(())
}
