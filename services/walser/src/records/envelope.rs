//! A record as one line of JSON, without loss: `walser consume -o json` writes it, `walser produce --as json` reads it.
//!
//! ```json
//! {"topic":"orders","partition":0,"offset":7,"timestamp":1763686023118,"key":"k","headers":[{"key":"a","value":"b"}],"value":"v"}
//! ```
//!
//! `timestamp` is Unix milliseconds. Null is null. What is not UTF-8 has the field `key_base64` or `value_base64`
//! (RFC 4648 with padding) instead. A value that is JSON itself is a string, unless it is asked for inline.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use walser_proto::v1 as pb;

use super::json::{is_document, write_document, write_text};
use super::time::parse_time;
use super::{Header, NewRecord};

/// Writes one record and a line end. `inline`: values that are JSON objects or arrays are written as such.
pub(crate) fn write(
    out: &mut impl Write,
    chunk: &pb::RecordChunk,
    record: &pb::ConsumedRecord,
    inline: bool,
) -> io::Result<()> {
    out.write_all(b"{\"topic\":")?;
    write_text(out, &chunk.topic)?;
    let (partition, offset, timestamp) = (chunk.partition, record.offset, record.timestamp_millis);
    write!(out, ",\"partition\":{partition},\"offset\":{offset},\"timestamp\":{timestamp},")?;
    write_field(out, "key", record.key.as_deref())?;
    out.write_all(b",\"headers\":[")?;
    for (number, header) in record.headers.iter().enumerate() {
        out.write_all(if number == 0 { b"{" } else { b",{" })?;
        let name = header.raw_key.as_deref().unwrap_or(header.key.as_bytes());
        write_field(out, "key", Some(name))?;
        out.write_all(b",")?;
        write_field(out, "value", header.value.as_deref())?;
        out.write_all(b"}")?;
    }
    out.write_all(b"],")?;
    match record.value.as_deref() {
        Some(value) if inline && is_document(value) => {
            out.write_all(b"\"value\":")?;
            write_document(out, value)?;
        }
        value => write_field(out, "value", value)?,
    }
    out.write_all(b"}\n")
}

fn write_field(out: &mut impl Write, name: &str, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => write!(out, "\"{name}\":null"),
        Some(Ok(text)) => {
            write!(out, "\"{name}\":")?;
            write_text(out, text)
        }
        Some(Err(bytes)) => write!(out, "\"{name}_base64\":\"{}\"", STANDARD.encode(bytes)),
    }
}

/// The fields as they are read. Unknown and duplicate ones are refused: they would be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(rename = "topic")]
    _topic: Option<String>,
    partition: Option<i32>,
    #[serde(rename = "offset")]
    _offset: Option<i64>,
    #[serde(borrow, default, deserialize_with = "present")]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    headers: Vec<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_base64: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeHeader<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_base64: Option<Cow<'a, str>>,
}

/// A field that is there, be it null.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one record. What the envelope does not say stays open: timestamp and partition.
pub(crate) fn read(line: &[u8]) -> Result<NewRecord, String> {
    // Serde would take a list of the fields' values, too.
    let object = line.trim_ascii_start().starts_with(b"{");
    let envelope =
        if object { serde_json::from_slice(line) } else { Err(serde::de::Error::custom("expected an object")) };
    let envelope: Envelope<'_> = envelope.map_err(|error: serde_json::Error| {
        format!("it is not a record as `walser consume -o json` writes them, one on a line: {}", told(&error))
    })?;
    let header = |header: &&RawValue| -> Result<Header, String> {
        let text = header.get();
        let header = if text.starts_with('{') {
            serde_json::from_str(text)
        } else {
            Err(serde::de::Error::custom("expected an object"))
        };
        let header: EnvelopeHeader<'_> =
            header.map_err(|error: serde_json::Error| format!("a header: {}", told(&error)))?;
        let name = bytes("header key", header.key, header.key_base64.as_deref())?;
        let name = name.ok_or("a header has no \"key\"")?.ok_or("the \"key\" of a header is null")?;
        Ok((name, bytes("header value", header.value, header.value_base64.as_deref())?.flatten()))
    };
    let value = bytes("value", envelope.value, envelope.value_base64.as_deref())?;
    Ok(NewRecord {
        key: bytes("key", envelope.key, envelope.key_base64.as_deref())?.flatten(),
        value: value.ok_or("it has no \"value\"; a tombstone has \"value\":null")?,
        headers: envelope.headers.iter().map(header).collect::<Result<_, _>>()?,
        timestamp: envelope.timestamp.map(timestamp).transpose()?.flatten(),
        partition: envelope.partition,
    })
}

/// The text of an error without its line number, which is always 1.
pub(super) fn told(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The bytes of a field: absent, null, or there.
fn bytes(name: &str, plain: Option<&RawValue>, encoded: Option<&str>) -> Result<Option<Option<Vec<u8>>>, String> {
    match (plain.map(RawValue::get), encoded) {
        (None, None) => Ok(None),
        (Some("null"), None) => Ok(Some(None)),
        (Some(text), None) if text.starts_with('"') => {
            let text: String = serde_json::from_str(text).map_err(|error| format!("its {name}: {}", told(&error)))?;
            Ok(Some(Some(text.into_bytes())))
        }
        // Inline JSON: as it was sent.
        (Some(text), None) => Ok(Some(Some(text.as_bytes().to_vec()))),
        (None, Some(encoded)) => match STANDARD.decode(encoded) {
            Ok(bytes) => Ok(Some(Some(bytes))),
            Err(error) => Err(format!("its {name} is not base64 (RFC 4648 with padding): {error}")),
        },
        (Some(_), Some(_)) => Err(format!("its {name} is there twice, plain and as base64")),
    }
}

fn timestamp(raw: &RawValue) -> Result<Option<i64>, String> {
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    let bad =
        || format!("its timestamp {text} is neither Unix milliseconds nor a time such as \"2025-11-21T00:00:00Z\"");
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(Some(millis));
    }
    let text: String = serde_json::from_str(text).map_err(|_| bad())?;
    parse_time(&text).map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(record: &NewRecord, inline: bool) -> String {
        let header = |(name, value): &Header| {
            let text = String::from_utf8_lossy(name).into_owned();
            let raw = std::str::from_utf8(name).is_err().then(|| name.clone().into());
            pb::Header { key: text, value: value.clone().map(Into::into), raw_key: raw }
        };
        let consumed = pb::ConsumedRecord {
            offset: 7,
            key: record.key.clone().map(Into::into),
            value: record.value.clone().map(Into::into),
            headers: record.headers.iter().map(header).collect(),
            timestamp_millis: record.timestamp.unwrap_or_default(),
            timestamp_type: 0,
        };
        let partition = record.partition.unwrap_or_default();
        let chunk = pb::RecordChunk { topic: "t".to_owned(), partition, ..Default::default() };
        let mut out = Vec::new();
        write(&mut out, &chunk, &consumed, inline).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_have_their_names_and_order() {
        let record = NewRecord {
            key: Some(b"k".to_vec()),
            value: Some(vec![0xff]),
            headers: vec![(b"a".to_vec(), Some(b"b".to_vec())), (b"a".to_vec(), None), (vec![0xfe], Some(vec![]))],
            timestamp: Some(5),
            partition: Some(3),
        };
        let expected = concat!(
            r#"{"topic":"t","partition":3,"offset":7,"timestamp":5,"key":"k","headers":[{"key":"a","value":"b"},"#,
            r#"{"key":"a","value":null},{"key_base64":"/g==","value":""}],"value_base64":"/w=="}"#,
            "\n"
        );
        assert_eq!(written(&record, false), expected);
        assert_eq!(read(expected.trim_end().as_bytes()), Ok(record));
    }

    #[test]
    fn json_values_stay_as_they_were_sent() {
        let sent = r#"{"f":0.12345678901234567890123,"n":123456789012345678901234,"n":1}"#;
        let record =
            NewRecord { value: Some(sent.into()), timestamp: Some(0), partition: Some(0), ..Default::default() };
        assert!(written(&record, true).contains(&format!("\"value\":{sent}}}")));
        assert_eq!(read(written(&record, true).as_bytes()), Ok(record.clone()));
        assert_eq!(read(written(&record, false).as_bytes()), Ok(record));
        let number = read(br#"{"value":123456789012345678901234}"#).unwrap();
        assert_eq!(number.value.unwrap(), b"123456789012345678901234");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        for (bad, why) in [
            (r#"{"value":1,"values":2}"#, "unknown field"),
            (r#"{"value":1,"value":2}"#, "duplicate field"),
            (r#"{"key":"k"}"#, "has no \"value\""),
            (r#"{"value":"a","value_base64":"YQ=="}"#, "twice"),
            (r#"{"value_base64":"!"}"#, "not base64"),
            (r#"{"value":"a","timestamp":"yesterday"}"#, "neither Unix milliseconds"),
            (r#"{"value":"a","headers":[{"value":"x"}]}"#, "header has no \"key\""),
            ("[]", "expected an object"),
            (r#"["t",0,1,5,"k",null,[],"v",null]"#, "expected an object"),
            (r#"{"value":"a","headers":[["k",null,"v",null]]}"#, "expected an object"),
            ("value", "expected an object"),
        ] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert_eq!(read(br#"{"value":"a","timestamp":"1970-01-01T00:00:01Z"}"#).unwrap().timestamp, Some(1000));
    }

    proptest! {
        #[test]
        fn every_record_comes_back_as_it_was(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            value in proptest::option::of(prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                ".{0,40}".prop_map(String::into_bytes),
                Just(b"{ \"a\" : [1.0, \"x\"]}".to_vec()),
            ]),
            headers in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..6), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6))),
                0..4,
            ),
            timestamp in any::<i64>(),
        ) {
            let record = NewRecord { key, value, headers, timestamp: Some(timestamp), partition: Some(1) };
            prop_assert_eq!(read(written(&record, false).as_bytes()), Ok(record));
        }
    }
}
