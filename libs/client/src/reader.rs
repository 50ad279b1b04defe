//! A reader that goes on where it was when the connection breaks.

use std::collections::HashMap;
use std::time::Duration;

use tonic::Streaming;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_rpc::Failure;

use crate::connection::{Client, MESSAGE_BYTES_MAX};

/// Pause before the server is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What to read.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Topics or partitions, with where to start and end.
    pub targets: Vec<pb::ReadTarget>,
    /// Whole batches instead of records.
    pub batches: bool,
    /// How long a server may be away before reading fails.
    pub patience: Duration,
}

/// What comes from a reader.
#[derive(Debug)]
pub enum Read {
    /// Records of one partition.
    Chunk(pb::RecordChunk),
    /// Everything that was there has been read.
    CaughtUp,
    /// A partition has a problem; reading goes on.
    Problem(pb::PartitionError),
    /// The server is away; reading goes on when it is back. Said once each time.
    Away(Failure),
    /// Every target has reached its end.
    End,
}

/// Reads, and reads on after interruptions.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    config: ReaderConfig,
    stream: Option<Streaming<pb::ReadResponse>>,
    /// Where each partition goes on.
    next: HashMap<(String, i32), i64>,
    ended: HashMap<(String, i32), ()>,
    away_since: Option<tokio::time::Instant>,
    /// The server has answered at least once.
    connected: bool,
}

impl Reader {
    /// A reader; it connects with the first call of [`Reader::next`].
    pub fn new(client: &Client, config: ReaderConfig) -> Self {
        let (next, ended) = (HashMap::new(), HashMap::new());
        Self { client: client.separate(), config, stream: None, next, ended, away_since: None, connected: false }
    }

    /// The next thing. Not safe to cancel half-way, except by dropping the reader.
    ///
    /// # Errors
    /// What the server says, unless trying again may help and the patience lasts.
    pub async fn next(&mut self) -> Result<Read, Failure> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.open().await {
                    Ok(stream) => (self.stream, self.connected) = (Some(stream), true),
                    Err(failure) => {
                        if let Some(away) = self.wait(failure).await? {
                            return Ok(away);
                        }
                    }
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.away_since = None;
                    if let Some(read) = self.take(message) {
                        return Ok(read);
                    }
                }
                Ok(None) => return Ok(Read::End),
                Err(status) => {
                    self.stream = None;
                    if let Some(away) = self.wait(Failure::from(status)).await? {
                        return Ok(away);
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<pb::ReadResponse>, Failure> {
        let encoding = if self.config.batches { pb::Encoding::RecordBatches } else { pb::Encoding::Records };
        let options = pb::ReadOptions {
            encoding: encoding.into(),
            max_message_bytes: i32::try_from(MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
            client_id: "walser".to_owned(),
            ..Default::default()
        };
        let request = pb::ReadRequest { targets: self.targets(), options: Some(options), max_records: 0 };
        Ok(self.client.consumer().read(request).await?.into_inner())
    }

    /// The targets as they are now: partitions that were read go on where they were.
    fn targets(&self) -> Vec<pb::ReadTarget> {
        if self.next.is_empty() {
            return self.config.targets.clone();
        }
        let mut targets = Vec::new();
        for ((topic, partition), offset) in &self.next {
            if self.ended.contains_key(&(topic.clone(), *partition)) {
                continue;
            }
            let asked = self.config.targets.iter().find(|target| target.topic == *topic);
            targets.push(pb::ReadTarget {
                topic: topic.clone(),
                partition: Some(*partition),
                start: Some(pb::Position { at: Some(pb::position::At::Offset(*offset)) }),
                end: asked.and_then(|target| target.end),
                last_leader_epoch: None,
            });
        }
        targets
    }

    fn take(&mut self, message: pb::ReadResponse) -> Option<Read> {
        match message.event? {
            Event::Chunk(chunk) => {
                self.next.insert((chunk.topic.clone(), chunk.partition), chunk.next_offset);
                Some(Read::Chunk(chunk))
            }
            Event::CaughtUp(caught_up) => {
                self.note(&caught_up.progress);
                Some(Read::CaughtUp)
            }
            Event::Heartbeat(heartbeat) => {
                self.note(&heartbeat.progress);
                None
            }
            Event::PartitionError(error) => Some(Read::Problem(error)),
            Event::EndReached(done) => {
                self.ended.insert((done.topic.clone(), done.partition), ());
                None
            }
            Event::OffsetReset(_) => None,
            Event::Drain(_) => {
                self.stream = None;
                None
            }
        }
    }

    /// Notes where partitions stand from which nothing came yet.
    fn note(&mut self, progress: &[pb::PartitionProgress]) {
        for progress in progress {
            if let Some(partition) = &progress.topic_partition {
                self.next.entry((partition.topic.clone(), partition.partition)).or_insert(progress.next_offset);
            }
        }
    }

    /// Waits a little before the next attempt, or gives up.
    async fn wait(&mut self, failure: Failure) -> Result<Option<Read>, Failure> {
        let again = matches!(failure.retry(), pb::RetryAdvice::Backoff | pb::RetryAdvice::Reopen)
            || failure.code() == tonic::Code::Unknown
            || failure.code() == tonic::Code::Cancelled;
        let now = tokio::time::Instant::now();
        let first = self.away_since.is_none();
        let since = *self.away_since.get_or_insert(now);
        // A server that never answered is more likely the wrong address than one that will be back.
        if !again || !self.connected || now.duration_since(since) >= self.config.patience {
            return Err(failure);
        }
        tokio::time::sleep(RETRY).await;
        Ok(first.then_some(Read::Away(failure)))
    }
}
