//! A layer around all services of a listener: request ids, spans, panics, and details for errors that tonic makes.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;
use walser_proto::v1::ErrorReason as Reason;

use crate::failure::Failure;

const REQUEST_ID: &str = "walser-request-id";
const SERVER: &str = "walser-server";

/// Makes a span for a call from its path and headers.
pub type SpanMaker = fn(&str, &http::HeaderMap) -> tracing::Span;

/// The layer.
#[derive(Debug, Clone)]
pub struct Guard {
    server: HeaderValue,
    span: SpanMaker,
}

/// A guarded service.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

/// Put into the extensions of an answer: it is dropped when the connection has taken the last of the answer's body.
/// For budgets of memory that the answer uses.
#[derive(Clone)]
pub struct HeldUntilSent(#[expect(dead_code, reason = "it is held to be dropped")] Arc<dyn Any + Send + Sync>);

/// A body that holds something until it has been taken, or dropped.
struct HoldingBody {
    body: Body,
    _held: HeldUntilSent,
}

impl HeldUntilSent {
    /// Holds `what`.
    pub fn new(what: impl Send + Sync + 'static) -> Self {
        Self(Arc::new(what))
    }
}

impl std::fmt::Debug for HeldUntilSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HeldUntilSent").finish_non_exhaustive()
    }
}

impl http_body::Body for HoldingBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

// === impl Guard ===

impl Guard {
    /// A layer that names this server in every answer.
    pub fn new(server: &str, span: SpanMaker) -> Self {
        let server = HeaderValue::from_str(server).unwrap_or(HeaderValue::from_static("walser"));
        Self { server, span }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        let request_id = request.headers().get(REQUEST_ID).cloned().unwrap_or_else(next_request_id);
        let path = request.uri().path().to_owned();
        let span = (guard.span)(&path, request.headers());
        if !speaks_grpc(request.headers()) {
            return Box::pin(std::future::ready(Ok(not_grpc())));
        }
        let call = self.inner.call(request);
        Box::pin(
            async move {
                let mut response = match AssertUnwindSafe(call).catch_unwind().await {
                    Ok(Ok(response)) => response,
                    Err(_panic) => {
                        tracing::error!(path, ?request_id, "a request handler panicked");
                        let failure = Failure::internal("the server has a bug; please report the request id")
                            .with("requestId", request_id.to_str().unwrap_or_default());
                        Status::from(failure).into_http()
                    }
                };
                explain(&path, &mut response);
                if let Some(held) = response.extensions_mut().remove::<HeldUntilSent>() {
                    response = response.map(|body| Body::new(HoldingBody { body, _held: held }));
                }
                let headers = response.headers_mut();
                headers.insert(REQUEST_ID, request_id);
                headers.insert(SERVER, guard.server);
                Ok(response)
            }
            .instrument(span),
        )
    }
}

fn speaks_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind == "application/grpc" || kind.starts_with("application/grpc+") || kind.starts_with("application/grpc;")
}

fn not_grpc() -> Response<Body> {
    let text = "this port speaks gRPC: the content type must be application/grpc";
    Status::from(Failure::new(Reason::FeatureDisabled, text).with("feature", "content-type")).into_http()
}

/// Gives an error without details the details that every Walser error has.
fn explain(path: &str, response: &mut Response<Body>) {
    let Some(status) = Status::from_header_map(response.headers()) else { return };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return;
    }
    let message = status.message().to_owned();
    let too_large = message.contains("message length too large");
    let failure = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted if too_large => {
            let text = format!("{message}; send several smaller messages");
            Failure::new(Reason::RecordTooLarge, text).with_code(Code::ResourceExhausted).with("rule", "message-size")
        }
        Code::Unimplemented => {
            let text = if message.is_empty() { format!("{path} is not served here") } else { message };
            Failure::new(Reason::FeatureDisabled, text).with("feature", path)
        }
        Code::Cancelled | Code::DeadlineExceeded => Failure::new(Reason::RequestTimedOut, message),
        Code::Internal | Code::Unknown => Failure::new(Reason::FieldInvalid, message).with("rule", "malformed"),
        code => Failure::internal(message).with_code(code),
    };
    let extensions = std::mem::take(response.extensions_mut());
    *response = Status::from(failure).into_http();
    *response.extensions_mut() = extensions;
}

/// Unique within the process, and different between processes that start at different times.
fn next_request_id() -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{:08x}-{number:x}", std::process::id());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("none"))
}
