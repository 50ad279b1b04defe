//! A batch and the callers whose records it holds.

use std::ops::Range;
use std::time::Duration;

use crate::Ticket;

/// The size of records, by two measures that add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Encoded size in bytes.
    pub bytes: usize,
    /// Cost of decoding them, in bytes.
    pub cost: usize,
}

/// The records of one caller.
#[derive(Debug, Clone)]
pub struct Part<C> {
    /// How many, at least 1.
    pub record_count: i32,
    pub size: Size,
    /// When the caller stops waiting, in the driver's monotonic time.
    pub deadline: Duration,
    /// What the driver needs to build the batch and to answer the caller.
    pub caller: C,
}

/// A part in its batch.
#[derive(Debug)]
pub(crate) struct Placed<C> {
    /// Records of the batch before it.
    pub(crate) first: i64,
    /// Records of the batch's content before it: more, when parts before it are gone.
    in_content: i64,
    pub(crate) part: Part<C>,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It was never sent; parts may join it and leave it.
    Waiting,
    /// An attempt is not answered.
    InFlight,
    /// The last attempt was refused; it is to be sent again.
    Refused,
}

/// Parts that are sent together.
#[derive(Debug)]
pub struct Batch<C, B, F> {
    /// What the driver keeps for it once it was sent: its bytes.
    pub content: Option<B>,
    pub(crate) ticket: Ticket,
    /// `Some`: only parts with the same tag may join.
    pub(crate) tag: Option<u32>,
    pub(crate) size: Size,
    pub(crate) record_count: i32,
    /// A part that was answered is gone.
    pub(crate) parts: Vec<Placed<C>>,
    /// The content has records of parts that are gone, and is to be built again with these only. Decided when the batch
    /// shrank: parts that leave later, while it is in flight, stay in it, as its number counts them.
    kept: Option<Vec<Range<i64>>>,
    pub(crate) state: State,
    pub(crate) attempt: u32,
    /// Given, or assigned when it was last numbered.
    pub(crate) base_sequence: Option<i32>,
    /// An attempt may have been carried out.
    pub(crate) ambiguous: bool,
    pub(crate) last_failure: Option<F>,
}

// === impl Size ===

impl Size {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(more.bytes), cost: self.cost.saturating_add(more.cost) }
    }

    /// Whether it is at most `max` in both measures.
    pub fn fits(self, max: Self) -> bool {
        self.bytes <= max.bytes && self.cost <= max.cost
    }
}

// === impl Batch ===

impl<C, B, F> Batch<C, B, F> {
    pub(crate) fn new(ticket: Ticket, part: Part<C>, tag: Option<u32>, base_sequence: Option<i32>) -> Self {
        let mut batch = Self {
            content: None,
            ticket,
            tag,
            size: Size::default(),
            record_count: 0,
            parts: Vec::with_capacity(1),
            kept: None,
            state: State::Waiting,
            attempt: 0,
            base_sequence,
            ambiguous: false,
            last_failure: None,
        };
        batch.join(part);
        batch
    }

    /// Returns how many records it has.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Size of its records.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Which parts may join it, as told when it was submitted.
    pub fn tag(&self) -> Option<u32> {
        self.tag
    }

    /// The callers that wait for it, in the order of their records.
    pub fn callers_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.parts.iter_mut().map(|placed| &mut placed.part.caller)
    }

    /// Which records of the content the batch still has, in order, when it has fewer than before: the driver builds the
    /// content again with these only.
    pub fn take_kept(&mut self) -> Option<Vec<Range<i64>>> {
        let kept = self.kept.take()?;
        self.parts.iter_mut().for_each(|placed| placed.in_content = placed.first);
        Some(kept)
    }

    pub(crate) fn join(&mut self, part: Part<C>) {
        let first = i64::from(self.record_count);
        self.size = self.size.plus(part.size);
        self.record_count = self.record_count.saturating_add(part.record_count);
        self.parts.push(Placed { first, in_content: first, part });
    }

    /// Takes the parts that `goes` names out of a batch that was never sent; the others close ranks.
    pub(crate) fn leave(&mut self, mut goes: impl FnMut(&Part<C>) -> bool) -> Vec<Part<C>> {
        let mut gone = Vec::new();
        (self.record_count, self.size) = (0, Size::default());
        for Placed { part, .. } in std::mem::take(&mut self.parts) {
            if goes(&part) {
                gone.push(part);
            } else {
                self.join(part);
            }
        }
        gone
    }

    /// Leaves out the records of parts that are gone, of a batch that is certainly not written.
    pub(crate) fn shrink(&mut self) {
        let (before, mut count) = (self.record_count, 0_i32);
        for placed in &mut self.parts {
            placed.first = i64::from(count);
            count = count.saturating_add(placed.part.record_count);
        }
        self.record_count = count;
        if count != before {
            self.kept = Some(self.ranges_in_content());
        }
    }

    /// Where the records of the parts are in the content, in order.
    fn ranges_in_content(&self) -> Vec<Range<i64>> {
        let mut ranges: Vec<Range<i64>> = Vec::with_capacity(self.parts.len());
        for placed in &self.parts {
            let records = placed.in_content..placed.in_content + i64::from(placed.part.record_count);
            match ranges.last_mut().filter(|last| last.end == records.start) {
                Some(last) => last.end = records.end,
                None => ranges.push(records),
            }
        }
        ranges
    }

    pub(crate) fn was_sent(&self) -> bool {
        self.state != State::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(caller: char, record_count: i32) -> Part<char> {
        Part { record_count, size: Size::default(), deadline: Duration::ZERO, caller }
    }

    /// What is kept, as begins and ends.
    fn kept(batch: &mut Batch<char, (), ()>) -> Option<Vec<(i64, i64)>> {
        Some(batch.take_kept()?.into_iter().map(|range| (range.start, range.end)).collect())
    }

    /// Some time passes between the decision to send a batch and the sending: its number is given by then.
    #[test]
    fn what_is_kept_is_what_was_numbered_also_when_the_last_caller_leaves() {
        let mut batch: Batch<char, (), ()> = Batch::new(Ticket(1), part('a', 1), None, None);
        batch.join(part('b', 2));
        batch.join(part('c', 4));
        batch.state = State::Refused;
        batch.parts.retain(|placed| placed.part.caller != 'a');
        batch.shrink();
        batch.state = State::InFlight;
        batch.parts.clear();
        assert_eq!((kept(&mut batch), batch.record_count()), (Some(vec![(1, 7)]), 6));
        assert_eq!(batch.take_kept(), None);
    }

    #[test]
    fn what_leaves_before_the_batch_is_sent_again_is_left_out_as_well() {
        let mut batch: Batch<char, (), ()> = Batch::new(Ticket(1), part('a', 1), None, None);
        batch.join(part('b', 2));
        batch.join(part('c', 4));
        batch.state = State::Refused;
        for caller in ['a', 'b'] {
            batch.parts.retain(|placed| placed.part.caller != caller);
            batch.shrink();
        }
        assert_eq!((kept(&mut batch), batch.record_count()), (Some(vec![(3, 7)]), 4));
        // From then on places are those in the new content.
        batch.parts.push(Placed { first: 4, in_content: 4, part: part('d', 1) });
        batch.record_count = 5;
        batch.parts.remove(0);
        batch.shrink();
        assert_eq!((kept(&mut batch), batch.record_count()), (Some(vec![(4, 5)]), 1));
    }
}
