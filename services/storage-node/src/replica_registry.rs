//! The replicas of this node, as its log shards show them to everybody else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus::IntGauge;
use tokio::sync::watch;
use walser_log::{Condition, LogReader};
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_replication::FollowerLag;
use walser_rpc::{ApiError, CompactionFigures, EndedCompaction, LeadOffer};

use crate::contact::{Contact, micros};
use crate::error::{cannot_open, led_elsewhere, may_be_replaced, not_leader};
use crate::replication::BatchTraces;
use crate::tail::Tail;
use crate::topic_names::TopicNames;

/// A replica on this node, as readers see it.
#[derive(Debug)]
pub(crate) struct PartitionHandle {
    pub(crate) reader: LogReader,
    pub(crate) tail: Arc<Tail>,
    pub(crate) traces: BatchTraces,
    epoch: AtomicI32,
    /// Another node that leads, by the metadata, with its leader epoch.
    led_by: Mutex<Option<(NodeId, LeaderEpoch)>>,
    /// The high watermark; waiting fetches are woken by it.
    high_watermark: watch::Sender<Offset>,
    /// Below this compaction may drop tombstones, while this node leads. Exclusive.
    tombstone_floor: AtomicI64,
    /// The high watermark is the end of the partition: a leader that has just begun does not know it yet (rule R4).
    end_known: AtomicBool,
    /// Other replicas are in sync: what is damaged here is not lost.
    others_in_sync: AtomicBool,
    /// What it would lead with.
    offer: Mutex<Option<LeadOffer>>,
    /// Followers that do not have everything, while this node leads.
    lags: Mutex<Vec<FollowerLag>>,
    /// `None`: it keeps all records.
    compaction: Mutex<Option<Compactions>>,
    failed: AtomicBool,
    /// Why, while it is out of service.
    problem: Mutex<Option<Problem>>,
    serving: AtomicBool,
    /// Since when all have been heard that could lead next; in microseconds, see [`Contact`]. For ever where there are none.
    successors_heard: AtomicU64,
    /// Counts the replicas that serve, over all shards.
    partitions_led: IntGauge,
    /// Reads are served although nobody has said that this node leads.
    readable: AtomicBool,
}

/// What becomes of the compactions of a partition.
#[derive(Debug, Clone, Copy, Default)]
struct Compactions {
    running: bool,
    /// Since the node was started.
    last: Option<EndedCompaction>,
}

/// Why a partition is out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) text: String,
    /// Records on the disk are damaged or gone: repair helps, and a restart does not.
    pub(crate) damaged: bool,
    /// In which that was found, or [`LeaderEpoch::NONE`].
    pub(crate) leader_epoch: LeaderEpoch,
    /// A replica that has records which the leader's log does not have any more.
    pub(crate) node_with_more: Option<NodeId>,
}

/// Every partition of the node.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaRegistry {
    node: NodeId,
    replicas: Arc<RwLock<HashMap<TopicPartition, Arc<PartitionHandle>>>>,
    /// Partitions whose log cannot be opened, with the reason.
    unusable: Arc<RwLock<BTreeMap<TopicPartition, String>>>,
    /// Why nothing may be written, on all partitions: the controller's metadata is not that of this node.
    refused: Arc<RwLock<Option<ApiError>>>,
    /// Names of topics, for logs and reports.
    pub(crate) names: TopicNames,
    /// Who was heard, and when.
    pub(crate) contact: Contact,
}

impl PartitionHandle {
    pub(crate) fn new(reader: LogReader, partitions_led: IntGauge) -> Self {
        Self {
            reader,
            tail: Arc::default(),
            traces: BatchTraces::default(),
            epoch: AtomicI32::new(LeaderEpoch::NONE.0),
            led_by: Mutex::new(None),
            high_watermark: watch::Sender::new(Offset::ZERO),
            tombstone_floor: AtomicI64::new(0),
            end_known: AtomicBool::new(true),
            others_in_sync: AtomicBool::new(false),
            offer: Mutex::new(None),
            lags: Mutex::default(),
            compaction: Mutex::default(),
            failed: AtomicBool::new(false),
            problem: Mutex::default(),
            serving: AtomicBool::new(false),
            successors_heard: AtomicU64::new(u64::MAX),
            partitions_led,
            readable: AtomicBool::new(false),
        }
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// Notes which other node leads, by the metadata.
    pub(crate) fn note_led_by(&self, leader: Option<(NodeId, LeaderEpoch)>) {
        *self.led_by.lock() = leader;
    }

    /// Says that this node, `node`, does not lead, and who does.
    pub(crate) fn not_leader(&self, node: NodeId) -> ApiError {
        let led_by = *self.led_by.lock();
        led_by.map_or_else(|| not_leader(node), |(leader, epoch)| led_elsewhere(node, leader, epoch))
    }

    /// This node leads in `epoch` from now on; nobody is served before.
    pub(crate) fn lead(&self, epoch: LeaderEpoch) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.show_tombstone_floor(Offset::ZERO);
        self.readable.store(false, Ordering::Release);
        if !self.serving.swap(true, Ordering::AcqRel) {
            self.partitions_led.inc();
        }
    }

    /// Whether this node leads the partition.
    pub(crate) fn serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Serves reads below `end` without leading: for a node that no controller takes. Whoever leads already, goes on.
    pub(crate) fn serve_reads(&self, end: Offset) {
        if !self.serving() {
            self.commit(self.high_watermark().max(end));
            self.readable.store(true, Ordering::Release);
        }
    }

    /// Whether reads are served: as the leader, or by [`PartitionHandle::serve_reads`].
    pub(crate) fn readable(&self) -> bool {
        self.serving() || self.readable.load(Ordering::Acquire)
    }

    /// Stops serving and wakes everybody who waits.
    pub(crate) fn stop_serving(&self) {
        if self.serving.swap(false, Ordering::AcqRel) {
            self.partitions_led.dec();
        }
        self.readable.store(false, Ordering::Release);
        self.high_watermark.send_modify(|_| {});
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    /// Below this compaction may drop tombstones: what followers are told. Exclusive.
    pub(crate) fn tombstone_floor(&self) -> Offset {
        Offset(self.tombstone_floor.load(Ordering::Acquire))
    }

    pub(crate) fn show_tombstone_floor(&self, floor: Offset) {
        self.tombstone_floor.store(floor.0, Ordering::Release);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    pub(crate) fn commit(&self, high_watermark: Offset) {
        self.high_watermark.send_replace(high_watermark);
    }

    /// Shows the high watermark, if it is another one, and whether it is the end of the partition.
    pub(crate) fn show_end(&self, high_watermark: Option<Offset>, known: bool) {
        // Nobody takes a high watermark for the end that is not.
        if !known {
            self.end_known.store(false, Ordering::Release);
        }
        if let Some(high_watermark) = high_watermark {
            self.commit(high_watermark);
        }
        self.end_known.store(known, Ordering::Release);
    }

    /// The end of the partition. `None`: the leader has just begun, and it may lie above the high watermark.
    pub(crate) fn latest(&self) -> Option<Offset> {
        self.end_known.load(Ordering::Acquire).then(|| self.high_watermark())
    }

    /// Shows since when all have been heard that could lead next.
    pub(crate) fn show_successors_heard(&self, since: Duration) {
        self.successors_heard.store(micros(since), Ordering::Release);
    }

    /// Whether nobody else can have led the partition for longer than a session.
    pub(crate) fn surely_leads(&self, contact: &Contact) -> bool {
        let heard = || Duration::from_micros(self.successors_heard.load(Ordering::Acquire));
        contact.with_controller() || contact.within_session(heard())
    }

    /// Shows whether other replicas are in sync.
    pub(crate) fn show_others(&self, count: bool) {
        self.others_in_sync.store(count, Ordering::Release);
    }

    pub(crate) fn others_in_sync(&self) -> bool {
        self.others_in_sync.load(Ordering::Acquire)
    }

    /// Shows what it would lead with, while nobody leads and it can say.
    /// Shows which followers do not have everything.
    pub(crate) fn show_lags(&self, lags: impl Iterator<Item = FollowerLag>) {
        let mut shown = self.lags.lock();
        shown.clear();
        shown.extend(lags);
    }

    /// Whether of each key the newest record stays.
    pub(crate) fn show_compacts(&self, compacts: bool) {
        let mut shown = self.compaction.lock();
        *shown = compacts.then(|| shown.unwrap_or_default());
    }

    pub(crate) fn compaction_begins(&self) {
        self.compaction.lock().iter_mut().for_each(|shown| shown.running = true);
    }

    /// It runs no more, however it has ended.
    pub(crate) fn compaction_rests(&self) {
        self.compaction.lock().iter_mut().for_each(|shown| shown.running = false);
    }

    pub(crate) fn compaction_ended(&self, run: EndedCompaction) {
        self.compaction.lock().iter_mut().for_each(|shown| shown.last = Some(run));
    }

    /// How far it is compacted; `None`: it keeps all records.
    pub(crate) fn compaction(&self) -> Option<CompactionFigures> {
        let Compactions { running, last } = (*self.compaction.lock())?;
        let (clean_bytes, dirty_bytes) = self.reader.closed_bytes(self.high_watermark());
        Some(CompactionFigures { clean_bytes, dirty_bytes, compacted: self.reader.compacted(), running, last })
    }

    pub(crate) fn lags(&self) -> Vec<FollowerLag> {
        self.lags.lock().clone()
    }

    pub(crate) fn show_offer(&self, offer: Option<LeadOffer>) {
        *self.offer.lock() = offer;
    }

    pub(crate) fn offer(&self) -> Option<LeadOffer> {
        *self.offer.lock()
    }

    /// Shows whether the log can be used, as it is in a leader epoch.
    pub(crate) fn set_condition(&self, condition: &Condition, leader_epoch: LeaderEpoch) {
        let mut shown = self.problem.lock();
        let problem = match condition {
            Condition::Healthy => None,
            Condition::Corrupt { from } => {
                let text = format!("records from offset {from} on are damaged");
                let before = shown.take().filter(|before| before.damaged && before.leader_epoch == leader_epoch);
                let node_with_more = before.and_then(|before| before.node_with_more);
                Some(Problem { damaged: true, node_with_more, leader_epoch, ..Problem::of(text) })
            }
            Condition::Failed { reason } => Some(Problem { leader_epoch, ..Problem::of(reason.clone()) }),
        };
        self.failed.store(problem.is_some(), Ordering::Release);
        *shown = problem;
    }

    /// The leader wants records gone that were committed. `high_watermark`: with the leader epoch in which it says so.
    pub(crate) fn note_inconsistent(
        &self,
        node: NodeId,
        at: Offset,
        (high_watermark, leader_epoch): (Offset, LeaderEpoch),
    ) {
        let text = format!(
            "the leader's log ends at offset {at}, below the high watermark {high_watermark} that was seen here: one of the \
             two has lost committed records; this replica keeps what it has and follows no more"
        );
        self.failed.store(true, Ordering::Release);
        *self.problem.lock() = Some(Problem { node_with_more: Some(node), leader_epoch, ..Problem::of(text) });
    }

    /// Shows who has more than is left of a damaged log.
    pub(crate) fn show_node_with_more(&self, node: Option<NodeId>) {
        if let Some(problem) = self.problem.lock().as_mut().filter(|problem| problem.damaged) {
            problem.node_with_more = node;
        }
    }

    /// Whether a leader wanted records gone that were committed.
    pub(crate) fn contradicted(&self) -> bool {
        self.problem.lock().as_ref().is_some_and(|problem| !problem.damaged && problem.node_with_more.is_some())
    }

    /// Whether records on the disk are damaged or gone.
    pub(crate) fn damaged(&self) -> bool {
        self.problem.lock().as_ref().is_some_and(|problem| problem.damaged)
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

impl Problem {
    fn of(text: String) -> Self {
        Self { text, damaged: false, leader_epoch: LeaderEpoch::NONE, node_with_more: None }
    }

    fn cannot_open(why: &str) -> Self {
        Self::of(format!("cannot be opened: {why}"))
    }
}

impl ReplicaRegistry {
    pub(crate) fn new(node: NodeId, contact: Contact) -> Self {
        Self {
            node,
            replicas: Arc::default(),
            unusable: Arc::default(),
            refused: Arc::default(),
            names: TopicNames::default(),
            contact,
        }
    }

    /// A partition that this node leads, or why it cannot be served here.
    pub(crate) fn led(&self, partition: TopicPartition) -> Result<Arc<PartitionHandle>, ApiError> {
        let found = self.replicas.read().get(&partition).filter(|replica| replica.serving()).cloned();
        found.ok_or_else(|| self.refusal(partition))
    }

    /// A partition of which there is a log.
    pub(crate) fn held(&self, partition: TopicPartition) -> Option<Arc<PartitionHandle>> {
        self.replicas.read().get(&partition).cloned()
    }

    /// A partition that can be read here, or why it cannot.
    pub(crate) fn readable(&self, partition: TopicPartition) -> Result<Arc<PartitionHandle>, ApiError> {
        let found = self.replicas.read().get(&partition).filter(|replica| replica.readable()).cloned();
        found.ok_or_else(|| self.refusal(partition))
    }

    /// Checks that what a replica answers by itself is not of the past (rule R29).
    pub(crate) fn check_contact(&self, partition: TopicPartition, replica: &PartitionHandle) -> Result<(), ApiError> {
        if !replica.serving() || replica.surely_leads(&self.contact) {
            return Ok(());
        }
        Err(may_be_replaced(&self.names.partition(partition), self.node))
    }

    /// Whether other replicas of a partition are in sync.
    pub(crate) fn others_in_sync(&self, partition: TopicPartition) -> bool {
        self.replicas.read().get(&partition).is_some_and(|replica| replica.others_in_sync())
    }

    /// Refuses everything that changes what is on the disk. Returns whether that is new.
    pub(crate) fn refuse_writes(&self, why: ApiError) -> bool {
        self.refused.write().replace(why).is_none()
    }

    /// The controller's metadata is that of this node.
    pub(crate) fn accept_writes(&self) {
        if self.refused.write().take().is_some() {
            tracing::info!("the controller's metadata is that of this node again: writes are taken");
        }
    }

    /// Why nothing may be changed on the disk; `None`: it may.
    pub(crate) fn writes_refused(&self) -> Option<ApiError> {
        self.refused.read().clone()
    }

    /// Why a partition is not served here.
    pub(crate) fn refusal(&self, partition: TopicPartition) -> ApiError {
        match self.unusable.read().get(&partition) {
            Some(why) => cannot_open(why, self.node),
            // While the controller is not obeyed, only what lies here is known; the reason says more than its absence.
            None => self.writes_refused().unwrap_or_else(|| {
                let held = self.held(partition);
                held.map_or_else(|| not_leader(self.node), |replica| replica.not_leader(self.node))
            }),
        }
    }

    pub(crate) fn insert(&self, partition: TopicPartition, replica: Arc<PartitionHandle>) {
        self.unusable.write().remove(&partition);
        self.replicas.write().insert(partition, replica);
    }

    /// The log of a partition cannot be opened; it is tried again every second.
    pub(crate) fn set_unusable(&self, partition: TopicPartition, why: String) {
        self.unusable.write().insert(partition, why);
    }

    /// Why a partition is out of service, in words.
    pub(crate) fn problem(&self, partition: TopicPartition) -> Option<Problem> {
        let found = self.replicas.read().get(&partition).and_then(|replica| replica.problem.lock().clone());
        found.or_else(|| self.unusable.read().get(&partition).map(|why| Problem::cannot_open(why)))
    }

    /// What is out of service, in words.
    pub(crate) fn problems(&self) -> Vec<(TopicPartition, Problem)> {
        let all = self.all().into_iter();
        let mut problems: Vec<_> =
            all.filter_map(|(id, replica)| Some((id, replica.problem.lock().clone()?))).collect();
        problems.extend(self.unusable.read().iter().map(|(id, why)| (*id, Problem::cannot_open(why))));
        // First those about which people have to decide.
        problems.sort_by_key(|(id, problem)| (!problem.damaged && problem.node_with_more.is_none(), *id));
        problems
    }

    pub(crate) fn remove(&self, partition: TopicPartition) {
        self.unusable.write().remove(&partition);
        if let Some(replica) = self.replicas.write().remove(&partition) {
            replica.stop_serving();
        }
    }

    /// How many partitions there are.
    pub(crate) fn len(&self) -> usize {
        self.replicas.read().len()
    }

    /// All partitions, for reports.
    pub(crate) fn all(&self) -> Vec<(TopicPartition, Arc<PartitionHandle>)> {
        self.replicas.read().iter().map(|(partition, replica)| (*partition, Arc::clone(replica))).collect()
    }
}
