//! Writing to the terminal: data to stdout, everything else to stderr.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use anstyle::{AnsiColor, Style};

use crate::{progress, window};

pub(crate) use crate::words::{bytes, count, first_of, plural};

/// Where nobody can say how wide a terminal is.
const WIDTH_DEFAULT: usize = 80;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HELP: Style = AnsiColor::Cyan.on_default();

/// A line for people, to stderr.
pub(crate) fn note(text: &str) {
    progress::beside(|| {
        let _ = writeln!(anstream::stderr().lock(), "{}", printable(text));
    });
}

/// What went wrong, with colour where the terminal has it (<https://no-color.org>).
pub(crate) fn error(text: &str) {
    labelled("error:", ERROR, text);
}

/// What may go wrong.
pub(crate) fn warning(text: &str) {
    labelled("warning:", WARNING, text);
}

/// What to do.
pub(crate) fn help(text: &str) {
    labelled("  help:", HELP, text);
}

fn labelled(label: &str, style: Style, text: &str) {
    progress::beside(|| {
        let _ = writeln!(anstream::stderr().lock(), "{style}{label}{style:#} {}", printable(text));
    });
}

/// Text that may have come from outside, without what a terminal would obey.
fn printable(text: &str) -> String {
    let shown = |character: char| character != '\r' && !obeyed(character);
    text.chars().map(|character| if !shown(character) { '\u{fffd}' } else { character }).collect()
}

/// A line of data, to stdout. A closed pipe ends the program quietly, as it does for other tools.
pub(crate) fn data(text: &str) {
    let Some(text) = window::fitting(text) else { return };
    if let Err(error) = try_data(&text) {
        stop_writing(&error);
    }
}

/// A line of data, to stdout.
pub(crate) fn try_data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Bytes as they are, to stdout.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        stop_writing(&error);
    }
}

/// One JSON document, to stdout.
pub(crate) fn document(value: &impl serde::Serialize) -> Result<(), serde_json::Error> {
    let text = serde_json::to_string_pretty(value)?;
    data(&text);
    Ok(())
}

/// Ends the program after standard output failed: quietly when its reader is gone, else with an error.
pub(crate) fn stop_writing(problem: &io::Error) -> ! {
    if problem.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    error(&format!("standard output: {problem}"));
    std::process::exit(1);
}

/// Ends the program when the reader of its output is gone, also while there is nothing to write: `… | head -1`.
pub(crate) fn end_with_reader() -> io::Result<()> {
    when_reader_is_gone(|| std::process::exit(0))
}

/// Does something once when the reader of standard output is gone.
pub(crate) fn when_reader_is_gone(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let watch = || {
        let stdout = io::stdout();
        // Nothing is asked for: what is reported is that the other end is gone, which files never are.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        loop {
            match poll(&mut watched, None) {
                Ok(_) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return act(),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("reader of stdout".to_owned()).spawn(watch).map(drop)
}

/// Stdout for much data.
pub(crate) fn bulk() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(256 << 10, io::stdout().lock())
}

/// Columns of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    terminal_size().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

/// Columns and rows of the terminal, if standard output is one.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size_of(io::stdout())?;
    Some((usize::from(width.0), usize::from(height.0)))
}

/// A table without borders: upper-case titles, columns two spaces apart. Where a terminal is too narrow for it, every
/// row becomes lines of its own, a column on each.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    table_within(terminal_width(), titles, rows)
}

/// The same, for rows that can be written in less room: in the first form that fits, or else in lines, in the last one.
pub(crate) fn table_in_forms(titles: &[&str], forms: &[&[Vec<String>]]) -> String {
    table_in_forms_within(terminal_width(), titles, forms)
}

fn table_in_forms_within(limit: Option<usize>, titles: &[&str], forms: &[&[Vec<String>]]) -> String {
    let fits = |rows: &&&[Vec<String>]| limit.is_none_or(|limit| width_of(&widths_of(titles, rows)) <= limit);
    let form = forms.iter().find(fits).or_else(|| forms.last());
    table_within(limit, titles, form.copied().unwrap_or_default())
}

/// A heading and what goes with it, in lines that fit the terminal.
pub(crate) fn heading(name: &str, parts: &[String]) -> String {
    heading_within(terminal_width(), name, parts)
}

fn heading_within(limit: Option<usize>, name: &str, parts: &[String]) -> String {
    let (mut lines, mut line, mut is_first) = (Vec::new(), format!("{name} "), true);
    for part in parts {
        let (between, length) = (if is_first { " " } else { " \u{b7} " }, line.chars().count() + part.chars().count());
        if limit.is_some_and(|limit| length + between.chars().count() > limit) {
            lines.push(std::mem::replace(&mut line, format!("  {part}")));
        } else {
            line = format!("{line}{between}{part}");
        }
        is_first = false;
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// How wide each column is.
fn widths_of(titles: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn width_of(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
}

fn table_within(limit: Option<usize>, titles: &[&str], rows: &[Vec<String>]) -> String {
    let widths = widths_of(titles, rows);
    if limit.is_some_and(|limit| width_of(&widths) > limit) && !rows.is_empty() {
        return expanded(titles, rows);
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(titles.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

fn expanded(titles: &[&str], rows: &[Vec<String>]) -> String {
    let widest = titles.iter().map(|title| title.len()).max().unwrap_or(0);
    let row = |row: &Vec<String>| {
        let lines =
            titles.iter().zip(row).map(|(title, cell)| format!("{title:<widest$}  {cell}").trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    };
    rows.iter().map(row).collect::<Vec<_>>().join("\n\n")
}

/// Text in lines that fit the terminal, each behind `indent` spaces.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    let width = terminal_width().unwrap_or(WIDTH_DEFAULT).max(indent + 20);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.iter().map(|line| format!("{:indent$}{line}", "")).collect::<Vec<_>>().join("\n")
}

/// Whether bytes would be more than text to a terminal.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return true };
    // A carriage return alone writes over what is there; before a line feed it is the end of a line.
    let disturbs = |line: &str| line.contains(|character| character == '\r' || obeyed(character));
    text.split("\r\n").any(disturbs)
}

/// Whether a terminal does something else with a character than to show it: controls, and those that turn the direction of
/// text (Unicode TR 36, "Bidirectional text spoofing").
pub(crate) fn obeyed(character: char) -> bool {
    let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (character.is_control() && !matches!(character, '\n' | '\r' | '\t'))
}

/// Whether standard output is a terminal.
pub(crate) fn to_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(1_204_331), "1,204,331");
        assert_eq!(count(-54_317), "-54,317");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(plural(1, "record"), "1 record");
    }

    #[test]
    fn a_table_that_is_too_wide_becomes_lines() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long name".to_owned(), String::new()]];
        let titles = ["NAME", "N"];
        assert_eq!(table_within(Some(80), &titles, &rows), "NAME       N\na          1\nlong name");
        assert_eq!(table_within(Some(11), &titles, &rows), "NAME  a\nN     1\n\nNAME  long name\nN");
        assert_eq!(table_within(None, &titles, &rows), table_within(Some(80), &titles, &rows), "for other programs");
    }

    #[test]
    fn a_table_has_the_longest_form_that_fits() {
        let form = |text: &str| vec![vec![text.to_owned(), "1".to_owned()]];
        let (long, short) = (form("a-very-long-name"), form("a-ve\u{2026}"));
        let shown = |limit| table_in_forms_within(limit, &["NAME", "N"], &[&long, &short]);
        assert!(shown(None).contains("a-very-long-name") && shown(Some(19)).contains("a-very-long-name"));
        assert_eq!(shown(Some(18)), "NAME   N\na-ve\u{2026}  1");
        assert_eq!(shown(Some(7)), "NAME  a-ve\u{2026}\nN     1");
        let parts = ["stable", "2 members", "lag 3"].map(str::to_owned);
        assert_eq!(heading_within(None, "g", &parts), "g  stable \u{b7} 2 members \u{b7} lag 3");
        assert_eq!(heading_within(Some(21), "g", &parts), "g  stable \u{b7} 2 members\n  lag 3");
    }

    #[test]
    fn long_text_is_wrapped_between_words() {
        let text = wrapped(&"word ".repeat(40), 4);
        assert!(text.lines().all(|line| line.starts_with("    word") && line.len() <= 80), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
    }

    #[test]
    fn text_from_outside_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}"), "a\u{fffd}[2Jb\u{fffd}");
        assert!(is_binary(b"\x1b[2J") && is_binary(&[0xff]) && is_binary(b"\0") && is_binary("\u{9b}".as_bytes()));
        assert!(is_binary(b"a\rb") && is_binary("\u{202e}txt.exe".as_bytes()));
        assert!(!is_binary("text\twith\r\nlines \u{e9}".as_bytes()));
    }
}
