//! Kafka's record batch v2 (magic 2): bytes in, bytes out.
//!
//! The batch is the unit of everything: the wire between services, replication, disk and clients that want it raw.
//! Layout and names follow KIP-98 and the Kafka documentation ("Record Batch"); all numbers are big-endian.
//!
//! ```text
//!  0        8      12     16 17     21   23        27         35         43      51   53     57     61
//!  | base   | len  | lead.|m | crc  |attr| last    | base     | max      | prod. |ep. | base | rec. | records…
//!  | offset |      | epoch|2 | 32C  |    | offset Δ| timestamp| timestamp| id    |    | seq. | count|
//!                             '----- covered by the CRC: everything from attributes on ----------------
//! ```
//!
//! Base offset and leader epoch lie outside the CRC: the leader stamps them without touching the payload.

mod batches;
mod builder;
mod compression;
mod cost;
mod header;
mod partitioner;
mod raw_record;
mod record;
mod retain;
mod stamp;
mod validation;
mod varint;

pub use batches::{Batches, NotContinued, continuing};
pub use builder::{BatchBuilder, Producer, RecordFields};
pub use compression::{CompressionError, DECOMPRESSED_BYTES_MAX, compress, decompress};
pub use cost::{CostError, DECODED_COST_MAX, ITEM_COST, RECORD_HEADERS_MAX, decoded_cost};
pub use header::{Attributes, BatchHeader, HEADER_LEN, HeaderError, LENGTH_PREFIX_LEN, verify_crc};
pub use partitioner::{murmur2, partition_for_key};
pub use record::{Header, NewRecord, Record, RecordError, Records};
pub use retain::{Retainable, Retained, empty_batch, retain};
pub use stamp::{stamp_append_time, stamp_position, stamp_producer};
pub use validation::{InvalidBatch, Limits, Produced, validate_produced};
