//! A shard that is driven by hand, over a simulated disk.

use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use walser_log::MemoryDisk;
use walser_model::{Acks, Compression, Durability, LeaderEpoch, PartitionIndex, SystemClock, TopicConfig, TopicId};
use walser_proto::internal::v1::AppendStreamResponse;
use walser_proto::v1::Effect;
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};
use walser_replication::PartitionState;
use walser_rpc::{AppendPermit, AppendRoom, Failure, Reason};
use walser_service::Metrics;

use super::*;

const NODE: NodeId = NodeId(1);
/// Room of the shard in bytes: some batches of a kilobyte.
const ROOM_BYTES: usize = 64 << 10;

type Answers = Arc<Mutex<Vec<AppendStreamResponse>>>;

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(number))
}

fn shard() -> Shard {
    let disk = Arc::new(MemoryDisk::simulated(256 << 20));
    let directory = DataDirectory::open(disk, Path::new("/data"), "test").unwrap();
    let around = Surroundings {
        node: NODE,
        directory: Arc::new(directory),
        board: Board::new(NODE),
        flusher: Flusher::default(),
        clock: Arc::new(SystemClock::start()),
        metrics: StorageMetrics::new(&Metrics::default()),
        space: SpaceGuard::new(Some(0)),
        retention_check: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        recovery_bytes_max: 1 << 30,
    };
    Shard::new(around, 1 << 20, Vec::new())
}

/// Leads a partition with these replicas, all of which are said to be in sync.
fn lead(shard: &mut Shard, number: i32, replicas: &[i32]) {
    let replicas: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
    let state = PartitionState {
        leader: Some(NODE),
        leader_epoch: LeaderEpoch(1),
        isr: replicas.iter().copied().collect(),
        ..PartitionState::new(replicas, 1)
    };
    // What is in the log counts at once: no flush has to be run.
    let config = TopicConfig { durability: Durability::PageCache, ..TopicConfig::default() };
    let order = LeadOrder { partition: partition(number), node_epoch: 1, state, partition_epoch: 1, config };
    shard.queue.push(Command::Lead(Box::new(order)));
    shard.turn();
}

/// Room for a batch of a kilobyte, if there is some now.
fn admit(room: &AppendRoom, number: i32) -> Option<AppendPermit> {
    match pin!(room.admit(partition(number), 1 << 10)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

/// Appends a batch of a kilobyte, once there is room for it.
fn append(shard: &mut Shard, number: i32, permit: AppendPermit) -> Answers {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[7; 900]), headers: &[] });
    let batch = builder.build(Producer::NONE);
    let answers = Answers::default();
    let told = Arc::clone(&answers);
    shard.queue.push(Command::Append(AppendJob {
        correlation_id: 0,
        partition: partition(number),
        epoch: LeaderEpoch::NONE,
        header: BatchHeader::parse(&batch).unwrap(),
        batch,
        acks: Acks::All,
        expected_offset: None,
        permit,
        reply: Box::new(move |answer| told.lock().push(answer)),
    }));
    shard.turn();
    answers
}

#[test]
fn writes_that_wait_for_other_replicas_leave_their_room_to_other_partitions() {
    let mut shard = shard();
    let room = AppendRoom::new(ROOM_BYTES);
    lead(&mut shard, 0, &[1, 2]);
    lead(&mut shard, 1, &[1]);
    // Nobody answers for the other replica: these writes wait for ever, far more of them than there is room for.
    let waiting: Vec<Answers> = (0..200)
        .map(|_| {
            let permit = admit(&room, 0).unwrap();
            append(&mut shard, 0, permit)
        })
        .collect();
    assert!(waiting.iter().all(|answers| answers.lock().is_empty()));
    let permit = admit(&room, 1).unwrap();
    let answered = append(&mut shard, 1, permit);
    let answer = answered.lock().pop().unwrap();
    assert!(answer.error.is_none() && answer.base_offset == 0, "{answer:?}");
}

#[test]
fn a_partition_takes_no_more_writes_than_may_wait_for_other_replicas() {
    let mut shard = shard();
    let room = AppendRoom::new(ROOM_BYTES);
    lead(&mut shard, 0, &[1, 2]);
    lead(&mut shard, 1, &[1]);
    let refused = (0..5000).find_map(|_| {
        let permit = admit(&room, 0).unwrap();
        append(&mut shard, 0, permit).lock().pop()
    });
    let failure = Failure::from(refused.unwrap().error.unwrap());
    assert_eq!((failure.reason(), failure.effect()), (Reason::NotEnoughReplicas, Effect::None), "{failure}");
    let permit = admit(&room, 1).unwrap();
    assert!(append(&mut shard, 1, permit).lock().pop().unwrap().error.is_none());
}
