//! Values of flags, with errors in words.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use walser_model::{Acks, Compression, Durability, MESSAGE_BYTES_CEILING, parse_bytes, parse_duration_ms, show_bytes};

use crate::input::Framing;
use crate::input::RECORD_BYTES_MAX;
use crate::records::format::{Format, InputFormat};
use crate::records::json::JsonPath;
use crate::records::time::parse_time;

/// The least memory that a server in memory can use: below, not even one topic fits.
const MEMORY_MIN: u64 = 1 << 20;
/// Most producers of a benchmark.
const PRODUCERS_MAX: usize = 64;

/// A partition and an offset in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedOffset {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// `orders/0=42`.
pub(super) fn placed(text: &str) -> Result<PlacedOffset, String> {
    let parts = text.rsplit_once('=').and_then(|(of, offset)| Some((of.rsplit_once('/')?, offset)));
    let placed = parts.and_then(|((topic, partition), offset)| {
        let partition = partition.parse().ok().filter(|partition| *partition >= 0)?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0)?;
        Some(PlacedOffset { topic: topic.to_owned(), partition, offset })
    });
    placed.ok_or_else(|| format!("\"{text}\" is not TOPIC/PARTITION=OFFSET"))
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    u64::try_from(bytes).map_err(|_| "a size is not negative".to_owned())
}

pub(super) fn memory(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes >= MEMORY_MIN {
        return Ok(bytes);
    }
    let meant = if text.parse::<u64>().is_ok() { format!(", or {text}MiB if that is meant") } else { String::new() };
    Err(format!("\"{text}\" are {bytes} bytes, and a server needs 1MiB at least: write 256MiB{meant}"))
}

/// A size of values or batches in a benchmark: no larger than a batch can be.
pub(super) fn bench_size(text: &str) -> Result<u64, String> {
    let most = MESSAGE_BYTES_CEILING.unsigned_abs();
    let bytes = size(text)?;
    if bytes <= most {
        Ok(bytes)
    } else {
        Err(format!("\"{text}\" is more than a batch can have, {}", show_bytes(MESSAGE_BYTES_CEILING)))
    }
}

/// Producers of a benchmark: each has a connection, buffers and values of its own.
pub(super) fn producers(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=PRODUCERS_MAX).contains(number));
    number.ok_or_else(|| format!("\"{text}\" is not a number of producers: from 1 to {PRODUCERS_MAX}"))
}

pub(super) fn millis(text: &str) -> Result<u64, String> {
    let millis = parse_duration_ms(text).map_err(|error| error.to_string())?;
    u64::try_from(millis).map_err(|_| "a time is not negative".to_owned())
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("\"{text}\" is not a number of records: write one such as 10"))
}

pub(super) fn timestamp(text: &str) -> Result<i64, String> {
    parse_time(text).ok_or_else(|| format!("\"{text}\" is not a time: write 2025-11-21T00:00:00Z or Unix milliseconds"))
}

pub(super) fn delimiter(text: &str) -> Result<String, String> {
    let text = text.replace("\\t", "\t").replace("\\n", "\n").replace("\\0", "\0");
    if text.is_empty() { Err("a delimiter has at least one character".to_owned()) } else { Ok(text) }
}

pub(super) fn json_path(text: &str) -> Result<JsonPath, String> {
    JsonPath::parse(text)
}

pub(super) fn format(text: &str) -> Result<Format, String> {
    Format::parse(text)
}

pub(super) fn input_format(text: &str) -> Result<InputFormat, String> {
    Format::parse(text)?.for_input()
}

pub(super) fn framing(text: &str) -> Result<Framing, String> {
    match text.split_once(':') {
        None if text == "lines" => Ok(Framing::Lines),
        None if text == "whole" => Ok(Framing::Whole),
        None if text == "json" => Ok(Framing::Json),
        Some(("blocks", bytes)) => match usize::try_from(size(bytes)?) {
            Ok(bytes) if bytes > RECORD_BYTES_MAX => Err("a record has at most 16MiB".to_owned()),
            Ok(bytes) if bytes > 0 => Ok(Framing::Blocks(bytes)),
            _ => Err("a block has at least one byte".to_owned()),
        },
        _ => Err(format!("\"{text}\" is none of lines, whole, json, blocks:SIZE")),
    }
}

/// The codecs, with their names in the help.
pub(super) fn codec() -> impl TypedValueParser<Value = Compression> {
    PossibleValuesParser::new(Compression::ALL.map(Compression::name)).try_map(|name| name.parse::<Compression>())
}

/// The acknowledgements. Kafka's numbers are taken, too.
pub(super) fn acks() -> impl TypedValueParser<Value = Acks> {
    let values = [
        PossibleValue::new("none").alias("0").help("Nothing is waited for"),
        PossibleValue::new("leader").alias("1").help("The leader has it"),
        PossibleValue::new("all").alias("-1").help("Every in-sync replica has it"),
    ];
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Acks>())
}

/// The durabilities of a topic.
pub(super) fn durability() -> impl TypedValueParser<Value = Durability> {
    let names = [Durability::Fsync, Durability::PageCache].map(Durability::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Durability>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_use_the_words_of_the_user() {
        assert_eq!(count("1_000"), Ok(1000));
        assert!(count("abc").unwrap_err().contains("\"abc\" is not a number of records"));
        assert!(memory("10").unwrap_err().contains("10MiB if that is meant"));
        assert_eq!(memory("10MiB"), Ok(10 << 20));
        assert_eq!(delimiter("\\t"), Ok("\t".to_owned()));
        assert!(delimiter("").is_err());
    }
}
