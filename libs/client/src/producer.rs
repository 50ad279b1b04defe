//! A producer that writes every batch exactly once, also when the connection or the server goes away in between.
//!
//! Batches carry a producer id and the sequence of their partition. What is sent when, what is sent again and what
//! callers are told decides the [`Sequencer`], the same that the gateway runs; the [`driver`] owns the connection and
//! the session.
//!
//! [`Sequencer`]: walser_sequencer::Sequencer

mod driver;
mod link;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use walser_model::{Acks, ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_record_batch::BatchBuilder;
use walser_rpc::ApiError;
use walser_sequencer::Session;

use crate::connection::Client;

use self::driver::Driver;

/// Batches between the callers and the task behind a producer; the buffer's bytes bound them, too.
const COMMANDS: usize = 64;

/// How a producer writes.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// The topic. It must exist.
    pub topic: String,
    /// When a batch counts as written.
    pub acks: Acks,
    /// A batch that is not acknowledged for this long after [`Producer::send`] fails.
    pub delivery_timeout: Duration,
    /// Bytes that may wait; [`Producer::send`] waits above.
    pub buffer_bytes: usize,
}

/// Where a batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub partition: i32,
    /// Offset of its first record; -1 with acks NONE.
    pub base_offset: i64,
    /// The server had it already.
    pub duplicate: bool,
}

/// The outcome of one batch, once it is known.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<Delivered, ApiError>>);

/// Writes batches to one topic, and to no other one of its name. Dropping it lets what was sent finish.
#[derive(Debug, Clone)]
pub struct Producer {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    buffer_bytes: usize,
    trouble: watch::Receiver<Option<ApiError>>,
}

/// A batch on its way to the task behind a producer.
#[derive(Debug)]
struct Command {
    partition: i32,
    builder: BatchBuilder,
    caller: Caller,
}

/// Who waits for a batch.
#[derive(Debug)]
struct Caller {
    done: oneshot::Sender<Result<Delivered, ApiError>>,
    _room: OwnedSemaphorePermit,
}

impl Future for Delivery {
    type Output = Result<Delivered, ApiError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || ApiError::internal("the producer ended before the batch was answered");
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

// === impl Producer ===

impl Producer {
    /// Starts a producer with a session of its own.
    ///
    /// # Errors
    /// When no session can be had.
    pub async fn start(client: &Client, config: ProducerConfig) -> Result<Self, ApiError> {
        let session = init(client.clone(), None).await?;
        let found = client.topics().get_topic(pb::GetTopicRequest { name: config.topic.clone() }).await;
        // Without the controller a producer cannot tell the topic from another one of its name, and writes.
        let topic_id = found.ok().and_then(|found| found.into_inner().topic).unwrap_or_default().id;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let room = Arc::new(Semaphore::new(config.buffer_bytes));
        let buffer_bytes = config.buffer_bytes;
        let (troubled, trouble) = watch::channel(None);
        tokio::spawn(Driver::new(client.separate(), config, topic_id, session, troubled).run(receiver));
        Ok(Self { commands, room, buffer_bytes, trouble })
    }

    /// Why batches are being sent again, for people: what came last of refusals that pass and of connections that broke;
    /// `None` once a batch is acknowledged.
    pub fn trouble(&self) -> watch::Receiver<Option<ApiError>> {
        self.trouble.clone()
    }

    /// Sends a batch on its way; waits while too much is on its way already. Batches of one partition are written
    /// in the order of the calls.
    ///
    /// # Errors
    /// When the producer has ended.
    pub async fn send(&self, partition: i32, builder: BatchBuilder) -> Result<Delivery, ApiError> {
        let ended = || ApiError::internal("the producer has ended");
        let bytes = builder.uncompressed_len().min(self.buffer_bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| ended())?;
        let (done, delivery) = oneshot::channel();
        let caller = Caller { done, _room: room };
        self.commands.send(Command { partition, builder, caller }).await.map_err(|_| ended())?;
        Ok(Delivery(delivery))
    }
}

/// A session that replaces `previous`, or a new one.
async fn init(client: Client, previous: Option<Session>) -> Result<Session, ApiError> {
    let previous = previous
        .map(|session| pb::ProducerIdentity { producer_id: session.id.0, producer_epoch: i32::from(session.epoch.0) });
    let answer = client.producer().init_producer(pb::InitProducerRequest { previous }).await?.into_inner();
    let producer = answer.producer.ok_or_else(|| ApiError::internal("the server gave no producer session"))?;
    let epoch = i16::try_from(producer.producer_epoch).map_err(|_| ApiError::internal("bad producer epoch"))?;
    Ok(Session { id: ProducerId(producer.producer_id), epoch: ProducerEpoch(epoch) })
}
