//! `walser-history`: judges a history.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use walser_history::{History, Verdict};

/// The history is not right.
const INVALID: u8 = 1;
/// There is no verdict.
const UNREADABLE: u8 = 2;
const BUFFER_BYTES: usize = 1 << 20;

/// Judges a history of a replicated log: what its clients have sent, polled and committed.
///
/// A history has one JSON object per line, with `process`, `type` (invoke, ok, fail, info), `op` (send, poll, commit,
/// assign) and the fields of the operation. The verdict is printed as JSON. It names lost writes, duplicates,
/// inconsistent offsets, reorders, poll skips, nonmonotonic polls, offset regresses, aborted reads and phantoms.
///
/// Exits with 0 if the history is valid, with 1 if it has anomalies, and with 2 if it cannot be read; then standard error
/// names the line.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Takes all polls together for a complete read: an acknowledged value that no poll returned is lost, wherever it is.
    /// By default only the polls that are marked `"final":true` say so.
    #[arg(long)]
    complete: bool,
    /// A file of JSON lines, or - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    history: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let verdict = judge(&args).and_then(|verdict| {
        let text = serde_json::to_string_pretty(&verdict).map_err(|error| error.to_string())?;
        writeln!(io::stdout(), "{text}").map_err(|error| format!("cannot write the verdict: {error}"))?;
        Ok(verdict.valid)
    });
    match verdict {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INVALID),
        Err(message) => {
            let told = writeln!(io::stderr(), "walser-history: {}: {message}", args.history.display());
            ExitCode::from(told.map_or(UNREADABLE, |()| UNREADABLE))
        }
    }
}

fn judge(args: &Args) -> Result<Verdict, String> {
    let path = args.history.as_path();
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin()))
    } else {
        let file = File::open(path).map_err(|error| error.to_string())?;
        Box::new(BufReader::with_capacity(BUFFER_BYTES, file))
    };
    let history = History::read(reader).map_err(|error| error.to_string())?;
    let history = if args.complete { history.complete() } else { history };
    Ok(history.check())
}
