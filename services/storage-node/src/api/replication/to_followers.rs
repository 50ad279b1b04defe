//! Streams of followers: what they say goes to the shards, and what they lack is pushed to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use walser_log::{Generation, LogReader, ReadError, Slice, out_of_files};
use walser_model::{NodeId, Offset, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_replication::ReplicationSessionId;
use walser_rpc::{ApiError, Reason, check_node_id};
use walser_tls::PeerIdentity;

use super::messages::{ack_of, answer_message, close_of, frame_message, open_of};
use super::{BEAT, Links, SILENCE_MAX};
use crate::contact::micros;
use crate::replica_registry::PartitionHandle;
use crate::replication::{BatchTrace, FromPeer, Lane, OpenAnswer, Push, ToFollower, ToPush, read_tail};
use crate::shard::Command;

/// Bytes of record batches in one message, about.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages that wait for the connection.
const RESPONSES_MAX: usize = 4;
/// Time between two lines in the log about what cannot be read.
const TOLD_EVERY: Duration = Duration::from_secs(10);

type Responses = mpsc::Sender<Result<pbi::ReplicateResponse, Status>>;

/// What a follower has room for, in bytes since its stream began.
#[derive(Debug, Default)]
struct Credit {
    limit: AtomicU64,
    changed: Notify,
}

/// What is pushed on one stream.
struct Pusher {
    links: Links,
    follower: NodeId,
    lane: Arc<Lane<ToFollower>>,
    responses: Responses,
    pushes: BTreeMap<TopicPartition, Push>,
    /// Partitions in which there may be something to push, each once.
    ready: VecDeque<TopicPartition>,
    queued: BTreeSet<TopicPartition>,
    sent: u64,
    credit: Arc<Credit>,
    /// When it was last told that something cannot be read.
    told: Option<Instant>,
}

impl Links {
    /// Serves the stream of a follower.
    ///
    /// # Errors
    /// When its first message does not say who it is, names another than its certificate does, or it is of another cluster.
    pub(crate) async fn serve_follower(
        &self,
        mut requests: Streaming<pbi::ReplicateRequest>,
        caller: Option<&PeerIdentity>,
    ) -> Result<ReceiverStream<Result<pbi::ReplicateResponse, Status>>, ApiError> {
        let silent = || ApiError::field("node_id", "the first message must name the follower");
        let hello = requests.message().await?.filter(|hello| hello.node_id > 0).ok_or_else(silent)?;
        self.check_cluster(&hello.cluster_id)?;
        let follower = NodeId(hello.node_id);
        check_node_id(caller, follower)?;
        let (responses, stream) = mpsc::channel(RESPONSES_MAX);
        let credit = Arc::new(Credit::default());
        credit.raise(hello.credit_bytes);
        let pusher = Pusher {
            links: self.clone(),
            follower,
            lane: self.outbox.connect_follower(follower),
            responses,
            pushes: BTreeMap::new(),
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            sent: 0,
            credit: Arc::clone(&credit),
            told: None,
        };
        let links = self.clone();
        tokio::spawn(async move {
            let mut opened = HashMap::new();
            tokio::select! {
                () = links.listen(follower, requests, &credit, &mut opened) => {}
                () = pusher.run() => {}
                () = links.shutdown.wait() => {}
            }
            for (partition, open) in opened {
                links.tell(partition, FromPeer::Closed { follower, open });
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Refuses nodes of other clusters.
    pub(super) fn check_cluster(&self, cluster: &str) -> Result<(), ApiError> {
        let own = self.cluster();
        if cluster == own && !own.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the caller belongs to cluster \"{cluster}\", this node to \"{own}\"; give it the address of a controller of its own cluster"
        );
        Err(ApiError::new(Reason::ClusterIdMismatch, text).with("expected", own))
    }

    /// Takes what a follower says, until its stream ends or it is silent.
    async fn listen(
        &self,
        follower: NodeId,
        mut requests: Streaming<pbi::ReplicateRequest>,
        credit: &Credit,
        opened: &mut HashMap<TopicPartition, ReplicationSessionId>,
    ) {
        while let Ok(Ok(Some(request))) = tokio::time::timeout(SILENCE_MAX, requests.message()).await {
            credit.raise(request.credit_bytes);
            for (partition, session) in request.opens.iter().filter_map(|open| open_of(follower, open)) {
                opened.insert(partition, session.id);
                self.tell(partition, FromPeer::Opened(session));
            }
            for (partition, ack) in request.acks.iter().filter_map(|ack| ack_of(follower, ack)) {
                self.tell(partition, FromPeer::Acked(ack));
            }
            for (partition, open) in request.closes.iter().filter_map(close_of) {
                opened.remove(&partition);
                self.tell(partition, FromPeer::Closed { follower, open });
            }
            if let Ok(sent @ 1..) = u64::try_from(request.beat_heard) {
                self.registry.contact.follower_answered(follower, Duration::from_micros(sent));
            }
            if request.opens.is_empty() && request.acks.is_empty() {
                let node_epoch = request.node_epoch;
                self.engine.shards.queues().for_each(|queue| queue.push(Command::Heard { node: follower, node_epoch }));
            }
        }
    }
}

impl Credit {
    fn raise(&self, limit: i64) {
        self.limit.fetch_max(u64::try_from(limit).unwrap_or(0), Ordering::AcqRel);
        self.changed.notify_one();
    }
}

impl Pusher {
    /// Pushes until the connection is gone.
    async fn run(mut self) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (lane, credit) = (Arc::clone(&self.lane), Arc::clone(&self.credit));
        loop {
            let mut data = self.take_news();
            while let Some(more) = self.next_message(&mut data).await {
                if self.responses.send(Ok(more)).await.is_err() {
                    return;
                }
                data = self.take_news();
            }
            tokio::select! {
                () = lane.changed() => {}
                () = credit.changed.notified() => {}
                // A stream that came late, and is of a connection that the follower has given up, may have taken its place.
                _ = beats.tick() => {
                    if !self.links.outbox.is_lane_of(self.follower, &lane) {
                        return;
                    }
                    let beat = i64::try_from(micros(self.links.registry.contact.now())).unwrap_or(i64::MAX).max(1);
                    if self.responses.send(Ok(pbi::ReplicateResponse { beat, ..Default::default() })).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes what the shards have said; gives back what is answered to opens.
    fn take_news(&mut self) -> Vec<pbi::ReplicaData> {
        let ToFollower { answers, more, stop } = self.lane.take();
        for partition in &stop {
            self.pushes.remove(partition);
        }
        let mut data = Vec::new();
        for (partition, (open, answer)) in answers {
            if let OpenAnswer::Push { leader_epoch, from } = answer {
                self.pushes.insert(partition, Push::new(open, leader_epoch, from));
                self.look_at(partition);
            } else {
                self.pushes.remove(&partition);
                data.extend(answer_message(partition, open, answer));
            }
        }
        for partition in more {
            if self.pushes.contains_key(&partition) {
                self.look_at(partition);
            }
        }
        data
    }

    fn look_at(&mut self, partition: TopicPartition) {
        if self.queued.insert(partition) {
            self.ready.push_back(partition);
        }
    }

    /// The next message: what is answered, and what there is to push as far as there is room. `None`: nothing.
    async fn next_message(&mut self, data: &mut Vec<pbi::ReplicaData>) -> Option<pbi::ReplicateResponse> {
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES && self.sent < self.credit.limit.load(Ordering::Acquire) {
            let Some(partition) = self.ready.pop_front() else { break };
            self.queued.remove(&partition);
            if let Some((message, size)) = self.push(partition).await {
                (bytes, self.sent) = (bytes + size, self.sent + size as u64);
                data.push(message);
            }
        }
        (!data.is_empty()).then(|| pbi::ReplicateResponse { data: std::mem::take(data), beat: 0 })
    }

    /// What is pushed next of a partition, with the bytes of its batches.
    async fn push(&mut self, partition: TopicPartition) -> Option<(pbi::ReplicaData, usize)> {
        let mut push = *self.pushes.get(&partition)?;
        let pushed = match self.links.registry.led(partition) {
            Ok(replica) => self.next_frame(partition, &mut push, &replica).await,
            Err(_) => Pushing::Over,
        };
        match pushed {
            Pushing::Nothing => None,
            Pushing::Over => {
                self.pushes.remove(&partition);
                answer_message(partition, push.open, OpenAnswer::Refused).map(|message| (message, 0))
            }
            Pushing::Frame { frame, batches, traces } => {
                let size = batches.len();
                self.pushes.insert(partition, push);
                if size > 0 {
                    self.look_at(partition);
                }
                let (follower, open, end) = (self.follower, frame.open, frame.end);
                // Before the first byte leaves: an acknowledgement of it comes behind this.
                self.links.tell(partition, FromPeer::Sent { follower, open, end });
                Some((frame_message(partition, &frame, batches, traces), size))
            }
        }
    }

    async fn next_frame(&mut self, id: TopicPartition, push: &mut Push, replica: &Arc<PartitionHandle>) -> Pushing {
        let generation = replica.reader.generation();
        let (end, batches) = match push.look(replica) {
            ToPush::Over => return Pushing::Over,
            ToPush::Nothing => return Pushing::Nothing,
            ToPush::Marks => (None, Bytes::new()),
            ToPush::Records { from, below } => match read(replica, from, below).await {
                Ok(slice) if slice.batches.is_empty() => return Pushing::Over,
                Ok(slice) => (Some(slice.next_offset), slice.batches),
                Err(error) => {
                    self.note_unreadable(id, generation, &error);
                    return Pushing::Over;
                }
            },
        };
        push.frame(replica, end).map_or(Pushing::Over, |frame| {
            let traces = replica.traces.of(frame.base, frame.end);
            Pushing::Frame { frame, batches, traces }
        })
    }

    /// What cannot be read for a follower cannot be read at all. Damage is noted, as where clients read, and files are closed
    /// where there are too many. The follower opens again and again meanwhile.
    fn note_unreadable(&mut self, partition: TopicPartition, generation: Generation, error: &ReadError) {
        let shards = &self.links.engine.shards;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            let named = self.links.registry.names.partition(partition);
            tracing::warn!(
                partition = %named, follower = %self.follower, %error,
                "records cannot be read for a follower; others are told at most every 10 s"
            );
        }
        if matches!(error, ReadError::Io(error) if out_of_files(error)) {
            shards.queues().for_each(|queue| queue.push(Command::CloseFiles));
        }
        shards.note_damage(partition, generation, error);
    }
}

/// What became of looking at a partition.
enum Pushing {
    Nothing,
    /// The follower has to open again: this node does not lead any more, or what it lacks is not there.
    Over,
    Frame {
        frame: walser_replication::Frame,
        batches: Bytes,
        traces: Vec<BatchTrace>,
    },
}

/// Whole batches from an offset on, from memory or from the disk.
async fn read(replica: &Arc<PartitionHandle>, from: Offset, below: Offset) -> Result<Slice, ReadError> {
    match read_tail(replica, from, below, MESSAGE_BYTES) {
        Some(slice) => Ok(slice),
        None => read_disk(replica.reader.clone(), from, below, MESSAGE_BYTES).await,
    }
}

/// The same from the disk, and of about so many bytes.
pub(super) async fn read_disk(
    reader: LogReader,
    from: Offset,
    below: Offset,
    bytes: usize,
) -> Result<Slice, ReadError> {
    let read = tokio::task::spawn_blocking(move || reader.read_retained(from, below, bytes));
    read.await.map_err(|error| ReadError::Io(std::io::Error::other(error)))?
}
