//! What a batch costs to decode is bounded on the way in and on the way out.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use bytes::Bytes;
use walser_model::{Compression, ProducerEpoch, ProducerId};
use walser_record_batch::{BatchBuilder, BatchHeader, InvalidBatch, Limits, Producer, RecordError, RecordFields};
use walser_record_batch::{CostError, DECODED_COST_MAX, ITEM_COST, RECORD_HEADERS_MAX};
use walser_record_batch::{Records, compress, stamp_producer, validate_produced};

const DEEP: Limits = Limits { size_max: 16 << 20, deep: true, session: true, keyed: false };
const SHALLOW: Limits = Limits { size_max: 16 << 20, deep: false, session: true, keyed: false };
const TOO_MUCH: CostError = CostError { max: DECODED_COST_MAX };

/// A batch of `records` records with `headers` empty headers each, around a compressed section made elsewhere.
fn batch(codec: Compression, records: i32, headers: usize) -> Bytes {
    let names: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); headers];
    let mut builder = BatchBuilder::new(codec, 0);
    for _ in 0..records {
        builder.append(&RecordFields { timestamp: 1, key: None, value: None, headers: &names });
    }
    builder.build(Producer::NONE)
}

fn open(batch: &Bytes) -> Result<Records, RecordError> {
    Records::open(BatchHeader::parse(batch).unwrap(), batch)
}

#[test]
fn a_small_batch_of_millions_of_headers_is_refused_on_the_way_in_and_on_the_way_out() {
    let bomb = batch(Compression::Zstd, 1, 7_900_000);
    assert!(bomb.len() < 4096, "{}", bomb.len());
    assert!(matches!(validate_produced(&bomb, DEEP), Err(InvalidBatch::RecordHeaders { headers: 7_900_000, .. })));
    assert!(matches!(open(&bomb), Err(RecordError::Cost(TOO_MUCH))));
}

#[test]
fn headers_that_are_spread_over_records_are_counted_as_well() {
    for codec in [Compression::None, Compression::Zstd] {
        let bomb = batch(codec, 40, 50_000);
        let refused = validate_produced(&bomb, DEEP).unwrap_err();
        assert!(matches!(refused, InvalidBatch::Cost(TOO_MUCH)), "{codec}: {refused}");
        assert_eq!(refused.rule(), "decoded-cost");
        assert!(matches!(open(&bomb), Err(RecordError::Cost(TOO_MUCH))), "{codec}");
    }
}

#[test]
fn a_record_count_that_is_too_high_alone_is_refused_without_looking_at_the_records() {
    let mut bytes = batch(Compression::Zstd, 100, 0).to_vec();
    let count = i32::try_from(DECODED_COST_MAX / ITEM_COST).unwrap() + 1;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    stamp_producer(&mut bytes, ProducerId::NONE, ProducerEpoch(-1), -1);
    let batch = Bytes::from(bytes);
    assert!(matches!(validate_produced(&batch, SHALLOW), Err(InvalidBatch::Cost(TOO_MUCH))));
    assert!(matches!(open(&batch), Err(RecordError::Cost(TOO_MUCH))));
}

#[test]
fn the_most_that_is_accepted_can_be_read_back() {
    let most = batch(Compression::Zstd, 10, RECORD_HEADERS_MAX);
    validate_produced(&most, DEEP).unwrap();
    let headers: Vec<usize> = open(&most).unwrap().map(|record| record.unwrap().headers.len()).collect();
    assert_eq!(headers, vec![RECORD_HEADERS_MAX; 10]);
    let above = batch(Compression::Zstd, 10, RECORD_HEADERS_MAX + 1);
    assert!(matches!(validate_produced(&above, DEEP), Err(InvalidBatch::RecordHeaders { .. })));
}

#[test]
fn a_reader_with_less_room_decompresses_no_more_than_that() {
    let plain = batch(Compression::Zstd, 1000, 10);
    let header = BatchHeader::parse(&plain).unwrap();
    let cost = 1000 * 11 * ITEM_COST + open(&plain).unwrap().section_len();
    assert!(Records::open_within(header, &plain, cost).is_ok());
    assert!(Records::open_within(header, &plain, cost - 1).is_err());
}

#[test]
fn the_builder_counts_what_the_reader_counts() {
    let names: Vec<(&[u8], Option<&[u8]>)> = vec![(b"name", Some(b"value")); 3];
    let mut builder = BatchBuilder::new(Compression::Gzip, 0);
    for _ in 0..500 {
        builder.append(&RecordFields { timestamp: 7, key: Some(b"key"), value: None, headers: &names });
    }
    let cost = builder.decoded_cost();
    let batch = builder.build(Producer::NONE);
    let header = BatchHeader::parse(&batch).unwrap();
    assert!(Records::open_within(header, &batch, cost).is_ok());
    assert!(Records::open_within(header, &batch, cost - 1).is_err());
}

#[test]
fn a_compressed_section_may_not_use_up_what_its_records_need() {
    let mut bytes = batch(Compression::Zstd, 1, 0)[..61].to_vec();
    compress(Compression::Zstd, &vec![0; DECODED_COST_MAX - 10], &mut bytes).unwrap();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = 4;
    stamp_producer(&mut bytes, ProducerId::NONE, ProducerEpoch(-1), -1);
    assert!(matches!(validate_produced(&Bytes::from(bytes), DEEP), Err(InvalidBatch::Compression(_))));
}
