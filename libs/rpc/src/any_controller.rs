//! Several controllers as one: a call goes to the one that has answered last, and to another one where that does not lead
//! or is not there. Nothing is sent twice that may have had an effect.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::time::Instant;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};
use walser_proto::v1::Effect;

use crate::network::{Connection, ConnectionError};
use crate::{ApiError, Reason};

/// Largest request: a registration that names every replica of a node.
const REQUEST_BYTES_MAX: usize = 32 << 20;

/// How long a call waits for a controller to lead, while one of them is there: longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before all are asked again.
const PAUSE: Duration = Duration::from_millis(100);

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A connection to whichever of these controllers leads, for calls of one request. Clones share what is known.
#[derive(Debug, Clone)]
struct AnyController {
    all: Arc<[Connection]>,
    /// The one that has taken a call last.
    latest: Arc<AtomicUsize>,
}

/// One controller, or several of which one leads: streams of requests need one of them.
pub(crate) fn any_of(controllers: &[Connection]) -> Option<Connection> {
    match controllers {
        [] => None,
        [only] => Some(only.clone()),
        all => Some(BoxCloneSyncService::new(AnyController { all: all.into(), latest: Arc::default() })),
    }
}

/// Whether a call only reads: its method says so by its name, as every method of the contract does.
fn only_reads(head: &Parts) -> bool {
    let method = head.uri.path().rsplit('/').next().unwrap_or_default();
    method.starts_with("Get") || method.starts_with("List")
}

/// What a controller says beside that it does not lead, where it knows that none can begin to.
pub const NO_ELECTION: &str = "noElection";

fn failure_of(outcome: &Result<Response, ConnectionError>) -> Option<ApiError> {
    let status = match outcome {
        Ok(response) => tonic::Status::from_header_map(response.headers()),
        Err(error) => Some(error.status().clone()),
    };
    status.filter(|status| status.code() != tonic::Code::Ok).map(ApiError::from)
}

fn says_no_election(outcome: &Result<Response, ConnectionError>) -> bool {
    failure_of(outcome).is_some_and(|failure| failure.value(NO_ELECTION).is_some())
}

/// Whether another controller may take a call that has come to this: nothing was done, or nothing can have been.
fn is_of_another(outcome: &Result<Response, ConnectionError>, reads: bool) -> bool {
    failure_of(outcome).is_some_and(|failure| {
        failure.reason() == Reason::ControllerNotAvailable && (reads || failure.effect() == Effect::None)
    })
}

impl Service<Request> for AnyController {
    type Response = Response;
    type Error = ConnectionError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, ConnectionError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        Box::pin(this.ask(request))
    }
}

impl AnyController {
    async fn ask(self, request: Request) -> Result<Response, ConnectionError> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await;
        let body = body
            .map_err(|error| ConnectionError::new(ApiError::field("request", format!("is not readable: {error}"))))?;
        let body = body.to_bytes();
        let until = Instant::now() + PATIENCE;
        loop {
            let (outcome, elected_soon) = self.ask_each(&head, &body).await;
            if !elected_soon || Instant::now() >= until {
                return outcome;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks one after the other until one takes the call. Beside what has become of it: whether one was there, none led, and one
    /// may be about to.
    /// Where none takes it, those that are there know better why than those that are not.
    async fn ask_each(&self, head: &Parts, body: &Bytes) -> (Result<Response, ConnectionError>, bool) {
        let (count, latest) = (self.all.len(), self.latest.load(Ordering::Relaxed));
        let (mut at, mut before) = (latest, None);
        loop {
            let request = http::Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
            let outcome = self.all[at].clone().oneshot(request).await;
            let next = (at + 1) % count;
            let other = is_of_another(&outcome, only_reads(head));
            // One whose connection broke may have done something: the next call goes to another one.
            self.latest.store(if other || outcome.is_err() { next } else { at }, Ordering::Relaxed);
            if !other {
                return (outcome, false);
            }
            let said = match before {
                Some(before @ Ok(_)) if outcome.is_err() || says_no_election(&before) => before,
                _ => outcome,
            };
            if next == latest {
                let elected_soon = said.is_ok() && !says_no_election(&said);
                return (said, elected_soon);
            }
            (at, before) = (next, Some(said));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tonic::Status;

    use super::*;

    /// Answers calls so, and counts them.
    fn controller(
        outcome: impl Fn(Vec<u8>) -> Result<(), ApiError> + Clone + Send + Sync + 'static,
    ) -> (Connection, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let service = tower::service_fn(move |request: Request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let outcome = outcome.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let status = outcome(body.to_vec()).err().map(Status::from);
                Ok(status.map_or_else(|| http::Response::new(Body::empty()), Status::into_http))
            }
        });
        (BoxCloneSyncService::new(service), calls)
    }

    async fn call(connection: &Connection) -> Option<ApiError> {
        call_method(connection, "/walser.v1.TopicService/CreateTopic").await
    }

    async fn call_method(connection: &Connection, path: &str) -> Option<ApiError> {
        let mut request = http::Request::new(Body::new(Full::new(b"what".as_slice().into())));
        *request.uri_mut() = path.parse().unwrap();
        let response = connection.clone().oneshot(request).await.unwrap();
        Status::from_header_map(response.headers()).map(ApiError::from)
    }

    fn not_leading() -> ApiError {
        ApiError::new(Reason::ControllerNotAvailable, "this controller does not lead")
    }

    #[tokio::test(start_paused = true)]
    async fn calls_go_to_the_controller_that_leads_with_all_that_they_say() {
        let leads = Arc::new(AtomicUsize::new(1));
        let at = |own: usize| {
            let leads = Arc::clone(&leads);
            controller(move |body| {
                assert_eq!(body, b"what");
                if leads.load(Ordering::Relaxed) == own { Ok(()) } else { Err(not_leading()) }
            })
        };
        let ((first, of_first), (second, of_second)) = (at(0), at(1));
        let any = any_of(&[first, second]).unwrap();
        for _ in 0..10 {
            assert!(call(&any).await.is_none());
        }
        assert_eq!((of_first.load(Ordering::Relaxed), of_second.load(Ordering::Relaxed)), (1, 10));
        leads.store(0, Ordering::Relaxed);
        assert!(call(&any.clone()).await.is_none());
        leads.store(7, Ordering::Relaxed);
        let (waiting, elected) = (call(&any), async { leads.store(1, Ordering::Relaxed) });
        assert!(tokio::join!(waiting, elected).0.is_none(), "an election is waited for");
        leads.store(7, Ordering::Relaxed);
        assert_eq!(call(&any).await.unwrap().reason(), Reason::ControllerNotAvailable, "nobody leads");
        assert!(any_of(&[]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_leads_one_that_is_there_says_why() {
        let gone = || ApiError::new(Reason::ControllerNotAvailable, "connection refused");
        let away = BoxCloneSyncService::new(tower::service_fn(move |_: Request| {
            std::future::ready(Err(ConnectionError::new(gone())))
        }));
        let (there, _) = controller(|_| Err(not_leading()));
        for all in [[away.clone(), there.clone()], [there, away]] {
            let any = any_of(&all).unwrap();
            for _ in 0..2 {
                assert_eq!(call(&any).await.unwrap().to_string(), not_leading().to_string());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_that_cannot_be_is_not_waited_for() {
        for none in [true, false] {
            let refusal = move || if none { not_leading().with(NO_ELECTION, true) } else { not_leading() };
            let ((first, of_first), (second, _)) =
                (controller(move |_| Err(refusal())), controller(|_| Err(not_leading())));
            let any = any_of(&[first, second]).unwrap();
            assert_eq!(call(&any).await.unwrap().reason(), Reason::ControllerNotAvailable);
            assert_eq!(of_first.load(Ordering::Relaxed) == 1, none);
        }
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_sent_again() {
        let (first, of_first) = controller(|_| Err(not_leading().with_effect(Effect::Maybe)));
        let (second, of_second) = controller(|_| Ok(()));
        let any = any_of(&[first, second]).unwrap();
        assert!(call(&any).await.is_some());
        assert_eq!((of_first.load(Ordering::Relaxed), of_second.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test]
    async fn what_only_reads_is_asked_of_another_one_when_a_connection_breaks() {
        let (first, of_first) = controller(|_| Err(not_leading().with_effect(Effect::Maybe)));
        let (second, of_second) = controller(|_| Ok(()));
        let any = any_of(&[first, second]).unwrap();
        assert!(call_method(&any, "/walser.v1.TopicService/ListTopics").await.is_none());
        assert_eq!((of_first.load(Ordering::Relaxed), of_second.load(Ordering::Relaxed)), (1, 1));
    }
}
