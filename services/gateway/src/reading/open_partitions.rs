//! Partitions that are read side by side for one stream, each by a task of its own, into one bounded queue: a client that
//! stops reading stops the tasks, and a partition without a leader holds up no other.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use walser_rpc::ApiError;

use super::Reading;
use super::budget::StreamBudget;
use super::cursor::PartitionReader;
use super::follow::{EventSender, PartitionEvent, follow};
use super::request::Options;
use super::target::Target;

/// Chunks between the readers of partitions and the client.
const QUEUE: usize = 1;

/// The partitions of one stream.
pub(crate) struct OpenPartitions {
    partitions: PartitionReader,
    options: Options,
    budget: StreamBudget,
    told: mpsc::Sender<(usize, PartitionEvent)>,
    heard: mpsc::Receiver<(usize, PartitionEvent)>,
    readers: JoinSet<()>,
    open: HashMap<usize, AbortHandle>,
    opened: usize,
    /// A reader met a bug.
    panicked: bool,
}

impl OpenPartitions {
    /// No partitions; what is read of them takes `budget`.
    pub(crate) fn new(reading: &Reading, options: Options, budget: StreamBudget) -> Self {
        let (told, heard) = mpsc::channel(QUEUE);
        let partitions = reading.partitions.clone();
        let (readers, open) = (JoinSet::new(), HashMap::new());
        Self { partitions, options, budget, told, heard, readers, open, opened: 0, panicked: false }
    }

    /// Reads a partition from a place on, in chunks of at most so many records. Returns the number of its reader: they
    /// count up from 0.
    pub(crate) fn open(&mut self, target: Target, records_max: usize) -> usize {
        let number = self.opened;
        self.opened += 1;
        // Those that were closed do not wait for the next word of the others.
        while let Some(read) = self.readers.try_join_next() {
            self.panicked |= read.is_err_and(|error| error.is_panic());
        }
        let events = EventSender { told: self.told.clone(), number, budget: self.budget.clone() };
        let reader = self.readers.spawn(follow(self.partitions.clone(), target, self.options, records_max, events));
        self.open.insert(number, reader);
        number
    }

    /// Ends a reader. What it has said already may still come.
    pub(crate) fn close(&mut self, number: usize) {
        if let Some(reader) = self.open.remove(&number) {
            reader.abort();
        }
    }

    /// What a reader says next, and which one. Safe to cancel.
    ///
    /// # Errors
    /// A reader met a bug: its partition would never be heard of again, and the stream would look complete.
    pub(crate) async fn next(&mut self) -> Result<(usize, PartitionEvent), ApiError> {
        loop {
            if self.panicked {
                return Err(ApiError::internal("reading a partition met a bug of the server"));
            }
            tokio::select! {
                biased;
                Some(read) = self.readers.join_next() => {
                    self.panicked = read.is_err_and(|error| error.is_panic());
                }
                Some(told) = self.heard.recv() => return Ok(told),
            }
        }
    }
}
