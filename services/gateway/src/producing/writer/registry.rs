//! The writers of a gateway: one for each partition that plain records go to, and a clock for all that are busy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_model::{Clock, PartitionIndex, TopicPartition};
use walser_sequencer::Numbering;
use walser_service::{Shutdown, Tasks};

use super::PartitionWriter;
use crate::metadata::TopicView;
use crate::metrics::GatewayMetrics;
use crate::producing::producer_ids::ProducerIds;
use crate::router::Router;

/// Writers that are remembered; idle ones give way beyond.
const WRITERS_MAX: usize = 100_000;
/// Time that the last answers have before a stop closes the connections.
const ANSWERS_TRAVEL: Duration = Duration::from_millis(1500);
/// How exactly deadlines are kept.
const TICK: Duration = Duration::from_millis(50);

/// What every writer works with.
pub(crate) struct WriterContext {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) router: Router,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(super) registry: BusyWriters,
}

/// Writers with something under way.
#[derive(Default)]
pub(super) struct BusyWriters(Mutex<Vec<Arc<PartitionWriter>>>);

/// All writers. Clones share them.
#[derive(Clone)]
pub(crate) struct Writers {
    pub(crate) context: Arc<WriterContext>,
    by_partition: Arc<Mutex<HashMap<TopicPartition, Arc<PartitionWriter>>>>,
}

impl std::fmt::Debug for Writers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writers").field("count", &self.by_partition.lock().len()).finish_non_exhaustive()
    }
}

// === impl BusyWriters ===

impl BusyWriters {
    pub(super) fn add(&self, writer: Arc<PartitionWriter>) {
        self.0.lock().push(writer);
    }
}

// === impl Writers ===

impl Writers {
    /// Starts the clock of the writers, which runs until the gateway is drained.
    pub(crate) fn start(
        clock: Arc<dyn Clock>,
        router: Router,
        producer_ids: ProducerIds,
        metrics: GatewayMetrics,
        (tasks, stop): (&mut Tasks, Shutdown),
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let context = WriterContext { clock, router, producer_ids, metrics, runtime, registry: BusyWriters::default() };
        let context = Arc::new(context);
        let ticking = Arc::downgrade(&context);
        // It goes on while a stop waits for writes, and ends with the last user of the writers.
        tasks.start_endless("write deadlines", async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut give_up_at = None;
            loop {
                ticks.tick().await;
                if stop.begun() {
                    // Whatever waits is answered before the connections are closed.
                    let grace = stop.grace() - ANSWERS_TRAVEL.min(stop.grace() / 2);
                    give_up_at.get_or_insert_with(|| tokio::time::Instant::now() + grace);
                }
                let late = give_up_at.is_some_and(|at| tokio::time::Instant::now() >= at);
                let Some(context) = ticking.upgrade() else { return std::future::pending().await };
                let busy = std::mem::take(&mut *context.registry.0.lock());
                if late {
                    busy.iter().for_each(|writer| writer.abandon_all());
                }
                let mut left: Vec<_> = busy.into_iter().filter(|writer| writer.tick()).collect();
                context.registry.0.lock().append(&mut left);
            }
        });
        Self { context, by_partition: Arc::default() }
    }

    /// The writer in which plain records for a partition gather.
    pub(crate) fn gathering(&self, topic: &Arc<TopicView>, partition: i32) -> Arc<PartitionWriter> {
        let id = TopicPartition::new(topic.id, PartitionIndex(partition));
        let mut writers = self.by_partition.lock();
        if writers.len() >= WRITERS_MAX && !writers.contains_key(&id) {
            // Nobody who holds one is about to add to it.
            writers.retain(|_, writer| Arc::strong_count(writer) > 1 || !writer.is_idle());
        }
        let fresh = || PartitionWriter::new(&self.context, topic, partition, Numbering::Own);
        Arc::clone(writers.entry(id).or_insert_with(fresh))
    }

    /// A writer of the caller's own, for batches that clients build.
    pub(crate) fn separate(
        &self,
        topic: &Arc<TopicView>,
        partition: i32,
        numbering: Numbering,
    ) -> Arc<PartitionWriter> {
        PartitionWriter::new(&self.context, topic, partition, numbering)
    }
}
