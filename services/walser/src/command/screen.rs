//! What is shown again and again, each time in place of what was shown before.

use std::io::Write as _;
use std::time::Duration;

use crate::args::Form;
use crate::error::CliError;
use crate::output::{self, to_terminal};
use crate::window;

/// Moves to the upper left corner and clears what is below (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// One picture.
#[derive(Debug)]
pub(super) struct Screen {
    /// Nothing was cleared for it: it ends with an empty line.
    follows: bool,
}

impl Screen {
    /// Clears a terminal that can be cleared, where people look.
    pub(super) fn begin(form: Form) -> Self {
        let clears = to_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        if clears && form == Form::Table {
            let _ = write!(std::io::stdout(), "{CLEAR}");
            if let Some((columns, rows)) = output::terminal_size() {
                window::open(columns, rows);
            }
        }
        Self { follows: form == Form::Table && !clears }
    }

    pub(super) fn end(self) {
        let left_out = window::close();
        if left_out > 0 {
            let more = if left_out == 1 { "1 more line" } else { &format!("{left_out} more lines") };
            // Nothing follows it: a line end would move everything up.
            let _ = write!(std::io::stdout(), "\u{2026} {more}").and_then(|()| std::io::stdout().flush());
        }
        if self.follows {
            output::data("");
        }
    }
}

/// Shows something once, or again and again: then a server that does not answer is asked on.
pub(super) async fn shown<T>(
    every: Option<u64>,
    form: Form,
    look: impl AsyncFn() -> Result<T, CliError>,
    show: impl Fn(&T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let Some(seconds) = every else { return show(&look().await?) };
    output::end_with_reader()?;
    let mut seen = Some(look().await?);
    loop {
        if let Some(seen) = &seen {
            let screen = Screen::begin(form);
            show(seen)?;
            screen.end();
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        seen = look().await.inspect_err(CliError::show).ok();
    }
}
