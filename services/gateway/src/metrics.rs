//! What the gateway counts.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use walser_service::Metrics;

/// The gateway's metrics. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct GatewayMetrics {
    produced_records: IntCounter,
    produced_bytes: IntCounter,
    produce_failures: IntCounter,
    produce_seconds: Histogram,
    consumed_bytes: IntCounter,
}

impl GatewayMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            produced_records: metrics.counter("walser_gateway_produce_records_total", "Records acknowledged."),
            produced_bytes: metrics.counter("walser_gateway_produce_bytes_total", "Bytes of batches acknowledged."),
            produce_failures: metrics.counter("walser_gateway_produce_failures_total", "Writes that failed."),
            produce_seconds: metrics.latency("walser_gateway_produce_seconds", "Time of a write in seconds."),
            consumed_bytes: metrics.counter("walser_gateway_consume_bytes_total", "Bytes of records sent to readers."),
        }
    }

    pub(crate) fn written(&self, records: i64, bytes: usize, elapsed: Duration) {
        self.produced_records.inc_by(records.unsigned_abs());
        self.produced_bytes.inc_by(bytes as u64);
        self.produce_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn write_failed(&self) {
        self.produce_failures.inc();
    }

    pub(crate) fn consumed(&self, bytes: usize) {
        self.consumed_bytes.inc_by(bytes as u64);
    }
}
