//! Streams at the edges of the codecs, and what Kafka's Java client does with each (`golden/codecs`).

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::path::PathBuf;

use serde_json::Value;
use walser_model::Compression;
use walser_record_batch::{CompressionError, DECOMPRESSED_BYTES_MAX, compress, decompress};

/// Read by the Java client, and refused here: the format says that offset 0 is invalid, and what the reference decoder
/// puts in its place is not defined.
const REFUSED_HERE_ONLY: [(&str, &str); 1] = [("lz4", "block: offset 0")];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("tests/golden/codecs/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Hexadecimal digits, with runs of one byte as `(ff*100)`.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(run) = rest.strip_prefix('(') {
            let (run, tail) = run.split_once(')').unwrap();
            let (byte, count) = run.split_once('*').unwrap();
            bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), u8::from_str_radix(byte, 16).unwrap());
            rest = tail;
        } else {
            bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
            rest = &rest[2..];
        }
    }
    bytes
}

fn codec(case: &Value) -> Compression {
    case["codec"].as_str().unwrap().parse().unwrap()
}

#[test]
fn what_the_java_client_reads_is_read_and_what_it_refuses_is_refused() {
    let cases = cases();
    assert!(cases.len() >= 190, "the golden file is there");
    let mut different = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let expected = case["plain"].as_str().map(bytes);
        let expected = expected.filter(|_| !REFUSED_HERE_ONLY.contains(&(case["codec"].as_str().unwrap(), name)));
        let seen = decompress(codec(case), &bytes(case["stream"].as_str().unwrap()), DECOMPRESSED_BYTES_MAX);
        if let Err(error) = &seen {
            assert!(matches!(error, CompressionError::Malformed { .. }), "{name}: {error}");
        }
        if seen.as_ref().ok() != expected.as_ref() {
            different.push(format!("{}: {name}: {seen:?}, the Java client: {expected:?}", case["codec"]));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_documented_table_is_what_was_observed() {
    let page = std::fs::read_to_string(folder().join("../../docs/formats/compression.md")).unwrap();
    let clients = ["kafka-clients", "librdkafka", "franz-go", "sarama", "kafka-python"];
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let cells = clients.map(|client| case["clients"][client].as_str().unwrap());
        let section = page.split("\n## ").find(|section| section.lines().next() == case["codec"].as_str());
        let section = section.unwrap_or_else(|| panic!("the page has a section {}", case["codec"]));
        let row = format!("| {name} | {} |", cells.join(" | "));
        assert!(section.lines().any(|line| line == row), "the page has the row {row}");
    }
}

#[test]
fn joined_streams_count_together_against_the_limit() {
    let plain = b"0123456789abcdef".repeat(1_000);
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
        let mut one = Vec::new();
        compress(codec, &plain, &mut one).unwrap();
        let joined = one.repeat(5);
        let whole = decompress(codec, &joined, 5 * plain.len()).unwrap();
        assert_eq!(whole, plain.repeat(5), "{codec}");
        assert!(whole.capacity() <= 5 * plain.len() + 1, "{codec}: {}", whole.capacity());
        let cut = decompress(codec, &joined, 5 * plain.len() - 1);
        assert!(matches!(cut, Err(CompressionError::TooLarge { .. })), "{codec}");
    }
}

#[test]
fn many_members_without_content_end() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
        let mut one = Vec::new();
        compress(codec, b"", &mut one).unwrap();
        assert_eq!(decompress(codec, &one.repeat(100_000), DECOMPRESSED_BYTES_MAX), Ok(Vec::new()), "{codec}");
    }
}
