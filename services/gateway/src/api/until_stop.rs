//! Ends the streams of a service that knows nothing of the stop: whoever holds one would hold up the stop for its whole
//! grace period. The service sees the end of the requests, and ends its answers then.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use http_body_util::{BodyStream, StreamBody};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use walser_service::{Shutdown, StreamEnd};

/// A service whose requests end when the stop begins, or their connection has reached its age.
#[derive(Debug, Clone)]
pub(super) struct UntilStop<S> {
    inner: S,
    shutdown: Shutdown,
}

// === impl UntilStop ===

impl<S> UntilStop<S> {
    pub(super) fn new(inner: S, shutdown: Shutdown) -> Self {
        Self { inner, shutdown }
    }
}

impl<S: NamedService> NamedService for UntilStop<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for UntilStop<S>
where
    S: Service<Request<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let end = StreamEnd::of(request.extensions(), self.shutdown.clone());
        self.inner.call(request.map(|body| {
            let stop = async move { end.wait().await };
            Body::new(StreamBody::new(BodyStream::new(body).take_until(Box::pin(stop))))
        }))
    }
}
