//! What waits to be sent to a gateway: answers, and notices of its members, in the order in which they were made.
//!
//! Bounds: a request holds a permit from its arrival until its answer is taken, and without one no request is read. Of the
//! notices to one member only the newest is kept: it says all that the ones before said.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use walser_group::{AttachmentNumber, GroupId, MemberId, Notice};
use walser_rpc::ApiError;

/// Requests of one stream whose answers were not taken. A large one counts as several.
const UNANSWERED_MAX: u32 = 256;
/// Bytes that count as one request.
const REQUEST_BYTES: usize = 64 << 10;

/// What is sent next.
#[derive(Debug)]
pub(crate) enum Outgoing<A> {
    Answer(A),
    Notice(Notice),
}

/// The queue of one stream. Clones share it.
#[derive(Debug)]
pub(crate) struct Outbox<A> {
    queue: Arc<Mutex<Queue<A>>>,
    filled: Arc<Notify>,
    unanswered: Arc<Semaphore>,
}

#[derive(Debug)]
struct Queue<A> {
    next: u64,
    items: BTreeMap<u64, (Outgoing<A>, Option<OwnedSemaphorePermit>)>,
    /// Where the notice of a member's attachment waits.
    noticed: HashMap<(GroupId, MemberId, AttachmentNumber), u64>,
    /// Why the stream ends behind what waits.
    end: Option<ApiError>,
    closed: bool,
}

/// Where the driver of a shard puts notices.
pub(crate) trait NoticeSink: Send + Sync {
    /// Adds a notice. MUST NOT block.
    fn tell(&self, notice: Notice);

    /// The stream ends behind what was told.
    fn end(&self, why: ApiError);

    /// Whether nobody takes anything any more.
    fn is_closed(&self) -> bool;
}

impl<A> Clone for Outbox<A> {
    fn clone(&self) -> Self {
        let Self { queue, filled, unanswered } = self;
        Self { queue: Arc::clone(queue), filled: Arc::clone(filled), unanswered: Arc::clone(unanswered) }
    }
}

impl<A> Default for Outbox<A> {
    fn default() -> Self {
        let queue = Queue { next: 0, items: BTreeMap::new(), noticed: HashMap::new(), end: None, closed: false };
        let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX as usize));
        Self { queue: Arc::new(Mutex::new(queue)), filled: Arc::default(), unanswered }
    }
}

// === impl Outbox ===

impl<A> Outbox<A> {
    /// Waits until a request of so many bytes may be handled. `None`: the stream is over.
    pub(crate) async fn admit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let cost = u32::try_from(1 + bytes / REQUEST_BYTES).unwrap_or(UNANSWERED_MAX).min(UNANSWERED_MAX);
        Arc::clone(&self.unanswered).acquire_many_owned(cost).await.ok()
    }

    /// Adds the answer of a request that holds a permit.
    pub(crate) fn answer(&self, permit: OwnedSemaphorePermit, answer: A) {
        self.queue.lock().push(Outgoing::Answer(answer), Some(permit));
        self.filled.notify_one();
    }

    /// The next that is to be sent; the reason when the stream is over.
    pub(crate) async fn next(&self) -> Result<Outgoing<A>, ApiError> {
        loop {
            let filled = self.filled.notified();
            {
                let mut queue = self.queue.lock();
                if let Some((_, (item, _permit))) = queue.items.pop_first() {
                    if let Outgoing::Notice(notice) = &item {
                        queue.noticed.remove(&key(notice));
                    }
                    return Ok(item);
                }
                if let Some(end) = &queue.end {
                    return Err(end.clone());
                }
            }
            filled.await;
        }
    }

    /// Nobody takes anything any more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.items.clear();
        queue.noticed.clear();
        self.unanswered.close();
    }

    /// Answers and notices that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().items.len()
    }
}

fn key(notice: &Notice) -> (GroupId, MemberId, AttachmentNumber) {
    (notice.group.clone(), notice.member.clone(), notice.attachment)
}

// === impl Queue ===

impl<A> Queue<A> {
    fn push(&mut self, item: Outgoing<A>, permit: Option<OwnedSemaphorePermit>) {
        if self.closed || self.end.is_some() {
            return;
        }
        let number = self.next;
        self.next += 1;
        if let Outgoing::Notice(notice) = &item
            && let Some(older) = self.noticed.insert(key(notice), number)
        {
            self.items.remove(&older);
        }
        self.items.insert(number, (item, permit));
    }
}

impl<A: Send> NoticeSink for Outbox<A> {
    fn tell(&self, notice: Notice) {
        self.queue.lock().push(Outgoing::Notice(notice), None);
        self.filled.notify_one();
    }

    fn end(&self, why: ApiError) {
        self.queue.lock().end.get_or_insert(why);
        self.filled.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }
}

#[cfg(test)]
mod tests {
    use walser_group::{CurrentAssignment, GroupEpoch, NoticeContent};
    use walser_rpc::Reason;

    use super::*;

    fn notice(member: &str, epoch: i32) -> Notice {
        let current = CurrentAssignment { epoch: GroupEpoch(epoch), ..CurrentAssignment::default() };
        Notice {
            gateway: "gateway".parse().unwrap(),
            group: "group".parse().unwrap(),
            member: member.parse().unwrap(),
            attachment: AttachmentNumber(1),
            content: NoticeContent::Assignment(current),
        }
    }

    async fn taken(outbox: &Outbox<u8>) -> String {
        match outbox.next().await.unwrap() {
            Outgoing::Answer(number) => number.to_string(),
            Outgoing::Notice(Notice { member, content: NoticeContent::Assignment(current), .. }) => {
                format!("{member} {}", current.epoch)
            }
            Outgoing::Notice(notice) => notice.member.to_string(),
        }
    }

    #[tokio::test]
    async fn of_the_notices_to_a_member_the_newest_waits_in_its_place_among_answers() {
        let outbox = Outbox::<u8>::default();
        outbox.tell(notice("a", 1));
        outbox.answer(outbox.admit(0).await.unwrap(), 7);
        outbox.tell(notice("b", 1));
        outbox.tell(notice("a", 2));
        outbox.end(ApiError::new(Reason::StaleEpoch, "over"));
        outbox.tell(notice("a", 3));
        assert_eq!(outbox.len(), 3);
        assert_eq!([taken(&outbox).await, taken(&outbox).await, taken(&outbox).await], ["7", "b 1", "a 2"]);
        assert_eq!(outbox.next().await.unwrap_err().reason(), Reason::StaleEpoch);
    }

    #[tokio::test]
    async fn a_gateway_that_takes_no_answers_has_no_more_requests_read() {
        let outbox = Outbox::<u8>::default();
        for _ in 0..UNANSWERED_MAX {
            let permit = outbox.admit(0).await.unwrap();
            outbox.answer(permit, 0);
        }
        assert!(Arc::clone(&outbox.unanswered).try_acquire_owned().is_err());
        taken(&outbox).await;
        assert!(outbox.admit(0).await.is_some());
        outbox.close();
        assert!(outbox.admit(0).await.is_none() && outbox.is_closed());
    }
}
