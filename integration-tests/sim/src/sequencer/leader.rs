//! The leader of a partition, as far as writes meet it: it leads or does not, judges batches by what their producer
//! wrote before, and appends. Its log survives every move, as with acks all.

use std::time::Duration;

use walser_log::Producers;
use walser_model::{Compression, Offset, SequenceCheck};
use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields};
use walser_sequencer::{Answer, Number, Refused};

/// Why an attempt failed; the simulated failure.
pub(super) type Why = Refused;

/// A partition at its leader.
#[derive(Debug)]
pub(super) struct Leader {
    /// Nobody leads before.
    pub(super) away_until: Duration,
    producers: Producers,
    /// Records, by offset.
    pub(super) log: Vec<u64>,
    template: BatchHeader,
}

/// What an attempt came to.
pub(super) struct Attempted {
    pub(super) answer: Answer<i64, Why>,
    pub(super) duplicate: bool,
}

impl Leader {
    pub(super) fn new() -> Self {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 0, key: None, value: None, headers: &[] });
        let template = BatchHeader::parse(&builder.build(Producer::NONE)).expect("a batch that was just built");
        Self { away_until: Duration::ZERO, producers: Producers::default(), log: Vec::new(), template }
    }

    /// Takes an attempt. `refuses`: the leader cannot write now, for a reason of its own.
    pub(super) fn attempt(
        &mut self,
        now: Duration,
        records: &[u64],
        number: Option<Number>,
        refuses: bool,
    ) -> Attempted {
        let refused = |refused| Attempted {
            answer: Answer::Refused { refused, maybe: false, failure: refused },
            duplicate: false,
        };
        if now < self.away_until {
            return refused(Refused::Moved);
        }
        let base_offset = Offset(i64::try_from(self.log.len()).expect("a short log"));
        let record_count = i32::try_from(records.len()).expect("a small batch");
        let mut header =
            BatchHeader { base_offset, record_count, last_offset_delta: record_count - 1, ..self.template };
        if let Some(number) = number {
            header.producer_id = number.session.id;
            header.producer_epoch = number.session.epoch;
            header.base_sequence = number.base_sequence;
        }
        match self.producers.check_sequence(&header) {
            SequenceCheck::Duplicate { base_offset, .. } => {
                return Attempted { answer: Answer::Written(base_offset.0), duplicate: true };
            }
            SequenceCheck::Fenced { .. } => return refused(Refused::Fenced),
            SequenceCheck::Forgotten { .. } => return refused(Refused::Applied),
            SequenceCheck::OutOfOrder { .. } => return refused(Refused::Gap),
            SequenceCheck::Unknown => return refused(Refused::UnknownProducer),
            SequenceCheck::Next if refuses => return refused(Refused::ForGood),
            SequenceCheck::Next => {}
        }
        self.producers.record(&header, 0);
        self.log.extend_from_slice(records);
        Attempted { answer: Answer::Written(base_offset.0), duplicate: false }
    }
}
