//! A reader that goes on where it was when the connection breaks.

mod positions;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tonic::{Status, Streaming};
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_rpc::{ApiError, Reason};

use crate::connection::{Client, MESSAGE_BYTES_MAX, may_come_back};

use self::positions::{Place, Positions, is_fixed};

/// Pause before the server is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How long the server may take to say what positions mean; it spends a part of it on partitions without a leader.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);
const LATEST: pb::Position = pb::Position { at: Some(pb::position::At::Bound(pb::Bound::Latest as i32)) };

/// What a position means in partitions, and which ones could not be asked.
type Asked = (HashMap<Place, i64>, BTreeSet<Place>);

/// What a reader reads, and from where.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Topics or partitions, with where to start and end. Positions that move, such as LATEST, are fixed once, when
    /// the reader first reaches the server: records that are written later do not move them.
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
    Away(ApiError),
    /// Every target has reached its end.
    End,
}

/// Reads, and reads on after interruptions: every partition from where it was, whether or not anything came from it
/// yet, and partitions that are added meanwhile from their start.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    config: ReaderConfig,
    stream: Option<Streaming<pb::ReadResponse>>,
    /// `None` until the server has been asked what positions mean.
    positions: Option<Positions>,
    /// Since when nothing has come, while there is no stream, or nothing has come of it.
    away_since: Option<tokio::time::Instant>,
    /// That it is away has been said.
    told: bool,
    /// The server has answered at least once.
    connected: bool,
}

impl Reader {
    /// A reader; it connects with the first call of [`Reader::next`].
    pub fn new(client: &Client, config: ReaderConfig) -> Self {
        let client = client.separate();
        Self { client, config, stream: None, positions: None, away_since: None, told: false, connected: false }
    }

    /// The next thing. Not safe to cancel half-way, except by dropping the reader.
    ///
    /// # Errors
    /// What the server says, unless trying again may help and the patience lasts.
    pub async fn next(&mut self) -> Result<Read, ApiError> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.opened().await {
                    Ok(true) => {}
                    Ok(false) => return Ok(Read::End),
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
                    (self.away_since, self.told) = (None, false);
                    if let Some(read) = self.take(message) {
                        return Ok(read);
                    }
                }
                // A stream ends this way only when everything was sent that was asked for.
                Ok(None) => return Ok(Read::End),
                Err(status) => {
                    self.stream = None;
                    if let Some(away) = self.wait(ApiError::from(status)).await? {
                        return Ok(away);
                    }
                }
            }
        }
    }

    /// Opens the stream within the time that is left, or that looking up positions may take.
    async fn opened(&mut self) -> Result<bool, ApiError> {
        let since = *self.away_since.get_or_insert_with(tokio::time::Instant::now);
        let most = self.config.patience.saturating_sub(since.elapsed()).max(LOOK_UP_MAX);
        match tokio::time::timeout(most, self.open()).await {
            Ok(opened) => opened,
            Err(_elapsed) => {
                let text = format!("the server has not answered for {} s", since.elapsed().as_secs());
                Err(ApiError::new(Reason::RequestTimedOut, text))
            }
        }
    }

    /// Opens the stream. False: everything has been read.
    async fn open(&mut self) -> Result<bool, ApiError> {
        if self.positions.is_none() {
            self.positions = Some(self.fixed().await?);
        }
        let targets = self.positions.as_ref().map(Positions::targets).unwrap_or_default();
        if targets.is_empty() && !self.config.targets.is_empty() {
            return Ok(false);
        }
        let encoding = if self.config.batches { pb::Encoding::RecordBatches } else { pb::Encoding::Records };
        let options = pb::ReadOptions {
            encoding: encoding.into(),
            max_message_bytes: i32::try_from(MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
            ..Default::default()
        };
        let request = pb::ReadRequest { targets, options: Some(options), max_records: 0 };
        let answer = self.client.consumer().read(request).await;
        self.stream = Some(self.heard(answer)?.into_inner());
        Ok(true)
    }

    /// Notes whether a server has answered at all.
    fn heard<T>(&mut self, answer: Result<T, Status>) -> Result<T, ApiError> {
        // An error without details comes from the connection, or from a proxy.
        self.connected |= answer.as_ref().err().is_none_or(|status| !status.details().is_empty());
        answer.map_err(ApiError::from)
    }

    /// The targets with offsets in place of the positions that move.
    async fn fixed(&mut self) -> Result<Positions, ApiError> {
        let mut positions = Positions::default();
        for mut target in self.config.targets.clone() {
            if target.topic_id.is_empty() {
                let request = pb::GetTopicRequest { name: target.topic.clone() };
                let found = self.client.topics().get_topic(request).await;
                // Without the controller a reader cannot tell the topic from another one of its name, and reads.
                let known = found.ok().and_then(|found| found.into_inner().topic);
                target.topic_id = known.unwrap_or_default().id;
            }
            let target = &target;
            let (start_fixed, end_fixed) = (is_fixed(target.start.as_ref()), is_fixed(target.end.as_ref()));
            if start_fixed && end_fixed {
                positions.add(target.clone());
                continue;
            }
            let stored = |place: &Place| target.resume.iter().find(|resume| resume.partition == place.1);
            // Of the record before the start, where that is what the target says.
            let own_epoch = target.last_leader_epoch.filter(|_| start_fixed);
            let epoch = |place: &Place| stored(place).map_or(own_epoch, |resume| resume.leader_epoch);
            // The end comes first: a record that is written between two questions is not skipped.
            let latest = self.asked(target, Some(LATEST)).await?;
            let (mut starts, failed) = self.offsets(target, target.start, &latest).await?;
            for (place, start) in &mut starts {
                *start = stored(place).map_or(*start, |resume| resume.next_offset);
            }
            if target.end.is_none() && target.partition.is_none() {
                let starts = starts.into_iter().map(|((_, partition), start)| (partition, start));
                positions.add_topic(target, starts, failed.into_iter().map(|place| place.1));
                continue;
            }
            let (ends, end_failed) = match target.end {
                Some(_) => self.offsets(target, target.end, &latest).await?,
                None => Default::default(),
            };
            // The server finds these places once the partitions have leaders.
            let unresolved: BTreeSet<Place> = failed.into_iter().chain(end_failed).collect();
            for place in unresolved {
                let at = |offset| pb::Position { at: Some(pb::position::At::Offset(offset)) };
                positions.add(pb::ReadTarget {
                    partition: Some(place.1),
                    start: stored(&place).map(|resume| at(resume.next_offset)).or(target.start),
                    last_leader_epoch: epoch(&place),
                    resume: Vec::new(),
                    ..target.clone()
                });
            }
            for (place, start) in starts {
                let at = |offset| pb::Position { at: Some(pb::position::At::Offset(offset)) };
                // A partition that came between the two questions is not part of what was asked for.
                if target.end.is_some() && !ends.contains_key(&place) {
                    continue;
                }
                positions.add(pb::ReadTarget {
                    topic: target.topic.clone(),
                    topic_id: target.topic_id.clone(),
                    partition: Some(place.1),
                    start: Some(at(start)),
                    last_leader_epoch: epoch(&place),
                    end: ends.get(&place).copied().map(at),
                    ..Default::default()
                });
            }
        }
        Ok(positions)
    }

    /// What a position means in every partition of a target, and which partitions could not be asked. A time behind the
    /// last record means the end. `latest`: what the end means.
    async fn offsets(
        &mut self,
        target: &pb::ReadTarget,
        position: Option<pb::Position>,
        latest: &Asked,
    ) -> Result<Asked, ApiError> {
        let (mut found, mut failed) = latest.clone();
        if position != Some(LATEST) {
            let (more, also_failed) = self.asked(target, position).await?;
            found.extend(more);
            failed.extend(also_failed);
        }
        found.retain(|place, _| !failed.contains(place));
        Ok((found, failed))
    }

    /// The server's answer about a position.
    async fn asked(&mut self, target: &pb::ReadTarget, position: Option<pb::Position>) -> Result<Asked, ApiError> {
        let asked = pb::ReadTarget {
            topic: target.topic.clone(),
            partition: target.partition,
            start: position,
            ..Default::default()
        };
        let mut request = tonic::Request::new(pb::ListOffsetsRequest { targets: vec![asked], ..Default::default() });
        // Partitions without a leader keep the others from being read for no longer.
        request.set_timeout(LOOK_UP_MAX);
        let answer = self.client.consumer().list_offsets(request).await;
        let answer = self.heard(answer)?.into_inner();
        let (mut found, mut failed) = Asked::default();
        for resolved in answer.offsets {
            if let (Some(place), Some(offset)) = (resolved.topic_partition, resolved.offset) {
                found.insert((place.topic, place.partition), offset);
            }
        }
        for pb::PartitionError { topic_partition, .. } in answer.errors {
            failed.extend(topic_partition.map(|place| (place.topic, place.partition)));
        }
        Ok((found, failed))
    }

    fn take(&mut self, message: pb::ReadResponse) -> Option<Read> {
        let positions = self.positions.as_mut()?;
        match message.event? {
            Event::Chunk(chunk) => {
                positions.chunk(&chunk);
                return Some(Read::Chunk(chunk));
            }
            Event::CaughtUp(caught_up) => {
                positions.progress(&caught_up.progress);
                return Some(Read::CaughtUp);
            }
            Event::PartitionError(error) => return Some(Read::Problem(error)),
            Event::Heartbeat(heartbeat) => positions.progress(&heartbeat.progress),
            Event::EndReached(done) => positions.end_reached(&done),
            Event::OffsetReset(reset) => positions.reset(&reset),
            // The stream ends with an error that says so.
            Event::Drain(_) => {}
        }
        None
    }

    /// Waits a little before the next attempt, or gives up.
    async fn wait(&mut self, failure: ApiError) -> Result<Option<Read>, ApiError> {
        let again = may_come_back(&failure);
        let now = tokio::time::Instant::now();
        let since = *self.away_since.get_or_insert(now);
        // A server that never answered is more likely the wrong address than one that will be back.
        if !again || !self.connected || now.duration_since(since) >= self.config.patience {
            return Err(failure);
        }
        tokio::time::sleep(RETRY).await;
        // Another gateway takes over without a word.
        let drained = failure.reason() == Reason::GatewayDraining;
        let tell = !drained && !std::mem::replace(&mut self.told, true);
        Ok(tell.then_some(Read::Away(failure)))
    }
}
