//! Records from files and from standard input, read by a thread of their own: a pipe may be silent for hours, and
//! meanwhile what was read has to be sent, and Ctrl-C heard.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::error::CliError;
use crate::output;
use crate::records::NewRecord;
use crate::records::format::find;
use crate::records::reading::{Form, Reading};

/// Largest single record that is read.
pub(crate) const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Groups that wait to be taken.
const GROUPS_MAX: usize = 2;

/// What a record of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// One record per line, without the line end.
    Lines,
    /// One record per file.
    Whole,
    /// Records of so many bytes; the last may be shorter.
    Blocks(usize),
    /// One record per line, as `walser consume -o json` writes them.
    Json,
}

/// What was there at once.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) records: Vec<NewRecord>,
    /// Bytes of the input that they are made from.
    pub(crate) bytes: u64,
    /// What comes behind them.
    pub(crate) then: Then,
}

/// What comes behind a group. That nothing comes is said: else the reader is gone, and the rest of the input with it.
#[derive(Debug, Default)]
pub(crate) enum Then {
    #[default]
    More,
    End,
    /// What is wrong with the input. Nothing more comes.
    Bad(CliError),
}

/// What a look at the input ended with.
enum Look {
    More,
    End,
    Failed(io::Error),
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
        let then = worker.read_all().and_then(|()| worker.all_skipped()).map_or_else(Then::Bad, |()| Then::End);
        let _ = worker.groups.blocking_send(Group { then, ..Group::default() });
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

    /// Whether there was as much to pass over as was said.
    fn all_skipped(&self) -> Result<(), CliError> {
        let (skipped, skip) = (self.skipped, self.source.skip);
        if skipped == skip {
            return Ok(());
        }
        Err(CliError::usage(format!("the input has {skipped} records, fewer than --skip {skip}")))
    }

    /// Reads one file. What is good goes on its way, also when what comes behind it is not.
    fn read(&mut self, path: &Path, mut input: BufReader<impl Read>) -> Result<(), CliError> {
        let mut number = 0;
        loop {
            let (pieces, look) = self.pieces(&mut input);
            let mut group = Group::default();
            let mut bad = None;
            for piece in pieces {
                number += 1;
                group.bytes += piece.len() as u64 + 1;
                match self.record(piece) {
                    Ok(record) => group.records.extend(record),
                    Err(why) => {
                        let unit = if self.by_lines() { "line" } else { "record" };
                        bad = Some(why.placed(&format!("{unit} {} of {}", output::count(number), path.display())));
                        break;
                    }
                }
            }
            if !group.records.is_empty() && self.groups.blocking_send(group).is_err() {
                return Ok(());
            }
            match (bad, look) {
                (Some(bad), _) => return Err(bad),
                (None, Look::Failed(error)) => return Err(problem(path, &error)),
                (None, Look::End) => return Ok(()),
                (None, Look::More) => {}
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

    /// The pieces that are there; waits for the first one, and for the end of the last one.
    fn pieces(&self, input: &mut BufReader<impl Read>) -> (Vec<Vec<u8>>, Look) {
        match (&self.source.reading.form, self.source.framing) {
            (Form::Format(format), _) => ended_by(input, format.end()),
            (_, Framing::Lines | Framing::Json) => ended_by(input, b"\n"),
            (_, Framing::Whole) => match block(input, RECORD_BYTES_MAX + 1) {
                Ok(whole) => (vec![whole], Look::End),
                Err(error) => (Vec::new(), Look::Failed(error)),
            },
            (_, Framing::Blocks(size)) => match block(input, size) {
                Ok(block) if block.is_empty() => (Vec::new(), Look::End),
                Ok(block) => (vec![block], Look::More),
                Err(error) => (Vec::new(), Look::Failed(error)),
            },
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
fn ended_by(input: &mut BufReader<impl Read>, end: &[u8]) -> (Vec<Vec<u8>>, Look) {
    let mut pieces = Vec::new();
    let last = end.last().copied().unwrap_or(b'\n');
    loop {
        let mut piece = Vec::new();
        let mut look = Look::More;
        while !piece.ends_with(end) && piece.len() <= RECORD_BYTES_MAX + end.len() {
            let left = (RECORD_BYTES_MAX + 1 + end.len()) - piece.len();
            match Read::take(&mut *input, left as u64).read_until(last, &mut piece) {
                // Without the last byte of an end, the input has ended. Once is enough: on a terminal the next look would
                // wait for more.
                Ok(count) if count == 0 || (piece.last() != Some(&last) && count < left) => {
                    look = Look::End;
                    break;
                }
                Ok(_) => {}
                // What was read of this piece is not a record.
                Err(error) => return (pieces, Look::Failed(error)),
            }
        }
        let whole = piece.strip_suffix(end).map(<[u8]>::len);
        piece.truncate(whole.unwrap_or(piece.len()));
        // A last line end behind other ends is none of a record.
        let nothing = whole.is_none() && (piece.is_empty() || (end != b"\n" && piece == b"\n"));
        if !nothing {
            pieces.push(piece);
        }
        if matches!(look, Look::End) || find(input.buffer(), end).is_none() {
            return (pieces, look);
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
            let (pieces, look) = ended_by(&mut input, end);
            all.extend(pieces.into_iter().map(|piece| String::from_utf8(piece).unwrap()));
            if matches!(look, Look::End) {
                return all;
            }
        }
    }

    #[test]
    fn records_end_where_they_are_said_to() {
        assert_eq!(all(b"a\n\nlonger than the buffer\nlast", b"\n"), ["a", "", "longer than the buffer", "last"]);
        assert_eq!(all(b"a;b;;c\n;;d;;\n", b";;"), ["a;b", "c\n", "d"]);
        assert_eq!(all(b"a;;b;", b";;"), ["a", "b;"]);
        assert_eq!(all(b"", b"\n"), Vec::<String>::new());
    }

    /// Gives what it has, and then must not be asked: a pipe would be waited for.
    struct Pipe<'a>(&'a [u8]);

    impl Read for Pipe<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "a record that is complete waits for more input");
            self.0.read(buffer)
        }
    }

    #[test]
    fn a_record_that_has_come_does_not_wait_for_the_next_one() {
        for (there, end, whole) in
            [(&b"a;;b;"[..], &b";;"[..], 1), (b"a\n---\nb\n-", b"\n---\n", 1), (b"a\nb\nc", b"\n", 2)]
        {
            let mut input = BufReader::new(Pipe(there));
            let (pieces, look) = ended_by(&mut input, end);
            assert!(pieces.len() == whole && matches!(look, Look::More), "{pieces:?}");
        }
    }
}
