//! The part of what is shown again and again that fits into a terminal: what scrolls off could not be read, and would be left
//! behind above the next picture.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Fewer rows or columns than this are no terminal that somebody reads.
const ROWS_MIN: usize = 3;
const COLUMNS_MIN: usize = 20;

/// What is shown at present; `None`: everything is, as it is.
static SHOWN: Mutex<Option<Window>> = Mutex::new(None);

/// Rows of a terminal, of which the last is for what is left out.
#[derive(Debug)]
struct Window {
    rows: usize,
    columns: usize,
    used: usize,
    left_out: usize,
}

fn shown() -> MutexGuard<'static, Option<Window>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on lines are broken at `columns`, and at most `rows` of them are shown.
pub(crate) fn open(columns: usize, rows: usize) {
    *shown() = Window::new(columns, rows);
}

/// Ends that. How many lines were left out.
pub(crate) fn close() -> usize {
    shown().take().map_or(0, |window| window.left_out)
}

/// What is to be shown of these lines.
pub(crate) fn fitting(text: &str) -> Option<Cow<'_, str>> {
    match &mut *shown() {
        None => Some(Cow::Borrowed(text)),
        Some(window) => {
            let rows = window.take(text);
            (!rows.is_empty()).then(|| Cow::Owned(rows.join("\n")))
        }
    }
}

// === impl Window ===

impl Window {
    fn new(columns: usize, rows: usize) -> Option<Self> {
        (rows >= ROWS_MIN && columns >= COLUMNS_MIN).then_some(Self { rows, columns, used: 0, left_out: 0 })
    }

    /// The rows of these lines that are shown.
    fn take(&mut self, text: &str) -> Vec<String> {
        let rows = text.split('\n').flat_map(|line| broken(line, self.columns));
        let mut shown = Vec::new();
        for row in rows {
            if self.used + 1 < self.rows {
                self.used += 1;
                shown.push(row);
            } else {
                self.left_out += 1;
            }
        }
        shown
    }
}

/// A line in rows that are no longer than `columns`, broken between words where it can be; what follows is as far from the
/// left as the line.
fn broken(line: &str, columns: usize) -> Vec<String> {
    let indent = line.chars().take_while(|character| *character == ' ').count().min(columns / 2);
    let (mut rows, mut rest) = (Vec::new(), line.trim_end().to_owned());
    while rest.chars().count() > columns {
        let cut = rest.char_indices().nth(columns).map_or(rest.len(), |(at, _)| at);
        let word = if rest[cut..].starts_with(' ') { Some(cut) } else { rest[..cut].rfind(' ') };
        let cut = word.filter(|at| rest[..*at].trim_start().len() > columns / 4).unwrap_or(cut);
        let next = format!("{:indent$}{}", "", rest[cut..].trim_start());
        rest.truncate(cut);
        rows.push(std::mem::replace(&mut rest, next));
    }
    rows.push(rest);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words_and_keep_their_place() {
        assert_eq!(broken("short", 20), ["short"]);
        assert_eq!(broken("", 20), [""]);
        let rows = broken("      start it again, or look at its log: it hangs", 24);
        assert_eq!(rows, ["      start it again, or", "      look at its log:", "      it hangs"]);
        assert_eq!(broken(&"x".repeat(45), 20), ["x".repeat(20), "x".repeat(20), "x".repeat(5)]);
        let wide = "ä".repeat(50);
        assert_eq!(broken(&wide, 20).concat(), wide);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut window = Window::new(20, 4).unwrap();
        assert_eq!(window.take("one\ntwo"), ["one", "two"]);
        assert_eq!(window.take("three"), ["three"]);
        assert!(window.take("four, which is longer than that").is_empty());
        assert_eq!(window.left_out, 2);
        assert!(Window::new(10, 40).is_none() && Window::new(80, 1).is_none());
    }
}
