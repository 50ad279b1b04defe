//! A lane: one pipelined stream to a node, opened when it is needed and again after it broke.
//!
//! Requests leave in the order in which they were handed over, so whatever must keep an order goes through one lane.
//! Answers find their request by its number. When the stream breaks, every request learns whether it can have
//! arrived.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Requests between a lane and its connection; more wait in the lane's queue.
const ON_THE_WAY: usize = 64;
/// Requests that wait in a lane; the permits of appends bound their bytes. More are refused.
const QUEUE: usize = 16_384;
/// How long answers are taken from a stream on which nothing can be sent any more.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What travels on a lane.
#[async_trait]
pub(super) trait Wire: Clone + Send + Sync + 'static {
    type Request: Debug + Send + 'static;
    type Answer: Debug + Send + 'static;

    /// Opens the stream.
    async fn open(&self, requests: ReceiverStream<Self::Request>) -> Result<Streaming<Self::Answer>, Status>;
    /// Gives a request its number.
    fn number(request: &mut Self::Request, number: i64);
    /// The number that an answer carries.
    fn answered(answer: &Self::Answer) -> i64;
    /// The request that takes another one back.
    fn cancel(number: i64) -> Option<Self::Request>;
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The request never left.
    Unsent,
    /// It left, and the stream broke before its answer came.
    Sent,
}

/// Whoever waits for an answer. One that is dropped unanswered hears how far its request came, so that no way out of
/// the lane leaves anybody waiting.
struct Waiter<A> {
    reply: Option<Reply<A>>,
    /// What there is to tell without an answer.
    lost: Lost,
}

/// Called once, on any thread; MUST NOT block.
type Reply<A> = Box<dyn FnOnce(Result<A, Lost>) + Send>;

enum Item<W: Wire> {
    Request { number: i64, request: W::Request, waiter: Waiter<W::Answer> },
    Cancel { number: i64 },
}

impl<A> Waiter<A> {
    fn answer(mut self, answer: A) {
        if let Some(reply) = self.reply.take() {
            reply(Ok(answer));
        }
    }
}

impl<A> Drop for Waiter<A> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(Err(self.lost));
        }
    }
}

/// The sending end. Clones share the stream.
pub(super) struct PipelinedStream<W: Wire> {
    queue: mpsc::Sender<Item<W>>,
    next: Arc<AtomicI64>,
    resets: watch::Sender<()>,
}

impl<W: Wire> Clone for PipelinedStream<W> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), next: Arc::clone(&self.next), resets: self.resets.clone() }
    }
}

impl<W: Wire> Debug for PipelinedStream<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<W: Wire> PipelinedStream<W> {
    /// Starts a lane; nothing is connected yet. It ends with its last clone.
    pub(super) fn start(wire: W) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let (resets, reset) = watch::channel(());
        tokio::spawn(run(wire, items, reset));
        Self { queue, next: Arc::default(), resets }
    }

    /// Hands over a request; gives back its number.
    /// `reply` is called once, on any thread; it MUST NOT block.
    pub(super) fn send(
        &self,
        mut request: W::Request,
        reply: impl FnOnce(Result<W::Answer, Lost>) + Send + 'static,
    ) -> i64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        W::number(&mut request, number);
        let waiter = Waiter { reply: Some(Box::new(reply)), lost: Lost::Unsent };
        // Where there is no room the request is dropped, and its waiter told.
        let _ = self.queue.try_send(Item::Request { number, request, waiter });
        number
    }

    /// Nobody waits for the node any more: whoever does is told that the stream broke.
    pub(super) fn reset(&self) {
        self.resets.send_replace(());
    }

    /// Nobody waits for a request any more.
    pub(super) fn cancel(&self, number: i64) {
        // Without it the answer comes, and is dropped.
        let _ = self.queue.try_send(Item::Cancel { number });
    }
}

/// Opens a stream whenever there is something to send.
async fn run<W: Wire>(wire: W, mut items: mpsc::Receiver<Item<W>>, mut resets: watch::Receiver<()>) {
    while let Some(item) = items.recv().await {
        let Item::Request { .. } = &item else { continue };
        resets.mark_unchanged();
        let (sender, requests) = mpsc::channel(ON_THE_WAY);
        let opened = tokio::select! {
            opened = wire.open(ReceiverStream::new(requests)) => opened,
            () = reset(&mut resets) => Err(Status::cancelled("the node is given up")),
        };
        match opened {
            Ok(answers) => {
                let stream = Stream::<W> { answers, waiting: HashMap::new() };
                tokio::select! {
                    () = stream.exchange(sender, item, &mut items) => {}
                    () = reset(&mut resets) => tracing::debug!("a stream to a storage node is given up"),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a stream to a storage node cannot be opened");
                drop(item);
                while items.try_recv().is_ok() {}
            }
        }
    }
}

/// Waits until the lane is reset. It never is where nobody can do that any more.
async fn reset(resets: &mut watch::Receiver<()>) {
    if resets.changed().await.is_err() {
        std::future::pending().await
    }
}

/// An open stream.
struct Stream<W: Wire> {
    answers: Streaming<W::Answer>,
    /// By the numbers of requests that left.
    waiting: HashMap<i64, Waiter<W::Answer>>,
}

impl<W: Wire> Stream<W> {
    /// Sends and receives until the stream breaks or the lane ends. Whoever has no answer then is told with the drop.
    async fn exchange(mut self, sender: mpsc::Sender<W::Request>, first: Item<W>, items: &mut mpsc::Receiver<Item<W>>) {
        let mut next = Some(first);
        loop {
            tokio::select! {
                answer = self.answers.message() => {
                    if !self.take(answer) {
                        return;
                    }
                }
                room = sender.clone().reserve_owned(), if next.is_some() => {
                    let Ok(room) = room else { break };
                    let Some(item) = next.take() else { continue };
                    match item {
                        Item::Request { number, request, mut waiter } => {
                            waiter.lost = Lost::Sent;
                            self.waiting.insert(number, waiter);
                            room.send(request);
                        }
                        // Answered already, or taken back before it was answered.
                        Item::Cancel { number } => {
                            let waited = self.waiting.remove(&number).is_some();
                            if let Some(request) = W::cancel(number).filter(|_| waited) {
                                room.send(request);
                            }
                        }
                    }
                }
                item = items.recv(), if next.is_none() => match item {
                    Some(item) => next = Some(item),
                    None => break,
                },
            }
        }
        // Nothing more can be sent. What the node has answered before it stopped may be here already.
        drop((next, sender));
        let rest = async {
            while !self.waiting.is_empty() {
                let answer = self.answers.message().await;
                if !self.take(answer) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, rest).await;
    }

    /// Hands an answer to whoever waits for it. False: no more will come.
    fn take(&mut self, answer: Result<Option<W::Answer>, Status>) -> bool {
        match answer {
            Ok(Some(answer)) => {
                if let Some(waiter) = self.waiting.remove(&W::answered(&answer)) {
                    waiter.answer(answer);
                }
                true
            }
            broken => {
                tracing::debug!(?broken, "a stream to a storage node broke");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
    use futures::StreamExt as _;
    use futures::stream::{self, BoxStream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::oneshot;
    use tonic::codec::{DecodeBuf, Decoder};
    use tonic::{Code, codegen::http::StatusCode};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A node whose streams are of no use.
    #[derive(Clone, Copy)]
    enum Broken {
        /// It cannot be reached.
        Away,
        /// It lets go of the requests, and says nothing about it.
        Deaf,
        /// It takes requests, and says nothing.
        Hangs,
        /// It takes the first request, and ends its answers.
        Ends,
        /// It takes some requests, lets go of the others, and then answers what it has taken.
        Drains,
    }

    /// Requests that a node takes before it drains.
    const TAKEN: usize = 20;

    struct Numbers;

    impl Decoder for Numbers {
        type Item = i64;
        type Error = Status;

        fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<i64>, Status> {
            Ok((bytes.remaining() >= 8).then(|| bytes.get_i64()))
        }
    }

    /// A message of one number.
    fn message(number: i64) -> Result<Frame<Bytes>, Status> {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(8);
        bytes.put_i64(number);
        Ok(Frame::data(bytes.freeze()))
    }

    #[async_trait]
    impl Wire for Broken {
        type Request = i64;
        type Answer = i64;

        async fn open(&self, requests: ReceiverStream<i64>) -> Result<Streaming<i64>, Status> {
            let answers: BoxStream<'static, _> = match self {
                Self::Away => return Err(Status::new(Code::Unavailable, "away")),
                Self::Deaf => stream::pending().boxed(),
                Self::Hangs => requests.filter_map(|_| std::future::ready(None)).boxed(),
                Self::Ends => requests.take(1).filter_map(|_| std::future::ready(None)).boxed(),
                Self::Drains => {
                    let taken = requests.take(TAKEN).collect::<Vec<_>>();
                    stream::once(taken).flat_map(stream::iter).map(message).boxed()
                }
            };
            Ok(Streaming::new_response(Numbers, StreamBody::new(answers), StatusCode::OK, None, None))
        }

        fn number(request: &mut i64, number: i64) {
            *request = number;
        }

        fn answered(answer: &i64) -> i64 {
            *answer
        }

        fn cancel(_number: i64) -> Option<i64> {
            None
        }
    }

    async fn outcomes(wire: Broken) -> Vec<Result<i64, Lost>> {
        let lane = PipelinedStream::start(wire);
        let mut waiting = Vec::new();
        for _ in 0..1000 {
            let (told, outcome) = oneshot::channel();
            lane.send(0, move |outcome| told.send(outcome).expect("somebody waits"));
            waiting.push(outcome);
            tokio::task::yield_now().await;
        }
        let all = futures::future::try_join_all(waiting);
        tokio::time::timeout(LONG, all).await.expect("everybody is answered").expect("nobody is forgotten")
    }

    #[tokio::test]
    async fn whoever_waits_for_a_node_that_hangs_is_told_when_it_is_given_up() {
        let lane = PipelinedStream::start(Broken::Hangs);
        let (told, mut outcome) = oneshot::channel();
        lane.send(0, move |outcome| told.send(outcome).expect("somebody waits"));
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let outcome = loop {
            tokio::select! {
                outcome = &mut outcome => break outcome.expect("nobody is forgotten"),
                _ = ticks.tick() => lane.reset(),
            }
        };
        assert!(outcome.is_err());
        drop(lane);
    }

    #[tokio::test]
    async fn whoever_waits_is_answered_whichever_way_a_stream_breaks() {
        for outcome in outcomes(Broken::Away).await.into_iter().chain(outcomes(Broken::Deaf).await) {
            assert_eq!(outcome, Err(Lost::Unsent));
        }
        let ended = outcomes(Broken::Ends).await;
        assert!(ended.contains(&Err(Lost::Sent)), "a request that left may have been carried out");
    }

    #[tokio::test]
    async fn what_a_node_has_answered_before_it_stopped_is_told() {
        for _ in 0..20 {
            let told = outcomes(Broken::Drains).await;
            let (mut unsent, mut taken) = (0, Vec::new());
            for outcome in told {
                match outcome {
                    Ok(number) => taken.push(number),
                    Err(Lost::Unsent) => unsent += 1,
                    Err(Lost::Sent) => {}
                }
            }
            assert!(taken.len() >= TAKEN && unsent < 1000 - TAKEN, "{} answered, {unsent} never left", taken.len());
            assert!(taken.is_sorted());
        }
    }
}
