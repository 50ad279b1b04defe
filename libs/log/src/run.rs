//! Batches on their way into a log: one after the other, and large ones where they are.
//!
//! A batch is its header, which the leader stamps, and a body that stays as it came. Large bodies are written from the
//! memory in which they came, small ones are copied: a piece that is written by itself costs as much as copying some
//! kilobytes, and keeps alive whatever memory it is a part of.

use std::io::IoSlice;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use walser_record_batch::HEADER_LEN;

/// Bodies from this size on are not copied.
const SHARED_FROM: usize = 16 << 10;

/// Whole batches in order.
#[derive(Debug, Default, Clone)]
pub struct Run {
    pieces: Vec<Bytes>,
    /// What comes behind the pieces.
    copied: BytesMut,
    len: usize,
}

impl Run {
    /// An empty one, with room for so many bytes that are copied: what [`Run::copied_bytes`] says of its batches.
    pub fn with_capacity(copied_bytes: usize) -> Self {
        Self { pieces: Vec::new(), copied: BytesMut::with_capacity(copied_bytes), len: 0 }
    }

    /// How much of a batch of this size is copied.
    pub fn copied_bytes(batch_bytes: usize) -> usize {
        if batch_bytes - HEADER_LEN.min(batch_bytes) < SHARED_FROM { batch_bytes } else { HEADER_LEN }
    }

    /// Adds a batch by its header and what lies behind that.
    pub fn push(&mut self, header: &[u8; HEADER_LEN], body: Bytes) {
        self.len += header.len() + body.len();
        self.copied.extend_from_slice(header);
        if body.len() < SHARED_FROM {
            self.copied.extend_from_slice(&body);
        } else {
            self.pieces.push(self.copied.split().freeze());
            self.pieces.push(body);
        }
    }

    /// Bytes of all batches.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops everything behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len.min(self.len);
        self.len = left;
        for piece in &mut self.pieces {
            piece.truncate(left);
            left -= piece.len();
        }
        self.copied.truncate(left);
        self.pieces.retain(|piece| !piece.is_empty());
    }

    /// What it is made of, in order.
    pub fn into_pieces(mut self) -> Vec<Bytes> {
        if !self.copied.is_empty() {
            self.pieces.push(self.copied.freeze());
        }
        self.pieces
    }

    /// The pieces of a part, as they are written.
    pub(crate) fn slices(&self, part: Range<usize>) -> Vec<IoSlice<'_>> {
        let (mut skip, mut left) = (part.start, part.len());
        let mut slices = Vec::with_capacity(self.pieces.len() + 1);
        for piece in self.pieces.iter().map(|piece| &piece[..]).chain([&self.copied[..]]) {
            let from = skip.min(piece.len());
            let to = (from + left).min(piece.len());
            skip -= from;
            left -= to - from;
            if to > from {
                slices.push(IoSlice::new(&piece[from..to]));
            }
        }
        slices
    }
}

/// One or more whole batches, copied.
impl From<&[u8]> for Run {
    fn from(batches: &[u8]) -> Self {
        Self { pieces: Vec::new(), copied: batches.into(), len: batches.len() }
    }
}

/// One or more whole batches that lie together, not copied.
impl From<Bytes> for Run {
    fn from(batches: Bytes) -> Self {
        let len = batches.len();
        Self { pieces: vec![batches], copied: BytesMut::new(), len }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_part_of_it_is_what_was_pushed(
            bodies in proptest::collection::vec(prop_oneof![0..200usize, SHARED_FROM - 1..SHARED_FROM + 2], 0..6),
            (from, to, cut) in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
        ) {
            let mut run = Run::with_capacity(bodies.iter().map(|body| Run::copied_bytes(HEADER_LEN + body)).sum());
            let mut all = Vec::new();
            for (number, len) in (0u8..).zip(bodies) {
                let (header, body) = ([number; HEADER_LEN], vec![number ^ 0x80; len]);
                all.extend_from_slice(&header);
                all.extend_from_slice(&body);
                run.push(&header, body.into());
            }
            let (from, to) = (from.index(all.len() + 1), to.index(all.len() + 1));
            let part = from.min(to)..from.max(to);
            let written: Vec<u8> = run.slices(part.clone()).iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert_eq!(written, &all[part]);
            let cut = cut.index(all.len() + 1);
            run.truncate(cut);
            prop_assert_eq!(run.len(), cut);
            prop_assert_eq!(run.into_pieces().concat(), &all[..cut]);
        }
    }
}
