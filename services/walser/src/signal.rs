//! The signals by which people end a command.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use walser_service::HangUp;

/// So many signals end the program, whatever it is doing: the first ends it in order, the second without waiting.
const SIGNALS_MAX: u32 = 3;

/// A signal that asks the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Interrupted,
    Terminated,
    /// The terminal is gone.
    HungUp,
}

/// The signals from when it was made on. None is missed while nobody waits.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts(watch::Receiver<Option<Interrupt>>);

// === impl Interrupt ===

impl Interrupt {
    /// 128 and the number of the signal, as shells have it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::HungUp => 129,
        }
    }
}

// === impl Interrupts ===

impl Interrupts {
    /// Listens. From now on the signals do not end the process by themselves.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hup = HangUp::listen()?;
        let (told, interrupts) = watch::channel(None);
        tokio::spawn(async move {
            for number in 1_u32.. {
                let interrupt = tokio::select! {
                    _ = int.recv() => Interrupt::Interrupted,
                    _ = term.recv() => Interrupt::Terminated,
                    () = hup.recv() => Interrupt::HungUp,
                };
                told.send_replace(Some(interrupt));
                if number >= SIGNALS_MAX {
                    std::process::exit(i32::from(interrupt.exit_code()));
                }
            }
        });
        Ok(Self(interrupts))
    }

    /// The next signal, or one that came since the last call.
    pub(crate) async fn next(&mut self) -> Interrupt {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().unwrap_or(Interrupt::Interrupted),
            Err(_ended) => std::future::pending().await,
        }
    }

    /// A signal that came since the last call.
    pub(crate) fn pending(&mut self) -> Option<Interrupt> {
        let came = self.0.has_changed().unwrap_or(false);
        if came { *self.0.borrow_and_update() } else { None }
    }
}
