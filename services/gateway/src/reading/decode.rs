//! Batches on their way out: plain records for clients that want them.

use bytes::Bytes;
use walser_model::{Compression, Offset, TimestampType};
use walser_record_batch::{BatchHeader, Batches, CompressionError, Record, RecordError, Records};
use walser_record_batch::{DECODED_COST_MAX, RECORD_HEADERS_MAX, decoded_cost};
use walser_rpc::{ApiError, Reason};

use super::request::Shape;

/// How much may be taken into one chunk, or is left of one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Bytes to read from the log: an aim, since one batch may be larger.
    pub(crate) bytes: usize,
    /// Records, at most.
    pub(crate) records: usize,
    /// Records and headers together, at most.
    pub(crate) items: usize,
    /// Memory in bytes, inclusive: what is read, and the cost of decoding it ([`decoded_cost`]).
    pub(crate) cost: usize,
}

/// A record on its way out.
#[derive(Debug, Clone)]
pub(crate) struct ReadRecord {
    pub(crate) record: Record,
    /// Whose clock its timestamp is from.
    pub(crate) timestamp_type: TimestampType,
}

/// Records or batches of one partition, ready to send.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decoded {
    pub(crate) records: Vec<ReadRecord>,
    pub(crate) batches: Bytes,
    /// Where at the earliest the records in `batches` end, exclusive; 0: there are none.
    pub(crate) batches_end: i64,
    /// Offset to go on from.
    pub(crate) next_offset: i64,
    pub(crate) record_count: i64,
    pub(crate) size_bytes: usize,
    /// Records and headers.
    pub(crate) items: usize,
    /// What they hold in memory, in bytes.
    pub(crate) cost: usize,
    /// The end of the asked range was reached.
    pub(crate) ended: bool,
}

/// Why nothing was decoded.
#[derive(Debug, Clone)]
pub(crate) enum Undecoded {
    /// The next record needs more than is left of the amount; it may fit into a whole one.
    NoRoom,
    /// It never fits, or cannot be decoded.
    Failed(ApiError),
}

impl From<ApiError> for Undecoded {
    fn from(failure: ApiError) -> Self {
        Self::Failed(failure)
    }
}

impl Amount {
    /// What one message to a client takes, read with an aim of `bytes` and at most `records`.
    pub(crate) fn whole(bytes: usize, records: usize) -> Self {
        Self { bytes, records, items: MESSAGE_ITEMS_MAX, cost: COST_MAX }
    }

    /// The same with the cost that is enough for ordinary records, in batches of at most `batch_bytes`.
    pub(crate) fn ordinary(self, batch_bytes: usize) -> Self {
        let cost = self.bytes.max(batch_bytes) + ORDINARY_COST.max(self.bytes.saturating_mul(2));
        Self { cost: self.cost.min(cost), ..self }
    }

    /// Whether anything is left of it.
    pub(crate) fn is_spent(self) -> bool {
        self.bytes == 0 || self.records == 0 || self.items == 0 || self.cost == 0
    }

    /// Takes what a chunk has used.
    pub(crate) fn take(&mut self, chunk: &Decoded) {
        self.bytes = self.bytes.saturating_sub(chunk.size_bytes);
        self.records = self.records.saturating_sub(usize::try_from(chunk.record_count).unwrap_or(usize::MAX));
        self.items = self.items.saturating_sub(chunk.items);
        self.cost = self.cost.saturating_sub(chunk.cost);
    }
}

/// Most that one read returns, in bytes: more than the largest batch and the largest aim.
const READ_BYTES_MAX: usize = 32 << 20;

/// What a chunk costs at most, in bytes, inclusive: one read, and one batch of the highest cost.
const COST_MAX: usize = READ_BYTES_MAX + DECODED_COST_MAX;

/// Decoded records of an ordinary chunk, in bytes. Where this is not enough, a chunk gets [`COST_MAX`].
const ORDINARY_COST: usize = 3 << 20;

/// Bytes of a chunk beside its records.
pub(crate) const CHUNK_OVERHEAD: usize = 1024;

/// Most records and headers in one message to a client, inclusive. Clients of this workspace refuse messages of more
/// than [`walser_proto::bounds::ITEMS_MAX`] items; the rest is left for chunks and errors of other partitions.
pub(crate) const MESSAGE_ITEMS_MAX: usize = 110_000;

const _: () = assert!(RECORD_HEADERS_MAX < MESSAGE_ITEMS_MAX, "what is accepted fits a message");

/// Takes records from `batches` that lie in `from..end`, at most `amount`, within the client's limit.
///
/// # Errors
/// When not a single record can be taken. Records before one that cannot be taken are a chunk of their own: the read
/// that starts behind them reports it.
pub(crate) fn decode(
    batches: Bytes,
    from: Offset,
    end: Option<Offset>,
    shape: Shape,
    amount: Amount,
) -> Result<Decoded, Undecoded> {
    if shape.batches {
        return whole(batches, from, end, shape).map_err(Undecoded::Failed);
    }
    let out = Decoded { next_offset: from.0, cost: batches.len(), ..Decoded::default() };
    let mut taking = Taking { from, end, shape, amount, out };
    match taking.all(batches) {
        Err(undecoded) if taking.out.record_count == 0 => Err(undecoded),
        _ => Ok(taking.out.detached()),
    }
}

/// Every field of records that shares the memory of a batch.
fn shared(records: &mut [ReadRecord]) -> impl Iterator<Item = &mut Bytes> {
    records.iter_mut().flat_map(|ReadRecord { record, .. }| {
        let Record { key, value, headers, .. } = record;
        let headers = headers.iter_mut().flat_map(|header| header.value.iter_mut().chain([&mut header.key]));
        key.iter_mut().chain(value.iter_mut()).chain(headers)
    })
}

impl Decoded {
    /// The least offset that whoever has processed all of it commits, exclusive of its last record; `None`: it has no records.
    /// Offsets without records may follow: whoever commits by records does not know of them.
    pub(crate) fn records_end(&self) -> Option<i64> {
        let end = self.records.last().map_or(self.batches_end, |last| last.record.offset.plus(1).0);
        (end > 0).then_some(end)
    }

    /// The same, with records in memory of their own where they would keep much more alive.
    fn detached(mut self) -> Self {
        let own = self.size_bytes + decoded_cost(0, self.items);
        if self.cost <= own.saturating_mul(2) {
            return self;
        }
        let mut copy = Vec::with_capacity(shared(&mut self.records).map(|field| field.len()).sum());
        shared(&mut self.records).for_each(|field| copy.extend_from_slice(field));
        let mut copy = Bytes::from(copy);
        shared(&mut self.records).for_each(|field| *field = copy.split_to(field.len()));
        self.cost = own;
        self
    }
}

fn broken(at: Offset, detail: impl std::fmt::Display) -> ApiError {
    let text = format!("stored records at offset {at} do not decode: {detail}");
    ApiError::new(Reason::LogCorrupt, text).with("offset", at)
}

/// Records that are stored as they were sent, and that no reader can be given one by one.
fn unreadable(offset: Offset, resume: Offset, detail: impl std::fmt::Display) -> ApiError {
    let text = format!("the records from offset {offset} on cannot be decoded: {detail}; resume at offset {resume}");
    ApiError::new(Reason::BatchUnreadable, text).with("offset", offset).with("resumeOffset", resume)
}

fn above_limit(what: &str, offset: Offset, size: usize, shape: Shape) -> ApiError {
    let (limit, beside) = (shape.message_bytes_max, shape.taken + CHUNK_OVERHEAD);
    let text = format!(
        "the {what} at offset {offset} has {size} bytes, and {beside} more come with it; the client takes messages of {limit} \
         bytes: raise its receive limit and max_message_bytes to {} bytes or more",
        size + beside
    );
    let failure = ApiError::new(Reason::RecordExceedsClientLimit, text).with("offset", offset);
    failure.with("sizeBytes", size).with("limitBytes", limit)
}

fn whole(batches: Bytes, from: Offset, end: Option<Offset>, shape: Shape) -> Result<Decoded, ApiError> {
    let room = shape.room().saturating_sub(CHUNK_OVERHEAD);
    let mut out = Decoded { next_offset: from.0, ..Decoded::default() };
    let mut taken = 0;
    for item in Batches::of(batches.clone()) {
        let (header, batch) = item.map_err(|error| broken(from, error))?;
        if end.is_some_and(|end| header.base_offset >= end) {
            out.ended = true;
            break;
        }
        if taken + batch.len() > room {
            if taken == 0 {
                return Err(above_limit("batch", header.base_offset, batch.len(), shape));
            }
            break;
        }
        taken += batch.len();
        out.next_offset = header.next_offset().0;
        out.record_count += i64::from(header.record_count);
        let end = header.base_offset.plus(i64::from(header.record_count));
        if end > from && header.record_count > 0 && !header.attributes.control() {
            out.batches_end = end.0;
        }
    }
    out.ended |= end.is_some_and(|end| out.next_offset >= end.0);
    out.batches = batches.slice(..taken);
    (out.size_bytes, out.cost) = (taken, batches.len());
    Ok(out)
}

/// Plain records being taken out of batches.
struct Taking {
    from: Offset,
    end: Option<Offset>,
    shape: Shape,
    amount: Amount,
    out: Decoded,
}

impl Taking {
    fn all(&mut self, batches: Bytes) -> Result<(), Undecoded> {
        for item in Batches::of(batches) {
            let (header, batch) = item.map_err(|error| Undecoded::Failed(broken(self.from, error)))?;
            if header.next_offset() <= self.from {
                continue;
            }
            if !header.attributes.control() && self.batch(header, &batch)? {
                return Ok(());
            }
            self.out.next_offset = header.next_offset().0;
        }
        self.out.ended = self.end.is_some_and(|end| self.out.next_offset >= end.0);
        Ok(())
    }

    /// Takes the records of one batch. True: nothing more is taken.
    fn batch(&mut self, header: BatchHeader, batch: &Bytes) -> Result<bool, Undecoded> {
        let left = self.amount.cost.saturating_sub(self.out.cost).min(DECODED_COST_MAX);
        let at = header.base_offset.max(self.from);
        let cannot = |error| match error {
            RecordError::Cost(_) | RecordError::Compression(CompressionError::TooLarge { .. })
                if left < DECODED_COST_MAX =>
            {
                Undecoded::NoRoom
            }
            error => Undecoded::Failed(unreadable(at, header.next_offset(), error)),
        };
        let records = Records::open_within(header, batch, left).map_err(cannot)?;
        // Every record keeps its whole batch in memory.
        if header.attributes.codec() != Ok(Compression::None) {
            self.out.cost += records.section_len();
        }
        let timestamp_type = header.attributes.timestamp_type();
        for record in records {
            let at = Offset(self.out.next_offset).max(at);
            let unreadable = |error| Undecoded::Failed(unreadable(at, header.next_offset(), error));
            let record = record.map_err(unreadable)?;
            if record.offset < self.from {
                continue;
            }
            if self.end.is_some_and(|end| record.offset >= end) {
                self.out.ended = true;
                return Ok(true);
            }
            self.record(record, timestamp_type)?;
            if self.out.records.len() >= self.amount.records {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn record(&mut self, mut record: Record, timestamp_type: TimestampType) -> Result<(), Undecoded> {
        let (offset, items) = (record.offset, 1 + record.headers.len());
        if items > MESSAGE_ITEMS_MAX {
            let count = record.headers.len();
            let detail = format!("{count} headers do not fit a message; read with encoding RECORD_BATCHES");
            return Err(Undecoded::Failed(unreadable(offset, offset.plus(1), detail)));
        }
        if self.out.items + items > self.amount.items {
            return Err(Undecoded::NoRoom);
        }
        if self.shape.metadata_only {
            record.value = None;
        }
        let size = (self.shape.record_bytes)(&record);
        let room = self.shape.room().saturating_sub(CHUNK_OVERHEAD);
        if self.out.size_bytes + size > room {
            return Err(Undecoded::Failed(above_limit("record", offset, size, self.shape)));
        }
        self.out.items += items;
        self.out.cost += decoded_cost(0, items);
        self.out.size_bytes += size;
        self.out.next_offset = offset.plus(1).0;
        self.out.record_count += 1;
        self.out.records.push(ReadRecord { record, timestamp_type });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use walser_model::LeaderEpoch;
    use walser_record_batch::{
        BatchBuilder, Producer, RecordFields, Retainable, Retained, empty_batch, retain, stamp_position,
    };

    use super::*;

    const SHAPE: Shape =
        Shape { batches: false, metadata_only: false, message_bytes_max: 64 << 20, taken: 0, record_bytes: bytes_of };

    fn bytes_of(record: &Record) -> usize {
        record.value.as_ref().map_or(0, Bytes::len) + 30
    }

    /// A batch at an offset whose records have empty headers.
    fn batch(base: i64, records: i32, headers: usize) -> Bytes {
        let names: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); headers];
        let mut builder = BatchBuilder::new(Compression::Zstd, 0);
        for _ in 0..records {
            builder.append(&RecordFields { timestamp: 1, key: None, value: Some(b"some value"), headers: &names });
        }
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, Offset(base), LeaderEpoch(0));
        batch.into()
    }

    fn decode_all(batches: &[Bytes], from: i64, amount: Amount) -> Result<Decoded, Undecoded> {
        decode(batches.concat().into(), Offset(from), None, SHAPE, amount)
    }

    fn failure(undecoded: Undecoded) -> ApiError {
        match undecoded {
            Undecoded::Failed(failure) => failure,
            Undecoded::NoRoom => panic!("a whole amount is room enough"),
        }
    }

    #[test]
    fn a_stored_batch_that_costs_too_much_is_an_error_behind_what_can_be_read() {
        let run = [batch(0, 3, 0), batch(3, 2, 2_000_000), batch(5, 1, 0)];
        let whole = Amount::whole(1 << 20, usize::MAX);
        let before = decode_all(&run, 0, whole).unwrap();
        assert_eq!((before.record_count, before.next_offset), (3, 3));
        let refused = failure(decode_all(&run[1..], 4, whole).unwrap_err());
        assert_eq!(refused.reason(), Reason::BatchUnreadable);
        assert_eq!((refused.value("offset"), refused.value("resumeOffset")), (Some("4"), Some("5")));
        assert_eq!(decode_all(&run[2..], 5, whole).unwrap().next_offset, 6);
    }

    #[test]
    fn what_compaction_has_left_of_batches_is_read_past_what_is_gone() {
        let full = batch(10, 6, 0);
        let header = BatchHeader::parse(&full).unwrap();
        let kept = |record: Retainable<'_>, _| [12, 14].contains(&record.offset.0);
        let Retained::Some(rest) = retain(&header, &full, None, kept).unwrap() else { panic!("some are gone") };
        let gone = |base, next| Bytes::copy_from_slice(&empty_batch(base, next, LeaderEpoch(0), Producer::NONE));
        let run = [gone(Offset(0), Offset(10)), rest.into(), gone(Offset(16), Offset(90))];
        let offsets = |found: &Decoded| found.records.iter().map(|read| read.record.offset.0).collect::<Vec<_>>();
        let whole = Amount::whole(1 << 20, usize::MAX);
        for (from, expected) in [(3, &[12, 14][..]), (12, &[12, 14]), (13, &[14]), (15, &[]), (20, &[])] {
            let found = decode_all(&run, from, whole).unwrap();
            assert_eq!(
                (offsets(&found), found.next_offset, found.record_count),
                (expected.to_vec(), 90, expected.len() as i64)
            );
            // Whoever commits by records does not get to 90.
            assert_eq!(found.records_end(), expected.last().map(|_| 15));
        }
        let one = decode_all(&run, 3, Amount::whole(1 << 20, 1)).unwrap();
        assert_eq!((offsets(&one), one.next_offset), (vec![12], 13));
        let ended = decode(run.concat().into(), Offset(3), Some(Offset(14)), SHAPE, whole).unwrap();
        assert!(ended.ended && offsets(&ended) == [12]);
        let batches = Shape { batches: true, ..SHAPE };
        let raw = decode(run.concat().into(), Offset(3), None, batches, whole).unwrap();
        assert_eq!((raw.batches.len(), raw.next_offset, raw.record_count), (run.concat().len(), 90, 2));
        assert_eq!(raw.records_end(), Some(12), "of records that nobody has looked at it is not known better");
        let empty = decode(run[2].clone(), Offset(20), None, batches, whole).unwrap();
        assert_eq!((empty.next_offset, empty.records_end()), (90, None));
    }

    #[test]
    fn records_that_do_not_decompress_are_named_with_the_offset_behind_them() {
        let mut garbage = batch(7, 9, 50).to_vec();
        garbage[61..].fill(0xa5);
        let refused = failure(decode_all(&[garbage.into()], 7, Amount::whole(1, 9)).unwrap_err());
        assert_eq!(refused.reason(), Reason::BatchUnreadable);
        assert_eq!((refused.value("offset"), refused.value("resumeOffset")), (Some("7"), Some("16")));
    }

    #[test]
    fn many_small_batches_cost_no_more_than_one_may() {
        let run: Vec<Bytes> = (0..40).map(|number| batch(number, 1, 50_000)).collect();
        let taken = decode_all(&run, 0, Amount { items: usize::MAX, ..Amount::whole(1 << 20, usize::MAX) }).unwrap();
        assert!(taken.cost <= COST_MAX && (15..35).contains(&taken.record_count), "{}", taken.record_count);
        assert_eq!(taken.next_offset, taken.record_count);
    }

    #[test]
    fn what_does_not_fit_what_is_left_waits_for_the_next_message() {
        let run = [batch(0, 1, 1000)];
        let left = Amount { cost: 60_000, ..Amount::whole(1, 1) };
        assert!(matches!(decode_all(&run, 0, left), Err(Undecoded::NoRoom)));
        let left = Amount { items: 1000, ..Amount::whole(1, 1) };
        assert!(matches!(decode_all(&run, 0, left), Err(Undecoded::NoRoom)));
        assert_eq!(decode_all(&run, 0, Amount::whole(1, 1)).unwrap().items, 1001);
    }

    #[test]
    fn a_message_never_has_more_items_than_clients_take() {
        let run = [batch(0, 90_000, 1)];
        let taken = decode_all(&run, 0, Amount::whole(1 << 20, usize::MAX)).unwrap();
        assert_eq!((taken.items, taken.next_offset), (MESSAGE_ITEMS_MAX, 55_000));
    }

    #[test]
    fn of_a_record_that_is_too_large_it_is_said_what_helps() {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[7; 5_000]), headers: &[] });
        let batch = builder.build(Producer::NONE);
        let within = |message_bytes_max| {
            let shape = Shape { message_bytes_max, taken: 4_000, ..SHAPE };
            decode(batch.clone(), Offset(0), None, shape, Amount::whole(1 << 20, usize::MAX))
        };
        let Err(Undecoded::Failed(failure)) = within(8_192) else { panic!("it fits") };
        assert!(failure.message().contains("the client takes messages of 8192 bytes"), "{failure}");
        let needed = failure.message().rsplit_once(" to ").unwrap().1.split_once(" bytes or more").unwrap().0;
        assert_eq!(within(needed.parse().unwrap()).unwrap().record_count, 1, "{failure}");
    }

    #[test]
    fn few_records_of_a_large_batch_do_not_keep_it_in_memory() {
        let mut builder = BatchBuilder::new(Compression::Zstd, 0);
        let value = vec![7; 300_000];
        for number in 0..50u8 {
            builder.append(&RecordFields { timestamp: 1, key: Some(&[number]), value: Some(&value), headers: &[] });
        }
        let shape = Shape { message_bytes_max: 1 << 20, ..SHAPE };
        let batch = builder.build(Producer::NONE);
        let taken = decode(batch, Offset(0), None, shape, Amount::whole(1 << 20, usize::MAX)).unwrap();
        assert_eq!(taken.record_count, 3);
        assert!(taken.cost < 1 << 20, "{}", taken.cost);
        for (ReadRecord { record, .. }, number) in taken.records.iter().zip(0..) {
            assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&[number][..]), Some(&value[..])));
        }
    }
}
