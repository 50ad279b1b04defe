//! Copies of leaders' logs: served to followers, and made by this node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use walser_log::{CompleteCopy, LogCopy, Slice};
use walser_model::{LeaderEpoch, Offset, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_rpc::{ApiError, Reason};

use super::Links;
use super::messages::reference_of;
use super::to_followers::read_disk;
use crate::error::not_leader;
use crate::replica_registry::PartitionHandle;
use crate::replication::{CopyWanted, FromPeer};
use crate::space::CopyRoom;

/// Copies that are made at once: each costs the disks and the network of two nodes.
const COPIES_MAX: usize = 2;
/// Pause after a copy that came to nothing; twice as long after each further one of a partition.
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause: while it lasts the replica cannot say what it has.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Bytes of record batches in one message of a copy, about.
const COPIED_BYTES: usize = 128 << 10;
/// Messages of one piece, by which the pace is kept. Each waits until the connection has taken the one before, so that what
/// sending them costs is seen; of the last ones it is not.
const PIECE_MESSAGES: usize = 16;
/// A leader that sends nothing for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A follower that takes no message of a copy for this long begins anew.
const TAKEN_MAX: Duration = Duration::from_secs(60);

/// Makes the copies that shards want, for as long as the node runs.
pub(super) async fn copy_logs(links: Links) {
    let lane = links.outbox.copies();
    let places = Arc::new(Semaphore::new(COPIES_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    let attempts = Attempts::default();
    loop {
        for (partition, wanted) in lane.take() {
            let (links, places, attempts) = (links.clone(), Arc::clone(&places), attempts.clone());
            tasks.spawn(async move {
                let Ok(place) = places.acquire().await else { return };
                let copied = links.copy(partition, &wanted).await;
                drop(place);
                let copy = match copied {
                    Ok(copy) => {
                        attempts.succeeded(partition);
                        Some(copy)
                    }
                    Err(failure) => {
                        let failed = attempts.failed(partition);
                        if failed.is_power_of_two() {
                            let named = links.registry.names.partition(partition);
                            tracing::warn!(
                                partition = %named,
                                leader = %wanted.leader,
                                %failure,
                                attempts = failed,
                                "the leader's log was not copied; it is tried again"
                            );
                        }
                        links.discard(partition).await;
                        tokio::time::sleep(pause(failed)).await;
                        None
                    }
                };
                links.tell(partition, FromPeer::Copied { work: wanted.work, copy });
            });
        }
        tokio::select! {
            () = lane.changed() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Copies of each partition that came to nothing, one after the other. Bounded by the partitions of the node.
#[derive(Debug, Clone, Default)]
struct Attempts(Arc<Mutex<HashMap<TopicPartition, u32>>>);

impl Attempts {
    /// One more; returns how many there were in a row.
    fn failed(&self, partition: TopicPartition) -> u32 {
        let mut failed = self.0.lock();
        let count = failed.entry(partition).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    fn succeeded(&self, partition: TopicPartition) {
        self.0.lock().remove(&partition);
    }
}

/// Time until a copy is wanted again that came to nothing so many times in a row, at least once.
fn pause(failed: u32) -> Duration {
    RETRY.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(RETRY_MAX)
}

impl Links {
    /// Copies the log of a partition from its leader.
    async fn copy(&self, partition: TopicPartition, wanted: &CopyWanted) -> Result<CompleteCopy, ApiError> {
        let leader = wanted.leader;
        let request = pbi::CopyLogRequest {
            r#ref: Some(walser_proto::partition_ref(partition, wanted.leader_epoch)),
            cluster_id: self.cluster(),
        };
        let silent =
            |_| ApiError::new(Reason::LeaderNotAvailable, format!("node {leader} has stopped sending its log"));
        let mut calls = self.calls(leader)?;
        let asked = tokio::time::timeout(SILENCE_MAX, calls.copy_log(request)).await;
        let mut answers = asked.map_err(silent)??.into_inner();
        let (mut copy, mut producers): (Option<LogCopy>, _) = (None, Bytes::new());
        let (mut ended, mut floor, mut room) = (false, Offset::ZERO, None);
        while let Some(answer) = tokio::time::timeout(SILENCE_MAX, answers.message()).await.map_err(silent)?? {
            (producers, ended) = (answer.producers, answer.record_batches.is_empty());
            floor = Offset(answer.tombstone_floor);
            let (directory, config) = (Arc::clone(&self.engine.directory), wanted.config.clone());
            let (now, log_start) = (self.engine.clock.now_millis(), Offset(answer.log_start_offset));
            if copy.is_none() {
                room = self.take_room(u64::try_from(answer.log_bytes).unwrap_or(0))?;
            }
            if let Some(room) = &mut room {
                room.use_up(answer.record_batches.len());
            }
            if !self.engine.space.take_if_there(answer.record_batches.len(), &directory) {
                return Err(ApiError::new(Reason::DiskFull, "there is no room for it on the disk any more"));
            }
            let added = tokio::task::spawn_blocking(move || {
                let mut copy = copy.map_or_else(|| directory.begin_copy(partition, config, log_start, now), Ok)?;
                copy.append(answer.record_batches, now)?;
                Ok::<_, walser_log::CopyError>(copy)
            });
            copy = Some(added.await.map_err(failed)?.map_err(failed)?);
        }
        let nothing =
            || ApiError::new(Reason::LeaderNotAvailable, format!("node {leader} has sent nothing of its log"));
        let copy = copy.ok_or_else(nothing)?;
        if !ended {
            let text = format!("node {leader} has ended its log in the middle");
            return Err(ApiError::new(Reason::LeaderNotAvailable, text));
        }
        // An older leader does not send them.
        let completed = move || copy.complete(Some(&*producers).filter(|producers| !producers.is_empty()), floor);
        tokio::task::spawn_blocking(completed).await.map_err(failed)?.map_err(failed)
    }

    /// Takes the room of a whole copy: one that does not fit beside the others is not begun, and takes no space from what else is
    /// on the disk. `None`: the disk does not say how much there is.
    fn take_room(&self, needed: u64) -> Result<Option<CopyRoom>, ApiError> {
        let usable = match self.engine.space.take_for_copy(needed, &self.engine.directory) {
            Some(Ok(room)) => return Ok(Some(room)),
            Some(Err(usable)) => usable,
            None => return Ok(None),
        };
        let text = format!("the leader's log has {needed} bytes, and {usable} are free for it on the disk");
        Err(ApiError::new(Reason::DiskFull, text).with("needed", needed).with("free", usable))
    }

    /// Removes what has come of a copy: nobody will continue it.
    async fn discard(&self, partition: TopicPartition) {
        let directory = Arc::clone(&self.engine.directory);
        let removed = tokio::task::spawn_blocking(move || directory.discard_copy(partition)).await;
        if let Ok(Err(error)) = removed {
            let partition = self.registry.names.partition(partition);
            tracing::warn!(%partition, %error, "an unfinished copy stays on the disk until the next start");
        }
    }

    /// Serves the log of a partition that this node leads, as far as it reaches now: what comes later is pushed.
    ///
    /// # Errors
    /// When this node does not lead it in that epoch, or the caller is of another cluster.
    pub(crate) fn serve_copy(
        &self,
        request: &pbi::CopyLogRequest,
    ) -> Result<ReceiverStream<Result<pbi::CopyLogResponse, Status>>, ApiError> {
        self.check_cluster(&request.cluster_id)?;
        let found = reference_of(request.r#ref.as_ref());
        let (partition, epoch) = found.ok_or_else(|| ApiError::field("ref", "is not a partition"))?;
        let replica = self.registry.led(partition)?;
        if replica.epoch() != epoch {
            return Err(not_leader(self.node));
        }
        // One: a message that is not taken holds the next one up, see `send_log`.
        let (answers, stream) = mpsc::channel(1);
        let links = self.clone();
        tokio::spawn(async move {
            if let Err(failure) = links.send_log(partition, epoch, &answers).await {
                let _ = answers.send(Err(failure.into())).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// What the follower does not see: sequences of batches that are deleted here.
    async fn producers_at(&self, replica: &PartitionHandle, end: Offset) -> Result<Bytes, ApiError> {
        let (reader, now) = (replica.reader.clone(), self.engine.clock.now_millis());
        tokio::task::spawn_blocking(move || reader.producers_at(end, now)).await.map_err(failed)?.map_err(failed)
    }

    async fn send_log(
        &self,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        answers: &mpsc::Sender<Result<pbi::CopyLogResponse, Status>>,
    ) -> Result<(), ApiError> {
        let replica = self.registry.led(partition)?;
        // Or a record would be copied of which the tombstone goes before it is copied, too.
        let replaced =
            || ApiError::new(Reason::LeaderNotAvailable, "a segment of the log is being replaced: try again");
        let _pin = replica.reader.pin().ok_or_else(replaced)?;
        let (log_start, tombstone_floor) = (replica.reader.retained(), replica.reader.tombstone_floor().0);
        let (mut next, below) = (log_start, replica.reader.log_end());
        let log_bytes = i64::try_from(replica.reader.size_bytes()).unwrap_or(i64::MAX);
        // Now: the snapshot that they come from is not kept for as long as a copy takes.
        let producers = self.producers_at(&replica, below).await?;
        let pace = &self.engine.copy_pace;
        let is_overtaken = || replica.reader.retained() > log_start;
        let mut hurries = pace.was_overtaken(partition);
        let mut ended = false;
        while !ended {
            hurries |= is_overtaken();
            let piece = if hurries {
                pace.hurry()
            } else {
                tokio::select! {
                    piece = pace.begin() => piece,
                    // The follower has given the copy up.
                    () = answers.closed() => return Ok(()),
                }
            };
            for _ in 0..PIECE_MESSAGES {
                let read = self.read_to_copy(partition, &replica, (next, below)).await;
                let Slice { batches, next_offset } = read.inspect_err(|_| pace.ended(partition, is_overtaken()))?;
                if !replica.serving() || replica.epoch() != epoch {
                    return Err(not_leader(self.node));
                }
                ended = batches.is_empty();
                next = next_offset;
                let producers = if ended { producers.clone() } else { Bytes::new() };
                let answer = pbi::CopyLogResponse {
                    log_start_offset: log_start.0,
                    record_batches: batches,
                    producers,
                    tombstone_floor,
                    log_bytes,
                };
                // Nothing of the log is compacted while it is pinned.
                let sent = tokio::time::timeout(TAKEN_MAX, answers.send(Ok(answer))).await;
                if sent.map_err(|_| stalled())?.is_err() {
                    // Given up as well: how it would have ended is not known.
                    return Ok(());
                }
                if ended {
                    break;
                }
            }
            pace.end(&piece);
        }
        pace.ended(partition, false);
        Ok(())
    }

    async fn read_to_copy(
        &self,
        partition: TopicPartition,
        replica: &PartitionHandle,
        (from, below): (Offset, Offset),
    ) -> Result<Slice, ApiError> {
        let generation = replica.reader.generation();
        read_disk(replica.reader.clone(), from, below, COPIED_BYTES).await.map_err(|error| {
            self.engine.shards.note_damage(partition, generation, &error);
            ApiError::new(Reason::StorageError, error.to_string())
        })
    }
}

fn stalled() -> ApiError {
    let text = format!("the follower has taken nothing of the copy for {} s", TAKEN_MAX.as_secs());
    ApiError::new(Reason::StorageError, text)
}

fn failed(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(Reason::StorageError, format!("a copy of the leader's log failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_fails_again_and_again_is_tried_less_often() {
        let pauses: Vec<_> = [1, 2, 3, 5, 6, 100].map(|failed| pause(failed).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1_000, 2_000, 3_000, 3_000, 3_000]);
    }
}
