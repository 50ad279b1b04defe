//! What a document marks as code, and what it links to.

/// Something that a document names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mention {
    /// Between backticks, with its white space made single.
    Code(String),
    /// The target of a link, without its fragment.
    Link(String),
}

/// Reads the mentions of a Markdown text in their order. Fenced blocks are programs and output, and are left out.
pub(crate) fn mentions(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    for paragraph in without_fences(text).split("\n\n") {
        read_paragraph(paragraph, &mut found);
    }
    found
}

fn without_fences(text: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut fenced = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        left.push_str(if fence || fenced { "" } else { line.trim() });
        left.push('\n');
    }
    left
}

/// A code span is closed by as many backticks as have opened it, in the same paragraph (CommonMark 0.31, 6.1).
fn read_paragraph(text: &str, found: &mut Vec<Mention>) {
    let mut rest = text;
    while let Some(at) = rest.find(['`', ']']) {
        rest = &rest[at..];
        if let Some(link) = rest.strip_prefix("](") {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                found.push(Mention::Link(target.to_owned()));
            }
            rest = link;
            continue;
        }
        let ticks = rest.len() - rest.trim_start_matches('`').len();
        let (opening, after) = rest.split_at(ticks.max(1));
        rest = after;
        if let Some(end) = closing(after, opening.len()).filter(|_| ticks > 0) {
            let code: Vec<&str> = after[..end].split_whitespace().collect();
            found.push(Mention::Code(code.join(" ")));
            rest = &after[end + ticks..];
        }
    }
}

/// Where the run of exactly `ticks` backticks begins.
fn closing(text: &str, ticks: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = text[at..].find('`') {
        let begin = at + next;
        let length = text[begin..].len() - text[begin..].trim_start_matches('`').len();
        if length == ticks {
            return Some(begin);
        }
        at = begin + length;
    }
    None
}

#[test]
fn code_and_links_are_read_and_fences_are_not() {
    let text = "
`a` and ``b ` c`` [text `d`](../e.md#part), [web](https://example.org/f).
| `g` | `` | `h` |

an open ` one

```sh
`i` [j](k.md)
```
[`l`](m)  `n
o`
";
    let read: Vec<String> = mentions(text).into_iter().map(|mention| format!("{mention:?}")).collect();
    let code = |text: &str| format!("Code({text:?})");
    let link = |text: &str| format!("Link({text:?})");
    let first = [code("a"), code("b ` c"), code("d"), link("../e.md"), code("g"), code("h")];
    let second = [code("l"), link("m"), code("n o")];
    assert_eq!(read, [first.as_slice(), second.as_slice()].concat());
}
