//! Reading a log from its start into a shard.

use tokio::time::{Duration, Instant};
use walser_group::{Config, Event, GroupShard};
use walser_model::Offset;
use walser_record_batch::{Batches, Records, verify_crc};
use walser_rpc::{ApiError, Reason};

use crate::log::ShardLog;

/// Time between two reports of a replay.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Replays everything that is committed. Returns the shard, before its start, and the end of the log. Memory is that of
/// the shard and of one read.
pub(super) async fn replay(number: i32, log: &dyn ShardLog, config: Config) -> Result<(GroupShard, Offset), ApiError> {
    let end = log.end().await?;
    let (mut shard, mut next, mut events) = (GroupShard::new(config), Offset::ZERO, 0_u64);
    let begun = Instant::now();
    let mut reported = begun;
    while next < end {
        let run = log.read(next).await?.record_batches;
        if run.is_empty() {
            return Err(ApiError::internal(format!("the log has nothing at offset {next}, below its end {end}")));
        }
        for batch in Batches::of(run) {
            let (header, bytes) = batch.map_err(|error| unreadable(next, &error.to_string()))?;
            verify_crc(&bytes).map_err(|error| unreadable(next, &error.to_string()))?;
            // What begins before is read again where a batch is asked for in its middle, and applied already.
            if header.next_offset() <= next {
                continue;
            }
            next = header.next_offset();
            if header.attributes.control() || header.record_count == 0 {
                continue;
            }
            let records = Records::open(header, &bytes).map_err(|error| unreadable(next, &error.to_string()))?;
            for record in records {
                let record = record.map_err(|error| unreadable(next, &error.to_string()))?;
                let key = record.key.unwrap_or_default();
                let event = Event::decode(&key, record.value.as_deref());
                if let Some(event) = event.map_err(|error| unreadable(record.offset, &error.to_string()))? {
                    shard.replay(event);
                    events += 1;
                }
            }
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            tracing::info!(shard = number, offset = next.0, end = end.0, events, "a shard of groups is being replayed");
        }
        tokio::task::yield_now().await;
    }
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(shard = number, end = end.0, events, millis, "a shard of groups was replayed");
    Ok((shard, next))
}

fn unreadable(offset: Offset, problem: &str) -> ApiError {
    let text = format!("the log of a shard of groups cannot be read at offset {offset}: {problem}");
    ApiError::new(Reason::BatchUnreadable, text).with("offset", offset)
}
