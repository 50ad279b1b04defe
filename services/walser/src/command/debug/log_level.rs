//! `walser debug log-level`.

use std::process::ExitCode;

use clap::Args;
use walser_model::parse_duration_ms;

use super::processes::{AdminArgs, Asked};
use crate::admin_port;
use crate::error::{BAD_INPUT, CliError, UNAVAILABLE};
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser debug log-level
  walser debug log-level info,walser_storage_node=debug --for 10m
  walser debug log-level debug --admin 10.0.0.7:7463 --admin 10.0.0.8:7463
  walser debug log-level info --dir ./walser-cluster

A process answers callers on its own machine only, unless its setting
admin.remote says otherwise.")]
pub(crate) struct DebugLogLevelArgs {
    /// A level (off, error, warn, info, debug, trace), or levels by module; without it, what is in force is shown
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// For this long; then what is configured holds again [default: until the process ends]
    #[arg(long = "for", value_name = "TIME", requires = "filter", value_parser = time)]
    limit: Option<i64>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A time as it is typed, in milliseconds.
fn time(text: &str) -> Result<i64, String> {
    parse_duration_ms(text).map_err(|error| error.to_string())
}

pub(super) async fn run(arguments: &DebugLogLevelArgs) -> Result<ExitCode, CliError> {
    let DebugLogLevelArgs { filter, limit, admin } = arguments;
    let path = limit.map_or_else(|| "/log".to_owned(), |limit| format!("/log?for={limit}ms"));
    let mut failed: Option<CliError> = None;
    let mut nobody = true;
    for Asked { name, admin, why_not, .. } in admin.processes()? {
        let Some(admin) = admin else {
            output::warning(&format!("{name} was not asked: {why_not}"));
            continue;
        };
        nobody = false;
        let answer = match filter {
            Some(filter) => admin_port::put(&admin, &path, filter.clone()).await,
            None => admin_port::get(&admin, &path).await,
        };
        let error = match answer {
            Ok(answer) if answer.is_success() => {
                output::data(&format!("{name}  {}", one_line(&answer.text)));
                continue;
            }
            Ok(answer) => CliError::failed(format!("{name}: {}", one_line(&answer.refusal()))).with_code(BAD_INPUT),
            Err(error) => CliError::failed(error)
                .with_code(UNAVAILABLE)
                .with_help("name admin ports with --admin HOST:PORT, or a cluster with --dir DIR"),
        };
        // The others are asked all the same.
        if let Some(before) = failed.replace(error) {
            before.show();
        }
    }
    if nobody {
        return Err(CliError::failed("no process was there to be asked").with_code(UNAVAILABLE));
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}
