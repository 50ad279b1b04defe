//! What an examination has found, and how it is shown.

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Form;
use crate::error::{CliError, UNAVAILABLE};
use crate::output;

/// The exit code when something needs attention, as of `walser status`.
const ATTENTION: u8 = 10;
/// Columns before what to do.
const INDENT: usize = 4;

/// Everything that was looked at.
#[derive(Debug, Default, Serialize)]
pub(in crate::command) struct Report {
    checks: Vec<Finding>,
    /// The server was not reached: nothing is known of it.
    pub(super) unreachable: bool,
}

/// What one look has found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at, in a word.
    check: &'static str,
    state: FindingState,
    text: String,
    /// What to do, where there is something to do.
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum FindingState {
    Ok,
    Warning,
    Error,
}

// === impl Report ===

impl Report {
    /// All is well here.
    pub(super) fn fine(&mut self, check: &'static str, text: impl Into<String>) {
        self.checks.push(Finding { check, state: FindingState::Ok, text: text.into(), help: None });
    }

    /// It works, and something is to be done.
    pub(super) fn warned(&mut self, check: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.checks.push(Finding { check, state: FindingState::Warning, text: text.into(), help: Some(help.into()) });
    }

    /// Something does not work.
    pub(super) fn failed(&mut self, check: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.checks.push(Finding { check, state: FindingState::Error, text: text.into(), help: Some(help.into()) });
    }

    /// Whether nothing is known of the server.
    pub(in crate::command) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// How much has been found.
    pub(super) fn len(&self) -> usize {
        self.checks.len()
    }

    /// What was found that is not well, by the names of the looks.
    #[cfg(test)]
    pub(super) fn troubles(&self) -> Vec<(&'static str, &str)> {
        let wrong = self.checks.iter().filter(|finding| finding.state != FindingState::Ok);
        wrong.map(|finding| (finding.check, finding.text.as_str())).collect()
    }

    fn needs_attention(&self) -> bool {
        self.checks.iter().any(|finding| finding.state != FindingState::Ok)
    }

    pub(super) fn code(&self) -> ExitCode {
        match (self.unreachable, self.needs_attention()) {
            (true, _) => ExitCode::from(UNAVAILABLE),
            (false, true) => ExitCode::from(ATTENTION),
            (false, false) => ExitCode::SUCCESS,
        }
    }

    pub(super) fn show(&self, form: Form) -> Result<(), CliError> {
        match form {
            Form::Json => output::document(self)?,
            Form::Ndjson => {
                for finding in &self.checks {
                    output::data(&serde_json::to_string(finding)?);
                }
            }
            Form::Name => {
                let wrong = self.checks.iter().filter(|finding| finding.state != FindingState::Ok);
                wrong.for_each(|finding| output::data(finding.check));
            }
            Form::Table => {
                let plain = !output::to_terminal() || std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
                self.checks.iter().for_each(|finding| output::data(&finding.lines(plain)));
            }
        }
        Ok(())
    }
}

// === impl Finding ===

impl Finding {
    /// The finding, and what to do in lines below it. `plain`: in words, without colours.
    fn lines(&self, plain: bool) -> String {
        let state = if plain { format!("{:<7}", self.state.word()) } else { self.state.sign() };
        let mut lines = format!("{state} {}", self.text);
        if let Some(help) = &self.help {
            lines = format!("{lines}\n{}", output::wrapped(help, INDENT));
        }
        lines
    }
}

// === impl FindingState ===

impl FindingState {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    fn sign(self) -> String {
        let (sign, colour) = match self {
            Self::Ok => ("\u{2714}", AnsiColor::Green),
            Self::Warning => ("!", AnsiColor::Yellow),
            Self::Error => ("\u{2716}", AnsiColor::Red),
        };
        let style = Style::new().fg_color(Some(colour.into())).bold();
        format!("{style}{sign}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_is_wrong() {
        let mut report = Report::default();
        report.fine("tcp", "connected");
        assert!(!report.needs_attention());
        report.warned("clock", "the clock is 9 s behind", "set it");
        assert!(report.needs_attention());
        let lines: Vec<_> = report.checks.iter().map(|finding| finding.lines(true)).collect();
        assert_eq!(lines, ["ok      connected", "warning the clock is 9 s behind\n    set it"]);
        assert!(report.checks[0].lines(false).contains('\u{2714}'));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["checks"][1]["state"], &json["checks"][0]["help"]), (&"warning".into(), &().into()));
    }
}
