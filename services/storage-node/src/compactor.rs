//! What the compactions of a node share: one runs at a time, which bounds their memory, at a pace of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How much a compaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionLimits {
    /// Bytes of memory for keys.
    pub(crate) memory_bytes: usize,
    /// Bytes that are read in a second; 0: as many as the disk gives.
    pub(crate) bytes_per_second: u64,
}

/// The turn that is to be had, and whether there is any more. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Compactor {
    pub(crate) limits: CompactionLimits,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when the node stops.
    ends: Condvar,
}

/// How often each of those that wait may ask while whoever is next is away, before its place is given up: all of them look
/// once, in any order, before it looks again.
const ABSENCES_MAX: usize = 3;

#[derive(Debug, Default)]
struct State {
    taken: bool,
    /// Who asked in vain, in order, and how often others have asked since it was its turn.
    waiting: VecDeque<(CompactionSeat, usize)>,
    seats: u32,
    ended: bool,
}

/// Who asks for the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionSeat(u32);

/// Whoever has it may compact a log. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct CompactionTurn {
    compactor: Compactor,
    held: Arc<()>,
}

// === impl Compactor ===

impl Compactor {
    pub(crate) fn new(limits: CompactionLimits) -> Self {
        Self { limits, shared: Arc::default() }
    }

    /// For one more that asks.
    pub(crate) fn seat(&self) -> CompactionSeat {
        let mut state = self.shared.state.lock();
        state.seats += 1;
        CompactionSeat(state.seats)
    }

    /// `None`: somebody else has it, somebody else is next, or the node stops. Whoever asks in vain is next in its turn.
    pub(crate) fn try_turn(&self, seat: CompactionSeat) -> Option<CompactionTurn> {
        let mut state = self.shared.state.lock();
        let others = state.waiting.len().saturating_sub(1).max(1);
        if !state.taken
            && let Some((first, absences)) = state.waiting.front_mut()
            && *first != seat
        {
            *absences += 1;
            if *absences > ABSENCES_MAX * others {
                state.waiting.pop_front();
            }
        }
        let is_next = state.waiting.front().is_none_or(|(first, _)| *first == seat);
        if state.taken || state.ended || !is_next {
            if !state.waiting.iter().any(|(waiting, _)| *waiting == seat) {
                state.waiting.push_back((seat, 0));
            }
            return None;
        }
        state.waiting.pop_front();
        state.taken = true;
        Some(CompactionTurn { compactor: self.clone(), held: Arc::default() })
    }

    /// Nothing is wanted any more.
    pub(crate) fn withdraw(&self, seat: CompactionSeat) {
        self.shared.state.lock().waiting.retain(|(waiting, _)| *waiting != seat);
    }

    /// Whether somebody has the turn, or the node stops.
    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.shared.state.lock();
        state.taken || state.ended
    }

    /// Whether somebody waits: whoever has had the turn lets others be first.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.shared.state.lock().waiting.is_empty()
    }

    /// The node stops: what runs ends soon, and nothing begins any more.
    pub(crate) fn end(&self) {
        self.shared.state.lock().ended = true;
        self.shared.ends.notify_all();
    }
}

// === impl CompactionTurn ===

impl CompactionTurn {
    /// It is held for as long as this has somebody.
    pub(crate) fn held(&self) -> Weak<()> {
        Arc::downgrade(&self.held)
    }

    /// Waits for as long as so many bytes take. False: the node stops.
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let Compactor { limits, shared } = &self.compactor;
        let mut state = shared.state.lock();
        if limits.bytes_per_second > 0 && !state.ended {
            let seconds = bytes as f64 / limits.bytes_per_second as f64;
            shared.ends.wait_for(&mut state, Duration::from_secs_f64(seconds));
        }
        !state.ended
    }
}

impl Drop for CompactionTurn {
    fn drop(&mut self) {
        self.compactor.shared.state.lock().taken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unlimited() -> Compactor {
        Compactor::new(CompactionLimits { memory_bytes: 1, bytes_per_second: 0 })
    }

    #[test]
    fn one_has_the_turn_until_it_is_dropped_and_nobody_after_the_end() {
        let compactor = unlimited();
        let (one, other) = (compactor.seat(), compactor.seat());
        let turn = compactor.try_turn(one).unwrap();
        assert!(compactor.is_busy() && !compactor.is_wanted());
        assert!(compactor.try_turn(other).is_none() && turn.spend(1 << 30) && compactor.is_wanted());
        drop(turn);
        let turn = compactor.try_turn(other).unwrap();
        compactor.end();
        assert!(!turn.spend(1));
        drop(turn);
        assert!(compactor.is_busy() && compactor.try_turn(one).is_none());
    }

    #[test]
    fn whoever_asked_first_is_next_unless_it_does_not_come() {
        let compactor = unlimited();
        let (one, other, third) = (compactor.seat(), compactor.seat(), compactor.seat());
        let turn = compactor.try_turn(one).unwrap();
        assert!(compactor.try_turn(other).is_none() && compactor.try_turn(third).is_none());
        drop(turn);
        assert!(compactor.try_turn(one).is_none(), "it has had it");
        assert!(compactor.try_turn(third).is_none(), "another one is next");
        drop(compactor.try_turn(other).unwrap());
        compactor.withdraw(third);
        let turn = compactor.try_turn(one).unwrap();
        assert!(compactor.try_turn(other).is_none());
        drop(turn);
        let asked = (0..=ABSENCES_MAX).map(|_| compactor.try_turn(one).is_some()).collect::<Vec<_>>();
        assert_eq!(asked, [false, false, false, true], "one that never comes holds nobody up");
    }

    /// The one that is next may be the last of them to look.
    #[test]
    fn of_many_that_look_in_turn_none_is_passed_over() {
        for (count, looks_of_a_job) in [(6, 2), (8, 3), (16, 5), (64, 7)] {
            let compactor = unlimited();
            let seats: Vec<_> = (0..count).map(|_| compactor.seat()).collect();
            let (mut turns, mut running) = (vec![0; count], None);
            for look in 0..500 * count {
                running = running.filter(|(_, _, end)| look < *end);
                let one = look % count;
                if running.as_ref().is_some_and(|(of, _, _)| *of == one) {
                    continue;
                }
                if let Some(turn) = compactor.try_turn(seats[one]) {
                    turns[one] += 1;
                    running = Some((one, turn, look + looks_of_a_job));
                }
            }
            let (least, most) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
            assert!(most - least <= 2, "{count} look in turn, and have had {turns:?} turns");
        }
    }

    #[test]
    fn whoever_waits_for_its_pace_hears_of_the_end() {
        let compactor = Compactor::new(CompactionLimits { memory_bytes: 1, bytes_per_second: 1 });
        let turn = compactor.try_turn(compactor.seat()).unwrap();
        let waiting = std::thread::spawn(move || turn.spend(1 << 20));
        compactor.end();
        assert!(!waiting.join().unwrap());
    }
}
