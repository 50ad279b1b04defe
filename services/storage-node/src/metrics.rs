//! What the storage node counts.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};
use walser_log::Space;
use walser_rpc::ApiError;
use walser_service::Metrics;

/// The node's metrics. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct StorageMetrics {
    appended_batches: IntCounter,
    appended_records: IntCounter,
    appended_bytes: IntCounter,
    replicated_bytes: IntCounter,
    refused: IntCounterVec,
    appended_expired: IntCounter,
    flush_seconds: Histogram,
    compactions: IntCounter,
    compacted_bytes: IntCounter,
    compacted_to_bytes: IntCounter,
    tail_reads: IntCounter,
    disk_reads: IntCounter,
    read_bytes: IntCounter,
    partitions: IntGauge,
    out_of_service: IntGauge,
    log_bytes: IntGauge,
    disk_total_bytes: IntGauge,
    disk_free_bytes: IntGauge,
    disk_reserve_bytes: IntGauge,
    disk_full: IntGauge,
    disk_failed: IntGauge,
    disk_stall_seconds: IntGauge,
    metadata_version: IntGauge,
    set_aside_partitions: IntGauge,
    set_aside_bytes: IntGauge,
    replication_lag: IntGauge,
    replication_lag_seconds: Gauge,
}

/// Sums since the process began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) appended_records: i64,
    pub(crate) appended_bytes: i64,
    pub(crate) read_bytes: i64,
}

impl StorageMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.counter(name, help);
        let gauge = |name, help| metrics.gauge(name, help);
        Self {
            appended_batches: counter("walser_storage_append_batches_total", "Record batches appended."),
            appended_records: counter("walser_storage_append_records_total", "Records appended."),
            appended_bytes: counter("walser_storage_append_bytes_total", "Bytes appended."),
            replicated_bytes: counter("walser_storage_replicated_bytes_total", "Bytes appended for a leader."),
            refused: metrics.counters("walser_storage_append_refused_total", "Record batches refused.", &["reason"]),
            appended_expired: counter(
                "walser_storage_append_expired_records_total",
                "Records appended that were older than retention.ms: the next retention check may remove them.",
            ),
            compactions: counter("walser_storage_compactions_total", "Compactions of a partition that have ended."),
            compacted_bytes: counter("walser_storage_compacted_bytes_total", "Bytes of segments that were compacted."),
            compacted_to_bytes: counter(
                "walser_storage_compacted_to_bytes_total",
                "Bytes of the segments that compaction has put in their place.",
            ),
            flush_seconds: metrics
                .latency("walser_storage_flush_duration_seconds", "Time of a flush of a partition to stable storage."),
            tail_reads: counter("walser_storage_tail_reads_total", "Reads served from memory."),
            disk_reads: counter("walser_storage_disk_reads_total", "Reads served from segment files."),
            read_bytes: counter("walser_storage_read_bytes_total", "Bytes of record batches read."),
            partitions: gauge("walser_storage_partitions", "Partitions led."),
            out_of_service: gauge(
                "walser_storage_partitions_out_of_service",
                "Partitions that are damaged, cannot be opened, or were given up after a failed write or sync.",
            ),
            log_bytes: gauge("walser_storage_log_bytes", "Bytes of the logs of all partitions."),
            disk_total_bytes: gauge(
                "walser_storage_disk_total_bytes",
                "Size of the file system of the data directory.",
            ),
            disk_free_bytes: gauge(
                "walser_storage_disk_free_bytes",
                "Free bytes of the file system of the data directory.",
            ),
            disk_reserve_bytes: gauge(
                "walser_storage_disk_reserve_bytes",
                "Appends are refused while less than this is free (storage.disk.reserve.bytes).",
            ),
            set_aside_partitions: gauge(
                "walser_storage_set_aside_partitions",
                "Partitions held aside because the metadata does not know them.",
            ),
            replication_lag: gauge(
                "walser_storage_replication_lag_offsets",
                "Offsets by which the follower that is furthest behind lacks what a partition led here has; followers that have \
                 not said what they have do not count.",
            ),
            replication_lag_seconds: metrics.float_gauge(
                "walser_storage_replication_lag_seconds",
                "Longest time since a follower of a partition led here had everything; 0 while all have.",
            ),
            set_aside_bytes: gauge("walser_storage_set_aside_bytes", "Bytes of partitions held aside."),
            disk_full: gauge("walser_storage_disk_full", "1 while appends are refused for want of space."),
            disk_failed: gauge(
                "walser_storage_disk_failed",
                "1 while the data directory cannot be used: it cannot be written, hangs, or is not there.",
            ),
            disk_stall_seconds: gauge(
                "walser_storage_disk_stall_seconds",
                "Whole seconds that the longest read, write or sync under way has taken so far.",
            ),
            metadata_version: gauge("walser_storage_metadata_version", "Version of the metadata in use."),
        }
    }

    pub(crate) fn appended(&self, batches: usize, records: i64, bytes: usize) {
        self.appended_batches.inc_by(batches as u64);
        self.appended_records.inc_by(records.unsigned_abs());
        self.appended_bytes.inc_by(bytes as u64);
    }

    /// Bytes of a leader's batches were appended.
    pub(crate) fn replicated(&self, bytes: usize) {
        self.replicated_bytes.inc_by(bytes as u64);
    }

    /// Bytes that were written into logs since the process began, as a leader and as a follower.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.appended_bytes.get() + self.replicated_bytes.get()
    }

    /// What was appended and read since the process began, as far as it fits a message.
    pub(crate) fn totals(&self) -> Totals {
        let total = |counter: &IntCounter| i64::try_from(counter.get()).unwrap_or(i64::MAX);
        Totals {
            appended_records: total(&self.appended_records),
            appended_bytes: total(&self.appended_bytes),
            read_bytes: total(&self.read_bytes),
        }
    }

    pub(crate) fn append_refused(&self, failure: &ApiError) {
        self.refused.with_label_values(&[failure.reason_name()]).inc();
    }

    /// Records were older than their topic keeps them when they were appended.
    /// A compaction has put fewer bytes in the place of others.
    pub(crate) fn compacted(&self, before: u64, after: u64) {
        self.compactions.inc();
        self.compacted_bytes.inc_by(before);
        self.compacted_to_bytes.inc_by(after);
    }

    pub(crate) fn appended_expired(&self, records: u64) {
        self.appended_expired.inc_by(records);
    }

    pub(crate) fn flushed(&self, elapsed: Duration) {
        self.flush_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn read_from_tail(&self, bytes: usize) {
        self.tail_reads.inc();
        self.read_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn read_from_disk(&self, bytes: usize) {
        self.disk_reads.inc();
        self.read_bytes.inc_by(bytes as u64);
    }

    /// How many partitions this node leads: each replica counts itself.
    pub(crate) fn partitions(&self) -> IntGauge {
        self.partitions.clone()
    }

    /// The furthest that a follower is behind, in offsets and in time.
    pub(crate) fn replication_lag(&self, offsets: u64, behind: Duration) {
        self.replication_lag.set(i64::try_from(offsets).unwrap_or(i64::MAX));
        self.replication_lag_seconds.set(behind.as_secs_f64());
    }

    pub(crate) fn set_aside(&self, count: usize, bytes: u64) {
        self.set_aside_partitions.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.set_aside_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Partitions out of service, and bytes of all logs.
    pub(crate) fn logs(&self, out_of_service: usize, bytes: u64) {
        self.out_of_service.set(i64::try_from(out_of_service).unwrap_or(i64::MAX));
        self.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The file system, bytes of it that appends do not touch, and whether they are refused.
    pub(crate) fn disk(&self, space: Space, reserve: u64, full: bool) {
        let gauges = [
            (&self.disk_total_bytes, space.total),
            (&self.disk_free_bytes, space.free),
            (&self.disk_reserve_bytes, reserve),
        ];
        for (gauge, bytes) in gauges {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.disk_full.set(i64::from(full));
    }

    pub(crate) fn disk_failed(&self, failed: bool) {
        self.disk_failed.set(i64::from(failed));
    }

    pub(crate) fn disk_stall(&self, seconds: u64) {
        self.disk_stall_seconds.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(crate) fn metadata_version(&self, version: i64) {
        self.metadata_version.set(version);
    }
}
