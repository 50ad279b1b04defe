//! Metrics of a process, shown as Prometheus text on the admin port.

use prometheus::{Encoder as _, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

/// The registry of a process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

/// Boundaries of latency histograms, in seconds: 50 µs to 10 s.
const LATENCY_BUCKETS: [f64; 15] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 10.0];

impl Metrics {
    /// A counter. Registering a name again gives a counter of its own that is not shown.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::with_opts(Opts::new(name, help)).expect("metric names are constants of the code");
        let _ = self.registry.register(Box::new(counter.clone()));
        counter
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::with_opts(Opts::new(name, help)).expect("metric names are constants of the code");
        let _ = self.registry.register(Box::new(gauge.clone()));
        gauge
    }

    /// A histogram of seconds.
    pub fn latency(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
        let histogram = Histogram::with_opts(options).expect("metric names are constants of the code");
        let _ = self.registry.register(Box::new(histogram.clone()));
        histogram
    }

    /// All values in the Prometheus text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        encoded.map_or_else(|error| format!("# {error}\n"), |()| String::from_utf8_lossy(&out).into_owned())
    }
}
