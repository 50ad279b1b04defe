//! Batches on their way in: validation of raw ones, encoding of plain records.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use walser_model::{Compression, CompressionSetting, Timestamp, TopicConfig, whole_millis};
use walser_record_batch::{
    BatchBuilder, DECODED_COST_MAX, HEADER_LEN, HeaderError, InvalidBatch, Limits, NewRecord, Produced,
    RECORD_HEADERS_MAX, RecordFields, decoded_cost, validate_produced,
};
use walser_rpc::{ApiError, Reason};
use walser_service::telemetry::{BATCH_LINKS_MAX, TRACEPARENT, is_context, is_sampled};

/// Checks a batch that a client built.
pub(crate) fn validate(
    batch: &Bytes,
    config: &TopicConfig,
    deep: bool,
    session: bool,
    now: Timestamp,
) -> Result<Produced, ApiError> {
    let keyed = config.cleanup_policy.compacts();
    let limits = Limits { size_max: config.message_bytes_max, deep, session, keyed };
    let produced = validate_produced(batch, limits).map_err(|error| refusal(&error))?;
    check_timestamps(config, produced.min_timestamp, produced.header.max_timestamp, now, None)?;
    Ok(produced)
}

fn refusal(error: &InvalidBatch) -> ApiError {
    let reason = match error {
        InvalidBatch::Header(HeaderError::Crc { .. }) => Reason::BatchCorrupt,
        InvalidBatch::Header(HeaderError::Magic { .. }) | InvalidBatch::Codec(_) => Reason::BatchFormatUnsupported,
        InvalidBatch::TooLarge { .. } | InvalidBatch::Cost(_) => Reason::RecordTooLarge,
        InvalidBatch::Compression(walser_record_batch::CompressionError::TooLarge { .. }) => Reason::RecordTooLarge,
        _ => Reason::RecordInvalid,
    };
    let failure = ApiError::new(reason, error.to_string()).with("rule", error.rule());
    match error {
        InvalidBatch::Header(HeaderError::Crc { stored, computed }) => {
            failure.with("expectedCrc", format!("{stored:#010x}")).with("actualCrc", format!("{computed:#010x}"))
        }
        InvalidBatch::Header(HeaderError::Magic { magic }) => failure.with("magic", magic),
        InvalidBatch::Codec(codec) => failure.with("codec", codec),
        InvalidBatch::TooLarge { size, max } => failure.with("sizeBytes", size).with("maxBytes", max),
        InvalidBatch::MaxTimestamp { said, .. } => failure.with("timestamp", said),
        InvalidBatch::Cost(error) => failure.with("maxBytes", error.max),
        InvalidBatch::RecordHeaders { index, .. }
        | InvalidBatch::NoKey { index }
        | InvalidBatch::Record { index, .. } => failure.with("recordIndex", index),
        _ => failure,
    }
}

/// Refuses timestamps too far from the clock, unless the leader stamps records itself.
fn check_timestamps(
    config: &TopicConfig,
    oldest: Timestamp,
    newest: Timestamp,
    now: Timestamp,
    index: Option<usize>,
) -> Result<(), ApiError> {
    if config.timestamp_type == walser_model::TimestampType::LogAppendTime {
        return Ok(());
    }
    let broken = |timestamp: Timestamp, setting: &str| {
        let text = format!("timestamp {timestamp} is too far from the clock ({now}): {setting}");
        let failure = ApiError::new(Reason::RecordInvalid, text).with("rule", setting).with("timestamp", timestamp);
        match index {
            Some(index) => failure.with("recordIndex", index),
            None => failure,
        }
    };
    if oldest < 0 {
        return Err(broken(oldest, "1970-01-01 or later"));
    }
    if config.timestamp_after_max.is_some_and(|limit| newest > now.saturating_add(whole_millis(limit))) {
        return Err(broken(newest, "message.timestamp.after.max.ms"));
    }
    if config.timestamp_before_max.is_some_and(|limit| oldest < now.saturating_sub(whole_millis(limit))) {
        return Err(broken(oldest, "message.timestamp.before.max.ms"));
    }
    Ok(())
}

/// The codec for plain records: the request's, else the topic's, else none.
pub(crate) fn codec(requested: Option<Compression>, config: &TopicConfig) -> Compression {
    requested.unwrap_or(match config.compression {
        CompressionSetting::Producer => Compression::None,
        CompressionSetting::Codec(codec) => codec,
    })
}

/// Upper bounds of what a record adds to a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecordSize {
    /// Encoded bytes.
    pub(crate) bytes: usize,
    /// Cost of decoding, in bytes: see [`decoded_cost`].
    pub(crate) cost: usize,
}

/// Checks plain records and returns what each of them takes.
pub(crate) fn check_records(
    records: &[NewRecord],
    config: &TopicConfig,
    now: Timestamp,
) -> Result<Vec<RecordSize>, ApiError> {
    let mut sizes = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        if let Some(timestamp) = record.timestamp {
            check_timestamps(config, timestamp, timestamp, now, Some(index))?;
        }
        if record.key.is_none() && config.cleanup_policy.compacts() {
            let without = InvalidBatch::NoKey { index: i32::try_from(index).unwrap_or(i32::MAX) };
            return Err(refusal(&without));
        }
        let size = size_bound(record);
        if size.bytes + HEADER_LEN > config.message_bytes_max {
            let (size, max) = (size.bytes + HEADER_LEN, config.message_bytes_max);
            let text = format!("record {index} needs a batch of up to {size} bytes, the topic accepts {max}");
            let failure = ApiError::new(Reason::RecordTooLarge, text).with("sizeBytes", size);
            return Err(failure.with("maxBytes", max).with("recordIndex", index));
        }
        // A trace header may be added.
        let headers = record.headers.len() + 1;
        if headers > RECORD_HEADERS_MAX {
            let text = format!("record {index} has {headers} headers, a trace included; at most {RECORD_HEADERS_MAX}");
            let failure = ApiError::new(Reason::RecordInvalid, text).with("rule", "record-headers");
            return Err(failure.with("recordIndex", index));
        }
        sizes.push(size);
    }
    Ok(sizes)
}

/// Upper bounds for a record, a trace header included.
fn size_bound(record: &NewRecord) -> RecordSize {
    const TRACE_BYTES: usize = 100;
    let bytes = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|header| 10 + header.key.len() + bytes(&header.value)).sum();
    let bytes = 36 + bytes(&record.key) + bytes(&record.value) + headers + TRACE_BYTES;
    RecordSize { bytes, cost: decoded_cost(bytes, record.headers.len() + 2) }
}

// === impl RecordSize ===

impl RecordSize {
    /// Both together.
    pub(crate) fn plus(self, more: Self) -> Self {
        Self { bytes: self.bytes + more.bytes, cost: self.cost + more.cost }
    }

    /// Whether records of this size make one batch of a topic.
    pub(crate) fn fits(self, config: &TopicConfig) -> bool {
        self.bytes + HEADER_LEN <= config.message_bytes_max && self.cost <= DECODED_COST_MAX
    }
}

/// Adds the traces of records to those of their batch: of each record its own, or the call's, where it is exported. Those of a
/// batch that a client has built are not looked for: it has the call's.
pub(crate) fn add_traces(traces: &mut Vec<Arc<str>>, records: &[NewRecord], call: Option<&Arc<str>>) {
    let mut add = |trace: &str, shared: Option<&Arc<str>>| {
        let new = traces.len() < BATCH_LINKS_MAX && is_sampled(trace) && !traces.iter().any(|known| **known == *trace);
        traces.extend(new.then(|| shared.map_or_else(|| Arc::from(trace), Arc::clone)));
    };
    let mut others = records.is_empty();
    for record in records {
        let own = record.headers.iter().find(|header| header.key == TRACEPARENT.as_bytes());
        let text = own.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
        match text.filter(|text| is_context(text)) {
            Some(own) => add(own, None),
            None => others = true,
        }
    }
    if let Some(call) = call.filter(|_| others) {
        add(call, Some(call));
    }
}

/// Headers of a record, a trace included, that are encoded without an allocation.
const HEADERS_INLINE: usize = 8;

/// Encodes a record. `trace`: the caller's trace, given to records that have none.
pub(crate) fn encode(builder: &mut BatchBuilder, record: &NewRecord, now: Timestamp, trace: Option<&str>) {
    let mut headers = SmallVec::<[(&[u8], Option<&[u8]>); HEADERS_INLINE]>::new();
    headers.extend(record.headers.iter().map(|header| (header.key.as_ref(), header.value.as_deref())));
    if let Some(trace) = trace
        && !record.headers.iter().any(|header| header.key == TRACEPARENT.as_bytes())
    {
        headers.push((TRACEPARENT.as_bytes(), Some(trace.as_bytes())));
    }
    builder.append(&RecordFields {
        timestamp: record.timestamp.unwrap_or(now),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

#[cfg(test)]
mod tests {
    use walser_model::CleanupPolicy;
    use walser_record_batch::Header;

    use super::*;

    #[test]
    fn a_batch_has_each_exported_trace_of_its_records_once() {
        let context = |span: u8, flags| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000{span:02x}-{flags}");
        let of = |context: String| {
            let headers = vec![Header { key: Bytes::from(TRACEPARENT), value: Some(context.into()) }];
            NewRecord { headers, ..NewRecord::default() }
        };
        let records = [of(context(1, "01")), of(context(2, "00")), of(context(1, "01")), of("x".repeat(70))];
        let call = Arc::from(context(9, "01"));
        let found = |records: &[NewRecord], call| {
            let mut traces = Vec::new();
            add_traces(&mut traces, records, call);
            traces.into_iter().map(|trace| trace.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(&records[..3], Some(&call)), [context(1, "01")], "all have their own");
        assert_eq!(found(&records, Some(&call)), [context(1, "01"), context(9, "01")]);
        assert_eq!(found(&[], Some(&call)), [context(9, "01")], "the batch was built by the client");
        let many: Vec<_> = (0..100).map(|span| of(context(span, "01"))).collect();
        assert_eq!(found(&many, None).len(), BATCH_LINKS_MAX);
    }

    fn header() -> Header {
        Header { key: Bytes::new(), value: None }
    }

    /// What becomes of plain records on the way to the leader. Vectors are made as large as they have to be.
    fn allocations(record_count: usize, call: Option<&Arc<str>>) -> u64 {
        let headers = vec![Header { key: Bytes::from("h"), value: Some(Bytes::from("v")) }; HEADERS_INLINE - 1];
        let record = NewRecord { value: Some(Bytes::from("value")), headers, ..NewRecord::default() };
        let records = vec![record; record_count];
        let made = allocation_counter::measure(|| {
            let sizes = check_records(&records, &TopicConfig::default(), 0).unwrap();
            let bytes = sizes.iter().map(|size| size.bytes).sum::<usize>() + HEADER_LEN;
            let mut builder = BatchBuilder::new(Compression::None, bytes);
            add_traces(&mut Vec::new(), &records, call);
            records.iter().for_each(|record| encode(&mut builder, record, 0, call.map(|call| &**call)));
            builder.build(walser_record_batch::Producer::NONE);
        });
        made.count_total
    }

    #[test]
    fn a_record_costs_no_allocation_traced_or_not() {
        let sampled = Arc::from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let other = Arc::from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        for call in [None, Some(&other), Some(&sampled)] {
            let (one, many) = (allocations(1, call), allocations(1_000, call));
            assert!(one > 0, "they are counted");
            assert_eq!(many, one, "{call:?}");
        }
    }

    #[test]
    fn records_of_many_headers_are_split_by_what_they_cost_to_decode() {
        let record = NewRecord { headers: vec![header(); 90_000], ..Default::default() };
        let config = TopicConfig { message_bytes_max: 15 << 20, ..TopicConfig::default() };
        let sizes = check_records(&vec![record; 12], &config, 0).unwrap();
        let together = |count: usize| sizes[..count].iter().fold(RecordSize::default(), |all, size| all.plus(*size));
        assert!(together(1).fits(&config) && together(9).fits(&config));
        assert!(!together(12).fits(&config));
        assert!(together(12).bytes < config.message_bytes_max, "bytes alone would make one batch of them");
    }

    #[test]
    fn every_record_of_a_compacted_topic_has_a_key() {
        let config = TopicConfig { cleanup_policy: CleanupPolicy::Compact, ..TopicConfig::default() };
        let keyed = |key: Option<&'static str>| NewRecord { key: key.map(Bytes::from), ..NewRecord::default() };
        let records = [keyed(Some("")), keyed(Some("k")), keyed(None)];
        assert!(check_records(&records[..2], &config, 0).is_ok(), "an empty key is one");
        let plain = check_records(&records, &config, 0).unwrap_err();
        for codec in [Compression::None, Compression::Zstd] {
            let mut builder = BatchBuilder::new(codec, 0);
            records.iter().for_each(|record| encode(&mut builder, record, 0, None));
            let batch = builder.build(walser_record_batch::Producer::NONE);
            let built = validate(&batch, &config, false, false, 0).unwrap_err();
            for refused in [&plain, &built] {
                assert_eq!((refused.value("rule"), refused.value("recordIndex")), (Some("KEY_REQUIRED"), Some("2")));
            }
            assert!(validate(&batch, &TopicConfig::default(), true, false, 0).is_ok());
        }
    }

    #[test]
    fn a_record_with_more_headers_than_a_message_carries_is_refused() {
        let record = NewRecord { headers: vec![header(); RECORD_HEADERS_MAX], ..Default::default() };
        let config = TopicConfig { message_bytes_max: 15 << 20, ..TopicConfig::default() };
        let refused = check_records(&[record], &config, 0).unwrap_err();
        assert_eq!((refused.value("rule"), refused.value("recordIndex")), (Some("record-headers"), Some("0")));
    }
}
