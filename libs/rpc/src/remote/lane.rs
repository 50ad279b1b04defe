//! A lane: one pipelined stream to a node, opened when it is needed and again after it broke.
//!
//! Requests leave in the order in which they were handed over, so whatever must keep an order goes through one lane.
//! Answers find their request by its number. When the stream breaks, every request learns whether it can have
//! arrived.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Requests between a lane and its connection; more wait in the lane's queue.
const ON_THE_WAY: usize = 64;
/// Requests that wait in a lane; the permits of appends bound their bytes. More are refused.
const QUEUE: usize = 16_384;

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

/// Called once, on any thread; MUST NOT block.
type Reply<A> = Box<dyn FnOnce(Result<A, Lost>) + Send>;

enum Item<W: Wire> {
    Request { number: i64, request: W::Request, reply: Reply<W::Answer> },
    Cancel { number: i64 },
}

/// The sending end. Clones share the stream.
pub(super) struct Lane<W: Wire> {
    queue: mpsc::Sender<Item<W>>,
    next: Arc<AtomicI64>,
}

impl<W: Wire> Clone for Lane<W> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), next: Arc::clone(&self.next) }
    }
}

impl<W: Wire> Debug for Lane<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<W: Wire> Lane<W> {
    /// Starts a lane; nothing is connected yet. It ends with its last clone.
    pub(super) fn start(wire: W) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(run(wire, items));
        Self { queue, next: Arc::default() }
    }

    /// Hands over a request; gives back its number.
    pub(super) fn send(&self, mut request: W::Request, reply: Reply<W::Answer>) -> i64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        W::number(&mut request, number);
        if let Err(TrySendError::Full(item) | TrySendError::Closed(item)) =
            self.queue.try_send(Item::Request { number, request, reply })
        {
            refuse(item);
        }
        number
    }

    /// Nobody waits for a request any more.
    pub(super) fn cancel(&self, number: i64) {
        // Without it the answer comes, and is dropped.
        let _ = self.queue.try_send(Item::Cancel { number });
    }
}

/// Opens a stream whenever there is something to send.
async fn run<W: Wire>(wire: W, mut items: mpsc::Receiver<Item<W>>) {
    while let Some(item) = items.recv().await {
        let Item::Request { .. } = &item else { continue };
        let (sender, requests) = mpsc::channel(ON_THE_WAY);
        match wire.open(ReceiverStream::new(requests)).await {
            Ok(answers) => {
                let mut stream = Stream::<W> { answers, sender, waiting: HashMap::new() };
                stream.exchange(item, &mut items).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a stream to a storage node cannot be opened");
                refuse(item);
                while let Ok(item) = items.try_recv() {
                    refuse(item);
                }
            }
        }
    }
}

fn refuse<W: Wire>(item: Item<W>) {
    if let Item::Request { reply, .. } = item {
        reply(Err(Lost::Unsent));
    }
}

/// An open stream.
struct Stream<W: Wire> {
    answers: Streaming<W::Answer>,
    sender: mpsc::Sender<W::Request>,
    waiting: HashMap<i64, Reply<W::Answer>>,
}

impl<W: Wire> Stream<W> {
    /// Sends and receives until the stream breaks or the lane ends.
    async fn exchange(&mut self, first: Item<W>, items: &mut mpsc::Receiver<Item<W>>) {
        let mut next = Some(first);
        loop {
            tokio::select! {
                answer = self.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        if let Some(reply) = self.waiting.remove(&W::answered(&answer)) {
                            reply(Ok(answer));
                        }
                    }
                    broken => {
                        tracing::debug!(?broken, "a stream to a storage node broke");
                        break;
                    }
                },
                room = self.sender.clone().reserve_owned(), if next.is_some() => {
                    let (Ok(room), Some(item)) = (room, next.take()) else { break };
                    match item {
                        Item::Request { number, request, reply } => {
                            self.waiting.insert(number, reply);
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
        for (_, reply) in self.waiting.drain() {
            reply(Err(Lost::Sent));
        }
        if let Some(item) = next {
            refuse(item);
        }
    }
}
