//! Records that a leader has pushed, checked before they get near a log (rule R16).

use bytes::Bytes;
use walser_log::{Admission, Log, Run};
use walser_model::{LeaderEpoch, Offset};
use walser_record_batch::{BatchHeader, HeaderError, NotContinued, continuing};
use walser_replication::Frame;

use super::WindowPermit;

/// A frame with its batches.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// What is left of it.
    frame: Frame,
    batches: Bytes,
    /// Of the batches, in their order.
    headers: Vec<BatchHeader>,
    /// How many of them have been taken.
    taken: usize,
    _room: Option<WindowPermit>,
    /// Of batches that are traced; they end when all of the frame is in the log.
    spans: Vec<tracing::Span>,
}

/// What can be appended of a frame at once: a frame by itself.
pub(crate) struct Part {
    pub(crate) frame: Frame,
    pub(crate) run: Run,
    pub(crate) headers: Vec<BatchHeader>,
}

/// Why a frame is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFrame {
    #[error("a batch is damaged: {0}")]
    Batch(#[from] HeaderError),
    #[error("a batch of offsets {base} to {next} is where {expected} was expected")]
    Gap { base: Offset, next: Offset, expected: Offset },
    #[error("the batches end at {found}, the frame at {expected}")]
    End { found: Offset, expected: Offset },
    #[error("a batch is of leader epoch {found}, behind one of {before} and in a frame of {of_frame}")]
    Epoch { found: LeaderEpoch, before: LeaderEpoch, of_frame: LeaderEpoch },
}

impl Pushed {
    /// Checks a frame: its batches are whole, cover its offsets without a gap, and their leader epochs do not go back.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub(crate) fn check(frame: Frame, batches: Bytes, room: Option<WindowPermit>) -> Result<Self, BadFrame> {
        let of_frame = frame.leader_epoch;
        let headers = continuing(&batches, frame.base, LeaderEpoch::NONE).map_err(|error| match error {
            NotContinued::Batch(error) => BadFrame::Batch(error),
            NotContinued::Gap { base, next, expected } => BadFrame::Gap { base, next, expected },
            NotContinued::Epoch { found, before } => BadFrame::Epoch { found, before, of_frame },
        })?;
        // None of the others is of a higher one.
        let latest = headers.last().map_or(LeaderEpoch::NONE, |last| last.leader_epoch);
        if latest > of_frame {
            return Err(BadFrame::Epoch { found: latest, before: latest, of_frame });
        }
        let expected = headers.last().map_or(frame.base, BatchHeader::next_offset);
        if expected != frame.end {
            return Err(BadFrame::End { found: expected, expected: frame.end });
        }
        Ok(Self { frame, batches, headers, taken: 0, _room: room, spans: Vec::new() })
    }

    /// Has spans end with it.
    pub(crate) fn traced(mut self, spans: Vec<tracing::Span>) -> Self {
        self.spans = spans;
        self
    }

    /// What is left of the frame.
    pub(crate) fn frame(&self) -> Frame {
        self.frame
    }

    /// The next batch that is to be appended.
    pub(crate) fn next(&self) -> Option<&BatchHeader> {
        self.headers.get(self.taken)
    }

    /// Takes those of its batches that can be appended at once, at most about `bytes_max` of them. The first one MUST be
    /// admitted by the log.
    pub(crate) fn take(&mut self, log: &Log, bytes_max: usize) -> Part {
        let (mut count, mut bytes) = (0, 0);
        for header in &self.headers[self.taken..] {
            if count > 0 && (bytes + header.size > bytes_max || log.admission(bytes, header) != Admission::Fits) {
                break;
            }
            (count, bytes) = (count + 1, bytes + header.size);
        }
        let headers = self.headers[self.taken..self.taken + count].to_vec();
        let end = headers.last().map_or(self.frame.base, BatchHeader::next_offset);
        let part = Part { frame: Frame { end, ..self.frame }, run: self.batches.split_to(bytes).into(), headers };
        self.taken += count;
        self.frame.base = end;
        part
    }
}

#[cfg(test)]
mod tests {
    use walser_model::Compression;
    use walser_record_batch::{BatchBuilder, Producer, RecordFields, stamp_position};
    use walser_replication::ReplicationSessionId;

    use super::*;

    fn batch(base: i64, epoch: i32) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(b"value"), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, Offset(base), LeaderEpoch(epoch));
        batch
    }

    fn frame(base: i64, end: i64) -> Frame {
        let open = ReplicationSessionId { node_epoch: 1, sequence: 1 };
        let (base, end, high_watermark, log_start) = (Offset(base), Offset(end), Offset(0), Offset(0));
        let (leader_epoch, tombstone_floor) = (LeaderEpoch(5), Offset(0));
        Frame { leader_epoch, open, base, end, high_watermark, log_start, tombstone_floor }
    }

    fn check(frame: Frame, batches: &[Vec<u8>]) -> Result<Pushed, BadFrame> {
        Pushed::check(frame, batches.concat().into(), None)
    }

    #[test]
    fn only_whole_batches_that_cover_the_frame_are_taken() {
        assert!(check(frame(7, 7), &[]).is_ok());
        assert!(check(frame(7, 9), &[batch(7, 4), batch(8, 5)]).is_ok());
        assert!(matches!(check(frame(7, 9), &[batch(7, 4)]), Err(BadFrame::End { .. })));
        assert!(matches!(check(frame(7, 9), &[batch(7, 4), batch(9, 4)]), Err(BadFrame::Gap { .. })));
        assert!(matches!(check(frame(7, 9), &[batch(7, 5), batch(8, 4)]), Err(BadFrame::Epoch { .. })));
        assert!(matches!(check(frame(7, 8), &[batch(7, 6)]), Err(BadFrame::Epoch { .. })));
        let mut damaged = batch(7, 4);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(check(frame(7, 8), &[damaged]), Err(BadFrame::Batch(_))));
        let torn = batch(7, 4)[..40].to_vec();
        assert!(matches!(check(frame(7, 8), &[torn]), Err(BadFrame::Batch(_))));
    }
}
