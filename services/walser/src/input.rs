//! Records from files and from standard input, read by a thread of their own: a pipe may be silent for hours, and
//! meanwhile what was read has to be sent, and Ctrl-C heard.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::cli::Framing;
use crate::error::CliError;
use crate::output;

/// Largest single record that is read.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Groups that wait to be taken.
const GROUPS_MAX: usize = 2;

/// Records that were there at once.
pub(crate) type Group = Result<Vec<Vec<u8>>, CliError>;

/// Where they come from.
pub(crate) type Input = mpsc::Receiver<Group>;

/// Begins to read: the files one after the other, or standard input when there are none. After an error comes nothing
/// more.
pub(crate) fn start(files: Vec<PathBuf>, framing: Framing) -> Result<Input, CliError> {
    let (groups, input) = mpsc::channel(GROUPS_MAX);
    let read = move || {
        let outcome = read_all(&files, framing, &groups);
        if let Err(error) = outcome {
            let _ = groups.blocking_send(Err(error));
        }
    };
    std::thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(input)
}

fn read_all(files: &[PathBuf], framing: Framing, groups: &mpsc::Sender<Group>) -> Result<(), CliError> {
    if files.is_empty() {
        let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
        return read(Path::new("standard input"), input, framing, groups);
    }
    for path in files {
        let file = std::fs::File::open(path).map_err(|error| problem(path, &error))?;
        read(path, BufReader::with_capacity(BUFFER_BYTES, file), framing, groups)?;
    }
    Ok(())
}

fn problem(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

fn read(
    path: &Path,
    mut input: BufReader<impl Read>,
    framing: Framing,
    groups: &mpsc::Sender<Group>,
) -> Result<(), CliError> {
    let failed = |error: io::Error| problem(path, &error);
    loop {
        let group = match framing {
            Framing::Whole => vec![block(&mut input, RECORD_BYTES_MAX + 1).map_err(failed)?],
            Framing::Blocks(size) => {
                check_size(size)?;
                let block = block(&mut input, size).map_err(failed)?;
                if block.is_empty() { Vec::new() } else { vec![block] }
            }
            Framing::Lines => lines(&mut input).map_err(failed)?,
        };
        for record in &group {
            check_size(record.len())?;
        }
        let last = group.is_empty() || framing == Framing::Whole;
        if !group.is_empty() && groups.blocking_send(Ok(group)).is_err() {
            return Ok(());
        }
        if last {
            return Ok(());
        }
    }
}

fn block(input: &mut impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(size.min(BUFFER_BYTES));
    input.take(size as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// The lines that are there; waits for the first one, and for the end of the last one. None: the input has ended.
fn lines(input: &mut BufReader<impl Read>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let limit = RECORD_BYTES_MAX as u64 + 1;
        if Read::take(&mut *input, limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        lines.push(line);
        // Only what is in memory already: everything else might have to be waited for.
        if !input.buffer().contains(&b'\n') {
            return Ok(lines);
        }
    }
}

fn check_size(bytes: usize) -> Result<(), CliError> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let most = output::bytes(i64::try_from(RECORD_BYTES_MAX).unwrap_or(0));
    Err(CliError::usage(format!("a record has at most {most}")).with_help("use --as blocks:SIZE for large files"))
}
