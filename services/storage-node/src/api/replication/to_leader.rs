//! A stream to a node that leads partitions which this one follows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walser_model::{NodeId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_replication::ReplicationSessionId;
use walser_rpc::{ApiError, Outage, Reason};
use walser_service::telemetry::{self, BatchSpan};

use super::messages::{FromLeader, ack_message, close_message, data_of, open_message};
use super::{BEAT, Links, SILENCE_MAX};
use crate::replication::{FromPeer, Lane, Pushed, ToLeader, Window};

/// Bytes that the leader may have sent and that are not in the log.
const WINDOW_BYTES: u64 = 16 << 20;
/// The leader is told of room from this much on, unless something else is said anyway.
const WINDOW_STEP: u64 = WINDOW_BYTES / 4;
/// Messages on their way.
const REQUESTS_MAX: usize = 16;
/// Partitions that are named in one message.
const PARTITIONS_MAX: usize = 2_000;
/// Batches of one frame that are traced.
const SPANS_MAX: usize = 128;
/// Pause before a leader that cannot be reached is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Pause before a partition is opened again that was refused.
const REFUSED_RETRY: Duration = Duration::from_millis(100);
/// The same where what was pushed on it cannot be taken: it is most likely pushed again.
const UNTAKEN_RETRY: Duration = Duration::from_secs(1);

/// One connection.
struct Stream {
    links: Links,
    leader: NodeId,
    requests: mpsc::Sender<pbi::ReplicateRequest>,
    /// What was opened on it.
    opened: HashMap<TopicPartition, ReplicationSessionId>,
    /// Of partitions that wait to be opened again, the open on which something came that cannot be taken: what is on its way
    /// behind that is of no use.
    untaken: HashMap<TopicPartition, ReplicationSessionId>,
    /// That such things come.
    refusing: Outage,
    window: Arc<Window>,
    told_credit: u64,
    node_epoch: i64,
    /// The latest beat of the leader.
    beat_heard: i64,
}

/// Follows whatever a node leads, for as long as this one runs.
pub(super) async fn follow(links: Links, leader: NodeId) {
    let lane = links.outbox.to_leader(leader);
    let mut outage = Outage::of("replication from the leader");
    loop {
        lane.needs_stream().await;
        if let Err(failure) = run(&links, leader, &lane, &mut outage).await {
            outage.failed(&failure);
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn closed(leader: NodeId) -> ApiError {
    ApiError::new(Reason::LeaderNotAvailable, format!("node {leader} has ended the replication stream"))
}

/// One stream, from its beginning to its end.
async fn run(links: &Links, leader: NodeId, lane: &Lane<ToLeader>, outage: &mut Outage) -> Result<(), ApiError> {
    let mut calls = links.calls(leader)?;
    let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
    let mut stream = Stream::new(links.clone(), leader, requests);
    let hello = pbi::ReplicateRequest { cluster_id: links.cluster(), ..stream.message() };
    stream.requests.send(hello).await.map_err(|_| closed(leader))?;
    let mut answers = calls.replicate(ReceiverStream::new(waiting)).await?.into_inner();
    let outcome = stream.serve(lane, &mut answers, outage).await;
    for (partition, open) in stream.opened {
        links.tell(partition, FromPeer::Broken { open });
    }
    outcome
}

impl Stream {
    fn new(links: Links, leader: NodeId, requests: mpsc::Sender<pbi::ReplicateRequest>) -> Self {
        Self {
            links,
            leader,
            requests,
            opened: HashMap::new(),
            untaken: HashMap::new(),
            refusing: Outage::of("what the leader pushes"),
            window: Arc::default(),
            told_credit: 0,
            node_epoch: 0,
            beat_heard: 0,
        }
    }

    fn message(&mut self) -> pbi::ReplicateRequest {
        self.told_credit = self.window.returned() + WINDOW_BYTES;
        pbi::ReplicateRequest {
            node_id: self.links.node.0,
            node_epoch: self.node_epoch,
            credit_bytes: i64::try_from(self.told_credit).unwrap_or(i64::MAX),
            ..Default::default()
        }
    }

    async fn serve(
        &mut self,
        lane: &Lane<ToLeader>,
        answers: &mut tonic::Streaming<pbi::ReplicateResponse>,
        outage: &mut Outage,
    ) -> Result<(), ApiError> {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = tokio::time::Instant::now();
        let window = Arc::clone(&self.window);
        self.say(lane.take()).await?;
        loop {
            tokio::select! {
                biased;
                answer = answers.message() => {
                    let answer = answer?.ok_or_else(|| closed(self.leader))?;
                    heard = tokio::time::Instant::now();
                    outage.ended();
                    self.beat_heard = self.beat_heard.max(answer.beat);
                    answer.data.into_iter().for_each(|data| self.hear(data));
                }
                () = lane.changed() => self.say(lane.take()).await?,
                () = window.changed() => {
                    if self.window.returned() + WINDOW_BYTES >= self.told_credit + WINDOW_STEP {
                        self.say(ToLeader::new()).await?;
                    }
                }
                _ = beats.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        let text = format!("node {} has said nothing for {} ms", self.leader, SILENCE_MAX.as_millis());
                        return Err(ApiError::new(Reason::LeaderNotAvailable, text));
                    }
                    self.say(ToLeader::new()).await?;
                }
            }
        }
    }

    /// Says what there is, or only that this node is there.
    async fn say(&mut self, news: ToLeader) -> Result<(), ApiError> {
        // Before the first of them leaves: what does not leave is broken, too.
        for (partition, open) in news.iter().filter_map(|(partition, said)| Some((partition, said.open?))) {
            self.node_epoch = self.node_epoch.max(open.id.node_epoch);
            self.opened.insert(*partition, open.id);
            self.untaken.remove(partition);
        }
        let mut message = self.message();
        let mut named = 0;
        for (partition, said) in news {
            if let Some(open) = said.open {
                message.opens.push(open_message(partition, &open));
            } else if said.left {
                let opened = self.opened.remove(&partition);
                self.untaken.remove(&partition);
                message.closes.extend(opened.map(|open| close_message(partition, open)));
            }
            message.acks.extend(said.ack.map(|ack| ack_message(partition, &ack)));
            named += 1;
            if named == PARTITIONS_MAX {
                named = 0;
                let next = self.message();
                self.send(std::mem::replace(&mut message, next)).await?;
            }
        }
        // Behind everything that was to be said: whoever hears it knows what is followed no more.
        message.beat_heard = self.beat_heard;
        self.send(message).await
    }

    async fn send(&self, mut message: pbi::ReplicateRequest) -> Result<(), ApiError> {
        message.node_epoch = self.node_epoch;
        self.requests.send(message).await.map_err(|_| closed(self.leader))
    }

    /// Takes what the leader says.
    fn hear(&mut self, data: pbi::ReplicaData) {
        let Some((partition, said)) = data_of(data) else { return };
        let said = match said {
            FromLeader::Pushed(frame, batches, traces) => {
                let room = self.window.take(batches.len());
                if self.untaken.get(&partition) == Some(&frame.open) {
                    return;
                }
                match Pushed::check(frame, batches, Some(room)) {
                    Ok(pushed) => FromPeer::Pushed(Box::new(pushed.traced(self.spans(partition, &traces)))),
                    Err(error) => {
                        let name = self.links.registry.names.partition(partition);
                        let text = format!("node {} has pushed to {name}: {error}", self.leader);
                        self.refusing.failed(&ApiError::internal(text));
                        self.untaken.insert(partition, frame.open);
                        return self.break_later(partition, frame.open, UNTAKEN_RETRY);
                    }
                }
            }
            FromLeader::Diverged(answer) => FromPeer::Diverged(answer),
            FromLeader::CopyOffered { leader_epoch, open, log_start } => {
                FromPeer::CopyOffered { leader_epoch, open, log_start }
            }
            FromLeader::Refused(open) => return self.break_later(partition, open, REFUSED_RETRY),
        };
        self.links.tell(partition, said);
    }

    /// Spans of the batches of a frame that are traced.
    fn spans(&self, partition: TopicPartition, traces: &[pbi::BatchTrace]) -> Vec<tracing::Span> {
        let of_batch = |trace: &pbi::BatchTrace| {
            let (topic, partition) = (self.links.registry.names.topic(partition.topic), partition.partition.0);
            let traces = &[Arc::from(trace.traceparent.as_str())];
            telemetry::batch_span(&BatchSpan { name: "replicate", topic, partition, traces })
        };
        traces.iter().take(SPANS_MAX).map(of_batch).filter(|span| !span.is_none()).collect()
    }

    /// Has a partition opened again after a pause.
    fn break_later(&self, partition: TopicPartition, open: ReplicationSessionId, pause: Duration) {
        let links = self.links.clone();
        // It ends with this pause.
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            links.tell(partition, FromPeer::Broken { open });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicI64;

    use tonic::service::Routes;
    use walser_log::{DataDirectory, MemoryDisk};
    use walser_model::{PartitionIndex, SystemClock, TopicId};
    use walser_rpc::{ControllerClient, Network, local_connection};
    use walser_service::{Metrics, Shutdown};

    use super::*;
    use crate::compactor::CompactionLimits;
    use crate::contact::Contact;
    use crate::engine::Engine;
    use crate::metrics::StorageMetrics;
    use crate::replica_registry::ReplicaRegistry;
    use crate::replication::outbox::tests::session;
    use crate::replication::{Outbox, Outgoing, Peers};

    /// Those of a node, and what waits for its leaders.
    fn links() -> (Links, Outbox) {
        let directory = DataDirectory::open(Arc::new(MemoryDisk::new(1 << 30)), Path::new("/data"), "test").unwrap();
        let config = crate::Config {
            node: NodeId(1),
            ready_wait: Duration::ZERO,
            shards: 1,
            flush_threads: 1,
            append_bytes_max: 1 << 20,
            tail_bytes: 1 << 20,
            reserve_bytes: Some(0),
            disk_stall: Duration::from_secs(3600),
            retention_check: Duration::from_secs(3600),
            compaction: CompactionLimits { memory_bytes: 0, bytes_per_second: 0 },
            idle: Duration::from_secs(3600),
            public_address: String::new(),
            internal_address: String::new(),
            roles: Vec::new(),
            version: String::new(),
        };
        let contact = Contact::new(Arc::new(SystemClock::start()));
        let (registry, outbox) = (ReplicaRegistry::new(NodeId(1), contact), Outbox::default());
        let metrics = StorageMetrics::new(&Metrics::default());
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let peers = Arc::new(outbox.clone());
        let clock = Arc::new(SystemClock::start());
        let (engine, threads) =
            Engine::start(&config, directory, Vec::new(), (&registry, peers), (clock, &metrics), &shutdown).unwrap();
        std::mem::forget(threads);
        let links = Links {
            node: NodeId(1),
            outbox: outbox.clone(),
            network: Network::default(),
            controller: ControllerClient::new(local_connection(Routes::default())),
            engine,
            registry,
            node_epoch: Arc::new(AtomicI64::new(7)),
            shutdown,
        };
        (links, outbox)
    }

    #[tokio::test]
    async fn opens_that_a_broken_stream_did_not_take_are_known_to_be_broken() {
        let (links, outbox) = links();
        let leader = NodeId(2);
        for number in 0..10_000 {
            let id = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number));
            outbox.tell(id, Outgoing::Open { leader, session: session(1) });
        }
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        // The connection has broken.
        drop(waiting);
        let mut stream = Stream::new(links, leader, requests);
        let lane = outbox.to_leader(leader);
        assert!(stream.say(lane.take()).await.is_err());
        let (told, left) = (stream.opened.len(), lane.take().len());
        assert_eq!(told + left, 10_000, "the others are neither open nor broken, for ever");
    }

    /// Otherwise the leader pushes them again and again, as fast as it can.
    #[tokio::test]
    async fn what_is_pushed_behind_what_cannot_be_taken_waits_for_another_open() {
        let (links, outbox) = links();
        let id = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
        let leader = NodeId(2);
        let (requests, mut sent) = mpsc::channel(REQUESTS_MAX);
        let mut stream = Stream::new(links, leader, requests);
        let lane = outbox.to_leader(leader);
        for sequence in 1..3 {
            outbox.tell(id, Outgoing::Open { leader, session: session(sequence) });
            stream.say(lane.take()).await.unwrap();
            let opened = sent.recv().await.unwrap().opens.remove(0);
            assert!(stream.untaken.is_empty(), "it is taken anew");
            for base_offset in 0..100 {
                let records = pbi::ReplicaRecords {
                    base_offset,
                    end_offset: base_offset + 1,
                    record_batches: bytes::Bytes::from_static(&[7; 100]),
                    ..pbi::ReplicaRecords::default()
                };
                stream.hear(pbi::ReplicaData {
                    r#ref: opened.r#ref.clone(),
                    id: opened.id,
                    content: Some(pbi::replica_data::Content::Records(records)),
                });
            }
            assert_eq!(stream.untaken.get(&id), Some(&session(sequence).id));
        }
    }
}
