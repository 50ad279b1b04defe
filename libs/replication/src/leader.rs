//! The leader of a partition: when an offset is committed, and when a write may be answered.
//!
//! ```text
//!   log start        durable (self)      log end
//!      |------------------|-----------------|
//!                    ^ high watermark = min over the in-sync set of the position that counts:
//!                      durable with fsync, log end with page-cache
//! ```

use std::collections::BTreeSet;

use walser_model::{Acks, Durability, LeaderEpoch, NodeId, Offset};

/// What a leader starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// This node.
    pub node: NodeId,
    /// The epoch in which it leads.
    pub epoch: LeaderEpoch,
    /// The in-sync set, this node included.
    pub isr: BTreeSet<NodeId>,
    /// Effective `min.insync.replicas`, as the controller says.
    pub min_isr: usize,
    /// What counts as a position.
    pub durability: Durability,
    /// End of the log. Exclusive.
    pub log_end: Offset,
    /// Everything below is on stable storage here. Exclusive.
    pub durable: Offset,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The log ends here now.
    Appended {
        /// Exclusive.
        log_end: Offset,
    },
    /// Everything below is on stable storage here.
    Flushed {
        /// Exclusive.
        durable: Offset,
    },
    /// The topic's durability changed.
    Configured {
        /// What counts from now on.
        durability: Durability,
    },
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Readers may see everything below, and writes that wait for it can be answered.
    Commit {
        /// The new high watermark. Exclusive.
        high_watermark: Offset,
    },
}

/// Too few replicas are in sync for `acks=all` (rule R25).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{isr} replicas are in sync, {min_isr} are needed")]
pub struct NotEnoughReplicas {
    /// In sync now.
    pub isr: usize,
    /// Needed.
    pub min_isr: usize,
}

/// The leader's state.
#[derive(Debug, Clone)]
pub struct Leader {
    node: NodeId,
    epoch: LeaderEpoch,
    isr: BTreeSet<NodeId>,
    min_isr: usize,
    durability: Durability,
    log_end: Offset,
    durable: Offset,
    high_watermark: Offset,
}

// === impl Leader ===

impl Leader {
    /// Starts leading. Gives back the first commit, if what is there is committed already.
    ///
    /// # Panics
    /// When the leader is not in its own in-sync set: the controller never decides that (invariant I8).
    pub fn start(start: Start) -> (Self, Option<Action>) {
        assert!(start.isr.contains(&start.node), "a leader is in its in-sync set");
        let mut leader = Self {
            node: start.node,
            epoch: start.epoch,
            isr: start.isr,
            min_isr: start.min_isr,
            durability: start.durability,
            log_end: start.log_end,
            durable: start.durable,
            high_watermark: Offset::ZERO,
        };
        let action = leader.advance();
        (leader, action)
    }

    /// Takes an event.
    pub fn step(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Appended { log_end } => self.log_end = self.log_end.max(log_end),
            Event::Flushed { durable } => self.durable = self.durable.max(durable),
            Event::Configured { durability } => self.durability = durability,
        }
        debug_assert!(self.durable <= self.log_end, "nothing is durable beyond the log end");
        self.advance()
    }

    /// Rule R3: the high watermark follows the lowest position of the in-sync set, while that set is large enough.
    /// Rule R4: it never goes back.
    fn advance(&mut self) -> Option<Action> {
        let alone = self.isr.len() == 1;
        let committed = if alone && self.min_isr <= 1 { self.position() } else { self.high_watermark };
        if committed <= self.high_watermark {
            return None;
        }
        self.high_watermark = committed;
        Some(Action::Commit { high_watermark: committed })
    }

    /// This node's own position: what counts of its log.
    fn position(&self) -> Offset {
        match self.durability {
            Durability::Fsync => self.durable,
            Durability::PageCache => self.log_end,
        }
    }

    /// Whether a write may be appended at all.
    ///
    /// # Errors
    /// [`NotEnoughReplicas`] for `acks=all` while the in-sync set is too small.
    pub fn admit(&self, acks: Acks) -> Result<(), NotEnoughReplicas> {
        if acks == Acks::All && self.isr.len() < self.min_isr {
            return Err(NotEnoughReplicas { isr: self.isr.len(), min_isr: self.min_isr });
        }
        Ok(())
    }

    /// Whether a write that ends at `next_offset` (exclusive) may be answered (rules R25, R26).
    pub fn answerable(&self, acks: Acks, next_offset: Offset) -> bool {
        match acks {
            Acks::None => true,
            Acks::Leader => self.position() >= next_offset,
            Acks::All => self.high_watermark >= next_offset,
        }
    }

    /// End of what readers may see. Exclusive.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The epoch in which this node leads.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// What counts as a position.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// How many copies an acknowledgement rests on.
    pub fn copies(&self, acks: Acks) -> usize {
        match acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => self.isr.len(),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alone(durability: Durability, min_isr: usize) -> (Leader, Option<Action>) {
        Leader::start(Start {
            node: NodeId(1),
            epoch: LeaderEpoch(4),
            isr: BTreeSet::from([NodeId(1)]),
            min_isr,
            durability,
            log_end: Offset(10),
            durable: Offset(10),
        })
    }

    #[test]
    fn with_fsync_only_durable_offsets_are_committed() {
        let (mut leader, first) = alone(Durability::Fsync, 1);
        assert_eq!(first, Some(Action::Commit { high_watermark: Offset(10) }));
        assert_eq!(leader.step(Event::Appended { log_end: Offset(15) }), None);
        assert!(!leader.answerable(Acks::All, Offset(15)) && !leader.answerable(Acks::Leader, Offset(15)));
        assert!(leader.answerable(Acks::None, Offset(15)));
        let committed = leader.step(Event::Flushed { durable: Offset(15) });
        assert_eq!(committed, Some(Action::Commit { high_watermark: Offset(15) }));
        assert!(leader.answerable(Acks::All, Offset(15)));
    }

    #[test]
    fn with_page_cache_written_offsets_are_committed() {
        let (mut leader, _) = alone(Durability::PageCache, 1);
        let committed = leader.step(Event::Appended { log_end: Offset(15) });
        assert_eq!(committed, Some(Action::Commit { high_watermark: Offset(15) }));
    }

    #[test]
    fn below_min_isr_nothing_is_committed_or_admitted() {
        let (mut leader, first) = alone(Durability::Fsync, 2);
        assert_eq!(first, None);
        assert_eq!(leader.admit(Acks::All), Err(NotEnoughReplicas { isr: 1, min_isr: 2 }));
        assert_eq!(leader.admit(Acks::Leader), Ok(()));
        leader.step(Event::Appended { log_end: Offset(11) });
        assert_eq!(leader.step(Event::Flushed { durable: Offset(11) }), None);
    }

    proptest! {
        #[test]
        fn the_high_watermark_never_goes_back_nor_beyond_what_counts(
            events in proptest::collection::vec((0..4u8, 0..50i64), 0..100),
        ) {
            let (mut leader, _) = alone(Durability::Fsync, 1);
            let (mut end, mut durable, mut before) = (10, 10, Offset(10));
            for (kind, step) in events {
                let event = match kind {
                    0 => { end += step; Event::Appended { log_end: Offset(end) } }
                    1 => { durable = (durable + step).min(end); Event::Flushed { durable: Offset(durable) } }
                    2 => Event::Configured { durability: Durability::PageCache },
                    _ => Event::Configured { durability: Durability::Fsync },
                };
                leader.step(event);
                prop_assert!(leader.high_watermark() >= before && leader.high_watermark() <= Offset(end));
                before = leader.high_watermark();
            }
        }
    }
}
