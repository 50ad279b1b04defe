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

/// Judges a history of a replicated log. Exits with 0 if it is right, with 1 if it has anomalies, and with 2 if it
/// cannot be read.
#[derive(Debug, Parser)]
struct Args {
    /// A file of JSON lines; standard input if it is `-`.
    #[arg(default_value = "-")]
    history: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let verdict = judge(&args.history).and_then(|verdict| {
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

fn judge(path: &Path) -> Result<Verdict, String> {
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin()))
    } else {
        let file = File::open(path).map_err(|error| error.to_string())?;
        Box::new(BufReader::with_capacity(BUFFER_BYTES, file))
    };
    History::read(reader).map(|history| history.check()).map_err(|error| error.to_string())
}
