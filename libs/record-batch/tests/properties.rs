//! What is built reads back, and no bytes whatever make the readers panic or allocate without bound.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use walser_model::{Compression, ProducerEpoch, ProducerId};
use walser_record_batch::{BatchBuilder, BatchHeader, Batches, HEADER_LEN, Limits, Producer, RecordFields, Records};
use walser_record_batch::{stamp_append_time, stamp_position, stamp_producer, validate_produced, verify_crc};

type Field = Option<Vec<u8>>;

#[derive(Debug, Clone)]
struct Fields {
    timestamp: i64,
    key: Field,
    value: Field,
    headers: Vec<(Vec<u8>, Field)>,
}

fn field() -> impl Strategy<Value = Field> {
    option::of(vec(any::<u8>(), 0..200))
}

fn fields() -> impl Strategy<Value = Fields> {
    let headers = vec((vec(any::<u8>(), 0..20), field()), 0..4);
    (0..4_000_000_000_000i64, field(), field(), headers).prop_map(|(timestamp, key, value, headers)| Fields {
        timestamp,
        key,
        value,
        headers,
    })
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}

fn build(codec: Compression, records: &[Fields]) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 0);
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        builder.append(&RecordFields {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
    builder.build(Producer::NONE)
}

const DEEP: Limits = Limits { size_max: 16 << 20, deep: true, session: true, keyed: false };

proptest! {
    #[test]
    fn what_is_built_is_valid_and_reads_back(codec in codec(), records in vec(fields(), 1..40)) {
        let batch = build(codec, &records);
        let produced = validate_produced(&batch, DEEP).unwrap();
        prop_assert_eq!(produced.min_timestamp, records.iter().map(|record| record.timestamp).min().unwrap());
        let read: Vec<_> = Records::open(produced.header, &batch).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), records.len());
        for (index, (found, given)) in read.iter().zip(&records).enumerate() {
            prop_assert_eq!(found.offset.0, i64::try_from(index).unwrap());
            prop_assert_eq!(found.timestamp, given.timestamp);
            prop_assert_eq!(found.key.as_deref(), given.key.as_deref());
            prop_assert_eq!(found.value.as_deref(), given.value.as_deref());
            let headers: Vec<_> =
                found.headers.iter().map(|h| (h.key.to_vec(), h.value.as_deref().map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(&headers, &given.headers);
        }
    }

    #[test]
    fn the_size_bound_of_a_record_holds(record in fields()) {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        let fields = RecordFields {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        let mut builder = BatchBuilder::new(Compression::None, 0);
        let before = builder.uncompressed_len();
        builder.append(&fields);
        prop_assert!(builder.uncompressed_len() - before <= fields.encoded_len_max());
    }

    #[test]
    fn stamps_keep_the_records_and_a_right_checksum(records in vec(fields(), 1..5), now in 0..i64::MAX) {
        let plain = build(Compression::None, &records);
        let mut batch = plain.to_vec();
        stamp_position(&mut batch, walser_model::Offset(77), walser_model::LeaderEpoch(3));
        prop_assert!(verify_crc(&batch).is_ok());
        stamp_producer(&mut batch, ProducerId(9), ProducerEpoch(2), 5);
        prop_assert!(verify_crc(&batch).is_ok());
        let (header, body) = batch.split_at_mut(HEADER_LEN);
        stamp_append_time(header, body, now);
        prop_assert!(verify_crc(&batch).is_ok());
        let header = BatchHeader::parse(&batch).unwrap();
        prop_assert_eq!((header.base_offset.0, header.leader_epoch.0), (77, 3));
        prop_assert_eq!((header.producer_id.0, header.producer_epoch.0, header.base_sequence), (9, 2, 5));
        let batch = Bytes::from(batch);
        let times: Vec<_> = Records::open(header, &batch).unwrap().map(|record| record.unwrap().timestamp).collect();
        prop_assert!(times.iter().all(|time| *time == now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_everything(&Bytes::from(bytes));
    }

    /// Damage behind a right checksum: what a malicious client would send.
    #[test]
    fn damaged_batches_never_panic(
        codec in codec(),
        records in vec(fields(), 1..8),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut batch = build(codec, &records).to_vec();
        for (at, byte) in damage {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        read_everything(&Bytes::from(batch.clone()));
        if batch.len() >= 61 {
            // Stamping gives the damage a right checksum again.
            stamp_producer(&mut batch, ProducerId::NONE, ProducerEpoch(-1), -1);
            read_everything(&Bytes::from(batch));
        }
    }
}

/// Cases per fuzz target: bounded in the ordinary run, `WALSER_FUZZ_CASES` for more.
fn fuzz_cases() -> u32 {
    std::env::var("WALSER_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
}

fn read_everything(bytes: &Bytes) {
    let _verdict = validate_produced(bytes, DEEP);
    for (header, batch) in Batches::of(bytes.clone()).map_while(Result::ok) {
        if let Ok(records) = Records::open(header, &batch) {
            let read = records.take_while(Result::is_ok).count();
            assert!(read <= batch.len() + (64 << 20));
        }
    }
}
