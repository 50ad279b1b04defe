//! What the controller counts: the state of the cluster as the metadata has it, and calls of the metadata store.

use std::time::Duration;

use async_trait::async_trait;
use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::Instant;
use walser_metadata::View;
use walser_metastore::{
    KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, StoreProblem, Txn, Watch,
};
use walser_service::Metrics;

use crate::census::{Census, Elections, Totals};
use crate::store_writes::StoreWrites;
use crate::views::Views;

/// The state of the cluster, as it is shown. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct ClusterMetrics {
    topics: IntGauge,
    partitions: IntGauge,
    without_leader: IntGauge,
    under_replicated: IntGauge,
    under_min_isr: IntGauge,
    active_nodes: IntGauge,
    fenced_nodes: IntGauge,
    leader_changes: IntCounter,
    leader_epochs: IntCounter,
    clean_elections: IntCounter,
    preferred_elections: IntCounter,
    unclean_elections: IntCounter,
    isr_shrinks: IntCounter,
    isr_expands: IntCounter,
    running_operations: IntGauge,
    metadata_version: IntGauge,
}

/// A metadata store whose calls are timed, and whose writes are noted.
#[derive(Debug, Clone)]
pub(crate) struct TimedStore {
    inner: std::sync::Arc<dyn Metastore>,
    gets: Histogram,
    ranges: Histogram,
    transactions: Histogram,
    writes: StoreWrites,
}

/// Counts, and shows what was counted, for as long as the process runs.
pub(crate) async fn follow(views: Views, metrics: ClusterMetrics) {
    let mut census = Census::default();
    let (view, mut steps) = views.subscribe();
    census.replace(&view.metadata);
    metrics.show(&mut census, &view.metadata);
    while let Some((view, changes)) = steps.next().await {
        census.apply(&view.metadata, &changes);
        metrics.show(&mut census, &view.metadata);
    }
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let gauge = |name, help| metrics.gauge(name, help);
        let nodes = metrics.gauges("walser_controller_nodes", "Storage nodes that are registered.", &["state"]);
        let elections = metrics.counters(
            "walser_controller_elections_total",
            "Leaders elected since this process started: of replicas in sync, to give the lead back to the first replica, and without \
             proof that the leader has everything, so that records may be lost.",
            &["kind"],
        );
        Self {
            topics: gauge("walser_controller_topics", "Topics."),
            partitions: gauge("walser_controller_partitions", "Partitions of all topics."),
            without_leader: gauge("walser_controller_partitions_without_leader", "Partitions without a leader."),
            under_replicated: gauge(
                "walser_controller_partitions_under_replicated",
                "Partitions of which fewer replicas are in sync than there are.",
            ),
            under_min_isr: gauge(
                "walser_controller_partitions_under_min_isr",
                "Partitions of which fewer replicas are in sync than min.insync.replicas.",
            ),
            active_nodes: nodes.with_label_values(&["active"]),
            fenced_nodes: nodes.with_label_values(&["down"]),
            leader_changes: metrics.counter(
                "walser_controller_leader_changes_total",
                "Partitions that got another leader or lost theirs, since this process started.",
            ),
            leader_epochs: metrics.counter(
                "walser_controller_leader_epochs_total",
                "Leader epochs begun since this process started: elections, also of the node that led before.",
            ),
            clean_elections: elections.with_label_values(&["clean"]),
            preferred_elections: elections.with_label_values(&["preferred"]),
            unclean_elections: elections.with_label_values(&["unclean"]),
            isr_shrinks: metrics.counter(
                "walser_controller_isr_shrinks_total",
                "In-sync sets that became smaller, since this process started.",
            ),
            isr_expands: metrics.counter(
                "walser_controller_isr_expands_total",
                "In-sync sets that became larger, since this process started.",
            ),
            running_operations: gauge("walser_controller_operations_running", "Operations that have not ended."),
            metadata_version: gauge("walser_controller_metadata_version", "Version of the metadata."),
        }
    }

    /// Shows what was counted up to a version.
    pub(crate) fn show(&self, census: &mut Census, view: &View) {
        let Totals { topics, partitions, short, active_nodes, fenced_nodes, operations } = census.totals(view);
        let gauges = [
            (&self.topics, topics),
            (&self.partitions, partitions),
            (&self.without_leader, short.without_leader),
            (&self.under_replicated, short.under_replicated),
            (&self.under_min_isr, short.under_min_isr),
            (&self.active_nodes, active_nodes),
            (&self.fenced_nodes, fenced_nodes),
            (&self.running_operations, operations),
        ];
        for (gauge, count) in gauges {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let Elections { leader_changes, leader_epochs, clean, preferred, unclean, shrinks, expands } =
            census.take_elections();
        self.leader_changes.inc_by(leader_changes);
        self.leader_epochs.inc_by(leader_epochs);
        self.clean_elections.inc_by(clean);
        self.preferred_elections.inc_by(preferred);
        self.unclean_elections.inc_by(unclean);
        self.isr_shrinks.inc_by(shrinks);
        self.isr_expands.inc_by(expands);
        self.metadata_version.set(view.version());
    }
}

// === impl TimedStore ===

impl TimedStore {
    pub(crate) fn new(inner: std::sync::Arc<dyn Metastore>, metrics: &Metrics, writes: StoreWrites) -> Self {
        let help = "Time of a call of the metadata store.";
        let calls = metrics.latencies("walser_controller_store_call_duration_seconds", help, &["call"]);
        let [gets, ranges, transactions] = ["get", "range", "transact"].map(|call| calls.with_label_values(&[call]));
        Self { inner, gets, ranges, transactions, writes }
    }
}

async fn timed<T>(histogram: &Histogram, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = call.await;
    histogram.observe(began.elapsed().as_secs_f64());
    outcome
}

#[async_trait]
impl Metastore for TimedStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        timed(&self.gets, self.inner.get(key)).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        timed(&self.ranges, self.inner.range(request)).await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let outcome = timed(&self.transactions, self.inner.transact(txn)).await;
        self.writes.note(&outcome);
        outcome
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        self.inner.raise_revision(floor).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }

    async fn problems(&self) -> Vec<StoreProblem> {
        self.inner.problems().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}
