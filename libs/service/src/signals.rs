//! Signals that end the process.

use crate::shutdown::Shutdown;
use crate::vital;

/// Asks for the stop at the first SIGINT or SIGTERM; the second ends the process at once with exit code 130.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn signals(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let parts = shutdown.clone();
    let _listening = vital::task("signals", &parts, async move {
        for round in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if round > 0 {
                std::process::exit(130);
            }
            shutdown.ask();
        }
    });
    Ok(())
}
