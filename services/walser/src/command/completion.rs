//! `walser completion`.

use std::process::ExitCode;

use clap_complete::env::Shells;

use crate::cli::CompletionArgs;
use crate::error::CliError;
use crate::output;

/// The variable by which a shell asks the program for completions.
pub(crate) const VARIABLE: &str = "COMPLETE";

pub(crate) fn run(arguments: &CompletionArgs) -> Result<ExitCode, CliError> {
    let shells = Shells::builtins();
    let shell = shells.completer(&arguments.shell);
    let shell = shell.ok_or_else(|| CliError::usage(format!("no completion for the shell \"{}\"", arguments.shell)))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "walser", "walser", "walser", &mut script)?;
    output::raw(&script);
    Ok(ExitCode::SUCCESS)
}
