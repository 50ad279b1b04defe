//! What compaction leaves of a batch is what it was told to keep, with the offsets and times that it had.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use walser_model::{Compression, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use walser_record_batch::{
    BatchBuilder, BatchHeader, HEADER_LEN, Producer, Record, RecordError, RecordFields, Records,
};
use walser_record_batch::{
    Retainable, Retained, continuing, empty_batch, retain, stamp_append_time, stamp_position, verify_crc,
};

const PRODUCER: Producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(2), base_sequence: 40 };

type Field = Option<Vec<u8>>;

fn field() -> impl Strategy<Value = Field> {
    option::of(vec(any::<u8>(), 0..60))
}

/// Time, key, value, one header, and whether it is kept.
fn record() -> impl Strategy<Value = (i64, Field, Field, Field, bool)> {
    (any::<i64>(), field(), field(), field(), any::<bool>())
}

fn built(codec: Compression, records: &[(i64, Field, Field, Field, bool)]) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 0);
    for (timestamp, key, value, header, _) in records {
        let headers: &[(&[u8], Option<&[u8]>)] = &[(b"name", header.as_deref())];
        let (key, value) = (key.as_deref(), value.as_deref());
        builder.append(&RecordFields { timestamp: *timestamp, key, value, headers });
    }
    let mut batch = builder.build(PRODUCER).to_vec();
    stamp_position(&mut batch, Offset(1000), LeaderEpoch(3));
    batch.into()
}

fn read(batch: &Bytes) -> Vec<Record> {
    Records::open(BatchHeader::parse(batch).unwrap(), batch).unwrap().map(Result::unwrap).collect()
}

proptest! {
    #[test]
    fn what_is_kept_is_as_it_was(
        codec in proptest::sample::select(Compression::ALL.to_vec()),
        records in vec(record(), 1..40),
        append_time in option::of(0..4_000_000_000_000_i64),
        horizon in option::of(0..4_000_000_000_000_i64),
    ) {
        let mut batch = built(codec, &records).to_vec();
        if let Some(now) = append_time {
            let (header, body) = batch.split_at_mut(HEADER_LEN);
            stamp_append_time(header, body, now);
        }
        let batch = Bytes::from(batch);
        let header = BatchHeader::parse(&batch).unwrap();
        let mut asked = Vec::new();
        let retained = retain(&header, &batch, horizon, |record, known| {
            assert_eq!(known, None);
            asked.push((record.offset, record.key.map(<[u8]>::to_vec), record.tombstone));
            records[usize::try_from(record.offset.0 - 1000).unwrap()].4
        }).unwrap();
        let before = read(&batch);
        let all: Vec<_> =
            before.iter().map(|r| (r.offset, r.key.as_ref().map(|key| key.to_vec()), r.value.is_none())).collect();
        prop_assert_eq!(asked, all);
        // A time that is too far from that of the first record is not what was given.
        let first = records[0].0;
        let times: Vec<_> =
            records.iter().map(|(time, ..)| first.saturating_add(time.wrapping_sub(first))).collect();
        let kept: Vec<_> = before.iter().zip(&records).filter(|(_, given)| given.4).map(|(r, _)| r.clone()).collect();
        match retained {
            Retained::Nothing => prop_assert!(kept.is_empty()),
            Retained::TooLarge => prop_assert!(false, "the records are small"),
            Retained::All => {
                prop_assert_eq!(kept.len(), records.len());
                // The time at which tombstones may go is part of the batch.
                let fits = |begins: i64| times.iter().all(|time| time.checked_sub(begins).is_some());
                prop_assert!(!horizon.is_some_and(fits) || before.iter().all(|r| r.value.is_some()));
            }
            Retained::Some(rest) => {
                let rest = Bytes::from(rest);
                verify_crc(&rest).unwrap();
                let after = BatchHeader::parse(&rest).unwrap();
                prop_assert_eq!(read(&rest), kept);
                prop_assert_eq!((after.base_offset, after.next_offset()), (header.base_offset, header.next_offset()));
                prop_assert_eq!((after.leader_epoch, after.size), (header.leader_epoch, rest.len()));
                let session = |header: &BatchHeader| (header.producer_id, header.producer_epoch, header.last_sequence());
                prop_assert_eq!(session(&after), session(&header));
                // Again, with all that is left: nothing changes any more.
                let again = retain(&after, &rest, horizon, |_, known| {
                    assert_eq!(known.is_some(), after.attributes.delete_horizon());
                    assert!(known.is_none() || known == horizon);
                    true
                });
                prop_assert_eq!(again.unwrap(), Retained::All);
            }
        }
    }
}

#[test]
fn an_empty_batch_spans_what_is_gone() {
    let before = built(Compression::None, &[(1, Some(vec![1]), None, None, true)]);
    let empty = empty_batch(Offset(1001), Offset(5_000_000), LeaderEpoch(4), PRODUCER);
    let run: Bytes = [&before[..], &empty].concat().into();
    let headers = continuing(&run, Offset(1000), LeaderEpoch(3)).unwrap();
    assert_eq!((headers.len(), headers[1].next_offset(), headers[1].record_count), (2, Offset(5_000_000), 0));
    assert_eq!(headers[1].last_sequence(), 40 + 4_998_998);
    assert_eq!(read(&empty.to_vec().into()), []);
}

/// A record in the place of another one says that the batch is not what was written.
#[test]
fn records_out_of_place_are_malformed_before_anything_is_asked() {
    let two = [(1, Some(vec![1]), None, None, true), (1, Some(vec![2]), None, None, true)];
    let batch = built(Compression::None, &two);
    let header = BatchHeader::parse(&batch).unwrap();
    let spans_less = BatchHeader { last_offset_delta: 0, ..header };
    let again = {
        let mut bytes = batch.to_vec();
        let record = (bytes.len() - HEADER_LEN) / 2;
        // The delta of the offset stands behind length, attributes and the delta of the time.
        bytes[HEADER_LEN + record + 3] = 0;
        Bytes::from(bytes)
    };
    for (header, batch) in [(spans_less, &batch), (header, &again)] {
        let asked = |_: Retainable<'_>, _| panic!("nothing can be kept of it");
        assert_eq!(retain(&header, batch, None, asked), Err(RecordError::Malformed { index: 1 }));
    }
}

/// Readers do not take what compresses too well, which it may do without the records that go.
#[test]
fn what_no_reader_would_take_stays_as_it_was() {
    let large = |bytes: usize| {
        let noise = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        built(Compression::Zstd, &[(1, Some(noise), None, None, false), (1, None, Some(vec![0; bytes]), None, true)])
    };
    let first_goes = |batch: &Bytes| {
        let header = BatchHeader::parse(batch).unwrap();
        assert_eq!(read(batch).len(), 2);
        retain(&header, batch, None, |record, _| record.key.is_none()).unwrap()
    };
    let Retained::Some(rest) = first_goes(&large(14 << 20)) else { panic!("it fits") };
    assert_eq!(read(&rest.into()).len(), 1);
    assert_eq!(first_goes(&large(40 << 20)), Retained::TooLarge);
}
