//! The newest lines of the log, in memory: what goes to standard error, and no more.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// Most lines that are kept, and most bytes of them all.
const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 1 << 20;
/// Most bytes of one line; what comes behind them is cut off.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Lines that were written. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct RecentLines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

/// Writes lines to standard error, and keeps the newest.
#[derive(Debug)]
pub(super) struct LogWriter {
    pub(super) recent: RecentLines,
    /// Lines have the escapes of a terminal, which are not kept.
    pub(super) with_escapes: bool,
}

// === impl RecentLines ===

impl RecentLines {
    /// Keeps a line with its end.
    fn push(&self, line: &[u8]) {
        let line: Box<[u8]> = match line.get(..LINE_BYTES_MAX) {
            Some(begin) => [begin, b"\n"].concat().into(),
            None => line.into(),
        };
        let mut kept = self.kept.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { return };
            kept.bytes -= oldest.len();
        }
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<u8> {
        let kept = self.kept.lock();
        let mut all = Vec::with_capacity(kept.bytes);
        kept.lines.iter().for_each(|line| all.extend_from_slice(line));
        all
    }
}

// === impl LogWriter ===

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LogWriter {
    /// A line is written as a whole. It is kept first: standard error may block.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.with_escapes {
            self.recent.push(&anstream::adapter::strip_bytes(line).into_vec());
        } else {
            self.recent.push(line);
        }
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_in_order() {
        let recent = RecentLines::default();
        for number in 0..LINES_MAX + 2 {
            recent.push(format!("{number}\n").as_bytes());
        }
        let all = String::from_utf8(recent.all()).unwrap();
        assert_eq!((all.lines().next(), all.lines().last()), (Some("2"), Some("1001")));
        assert_eq!(all.lines().count(), LINES_MAX);
    }

    #[test]
    fn long_lines_are_cut_and_push_out_many() {
        let recent = RecentLines::default();
        for _ in 0..100 {
            recent.push(&vec![b'x'; 4 * LINE_BYTES_MAX]);
        }
        let all = recent.all();
        assert!(all.len() <= BYTES_MAX && all.len() > BYTES_MAX - 2 * LINE_BYTES_MAX, "{}", all.len());
        assert!(all.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_BYTES_MAX));
    }
}
