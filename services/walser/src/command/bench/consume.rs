//! Reading: a topic from its start, and end to end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use walser_client::{ApiError, Client, Read, Reader, ReaderConfig};
use walser_model::{Clock as _, SystemClock};
use walser_proto::v1 as pb;
use walser_record_batch::{Batches, Records, verify_crc};

use super::load::{self, STAMP_BYTES};
use super::{Measured, Seen, Span};
use crate::cli::BenchArgs;
use crate::position::Position;

/// A reader gives up on a server that is away this long.
const PATIENCE: Duration = Duration::from_secs(30);

fn reader(client: &Client, topic: &str, from: Position, to: Option<Position>) -> Reader {
    let target = pb::ReadTarget {
        topic: topic.to_owned(),
        start: Some(from.wire()),
        end: to.map(Position::wire),
        ..Default::default()
    };
    Reader::new(client, ReaderConfig { targets: vec![target], batches: true, patience: PATIENCE })
}

/// Goes through the records of a chunk as a consumer does: checksum, decompression, every record.
fn each(chunk: &pb::RecordChunk, mut visit: impl FnMut(&[u8])) -> Result<(), ApiError> {
    let broken = |what: String| ApiError::internal(format!("the server sent a bad batch: {what}"));
    for item in Batches::of(chunk.record_batches.clone()) {
        let (header, batch) = item.map_err(|error| broken(error.to_string()))?;
        verify_crc(&batch).map_err(|error| broken(error.to_string()))?;
        for record in Records::open(header, &batch).map_err(|error| broken(error.to_string()))? {
            let record = record.map_err(|error| broken(error.to_string()))?;
            visit(record.value.as_deref().unwrap_or_default());
        }
    }
    Ok(())
}

/// Reads a topic from its start to its present end.
pub(crate) async fn consume(
    client: &Client,
    topic: &str,
    clock: &Arc<SystemClock>,
    seen: &Seen,
) -> Result<Measured, ApiError> {
    let mut reader = reader(client, topic, Position::Earliest, Some(Position::Latest));
    let mut measured = Measured::empty();
    let start = clock.monotonic();
    let mut asked = start;
    loop {
        match reader.next().await? {
            Read::Chunk(chunk) => {
                let waited = clock.monotonic().saturating_sub(asked);
                measured.latency.saturating_record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX).max(1));
                let before = (measured.records, measured.bytes);
                each(&chunk, |value| {
                    measured.records += 1;
                    measured.bytes += value.len() as u64;
                })?;
                seen.add(measured.records - before.0, measured.bytes - before.1);
                asked = clock.monotonic();
            }
            Read::End => break,
            Read::CaughtUp => {}
            Read::Away(failure) => return Err(failure),
            Read::Problem(problem) => {
                let failure = problem.error.map(ApiError::from);
                return Err(failure.unwrap_or_else(|| ApiError::internal("a partition has a problem")));
            }
        }
    }
    measured.elapsed = clock.monotonic().saturating_sub(start);
    Ok(measured)
}

/// Writes and reads at once; latency counts from the (intended) write to the moment the reader has the record.
pub(crate) async fn end_to_end(
    client: &Client,
    topic: &str,
    arguments: &BenchArgs,
    clock: &Arc<SystemClock>,
    span: Span,
    progress: &Arc<Seen>,
) -> Result<Measured, ApiError> {
    let mut reader = reader(client, topic, Position::Latest, None);
    // The reader stands at the end before the first record is written.
    loop {
        if let Read::CaughtUp = reader.next().await? {
            break;
        }
    }
    let seen = Arc::new(Mutex::new(Measured::empty()));
    let reading = tokio::spawn(read_stamped(reader, Arc::clone(clock), span, Arc::clone(&seen)));
    let written = load::produce(client, topic, arguments, clock, span, Some(()), progress).await?;
    // What is acknowledged is readable: the reader gets it without any further wait but its own way.
    let deadline = clock.monotonic() + PATIENCE;
    while lock(&seen).records < written.records && clock.monotonic() < deadline && !reading.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if reading.is_finished() {
        reading.await.map_err(|error| ApiError::internal(error.to_string()))??;
    } else {
        reading.abort();
    }
    Ok(std::mem::replace(&mut *lock(&seen), Measured::empty()))
}

/// Nobody panics while holding this lock, and if somebody did, figures are still figures.
fn lock(measured: &Mutex<Measured>) -> std::sync::MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn read_stamped(
    mut reader: Reader,
    clock: Arc<SystemClock>,
    span: Span,
    seen: Arc<Mutex<Measured>>,
) -> Result<(), ApiError> {
    loop {
        let Read::Chunk(chunk) = reader.next().await? else { continue };
        let now = clock.monotonic();
        let mut measured = lock(&seen);
        each(&chunk, |value| {
            let Some(stamp) = value.first_chunk::<STAMP_BYTES>() else { return };
            let since = Duration::from_nanos(u64::from_be_bytes(*stamp));
            if since < span.warm_until {
                return;
            }
            measured.records += 1;
            measured.bytes += value.len() as u64;
            let micros = u64::try_from(now.saturating_sub(since).as_micros()).unwrap_or(u64::MAX);
            measured.latency.saturating_record(micros.max(1));
            measured.elapsed = now.saturating_sub(span.warm_until);
        })?;
    }
}
