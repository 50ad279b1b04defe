//! A layer around all services of a listener: request ids, spans, metrics, panics, and details for errors that tonic
//! makes.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use http::{HeaderValue, Request, Response};
use prometheus::HistogramVec;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;
use walser_proto::v1::ErrorReason as Reason;

use crate::accept_compressed::ACCEPTED;
use crate::allowed_roles;
use crate::api_error::ApiError;
use crate::call_metrics::{CallMetrics, RunningCall};
use crate::send_gate::{Next, SendGate};

const REQUEST_ID: &str = "walser-request-id";
const SERVER: &str = "walser-server";
/// What a client is told that speaks HTTP/2 and not gRPC.
const NOT_GRPC: &str = "this port speaks gRPC, that is POST with the content type application/grpc; use a gRPC client, \
                        grpcurl or the walser command";

/// Makes a span for a call from its path and headers.
pub type SpanMaker = fn(&str, &http::HeaderMap) -> tracing::Span;

/// The layer around every call of a service.
#[derive(Debug, Clone)]
pub struct CallLayer {
    server: HeaderValue,
    span: SpanMaker,
    calls: CallMetrics,
}

/// A service with the layer around it.
#[derive(Debug, Clone)]
pub struct CallLayerService<S> {
    inner: S,
    guard: CallLayer,
}

/// The body of an answer: a panic inside it ends it with `INTERNAL`, and large messages may leave through a gate.
struct CallBody {
    /// `None` after a panic.
    body: Option<Body>,
    path: String,
    request_id: HeaderValue,
    call: RunningCall,
    gate: Option<SendGate>,
}

impl http_body::Body for CallBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match this.gate.as_ref().map(SendGate::next) {
            Some(Next::Part(part)) => return Poll::Ready(Some(Ok(http_body::Frame::data(part)))),
            Some(Next::End(failure)) => return Poll::Ready(Some(this.end(&failure.into()))),
            Some(Next::Message) | None => {}
        }
        let Ok(polled) = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context))) else {
            let status = panicked(&this.path, &this.request_id);
            return Poll::Ready(Some(this.end(&status)));
        };
        let Poll::Ready(Some(Ok(frame))) = polled else { return polled };
        if let Some(trailers) = frame.trailers_ref() {
            this.call.end_with(trailers);
        }
        Poll::Ready(Some(Ok(match (frame.into_data(), &this.gate) {
            (Ok(message), Some(gate)) => http_body::Frame::data(gate.message(message)),
            (Ok(message), None) => http_body::Frame::data(message),
            (Err(frame), _) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        // With a gate, more may wait than the body has.
        self.body.as_ref().is_none_or(|body| self.gate.is_none() && body.is_end_stream())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let body = self.body.as_ref().filter(|_| self.gate.is_none());
        body.map(http_body::Body::size_hint).unwrap_or_default()
    }
}

impl CallBody {
    /// Ends the answer with a status of its own.
    fn end(&mut self, status: &Status) -> Result<http_body::Frame<bytes::Bytes>, Status> {
        self.body = None;
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers)?;
        self.call.end_with(&trailers);
        Ok(http_body::Frame::trailers(trailers))
    }
}

/// What the caller of a request is told that met a bug.
fn panicked(path: &str, request_id: &HeaderValue) -> Status {
    tracing::error!(path, ?request_id, "a request handler panicked");
    bug().with("requestId", request_id.to_str().unwrap_or_default()).into()
}

fn bug() -> ApiError {
    ApiError::internal("the server has a bug; please report the request id")
}

/// Runs a part of one request in a task of its own, whose panic concerns that request only.
///
/// # Errors
/// After a panic: what the caller of the request is to be told.
pub async fn catch_panic<T>(part: impl Future<Output = T>) -> Result<T, ApiError> {
    AssertUnwindSafe(part).catch_unwind().await.map_err(|_panic| {
        tracing::error!("a part of a request panicked");
        bug()
    })
}

// === impl CallLayer ===

impl CallLayer {
    /// A layer that names this server in every answer. `register` makes the metric of its calls.
    pub fn new(server: &str, span: SpanMaker, register: impl FnOnce(&str, &str, &[&str]) -> HistogramVec) -> Self {
        let server = HeaderValue::from_str(server).unwrap_or(HeaderValue::from_static("walser"));
        Self { server, span, calls: CallMetrics::new(register) }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallLayerService<S>;

    fn layer(&self, inner: S) -> CallLayerService<S> {
        CallLayerService { inner, guard: self.clone() }
    }
}

impl<S> Service<Request<Body>> for CallLayerService<S>
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
        if request.method() != http::Method::POST || !speaks_grpc(request.headers()) {
            return Box::pin(std::future::ready(Ok(not_grpc())));
        }
        if let Some(refused) = allowed_roles::refused(&request) {
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        }
        let limit = answer_limit(request.headers());
        let mut running = guard.calls.begin(&path, span.clone());
        let call = self.inner.call(request);
        Box::pin(
            async move {
                let call = AssertUnwindSafe(call).catch_unwind();
                let answered = match limit {
                    Some(limit) => tokio::time::timeout(limit, call).await,
                    None => Ok(call.await),
                };
                let mut response = match answered {
                    Ok(Ok(Ok(response))) => response,
                    Ok(Err(_panic)) => panicked(&path, &request_id).into_http(),
                    Err(_elapsed) => out_of_time().into_http(),
                };
                explain(&path, &mut response);
                running.end_with(response.headers());
                let gate = response.extensions_mut().remove::<SendGate>();
                let request_id_of_body = request_id.clone();
                let mut response = response.map(|body| {
                    let (body, request_id) = (Some(body), request_id_of_body);
                    Body::new(CallBody { body, path, request_id, call: running, gate })
                });
                let headers = response.headers_mut();
                headers.insert(REQUEST_ID, request_id);
                headers.insert(SERVER, guard.server);
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// How long a call may take to begin its answer: a little less than the caller waits, so that the answer has details.
/// What the transport says at the deadline itself has none.
fn answer_limit(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let left = crate::deadline::parse(text)?;
    Some(left.saturating_sub((left / 20).min(Duration::from_millis(20))))
}

fn out_of_time() -> Status {
    ApiError::new(Reason::RequestTimedOut, "the call was not answered within the caller's deadline").into()
}

fn speaks_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind == "application/grpc" || kind.starts_with("application/grpc+") || kind.starts_with("application/grpc;")
}

/// The answer to a request that is no call: HTTP 415, as gRPC asks, with a sentence for people, and for clients that
/// read gRPC's headers anyway the details that every error has.
fn not_grpc() -> Response<Body> {
    let failure = ApiError::new(Reason::FeatureDisabled, NOT_GRPC).with("feature", "content-type");
    let mut response = Status::from(failure).into_http::<Body>();
    *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response.map(|_| Body::new(http_body_util::Full::new(bytes::Bytes::from(format!("{NOT_GRPC}\n")))))
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
            ApiError::new(Reason::RecordTooLarge, text).with_code(Code::ResourceExhausted).with("rule", "message-size")
        }
        Code::Unimplemented => {
            let text = if message.is_empty() { format!("{path} is not served here") } else { message };
            ApiError::new(Reason::FeatureDisabled, text).with("feature", path)
        }
        Code::Cancelled | Code::DeadlineExceeded => ApiError::new(Reason::RequestTimedOut, message),
        Code::Internal | Code::Unknown => ApiError::new(Reason::FieldInvalid, message).with("rule", "malformed"),
        code => ApiError::internal(message).with_code(code),
    };
    let extensions = std::mem::take(response.extensions_mut());
    let accepted = response.headers_mut().remove(ACCEPTED);
    *response = Status::from(failure).into_http();
    *response.extensions_mut() = extensions;
    if let Some(accepted) = accepted {
        response.headers_mut().insert(ACCEPTED, accepted);
    }
}

/// Unique within the process, and different between processes that start at different times.
fn next_request_id() -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{:08x}-{number:x}", std::process::id());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn request() -> Request<Body> {
        let request = Request::post("/walser.v1.Test/Call").header("content-type", "application/grpc");
        request.body(Body::empty()).unwrap()
    }

    fn guard() -> CallLayer {
        CallLayer::new(
            "test",
            |_, _| tracing::Span::none(),
            |name, help, labels| HistogramVec::new(prometheus::HistogramOpts::new(name, help), labels).unwrap(),
        )
    }

    /// Some bytes, then a panic.
    struct Panics(bool);

    impl http_body::Body for Panics {
        type Data = bytes::Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
            assert!(!std::mem::replace(&mut self.0, true), "the second time it breaks");
            Poll::Ready(Some(Ok(http_body::Frame::data(bytes::Bytes::from_static(b"first")))))
        }
    }

    #[tokio::test]
    async fn a_request_that_is_no_call_is_answered_with_415_and_a_sentence() {
        let service = guard().layer(tower::service_fn(|_| async { panic!("not for the service") }));
        for (method, kind) in
            [("GET", "application/grpc"), ("POST", "application/json"), ("POST", "application/grpc-web")]
        {
            let request = Request::builder().method(method).header("content-type", kind).body(Body::empty()).unwrap();
            let answer = service.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
            assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
            let failure = ApiError::from(Status::from_header_map(answer.headers()).unwrap());
            assert_eq!((failure.code(), failure.reason()), (Code::Unimplemented, Reason::FeatureDisabled));
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(text, format!("{NOT_GRPC}\n"));
        }
    }

    fn assert_internal(headers: &http::HeaderMap) {
        let failure = ApiError::from(Status::from_header_map(headers).unwrap());
        assert_eq!((failure.code(), failure.reason()), (Code::Internal, Reason::InternalError));
        assert!(failure.value("requestId").is_some());
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_answers_internal() {
        let service = guard().layer(tower::service_fn(|_| async { panic!("a bug") }));
        let answer = service.oneshot(request()).await.unwrap();
        assert_internal(answer.headers());
    }

    #[tokio::test]
    async fn a_panic_in_the_stream_of_an_answer_ends_it_with_internal() {
        let service = tower::service_fn(|_| async { Ok(Response::new(Body::new(Panics(false)))) });
        let answer = guard().layer(service).oneshot(request()).await.unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        assert_internal(collected.trailers().unwrap());
        assert_eq!(collected.to_bytes(), "first");
    }

    #[tokio::test]
    async fn what_an_answer_holds_is_dropped_with_its_body() {
        let held = Arc::new(());
        let answer = Arc::clone(&held);
        let service = tower::service_fn(move |_| {
            let answer = Arc::clone(&answer);
            async move {
                let mut response = Response::new(Body::new(Panics(false)));
                let gate = SendGate::default();
                gate.leaves(answer);
                response.extensions_mut().insert(gate);
                Ok(response)
            }
        });
        let answer = guard().layer(service).oneshot(request()).await.unwrap();
        let (parts, body) = answer.into_parts();
        drop(parts);
        assert_eq!(Arc::strong_count(&held), 2, "the head alone is not the answer");
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
