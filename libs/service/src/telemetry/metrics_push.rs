//! Sends the metrics of the process to a collector at an interval, and a last time at the end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::Status;
use walser_model::Clock;

use super::collector::Collector;
use super::otlp_metrics::{Span, requests};
use super::reporting::Reception;
use crate::metrics::Metrics;

/// The thread that sends; dropping it has it send a last time, and does not wait.
#[derive(Debug)]
pub(super) struct MetricsPush {
    /// Closed at the end.
    stop: Sender<()>,
    ended: LastPush,
}

/// What is sent a last time.
#[derive(Debug)]
pub(super) struct LastPush(Receiver<()>);

struct Pushing {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    collector: Collector,
    resource: Resource,
    begin: u64,
    reception: Reception,
}

/// Nanoseconds since 1970.
fn now(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now_millis()).unwrap_or_default().saturating_mul(1_000_000)
}

// === impl MetricsPush ===

impl MetricsPush {
    /// Begins to send.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        metrics: Metrics,
        clock: Arc<dyn Clock>,
        collector: Collector,
        every: Duration,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let pushing = Pushing {
            begin: now(&*clock),
            resource: Resource::from(&collector.resource),
            reception: Reception::of("metrics", &collector.endpoint),
            metrics,
            clock,
            collector,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let work = move || {
            let end = end;
            loop {
                let waited = stopped.recv_timeout(every);
                runtime.block_on(pushing.push());
                if waited != Err(RecvTimeoutError::Timeout) {
                    return drop(end);
                }
            }
        };
        std::thread::Builder::new().name("metrics-push".to_owned()).spawn(work)?;
        Ok(Self { stop, ended: LastPush(ended) })
    }

    /// Has it send a last time.
    pub(super) fn send_last(self) -> LastPush {
        drop(self.stop);
        self.ended
    }
}

// === impl LastPush ===

impl LastPush {
    /// Waits until it is sent, for so long at most.
    pub(super) fn wait(self, limit: Duration) {
        let _ = self.0.recv_timeout(limit);
    }
}

// === impl Pushing ===

impl Pushing {
    async fn push(&self) {
        self.reception.report(&self.send().await);
    }

    async fn send(&self) -> Result<(), Status> {
        let end = now(&*self.clock);
        // The clock may have been set back.
        let span = Span { begin: self.begin.min(end), end };
        let mut client = MetricsServiceClient::new(self.collector.channel.clone());
        for request in requests(&self.metrics.families(), &self.resource, span) {
            let mut request = tonic::Request::new(request);
            *request.metadata_mut() = self.collector.headers("METRICS");
            client.export(request).await?;
        }
        Ok(())
    }
}
