//! Records from files and from standard input, read by a thread of their own: a pipe may be silent for hours, and
//! meanwhile what was read has to be sent, and Ctrl-C heard.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::cli::Framing;
use crate::error::CliError;
use crate::output;
use crate::records::NewRecord;
use crate::records::reading::{Form, Reading};

/// Largest single record that is read.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Groups that wait to be taken.
const GROUPS_MAX: usize = 2;

/// What was there at once.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) records: Vec<NewRecord>,
    /// Bytes of the input that they are made from.
    pub(crate) bytes: u64,
    /// What is wrong with the input behind them. Nothing more comes.
    pub(crate) error: Option<CliError>,
}

/// Where they come from.
pub(crate) type Input = mpsc::Receiver<Group>;

/// What is read, and how.
#[derive(Debug)]
pub(crate) struct Source {
    /// Files one after the other, `-` is standard input; standard input when there are none.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) framing: Framing,
    pub(crate) reading: Reading,
    /// So many records at the beginning are passed over.
    pub(crate) skip: u64,
}

/// The thread that reads.
struct Worker {
    source: Source,
    groups: mpsc::Sender<Group>,
    /// Records that were passed over.
    skipped: u64,
}

/// Begins to read.
pub(crate) fn start(source: Source) -> Result<Input, CliError> {
    let (groups, input) = mpsc::channel(GROUPS_MAX);
    let mut worker = Worker { source, groups, skipped: 0 };
    let read = move || {
        if let Err(error) = worker.read_all() {
            let _ = worker.groups.blocking_send(Group { error: Some(error), ..Group::default() });
        }
    };
    std::thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(input)
}

/// Bytes of the files together, where that is known.
pub(crate) fn size(files: &[PathBuf]) -> Option<u64> {
    let sizes = files.iter().map(|file| std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file));
    let sizes = sizes.map(|file| file.map(|file| file.len())).collect::<Option<Vec<_>>>()?;
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}

/// Whether standard input is read.
pub(crate) fn reads_stdin(files: &[PathBuf]) -> bool {
    files.is_empty() || files.iter().any(|file| file.as_os_str() == "-")
}

// === impl Worker ===

impl Worker {
    fn read_all(&mut self) -> Result<(), CliError> {
        let mut files = std::mem::take(&mut self.source.files);
        if files.is_empty() {
            files.push(PathBuf::from("-"));
        }
        for path in files {
            if path.as_os_str() == "-" {
                let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
                self.read(Path::new("standard input"), input)?;
            } else {
                let file = std::fs::File::open(&path).map_err(|error| problem(&path, &error))?;
                self.read(&path, BufReader::with_capacity(BUFFER_BYTES, file))?;
            }
        }
        Ok(())
    }

    /// Reads one file. What is good goes on its way, also when what comes behind it is not.
    fn read(&mut self, path: &Path, mut input: BufReader<impl Read>) -> Result<(), CliError> {
        let mut number = 0;
        loop {
            let pieces = self.pieces(&mut input);
            let (pieces, failed) = match pieces {
                Ok(pieces) => (pieces, None),
                Err(error) => (Vec::new(), Some(problem(path, &error))),
            };
            let last = pieces.is_empty() || self.source.framing == Framing::Whole;
            let mut group = Group { error: failed, ..Group::default() };
            for piece in pieces {
                number += 1;
                group.bytes += piece.len() as u64 + 1;
                match self.record(piece) {
                    Ok(record) => group.records.extend(record),
                    Err(why) => {
                        let unit = if self.by_lines() { "line" } else { "record" };
                        let place = format!("{unit} {} of {}", output::count(number), path.display());
                        group.error = Some(why.placed(&place));
                        break;
                    }
                }
            }
            let ended = last || group.error.is_some();
            if (!group.records.is_empty() || group.error.is_some()) && self.groups.blocking_send(group).is_err() {
                return Ok(());
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn by_lines(&self) -> bool {
        match &self.source.reading.form {
            Form::Format(format) => format.end() == b"\n",
            _ => matches!(self.source.framing, Framing::Lines | Framing::Json),
        }
    }

    /// One record, unless it is to be passed over.
    fn record(&mut self, piece: Vec<u8>) -> Result<Option<NewRecord>, Bad> {
        if piece.len() > RECORD_BYTES_MAX {
            return Err(Bad::TooLarge);
        }
        if matches!(self.source.framing, Framing::Json) && piece.trim_ascii().is_empty() {
            return Ok(None);
        }
        if self.skipped < self.source.skip {
            self.skipped += 1;
            return Ok(None);
        }
        self.source.reading.record(piece).map(Some).map_err(Bad::Text)
    }

    /// The pieces that are there; waits for the first one, and for the end of the last one. None: the input has ended.
    fn pieces(&self, input: &mut BufReader<impl Read>) -> io::Result<Vec<Vec<u8>>> {
        match (&self.source.reading.form, self.source.framing) {
            (Form::Format(format), _) => ended_by(input, format.end()),
            (_, Framing::Lines | Framing::Json) => ended_by(input, b"\n"),
            (_, Framing::Whole) => Ok(vec![block(input, RECORD_BYTES_MAX + 1)?]),
            (_, Framing::Blocks(size)) => {
                let block = block(input, size)?;
                Ok(if block.is_empty() { Vec::new() } else { vec![block] })
            }
        }
    }
}

/// Why a piece is no record.
enum Bad {
    TooLarge,
    Text(String),
}

impl Bad {
    fn placed(self, place: &str) -> CliError {
        match self {
            Self::Text(why) => CliError::usage(format!("{place}: {why}")),
            Self::TooLarge => {
                let most = output::bytes(i64::try_from(RECORD_BYTES_MAX).unwrap_or(0));
                let error = CliError::usage(format!("{place} is larger than {most}, the most that a record can have"));
                error.with_help("cut large files with --as blocks:SIZE, such as --as blocks:512KiB")
            }
        }
    }
}

fn problem(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

fn block(input: &mut impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(size.min(BUFFER_BYTES));
    input.take(size as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// The pieces up to each `end`, as many as are in memory already: everything else might have to be waited for.
fn ended_by(input: &mut BufReader<impl Read>, end: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    let last = end.last().copied().unwrap_or(b'\n');
    loop {
        let mut piece = Vec::new();
        loop {
            let left = (RECORD_BYTES_MAX + 1 + end.len()).saturating_sub(piece.len());
            let read = Read::take(&mut *input, left as u64).read_until(last, &mut piece)?;
            if read == 0 || piece.ends_with(end) {
                break;
            }
        }
        match piece.strip_suffix(end) {
            Some(whole) => piece.truncate(whole.len()),
            // The end of the input. A last line end behind other ends is none of a record.
            None if piece.is_empty() || (end != b"\n" && piece == b"\n") => return Ok(pieces),
            None => {}
        }
        pieces.push(piece);
        if !input.buffer().contains(&last) {
            return Ok(pieces);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8], end: &[u8]) -> Vec<String> {
        let mut input = BufReader::with_capacity(7, text);
        let mut all = Vec::new();
        loop {
            let pieces = ended_by(&mut input, end).unwrap();
            if pieces.is_empty() {
                return all;
            }
            all.extend(pieces.into_iter().map(|piece| String::from_utf8(piece).unwrap()));
        }
    }

    #[test]
    fn records_end_where_they_are_said_to() {
        assert_eq!(all(b"a\n\nlonger than the buffer\nlast", b"\n"), ["a", "", "longer than the buffer", "last"]);
        assert_eq!(all(b"a;b;;c\n;;d;;\n", b";;"), ["a;b", "c\n", "d"]);
        assert_eq!(all(b"", b"\n"), Vec::<String>::new());
    }
}
