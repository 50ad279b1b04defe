//! Format strings: how `walser consume -f` prints a record, and how `walser produce -f` reads one.
//!
//! | | is |
//! |---|---|
//! | `%v` `%k` | value, key; null prints nothing |
//! | `%h` | headers, `name=value,name=value`; `\` stands before `,` `=` `\` that are part of them; null has no `=` |
//! | `%T` `%T{15:04:05}` | time in UTC: RFC 3339, or by Go's reference time (output only) |
//! | `%p` `%o` `%t` | partition, offset, topic; offset and topic are read and not used |
//! | `%%` `\n` `\t` `\r` `\0` `\\` | as they say |

use std::io::{self, Write};

use walser_proto::v1 as pb;

use super::time::{is_layout, laid_out, parse_time};
use super::{Header, NewRecord};

/// The fields, in words for people.
const FIELDS: &str = "%v value, %k key, %h headers, %T time, %p partition, %o offset, %t topic, %%";

/// A format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

/// How records are read by a format: text between fields tells where they end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputFormat {
    pieces: Vec<Piece>,
    /// What ends a record.
    end: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value,
    Key,
    Offset,
    Partition,
    Topic,
    Time(String),
    Headers,
}

// === impl Format ===

impl Format {
    /// Reads a format string.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let piece = match character {
                '\\' => {
                    plain.push(escaped(rest.next())?);
                    continue;
                }
                '%' => match field(&mut rest)? {
                    Some(piece) => piece,
                    None => {
                        plain.push('%');
                        continue;
                    }
                },
                other => {
                    plain.push(other);
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Writes one record.
    pub(crate) fn write(
        &self,
        out: &mut impl Write,
        chunk: &pb::RecordChunk,
        record: &pb::ConsumedRecord,
    ) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text.as_bytes())?,
                Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Partition => write!(out, "{}", chunk.partition)?,
                Piece::Topic => out.write_all(chunk.topic.as_bytes())?,
                Piece::Time(layout) => out.write_all(laid_out(record.timestamp_millis, layout).as_bytes())?,
                Piece::Headers => write_headers(out, &record.headers)?,
            }
        }
        Ok(())
    }

    /// The same format for input.
    pub(crate) fn for_input(self) -> Result<InputFormat, String> {
        let mut pieces = self.0;
        let end = match pieces.last() {
            Some(Piece::Text(text)) if pieces.len() > 1 => text.clone().into_bytes(),
            _ => b"\n".to_vec(),
        };
        if pieces.len() > 1 && matches!(pieces.last(), Some(Piece::Text(_))) {
            pieces.pop();
        }
        if !pieces.contains(&Piece::Value) {
            return Err("an input format has a %v: a record needs a value (with -Z an empty one is null)".to_owned());
        }
        for pair in pieces.windows(2) {
            if !matches!(pair, [Piece::Text(_), _] | [_, Piece::Text(_)]) {
                return Err("two fields without text between them cannot be told apart in input".to_owned());
            }
        }
        for (index, piece) in pieces.iter().enumerate() {
            if matches!(piece, Piece::Time(layout) if !layout.is_empty()) {
                return Err("a time is read as RFC 3339 or Unix milliseconds: write %T without braces".to_owned());
            }
            if !matches!(piece, Piece::Text(_)) && pieces[..index].contains(piece) {
                return Err("a field is in the input format twice".to_owned());
            }
        }
        Ok(InputFormat { pieces, end })
    }
}

fn escaped(character: Option<char>) -> Result<char, String> {
    match character {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        Some(other) => Err(format!("\\{other} is none of \\n \\t \\r \\0 \\\\")),
        None => Err("the format ends with a backslash".to_owned()),
    }
}

/// The field behind a `%`; `None`: it is the sign itself.
fn field(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<Piece>, String> {
    Ok(Some(match rest.next() {
        Some('%') => return Ok(None),
        Some('v') => Piece::Value,
        Some('k') => Piece::Key,
        Some('o') => Piece::Offset,
        Some('p') => Piece::Partition,
        Some('t') => Piece::Topic,
        Some('h') => Piece::Headers,
        Some('T') if rest.peek() == Some(&'{') => {
            rest.next();
            Piece::Time(layout(rest)?)
        }
        Some('T') => Piece::Time(String::new()),
        other => {
            let other = other.map(String::from).unwrap_or_default();
            return Err(format!("\"%{other}\" means nothing; there are {FIELDS}"));
        }
    }))
}

/// The layout in `%T{…}`, behind the opening brace.
fn layout(rest: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut layout = String::new();
    loop {
        match rest.next() {
            Some('}') => break,
            Some(character) => layout.push(character),
            None => return Err("%T{ has no closing }".to_owned()),
        }
    }
    if !is_layout(&layout) {
        return Err(format!("%T{{{layout}}} names no part of a time; write it as 2006-01-02T15:04:05.000"));
    }
    Ok(layout)
}

fn write_headers(out: &mut impl Write, headers: &[pb::Header]) -> io::Result<()> {
    for (number, header) in headers.iter().enumerate() {
        if number > 0 {
            out.write_all(b",")?;
        }
        write_part(out, header.raw_key.as_deref().unwrap_or(header.key.as_bytes()))?;
        if let Some(value) = header.value.as_deref() {
            out.write_all(b"=")?;
            write_part(out, value)?;
        }
    }
    Ok(())
}

/// The name or value of a header, with a backslash before what would end it.
fn write_part(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        if matches!(byte, b',' | b'=' | b'\\') {
            out.write_all(b"\\")?;
        }
        out.write_all(&[*byte])?;
    }
    Ok(())
}

/// Reads what [`write_headers`] writes.
pub(crate) fn read_headers(text: &[u8]) -> Vec<Header> {
    let mut headers: Vec<Header> = Vec::new();
    if text.is_empty() {
        return headers;
    }
    let (mut name, mut value): Header = (Vec::new(), None);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let literal = match byte {
            b'\\' => bytes.next().unwrap_or(byte),
            b',' => {
                headers.push((std::mem::take(&mut name), value.take()));
                continue;
            }
            b'=' if value.is_none() => {
                value = Some(Vec::new());
                continue;
            }
            byte => byte,
        };
        value.as_mut().unwrap_or(&mut name).push(*literal);
    }
    headers.push((name, value));
    headers
}

// === impl InputFormat ===

impl InputFormat {
    /// The bytes that end a record in the input.
    pub(crate) fn end(&self) -> &[u8] {
        &self.end
    }

    /// Reads one record, without what ends it.
    pub(crate) fn read(&self, mut text: &[u8]) -> Result<NewRecord, String> {
        let mut record = NewRecord::default();
        let mut pieces = self.pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            if let Piece::Text(expected) = piece {
                let rest = text.strip_prefix(expected.as_bytes());
                text = rest.ok_or_else(|| format!("{expected:?} of the format is not where it should be"))?;
                continue;
            }
            let field = match pieces.peek() {
                Some(Piece::Text(next)) => {
                    let at = find(text, next.as_bytes());
                    let at = at.ok_or_else(|| format!("{next:?} of the format is missing"))?;
                    let (field, rest) = text.split_at(at);
                    text = rest;
                    field
                }
                _ => std::mem::take(&mut text),
            };
            take(piece, field, &mut record)?;
        }
        if text.is_empty() { Ok(record) } else { Err("there is more than the format says".to_owned()) }
    }
}

fn take(piece: &Piece, field: &[u8], record: &mut NewRecord) -> Result<(), String> {
    let shown = String::from_utf8_lossy(field);
    match piece {
        Piece::Value => record.value = Some(field.to_vec()),
        Piece::Key => record.key = Some(field.to_vec()),
        Piece::Headers => record.headers = read_headers(field),
        Piece::Partition => {
            let bad = |_| format!("\"{shown}\" is not a partition: a number from 0");
            record.partition = Some(shown.trim().parse().map_err(bad)?);
        }
        Piece::Time(_) if field.is_empty() => {}
        Piece::Time(_) => {
            let bad = || format!("\"{shown}\" is not a time: write 2025-11-21T00:00:00Z or Unix milliseconds");
            record.timestamp = Some(parse_time(&shown).ok_or_else(bad)?);
        }
        Piece::Offset | Piece::Topic | Piece::Text(_) => {}
    }
    Ok(())
}

/// Where a text begins in another.
pub(crate) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: &str, record: &pb::ConsumedRecord) -> Vec<u8> {
        let chunk = pb::RecordChunk { topic: "t".to_owned(), partition: 2, ..Default::default() };
        let mut out = Vec::new();
        Format::parse(format).unwrap().write(&mut out, &chunk, record).unwrap();
        out
    }

    #[test]
    fn formats_are_read() {
        let Format(pieces) = Format::parse("%t/%p %T{15:04}\\t%v%%\\n").unwrap();
        let text = |text: &str| Piece::Text(text.to_owned());
        let time = Piece::Time("15:04".to_owned());
        let expected =
            vec![Piece::Topic, text("/"), Piece::Partition, text(" "), time, text("\t"), Piece::Value, text("%\n")];
        assert_eq!(pieces, expected);
        for bad in ["%x", "%", "\\", "\\q", "%T{15:04 %v", "%T{%Y} %v"] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_format_prints_it_reads() {
        let header = |key: &str, value: Option<&'static [u8]>| pb::Header {
            key: key.to_owned(),
            value: value.map(Into::into),
            raw_key: None,
        };
        let record = pb::ConsumedRecord {
            offset: 9,
            key: Some("k".into()),
            value: Some("a value, with=all".into()),
            headers: vec![header("a", Some(b"1,2=\\3")), header("a", None), header("b=", Some(b""))],
            timestamp_millis: 1_763_686_023_118,
            timestamp_type: 0,
        };
        let format = "%t/%p @%o %T [%h] %k %v\\n";
        let line = printed(format, &record);
        let input = Format::parse(format).unwrap().for_input().unwrap();
        assert_eq!(input.end(), b"\n");
        let read = input.read(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((read.key.as_deref(), read.value.as_deref()), (Some(&b"k"[..]), Some(&b"a value, with=all"[..])));
        assert_eq!((read.timestamp, read.partition), (Some(1_763_686_023_118), Some(2)));
        let headers: Vec<Header> =
            vec![(b"a".to_vec(), Some(b"1,2=\\3".to_vec())), (b"a".to_vec(), None), (b"b=".to_vec(), Some(Vec::new()))];
        assert_eq!(read.headers, headers);
    }

    #[test]
    fn input_that_a_format_cannot_tell_apart_is_refused() {
        for bad in ["%k", "%k%v", "%v %v", "%T{15:04} %v", ""] {
            assert!(Format::parse(bad).unwrap().for_input().is_err(), "{bad}");
        }
        let input = Format::parse("%k:%v;;").unwrap().for_input().unwrap();
        assert_eq!(input.end(), b";;");
        assert_eq!(input.read(b"a:b:c").unwrap().value.unwrap(), b"b:c");
        assert!(input.read(b"no delimiter").is_err());
        let input = Format::parse("<%v>\\n").unwrap().for_input().unwrap();
        assert_eq!(input.end(), b">\n");
        assert_eq!(input.read(b"<a").unwrap().value.unwrap(), b"a");
        assert!(input.read(b"a").is_err());
        let input = Format::parse("%p %T %v").unwrap().for_input().unwrap();
        assert!(input.read(b"x 0 v").is_err() && input.read(b"1 soon v").is_err());
    }
}
