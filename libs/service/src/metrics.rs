//! Metrics of a process, shown as Prometheus text on the admin port, and sent to a collector where settings say so.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// The registry of a process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

/// A gauge whose value is read when it is shown.
struct ReadGauge<F> {
    shown: IntGauge,
    read: F,
}

impl<F: Fn() -> usize + Send + Sync> Collector for ReadGauge<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.shown.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.shown.set(i64::try_from((self.read)()).unwrap_or(i64::MAX));
        self.shown.collect()
    }
}

/// Upper bounds of latency buckets, inclusive, in seconds: 50 µs to 60 s. The longest deadlines that clients set by
/// default are 30 s, so what is slow can be told from what has failed.
const LATENCY_BUCKETS: [f64; 19] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// The commit of the build, where the build says it (`WALSER_COMMIT` in its environment).
const COMMIT: Option<&str> = option_env!("WALSER_COMMIT");

const NAMES_ARE_CONSTANTS: &str = "names and labels of metrics are constants of the code";

// === impl Metrics ===

impl Metrics {
    /// The registry of a process, with what is known of every process: its build, and what it uses of the machine.
    pub fn of_process() -> Self {
        let metrics = Self::default();
        let help = "Always 1; the labels name the build.";
        let build = metrics.gauges("walser_build_info", help, &["version", "commit"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown")]).set(1);
        #[cfg(target_os = "linux")]
        metrics.register(prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// Shows what a collector has. A name that is shown already stays as it is.
    pub fn register(&self, collector: impl Collector + 'static) {
        let _ = self.registry.register(Box::new(collector));
    }

    /// A counter. Registering a name again returns a counter of its own that is not shown.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::with_opts(Opts::new(name, help)).expect(NAMES_ARE_CONSTANTS);
        self.register(counter.clone());
        counter
    }

    /// Counters that are told apart by labels, each of a bounded set of values. One is shown from its first use on.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(NAMES_ARE_CONSTANTS);
        self.register(counters.clone());
        counters
    }

    /// Returns the gauge of this name.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::with_opts(Opts::new(name, help)).expect(NAMES_ARE_CONSTANTS);
        self.register(gauge.clone());
        gauge
    }

    /// A gauge of something that is no whole number, such as seconds.
    pub fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::with_opts(Opts::new(name, help)).expect(NAMES_ARE_CONSTANTS);
        self.register(gauge.clone());
        gauge
    }

    /// A gauge of something that is known anyway: `read` is called when the metrics are shown, and costs nothing before.
    pub fn gauge_of(&self, name: &str, help: &str, read: impl Fn() -> usize + Send + Sync + 'static) {
        let shown = IntGauge::with_opts(Opts::new(name, help)).expect(NAMES_ARE_CONSTANTS);
        self.register(ReadGauge { shown, read });
    }

    /// Gauges that are told apart by labels, as [`Metrics::counters`].
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect(NAMES_ARE_CONSTANTS);
        self.register(gauges.clone());
        gauges
    }

    /// A histogram of seconds.
    pub fn latency(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
        let histogram = Histogram::with_opts(options).expect(NAMES_ARE_CONSTANTS);
        self.register(histogram.clone());
        histogram
    }

    /// Histograms of seconds that are told apart by labels, as [`Metrics::counters`].
    pub fn latencies(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
        let histograms = HistogramVec::new(options, labels).expect(NAMES_ARE_CONSTANTS);
        self.register(histograms.clone());
        histograms
    }

    /// All values that are shown.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// All values in the Prometheus text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        let encoded = TextEncoder::new().encode(&self.families(), &mut out);
        encoded.map_or_else(|error| format!("# {error}\n"), |()| String::from_utf8_lossy(&out).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_names_its_build_and_what_it_uses() {
        let metrics = Metrics::of_process();
        let text = metrics.text();
        assert!(text.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"] {
            assert!(cfg!(not(target_os = "linux")) || text.contains(&format!("\n{name} ")), "{name}: {text}");
        }
    }

    #[test]
    fn a_gauge_can_be_read_when_it_is_shown() {
        let value = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(1));
        let (metrics, read) = (Metrics::default(), std::sync::Arc::clone(&value));
        metrics.gauge_of("test_bytes", "A test.", move || read.load(std::sync::atomic::Ordering::Relaxed));
        for expected in [1, 7] {
            value.store(expected, std::sync::atomic::Ordering::Relaxed);
            assert!(metrics.text().contains(&format!("\ntest_bytes {expected}\n")), "{}", metrics.text());
        }
    }

    #[test]
    fn a_call_of_half_a_minute_falls_into_a_bucket_with_an_end() {
        let metrics = Metrics::default();
        metrics.latency("test_seconds", "A test.").observe(29.0);
        let text = metrics.text();
        let buckets = ["le=\"10\"} 0", "le=\"30\"} 1", "le=\"60\"} 1"];
        assert!(buckets.iter().all(|bucket| text.contains(bucket)), "{text}");
    }
}
