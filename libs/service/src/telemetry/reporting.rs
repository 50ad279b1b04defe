//! Says when a collector cannot be reached, and when it can again: once each, for each kind of thing that it is sent.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// Whether a collector takes what it is sent.
#[derive(Debug)]
pub(super) struct Reception {
    what: &'static str,
    endpoint: String,
    failing: AtomicBool,
}

/// Another exporter, with a report of its outages.
#[derive(Debug)]
pub(super) struct ReportingExporter<E> {
    inner: E,
    reception: Reception,
}

// === impl Reception ===

impl Reception {
    /// `what` is sent, in the plural.
    pub(super) fn of(what: &'static str, endpoint: &str) -> Self {
        Self { what, endpoint: endpoint.to_owned(), failing: AtomicBool::new(false) }
    }

    pub(super) fn report<E: Display>(&self, outcome: &Result<(), E>) {
        let (what, endpoint, failing) = (self.what, &*self.endpoint, outcome.is_err());
        match (outcome, self.failing.swap(failing, Ordering::AcqRel)) {
            (Err(error), false) => {
                tracing::warn!(endpoint, %error, "{what} cannot be exported and are dropped until the collector takes them");
            }
            (Ok(()), true) => tracing::info!(endpoint, "{what} are exported again"),
            _ => {}
        }
    }
}

// === impl ReportingExporter ===

impl<E> ReportingExporter<E> {
    pub(super) fn new(inner: E, reception: Reception) -> Self {
        Self { inner, reception }
    }
}

impl<E: SpanExporter> SpanExporter for ReportingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.inner.export(batch).await;
        self.reception.report(&outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for ReportingExporter<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let outcome = self.inner.export(batch).await;
        self.reception.report(&outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkError;
    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;

    /// Answers as it is told, from the last on.
    #[derive(Debug)]
    struct Told(Mutex<Vec<bool>>);

    impl SpanExporter for Told {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let reachable = self.0.lock().unwrap().pop().unwrap();
            if reachable { Ok(()) } else { Err(OTelSdkError::InternalFailure("connection refused".to_owned())) }
        }
    }

    /// Collects levels and messages of log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Message(String);

    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(format!("{} {}", event.metadata().level(), message.0));
        }
    }

    #[test]
    fn an_outage_of_the_collector_is_one_warning_and_its_end_one_line() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let outcomes = [true, false, false, false, true, true, false];
        let told = Told(Mutex::new(outcomes.into_iter().rev().collect()));
        let exporter = ReportingExporter::new(told, Reception::of("traces", "http://127.0.0.1:1"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for _ in outcomes {
                let _ = runtime.block_on(SpanExporter::export(&exporter, Vec::new()));
            }
        });
        let lines = lines.0.lock().unwrap();
        let lines: Vec<_> = lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["WARN traces", "INFO traces", "WARN traces"]);
    }
}
