//! What the gateway counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, IntCounterVec, IntGauge};
use walser_rpc::ApiError;
use walser_service::Metrics;

use crate::metadata::{Metadata, TopicView};
use crate::topic_counters::TopicCounters;

/// The topic of everything that has no label of its own. Names of topics cannot begin like this.
const OTHER_TOPICS: &str = "__other";

/// The gateway's metrics. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct GatewayMetrics {
    topics: Arc<TopicLabels>,
    produce_failures: IntCounterVec,
    produce_seconds: Histogram,
    metadata_version: IntGauge,
}

/// Which topics have a label of their own: the first that are used, up to a limit. One that was deleted gives way.
#[derive(Debug)]
struct TopicLabels {
    labelled: Mutex<BTreeSet<Arc<str>>>,
    labelled_max: usize,
    metadata: Metadata,
    produced_records: IntCounterVec,
    produced_bytes: IntCounterVec,
    consumed_bytes: IntCounterVec,
}

// === impl GatewayMetrics ===

impl GatewayMetrics {
    /// At most `topics_max` topics have a label of their own.
    pub(crate) fn new(metrics: &Metrics, metadata: &Metadata, topics_max: usize) -> Self {
        let by_topic = |name, help| metrics.counters(name, help, &["topic"]);
        let topics = TopicLabels {
            labelled: Mutex::default(),
            labelled_max: topics_max,
            metadata: metadata.clone(),
            produced_records: by_topic("walser_gateway_produce_records_total", "Records acknowledged."),
            produced_bytes: by_topic("walser_gateway_produce_bytes_total", "Bytes of batches acknowledged."),
            consumed_bytes: by_topic("walser_gateway_consume_bytes_total", "Bytes of records sent to readers."),
        };
        let failures = "Parts of writes that failed: one for each partition that a write goes to.";
        Self {
            topics: Arc::new(topics),
            produce_failures: metrics.counters("walser_gateway_produce_failures_total", failures, &["reason"]),
            produce_seconds: metrics.latency(
                "walser_gateway_produce_duration_seconds",
                "Time from handing a batch to its leader to the acknowledgement.",
            ),
            metadata_version: metrics.gauge("walser_gateway_metadata_version", "Version of the metadata in use."),
        }
    }

    pub(crate) fn written(&self, topic: &TopicView, records: i64, bytes: usize, elapsed: Duration) {
        let counters = self.of(topic);
        counters.produced_records.inc_by(records.unsigned_abs());
        counters.produced_bytes.inc_by(bytes as u64);
        self.produce_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn write_failed(&self, failure: &ApiError) {
        self.produce_failures.with_label_values(&[failure.reason_name()]).inc();
    }

    pub(crate) fn consumed(&self, topic: &TopicView, bytes: usize) {
        self.of(topic).consumed_bytes.inc_by(bytes as u64);
    }

    /// Shows which metadata is in use.
    pub(crate) fn metadata_version(&self) -> IntGauge {
        self.metadata_version.clone()
    }

    fn of<'a>(&self, topic: &'a TopicView) -> &'a TopicCounters {
        topic.extension.get_or_init(|| self.topics.counters(&topic.name))
    }
}

// === impl TopicLabels ===

impl TopicLabels {
    fn counters(&self, topic: &Arc<str>) -> TopicCounters {
        let label = if self.take_label(topic) { topic } else { OTHER_TOPICS };
        TopicCounters {
            produced_records: self.produced_records.with_label_values(&[label]),
            produced_bytes: self.produced_bytes.with_label_values(&[label]),
            consumed_bytes: self.consumed_bytes.with_label_values(&[label]),
        }
    }

    /// Whether a topic has a label of its own.
    fn take_label(&self, topic: &Arc<str>) -> bool {
        let mut labelled = self.labelled.lock();
        if labelled.len() >= self.labelled_max && !labelled.contains(topic) {
            let view = self.metadata.view();
            labelled.retain(|name| {
                let exists = view.topic_named(name).is_some();
                if !exists {
                    for counters in [&self.produced_records, &self.produced_bytes, &self.consumed_bytes] {
                        let _ = counters.remove_label_values(&[&**name]);
                    }
                }
                exists
            });
        }
        let room = labelled.len() < self.labelled_max;
        labelled.contains(topic) || room && labelled.insert(Arc::clone(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicView {
        crate::metadata::topic_of_a_test(name)
    }

    #[test]
    fn topics_beyond_the_limit_share_one_label_and_deleted_ones_give_way() {
        let (registry, metadata) = (Metrics::default(), Metadata::default());
        let metrics = GatewayMetrics::new(&registry, &metadata, 2);
        metadata.replace_topics(&["a", "b", "c", "d"]);
        for name in ["a", "b", "c", "d", "a"] {
            metrics.written(&topic(name), 1, 10, Duration::ZERO);
        }
        let text = registry.text();
        let count = |topic: &str, count: u64| {
            text.contains(&format!("walser_gateway_produce_records_total{{topic=\"{topic}\"}} {count}\n"))
        };
        assert!(count("a", 2) && count("b", 1) && count("__other", 2), "{text}");

        metadata.replace_topics(&["b", "c"]);
        metrics.written(&topic("c"), 5, 10, Duration::ZERO);
        let text = registry.text();
        assert!(text.contains("records_total{topic=\"c\"} 5") && !text.contains("topic=\"a\""), "{text}");
    }

    #[test]
    fn without_room_for_labels_everything_counts_together() {
        let (registry, metadata) = (Metrics::default(), Metadata::default());
        let metrics = GatewayMetrics::new(&registry, &metadata, 0);
        metrics.consumed(&topic("a"), 7);
        metrics.consumed(&topic("b"), 8);
        assert!(registry.text().contains("walser_gateway_consume_bytes_total{topic=\"__other\"} 15"));
    }
}
