//! Batches made by kafka-python and by the Java client: every header field and record must read back as the
//! generators of those files put it in (`golden/manifest.json`).

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::Value;
use walser_model::TimestampType;
use walser_record_batch::{BatchHeader, Limits, Record, Records, murmur2, partition_for_key};
use walser_record_batch::{validate_produced, verify_crc};

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest() -> Vec<Value> {
    serde_json::from_slice(&golden("manifest.json")).unwrap()
}

fn unhex(value: &Value) -> Option<Vec<u8>> {
    let digits = value.as_str()?;
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    Some((0..digits.len()).step_by(2).map(byte).collect())
}

fn as_expected(record: &Record, expected: &Value, file: &str) {
    assert_eq!(record.offset.0, expected["offset"], "{file}");
    assert_eq!(record.timestamp, expected["timestamp"], "{file}");
    assert_eq!(record.key.as_deref().map(<[u8]>::to_vec), unhex(&expected["key"]), "{file}");
    assert_eq!(record.value.as_deref().map(<[u8]>::to_vec), unhex(&expected["value"]), "{file}");
    let headers: Vec<_> = expected["headers"].as_array().unwrap().iter().collect();
    assert_eq!(record.headers.len(), headers.len(), "{file}");
    for (header, expected) in record.headers.iter().zip(headers) {
        assert_eq!(header.key, expected[0].as_str().unwrap().as_bytes(), "{file}");
        assert_eq!(header.value.as_deref().map(<[u8]>::to_vec), unhex(&expected[1]), "{file}");
    }
}

/// The rule by which the generators made their large batches.
fn as_generated(record: &Record, base_timestamp: i64, index: usize, file: &str) {
    let mut value = format!("record-{index:04}:").into_bytes();
    value.extend(b"0123456789abcdefghijklmnopqrstuvwxyz".iter().cycle().take(100));
    value.truncate(100);
    assert_eq!(record.value.as_deref(), Some(value.as_slice()), "{file}");
    assert_eq!(record.key.as_deref(), Some(format!("key-{:02}", index % 50).as_bytes()), "{file}");
    assert_eq!(record.timestamp, base_timestamp + i64::try_from(index).unwrap(), "{file}");
}

#[test]
fn batches_of_other_implementations_read_as_they_were_written() {
    let manifest = manifest();
    assert!(manifest.len() >= 30, "the golden files are there");
    for entry in manifest {
        let file = entry["file"].as_str().unwrap();
        let batch = Bytes::from(golden(file));
        let header = BatchHeader::parse(&batch).unwrap();
        verify_crc(&batch).unwrap();
        assert_eq!(header.size, batch.len(), "{file}");
        assert_eq!(header.base_offset.0, entry["base_offset"], "{file}");
        assert_eq!(header.leader_epoch.0, entry["leader_epoch"], "{file}");
        assert_eq!(header.producer_id.0, entry["producer_id"], "{file}");
        assert_eq!(header.producer_epoch.0, entry["producer_epoch"], "{file}");
        assert_eq!(header.base_sequence, entry["base_sequence"], "{file}");
        assert_eq!(header.attributes.control(), entry["is_control"], "{file}");
        assert_eq!(header.attributes.transactional(), entry["is_transactional"], "{file}");
        assert_eq!(header.attributes.timestamp_type().name(), entry["timestamp_type"], "{file}");
        assert_eq!(header.max_timestamp, entry["max_timestamp"], "{file}");
        assert_eq!(header.record_count, entry["record_count"], "{file}");
        let records: Vec<Record> = Records::open(header, &batch).unwrap().map(Result::unwrap).collect();
        assert_eq!(records.len(), usize::try_from(header.record_count).unwrap(), "{file}");
        for (index, record) in records.iter().enumerate() {
            match entry["records"].as_array() {
                Some(expected) => as_expected(record, &expected[index], file),
                None => as_generated(record, header.base_timestamp, index, file),
            }
        }
    }
}

#[test]
fn only_what_a_client_may_send_passes_validation() {
    for entry in manifest() {
        let file = entry["file"].as_str().unwrap();
        let batch = Bytes::from(golden(file));
        let header = BatchHeader::parse(&batch).unwrap();
        let by_clients = !header.attributes.control()
            && !header.attributes.transactional()
            && header.attributes.timestamp_type() == TimestampType::CreateTime;
        let verdict = validate_produced(&batch, Limits { size_max: 1 << 20, deep: true, session: true, keyed: false });
        assert_eq!(verdict.is_ok(), by_clients, "{file}: {verdict:?}");
    }
}

#[test]
fn any_flipped_byte_after_the_length_is_noticed() {
    let whole = golden("java/small-none.bin");
    for at in 16..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        let verdict = validate_produced(
            &Bytes::from(flipped),
            Limits { size_max: 1 << 20, deep: true, session: true, keyed: false },
        );
        assert!(verdict.is_err(), "byte {at}");
    }
}

#[test]
fn keys_go_where_the_java_client_sends_them() {
    let mut vectors: Vec<Value> = serde_json::from_slice(&golden("murmur2.json")).unwrap();
    // What authors of clients get.
    let published: Vec<Value> = serde_json::from_slice(&golden("../../../../proto/murmur2.json")).unwrap();
    assert_eq!(published.len(), 20);
    for vector in &published {
        assert_eq!(vector["key"].as_str().unwrap().as_bytes(), unhex(&vector["key_hex"]).unwrap(), "{vector}");
    }
    vectors.extend(published);
    for vector in vectors {
        let key = unhex(&vector["key_hex"]).unwrap();
        let expected = i32::try_from(vector["murmur2_signed_int32"].as_i64().unwrap()).unwrap();
        assert_eq!(murmur2(&key), expected.cast_unsigned(), "{vector}");
        assert_eq!(partition_for_key(&key, 6), vector["partition_of_6"], "{vector}");
        assert_eq!(partition_for_key(&key, 12), vector["partition_of_12"], "{vector}");
    }
}
