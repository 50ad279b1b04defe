//! Compressed requests: a service sees them plain.
//!
//! tonic can decompress too, but its zstd feature builds the decoders of zstd's older formats into the process, also
//! for the batches of records, where they are refused. Here the output is counted against the limit of a message while
//! it is written, and a long message does not hold up the thread.

mod message;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::future::{Either, Ready, ready as at_once};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use self::message::{Encoding, Message, MessageError};
use crate::{ApiError, Reason};

const ENCODING: &str = "grpc-encoding";
pub(crate) const ACCEPTED: &str = "grpc-accept-encoding";
/// What a request may be compressed with, as gRPC lists it.
const ENCODINGS: &str = "gzip,zstd,identity";
/// Flag and length before a message.
const PREFIX_BYTES: usize = 5;
/// Decompressed bytes after which other tasks get their turn.
const TURN_BYTES: usize = 256 << 10;

/// A service whose requests may be compressed with gzip or zstd. Its answers are not compressed.
#[derive(Debug, Clone)]
pub struct AcceptCompressed<S> {
    inner: S,
    message_bytes_max: usize,
}

/// The body of a request, with its messages decompressed.
struct PlainBody {
    body: Body,
    encoding: Encoding,
    message_bytes_max: usize,
    /// Received and not looked at.
    input: Bytes,
    place: Place,
}

/// Where in the body the next byte of input lies.
enum Place {
    /// Within the prefix of a message, of which these bytes are known.
    Prefix([u8; PREFIX_BYTES], usize),
    /// Within a message that is not compressed and has this many bytes to come.
    Plain(usize),
    /// Within a compressed message that has this many bytes to come.
    Compressed(usize, Box<Message>),
    /// The body has ended with an error.
    Failed,
}

/// What became of some input.
enum Step {
    /// It is taken, and more is needed.
    Taken,
    /// These bytes are for the service.
    Give(Bytes),
    /// Other tasks should get their turn.
    Yield,
}

// === impl AcceptCompressed ===

impl<S> AcceptCompressed<S> {
    /// Lets `inner` have compressed requests. A message may have `message_bytes_max` bytes, inclusive, compressed or
    /// not; a larger one is refused with `RECORD_TOO_LARGE` before it is decompressed any further.
    pub fn new(inner: S, message_bytes_max: usize) -> Self {
        Self { inner, message_bytes_max }
    }
}

impl<S: NamedService> NamedService for AcceptCompressed<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for AcceptCompressed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(named) = request.headers_mut().remove(ENCODING) else {
            return Either::Left(self.inner.call(request));
        };
        let encoding = match named.as_bytes() {
            b"identity" => return Either::Left(self.inner.call(request)),
            b"gzip" => Encoding::Gzip,
            b"zstd" => Encoding::Zstd,
            _ => return Either::Right(at_once(Ok(unknown(&named)))),
        };
        let message_bytes_max = self.message_bytes_max;
        let place = Place::Prefix([0; PREFIX_BYTES], 0);
        let plain = |body| Body::new(PlainBody { body, encoding, message_bytes_max, input: Bytes::new(), place });
        Either::Left(self.inner.call(request.map(plain)))
    }
}

/// The answer to a request that is compressed with something else. It lists what can be used, as gRPC asks.
fn unknown(named: &HeaderValue) -> Response<Body> {
    let named = String::from_utf8_lossy(named.as_bytes());
    let text = format!("requests compressed with {named:?} are not accepted; use gzip, zstd or identity");
    let failure = ApiError::new(Reason::FeatureDisabled, text).with("feature", ENCODING).with("accepted", ENCODINGS);
    let mut response = Status::from(failure).into_http();
    response.headers_mut().insert(ACCEPTED, HeaderValue::from_static(ENCODINGS));
    response
}

// === impl PlainBody ===

impl PlainBody {
    /// Takes some of the input, of which there is at least a byte.
    fn step(&mut self) -> Result<Step, Status> {
        match &mut self.place {
            Place::Prefix(prefix, known) => {
                let more = self.input.len().min(PREFIX_BYTES - *known);
                self.input.copy_to_slice(&mut prefix[*known..*known + more]);
                *known += more;
                if *known < PREFIX_BYTES {
                    return Ok(Step::Taken);
                }
                let prefix = *prefix;
                self.begin(prefix)
            }
            Place::Plain(left) => {
                let taken = self.input.split_to((*left).min(self.input.len()));
                *left -= taken.len();
                if *left == 0 {
                    self.place = Place::Prefix([0; PREFIX_BYTES], 0);
                }
                Ok(Step::Give(taken))
            }
            Place::Compressed(left, message) => {
                let (limit, start) = (self.message_bytes_max, message.plain_bytes());
                while *left > 0 && !self.input.is_empty() {
                    let part = (*left).min(self.input.len());
                    let taken = message.write(&self.input[..part]).map_err(|error| refused(error, limit))?;
                    self.input.advance(taken);
                    *left -= taken;
                    let more = *left > 0 && !self.input.is_empty();
                    if more && message.plain_bytes() - start >= TURN_BYTES {
                        return Ok(Step::Yield);
                    }
                }
                if *left == 0 { self.finish() } else { Ok(Step::Taken) }
            }
            Place::Failed => Ok(Step::Yield),
        }
    }

    /// Begins a message. What is wrong with its prefix is for the service to refuse.
    fn begin(&mut self, prefix: [u8; PREFIX_BYTES]) -> Result<Step, Status> {
        let [compressed, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if compressed != 1 {
            self.place = if length == 0 { Place::Prefix([0; PREFIX_BYTES], 0) } else { Place::Plain(length) };
            return Ok(Step::Give(Bytes::copy_from_slice(&prefix)));
        }
        let limit = self.message_bytes_max;
        if length > limit {
            return Err(refused(MessageError::TooLarge, limit));
        }
        let message = Message::new(self.encoding, PREFIX_BYTES, limit).map_err(|error| refused(error, limit))?;
        self.place = Place::Compressed(length, Box::new(message));
        if length == 0 { self.finish() } else { Ok(Step::Taken) }
    }

    /// Ends a compressed message.
    fn finish(&mut self) -> Result<Step, Status> {
        let next = Place::Prefix([0; PREFIX_BYTES], 0);
        let Place::Compressed(_, message) = std::mem::replace(&mut self.place, next) else { return Ok(Step::Taken) };
        let limit = self.message_bytes_max;
        let mut plain = message.finish().map_err(|error| refused(error, limit))?;
        let length = u32::try_from(plain.len() - PREFIX_BYTES).map_err(|_| refused(MessageError::TooLarge, limit))?;
        plain[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(Step::Give(plain.into()))
    }

    /// Whether the body may end here: behind a message, or within a plain one, which the service notices.
    fn may_end(&self) -> bool {
        !matches!(self.place, Place::Compressed(..) | Place::Prefix(_, 1..))
    }
}

impl http_body::Body for PlainBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if matches!(this.place, Place::Failed) {
            return Poll::Ready(None);
        }
        loop {
            while !this.input.is_empty() {
                match this.step() {
                    Ok(Step::Taken) => {}
                    Ok(Step::Give(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Ok(Step::Yield) => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(status) => {
                        this.place = Place::Failed;
                        return Poll::Ready(Some(Err(status)));
                    }
                }
            }
            let end = match ready!(Pin::new(&mut this.body).poll_frame(context)).transpose() {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.input = data;
                        continue;
                    }
                    Err(trailers) => Some(Ok(trailers)),
                },
                Ok(None) => None,
                Err(status) => return Poll::Ready(Some(Err(status))),
            };
            if this.may_end() {
                return Poll::Ready(end);
            }
            this.place = Place::Failed;
            return Poll::Ready(Some(Err(refused(MessageError::Cut, this.message_bytes_max))));
        }
    }
}

/// What the caller is told of a message that is not decompressed.
fn refused(error: MessageError, limit: usize) -> Status {
    let failure = match error {
        MessageError::TooLarge => {
            let text = format!("the message is larger than {limit} bytes; send several smaller messages");
            let failure = ApiError::new(Reason::RecordTooLarge, text).with("rule", "message-size");
            failure.with_code(Code::ResourceExhausted).with("limit", limit)
        }
        error => ApiError::new(Reason::FieldInvalid, error.to_string()).with("rule", "malformed"),
    };
    failure.into()
}

#[cfg(test)]
mod tests;
