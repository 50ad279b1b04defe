//! `walser consume`.

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal as _, StdoutLock, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};
use walser_client::{Client, Failure, Read, Reader, ReaderConfig, Reason};
use walser_proto::v1 as pb;

use crate::cli::{ConsumeArgs, ConsumeOutput};
use crate::error::CliError;
use crate::output;

/// How a record is printed.
enum Printer {
    Ndjson,
    Raw,
    Format(Vec<Piece>),
}

/// A part of a format.
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

/// The problems that people were told of, by topic and partition. There are no more than partitions.
#[derive(Debug, Default)]
struct Problems(HashMap<(String, i32), Reason>);

// === impl Problems ===

impl Problems {
    /// Whether a problem differs from what was said last of the partition: servers repeat those that last.
    fn is_news(&mut self, place: &pb::TopicPartition, reason: Reason) -> bool {
        self.0.insert((place.topic.clone(), place.partition), reason) != Some(reason)
    }

    /// Records came: what was wrong is over.
    fn over(&mut self, topic: &str, partition: i32) {
        if !self.0.is_empty() {
            self.0.remove(&(topic.to_owned(), partition));
        }
    }
}

pub(crate) async fn run(arguments: ConsumeArgs) -> Result<ExitCode, CliError> {
    let printer = match (&arguments.format, arguments.output) {
        (Some(format), _) => Printer::Format(parse_format(format).map_err(CliError::usage)?),
        (None, ConsumeOutput::Ndjson) => Printer::Ndjson,
        (None, ConsumeOutput::Raw) => Printer::Raw,
    };
    let client = Client::new(&arguments.server.server)?;
    let target = |topic: &String| pb::ReadTarget {
        topic: topic.clone(),
        partition: arguments.partition,
        start: Some(arguments.from.wire()),
        end: arguments.to.map(|to| to.wire()),
        ..Default::default()
    };
    let targets = arguments.topics.iter().map(target).collect();
    let patience = Duration::from_secs(arguments.timeout);
    let mut reader = Reader::new(&client, ReaderConfig { targets, batches: false, patience });
    let mut problems = Problems::default();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        match reader.next().await.map_err(|failure| CliError::server(failure, &arguments.server.server))? {
            Read::Chunk(chunk) => {
                problems.over(&chunk.topic, chunk.partition);
                left = print_chunk(&printer, &chunk, left);
                if left == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Read::CaughtUp => {
                problems = Problems::default();
                if arguments.to.is_none() && std::io::stderr().is_terminal() {
                    output::note("caught up · waiting for new records · Ctrl-C to stop");
                }
            }
            Read::Problem(problem) => {
                let place = problem.topic_partition.unwrap_or_default();
                let unknown = || Failure::internal("the server does not say what is wrong");
                let failure = problem.error.map_or_else(unknown, Failure::from);
                if problems.is_news(&place, failure.reason()) {
                    let (text, reason) = (failure.message(), failure.reason_name());
                    output::note(&format!("warning: {}/{}: {text} ({reason})", place.topic, place.partition));
                }
            }
            Read::Away(failure) => {
                let server = &arguments.server.server;
                let (text, reason, seconds) = (failure.message(), failure.reason_name(), arguments.timeout);
                output::note(&format!("{server} is away: {text} ({reason}); retrying for up to {seconds} s"));
            }
            // The server ends a stream in order only when everything was read that was asked for.
            Read::End => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Prints a chunk; gives back how many records may still be printed.
fn print_chunk(printer: &Printer, chunk: &pb::RecordChunk, mut left: u64) -> u64 {
    let mut out = output::bulk();
    for record in &chunk.records {
        if left == 0 {
            break;
        }
        let written = match printer {
            Printer::Raw => out.write_all(record.value.as_deref().unwrap_or_default()),
            Printer::Ndjson => writeln!(out, "{}", as_json(chunk, record)),
            Printer::Format(pieces) => print_format(&mut out, pieces, chunk, record),
        };
        if let Err(error) = written {
            output::stop_writing(&error);
        }
        left -= 1;
    }
    if let Err(error) = out.flush() {
        output::stop_writing(&error);
    }
    left
}

/// Bytes as JSON: parsed where they are a JSON object or array, else text; base64 would hide what most records are.
fn shown(bytes: &[u8]) -> Value {
    if matches!(bytes.first(), Some(b'{' | b'['))
        && let Ok(parsed) = serde_json::from_slice(bytes)
    {
        return parsed;
    }
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

fn field(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes {
        None => drop(object.insert(name.to_owned(), Value::Null)),
        Some(bytes) if std::str::from_utf8(bytes).is_ok() => drop(object.insert(name.to_owned(), shown(bytes))),
        Some(bytes) => drop(object.insert(format!("{name}Base64"), Value::String(base64(bytes)))),
    }
}

fn as_json(chunk: &pb::RecordChunk, record: &pb::ConsumedRecord) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), json!(chunk.topic));
    object.insert("partition".to_owned(), json!(chunk.partition));
    object.insert("offset".to_owned(), json!(record.offset));
    let text = record.key.as_deref().map(|key| (key, std::str::from_utf8(key).is_ok()));
    match text {
        Some((key, true)) => drop(object.insert("key".to_owned(), json!(String::from_utf8_lossy(key)))),
        _ => field(&mut object, "key", record.key.as_deref()),
    }
    field(&mut object, "value", record.value.as_deref());
    if !record.headers.is_empty() {
        let header = |header: &pb::Header| {
            let mut object = Map::new();
            object.insert("key".to_owned(), json!(header.key));
            field(&mut object, "value", header.value.as_deref());
            Value::Object(object)
        };
        object.insert("headers".to_owned(), record.headers.iter().map(header).collect());
    }
    object.insert("time".to_owned(), json!(output::time(record.timestamp_millis)));
    Value::Object(object)
}

/// RFC 4648 base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = (word >> (18 - 6 * position)) & 63;
            out.push(if position <= chunk.len() { ALPHABET[digit as usize] as char } else { '=' });
        }
    }
    out
}

fn parse_format(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let piece = match character {
            '\\' => {
                match rest.next() {
                    Some('n') => plain.push('\n'),
                    Some('t') => plain.push('\t'),
                    Some('r') => plain.push('\r'),
                    Some('0') => plain.push('\0'),
                    Some('\\') => plain.push('\\'),
                    Some(other) => return Err(format!("\\{other} is none of \\n \\t \\r \\0 \\\\")),
                    None => return Err("the format ends with a backslash".to_owned()),
                }
                continue;
            }
            '%' => match rest.next() {
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                Some('v') => Piece::Value,
                Some('k') => Piece::Key,
                Some('o') => Piece::Offset,
                Some('p') => Piece::Partition,
                Some('t') => Piece::Topic,
                Some('h') => Piece::Headers,
                Some('T') if rest.peek() == Some(&'{') => {
                    rest.next();
                    Piece::Time(time_layout(&mut rest)?)
                }
                Some('T') => Piece::Time(String::new()),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("\"%{other}\" means nothing; there are %v %k %o %p %t %T{{15:04:05}} %h %%"));
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
    Ok(pieces)
}

/// The layout in `%T{…}`, behind the opening brace.
fn time_layout(rest: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut layout = String::new();
    loop {
        match rest.next() {
            Some('}') => break,
            Some(character) => layout.push(character),
            None => return Err("%T{ has no closing }".to_owned()),
        }
    }
    if !TIME_PARTS.iter().any(|(reference, _)| layout.contains(reference)) {
        return Err(format!("%T{{{layout}}} names no part of a time; write it as 2006-01-02T15:04:05.000"));
    }
    Ok(layout)
}

fn print_format(
    out: &mut BufWriter<StdoutLock<'static>>,
    pieces: &[Piece],
    chunk: &pb::RecordChunk,
    record: &pb::ConsumedRecord,
) -> std::io::Result<()> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.write_all(text.as_bytes())?,
            Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
            Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
            Piece::Offset => write!(out, "{}", record.offset)?,
            Piece::Partition => write!(out, "{}", chunk.partition)?,
            Piece::Topic => out.write_all(chunk.topic.as_bytes())?,
            Piece::Time(layout) => out.write_all(laid_out(record.timestamp_millis, layout).as_bytes())?,
            Piece::Headers => {
                for (number, header) in record.headers.iter().enumerate() {
                    let separator = if number == 0 { "" } else { "," };
                    let value = String::from_utf8_lossy(header.value.as_deref().unwrap_or_default());
                    write!(out, "{separator}{}={value}", header.key)?;
                }
            }
        }
    }
    Ok(())
}

/// Parts of Go's reference time, with their places in an RFC 3339 time.
const TIME_PARTS: [(&str, std::ops::Range<usize>); 7] =
    [("2006", 0..4), ("01", 5..7), ("02", 8..10), ("15", 11..13), ("04", 14..16), ("05", 17..19), ("000", 20..23)];

/// A time in UTC by Go's reference layout, as `rpk` writes it: `2006-01-02T15:04:05.000`; empty is RFC 3339.
fn laid_out(millis: i64, layout: &str) -> String {
    let text = output::time(millis);
    if layout.is_empty() {
        return text;
    }
    let mut out = String::new();
    let mut rest = layout;
    while let Some(character) = rest.chars().next() {
        match TIME_PARTS.iter().find(|(reference, _)| rest.starts_with(reference)) {
            Some((reference, place)) => {
                out.push_str(&text[place.clone()]);
                rest = &rest[reference.len()..];
            }
            None => {
                out.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_once_until_it_changes_or_records_come() {
        let mut problems = Problems::default();
        let place = |partition| pb::TopicPartition { topic: "t".to_owned(), partition };
        let (away, corrupt) = (Reason::LeaderNotAvailable, Reason::LogCorrupt);
        assert!(problems.is_news(&place(0), away) && !problems.is_news(&place(0), away));
        assert!(problems.is_news(&place(1), away), "of another partition");
        assert!(problems.is_news(&place(0), corrupt) && !problems.is_news(&place(0), corrupt));
        problems.over("t", 1);
        assert!(problems.is_news(&place(1), away) && !problems.is_news(&place(0), corrupt));
    }

    #[test]
    fn formats_are_read() {
        let pieces = parse_format("%t/%p %T{15:04}\\t%v%%\\n").unwrap();
        let text = |text: &str| Piece::Text(text.to_owned());
        let time = Piece::Time("15:04".to_owned());
        let expected =
            vec![Piece::Topic, text("/"), Piece::Partition, text(" "), time, text("\t"), Piece::Value, text("%\n")];
        assert_eq!(pieces, expected);
        assert!(parse_format("%x").is_err() && parse_format("%").is_err());
        assert!(parse_format("%T{15:04 %v").is_err() && parse_format("%T{%Y} %v").is_err());
        assert_eq!(laid_out(1_763_686_023_118, "15:04:05 2006-01-02"), "00:47:03 2025-11-21");
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
