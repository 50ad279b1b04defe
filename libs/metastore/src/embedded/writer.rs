//! The writer: requests that wait while it writes are decided in their order and made durable together.
//!
//! At most one writer exists, on a blocking thread for as long as something waits. A request that is in the queue is
//! carried out even when its caller has gone away, so that nothing is torn.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Embedded;
use super::file::{Reopened, unavailable};
use crate::engine::{Decided, WriteRequest};
use crate::{Outcome, StoreError};

/// Requests and bytes of their keys and values that are made durable together; one larger request is a group of its
/// own.
const GROUP_REQUESTS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Requests in the queue. Further callers wait outside of it, and leave nothing there when they go away.
const QUEUE_MAX: usize = 1_024;

type Answer = Result<Outcome, StoreError>;

/// Requests that wait for the writer.
#[derive(Debug)]
pub(super) struct WriteQueue {
    state: Mutex<QueueState>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct QueueState {
    waiting: VecDeque<QueuedRequest>,
    /// There is a writer.
    writing: bool,
    /// Requests of the next group. 1 after a group that failed, then doubled: what fits on a full disk is not refused for
    /// what does not.
    group_max: usize,
}

#[derive(Debug)]
struct QueuedRequest {
    request: WriteRequest,
    caller: oneshot::Sender<Answer>,
    _permit: OwnedSemaphorePermit,
}

/// The right to write. Dropped before its time, as by a panic, it lets all callers know that nothing more will come.
pub(super) struct WriterTurn {
    queue: Arc<WriteQueue>,
    ended: bool,
}

/// What became of a group.
struct GroupOutcome {
    answers: Vec<(QueuedRequest, Answer)>,
    /// Requests that were decided with changes that did not happen.
    undecided: Vec<QueuedRequest>,
    failed: bool,
}

// === impl WriteQueue ===

impl Default for WriteQueue {
    fn default() -> Self {
        let state = QueueState { waiting: VecDeque::new(), writing: false, group_max: GROUP_REQUESTS_MAX };
        Self { state: Mutex::new(state), permits: Arc::new(Semaphore::new(QUEUE_MAX)) }
    }
}

impl WriteQueue {
    /// Puts a request at the end. When there is no writer, the caller must start one.
    fn push(self: &Arc<Self>, request: QueuedRequest) -> Option<WriterTurn> {
        let mut state = self.state.lock();
        state.waiting.push_back(request);
        let first = !std::mem::replace(&mut state.writing, true);
        first.then(|| WriterTurn { queue: Arc::clone(self), ended: false })
    }

    /// Takes the next group: at least one request, when there is any.
    fn next_group(&self) -> Vec<QueuedRequest> {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let fits = |queued: &&QueuedRequest| {
            bytes += queued.request.bytes();
            bytes <= GROUP_BYTES_MAX
        };
        let count = state.waiting.iter().take(state.group_max).take_while(fits).count();
        let count = count.max(1).min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// Puts requests back to the front, and sizes the next group.
    fn group_done(&self, undecided: Vec<QueuedRequest>, failed: bool) {
        let mut state = self.state.lock();
        state.group_max = if failed { 1 } else { (2 * state.group_max).min(GROUP_REQUESTS_MAX) };
        for queued in undecided.into_iter().rev() {
            state.waiting.push_front(queued);
        }
    }

    /// Takes the turn while nothing waits: requests queue until it runs.
    #[cfg(test)]
    pub(super) fn pause(self: &Arc<Self>) -> WriterTurn {
        let mut state = self.state.lock();
        assert!(!std::mem::replace(&mut state.writing, true), "there is a writer");
        WriterTurn { queue: Arc::clone(self), ended: false }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

// === impl WriterTurn ===

impl WriterTurn {
    /// Writes until nothing waits.
    pub(super) fn run(mut self, store: Embedded) {
        loop {
            let group = self.queue.next_group();
            let GroupOutcome { answers, undecided, failed } = store.write_group(group);
            self.queue.group_done(undecided, failed);
            if self.end() {
                // A caller that has its answer may close the store, and open the file again.
                drop(store);
                answers.into_iter().for_each(answer);
                return;
            }
            answers.into_iter().for_each(answer);
        }
    }

    /// Ends the turn, unless something waits.
    fn end(&mut self) -> bool {
        let mut state = self.queue.state.lock();
        if state.waiting.is_empty() {
            state.writing = false;
            self.ended = true;
        }
        self.ended
    }
}

impl Drop for WriterTurn {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.queue.state.lock();
            state.writing = false;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            drop(waiting);
        }
    }
}

fn answer((queued, answer): (QueuedRequest, Answer)) {
    // A caller that has gone away does not want to know.
    let _ = queued.caller.send(answer);
}

// === impl Embedded ===

impl Embedded {
    /// Carries out a request, together with those that wait at the same time.
    pub(super) async fn write(&self, request: WriteRequest) -> Answer {
        let permits = Arc::clone(&self.queue.permits);
        let permit = permits.acquire_owned().await.map_err(unavailable)?;
        let (caller, answer) = oneshot::channel();
        if let Some(turn) = self.queue.push(QueuedRequest { request, caller, _permit: permit }) {
            let store = self.clone();
            // From a task of its own, which runs once the caller's has to wait: what that one asks for at the same time is
            // in the queue by then, and belongs to the first group.
            tokio::spawn(async move { drop(tokio::task::spawn_blocking(move || turn.run(store))) });
        }
        let stopped = |_| StoreError::Unknown("the writer of the metadata file stopped; read again".to_owned());
        answer.await.map_err(stopped)?
    }

    /// Decides requests, makes what they change durable, and applies it.
    fn write_group(&self, group: Vec<QueuedRequest>) -> GroupOutcome {
        if self.file.is_closed()
            && let Err(error) = self.reopen()
        {
            let answers = group.into_iter().map(|queued| (queued, Err(error.clone()))).collect();
            return GroupOutcome { answers, undecided: Vec::new(), failed: true };
        }
        let revision = self.engine.revision();
        let decided = self.engine.decide(group.iter().map(|queued| &queued.request));
        let (mut prepared, mut answers) = (Vec::new(), Vec::new());
        for (queued, decided) in group.into_iter().zip(decided) {
            let Decided { prepared: change, answer } = decided;
            answers.push((queued, answer, change.is_some()));
            prepared.extend(change);
        }
        let as_decided = |answers: Vec<(QueuedRequest, Answer, bool)>| {
            let answers = answers.into_iter().map(|(queued, answer, _)| (queued, answer)).collect();
            GroupOutcome { answers, undecided: Vec::new(), failed: false }
        };
        // A lease without keys ends without a write.
        if prepared.last().is_none_or(|last| last.revision == revision) {
            self.engine.apply(prepared);
            return as_decided(answers);
        }
        let failed = match self.file.write(prepared) {
            Ok(prepared) => {
                self.engine.apply(prepared);
                return as_decided(answers);
            }
            Err(failed) => failed,
        };
        match self.reopen() {
            Ok(true) => as_decided(answers),
            Ok(false) => undone(answers, &StoreError::Unavailable(failed), true),
            Err(_) => undone(answers, &StoreError::Unknown(failed), false),
        }
    }

    /// Opens the file again. Applies the write that failed when it is in the file, and returns whether it is.
    fn reopen(&self) -> Result<bool, StoreError> {
        Ok(match self.file.reopen()? {
            Reopened::Written(group) => {
                self.engine.apply(group);
                true
            }
            Reopened::Lost(group) => {
                self.engine.discard(&group);
                false
            }
        })
    }
}

/// After a write that failed: requests with changes are answered with `error`. Others were decided with changes that did
/// not happen: they are decided again, or refused when they cannot be.
fn undone(answers: Vec<(QueuedRequest, Answer, bool)>, error: &StoreError, decide_again: bool) -> GroupOutcome {
    let mut outcome = GroupOutcome { answers: Vec::new(), undecided: Vec::new(), failed: true };
    for (queued, _, changes) in answers {
        if changes {
            outcome.answers.push((queued, Err(error.clone())));
        } else if decide_again {
            outcome.undecided.push(queued);
        } else {
            outcome
                .answers
                .push((queued, Err(unavailable("the file is closed, and opened again with the next request"))));
        }
    }
    outcome
}
