//! What validation changes in the header of a batch that a client built, and what it refuses instead.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use bytes::Bytes;
use walser_model::{Compression, ProducerEpoch, ProducerId};
use walser_record_batch::{BatchBuilder, BatchHeader, InvalidBatch, Limits, Producer, RecordFields};
use walser_record_batch::{stamp_producer, validate_produced, verify_crc};

const DEEP: Limits = Limits { size_max: 16 << 20, deep: true, session: true, keyed: false };
const SHALLOW: Limits = Limits { deep: false, ..DEEP };
const SESSION: (ProducerId, ProducerEpoch, i32) = (ProducerId(7), ProducerEpoch(2), 40);

/// A batch with records of 1000, 3000 and 2000 ms, in a session, with a header that says otherwise.
fn batch(codec: Compression, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 0);
    let value = [7; 300];
    for timestamp in [1000, 3000, 2000] {
        builder.append(&RecordFields { timestamp, key: None, value: Some(&value), headers: &[] });
    }
    let mut batch = builder.build(Producer::NONE).to_vec();
    change(&mut batch);
    stamp_producer(&mut batch, SESSION.0, SESSION.1, SESSION.2);
    batch.into()
}

fn max_timestamp(timestamp: i64) -> impl FnOnce(&mut [u8]) {
    move |batch| batch[35..43].copy_from_slice(&timestamp.to_be_bytes())
}

#[test]
fn a_wrong_max_timestamp_is_corrected_when_the_records_are_looked_at() {
    for codec in [Compression::None, Compression::Zstd] {
        for wrong in [-1, 0, 2000, 1 << 50] {
            let produced = validate_produced(&batch(codec, max_timestamp(wrong)), DEEP).unwrap();
            assert_eq!((produced.header.max_timestamp, produced.min_timestamp), (3000, 1000), "{codec} {wrong}");
            assert_eq!(BatchHeader::parse(&produced.batch).unwrap(), produced.header);
            verify_crc(&produced.batch).unwrap();
        }
    }
}

#[test]
fn a_max_timestamp_before_the_first_record_is_refused_when_they_are_not() {
    for wrong in [-1, i64::MIN, 999] {
        let refused = validate_produced(&batch(Compression::Zstd, max_timestamp(wrong)), SHALLOW).unwrap_err();
        assert_eq!(refused, InvalidBatch::MaxTimestamp { said: wrong, base: 1000 });
        assert_eq!(refused.rule(), "max-timestamp");
    }
    let unseen = batch(Compression::Zstd, max_timestamp(1000));
    assert_eq!(validate_produced(&unseen, SHALLOW).unwrap().batch, unseen, "it cannot be known to be wrong");
}

#[test]
fn a_base_offset_is_overwritten() {
    let produced = validate_produced(&batch(Compression::None, |batch| batch[7] = 9), DEEP).unwrap();
    assert_eq!(produced.header.base_offset.0, 0);
    verify_crc(&produced.batch).unwrap();
}

#[test]
fn producer_fields_are_kept_in_a_session_and_reset_without_one() {
    let sent = batch(Compression::Zstd, |_| {});
    let kept = validate_produced(&sent, DEEP).unwrap();
    assert_eq!((kept.batch, kept.header.producer_id), (sent.clone(), SESSION.0));
    let reset = validate_produced(&sent, Limits { session: false, ..DEEP }).unwrap();
    let header = reset.header;
    assert_eq!((header.producer_id.0, header.producer_epoch.0, header.base_sequence), (-1, -1, -1));
    verify_crc(&reset.batch).unwrap();
    let mut odd = sent.to_vec();
    stamp_producer(&mut odd, ProducerId(-5), ProducerEpoch(3), -9);
    assert!(validate_produced(&odd.clone().into(), DEEP).is_err());
    assert!(validate_produced(&odd.into(), Limits { session: false, ..SHALLOW }).is_ok());
}
