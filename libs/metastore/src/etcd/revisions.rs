//! Revisions of etcd, and the ones that leave this crate: those of etcd plus a base, which is larger from a certain one on
//! when the store has taken the place of another one.
//!
//! A base counts from the revision at which it was written. What was there before keeps its numbers, so a key that was
//! read before can be compared after it.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{Revision, StoreError};

/// Version of the value's layout: the bases before this one, each with the revision of etcd from which it counts, and at
/// the end this one, all as big-endian 64-bit numbers.
const VERSION: u8 = 1;
/// One base and where it begins.
const STEP_LEN: usize = 16;
/// How often a store can take the place of another one.
const STEPS_MAX: usize = 1_000;

/// A base, from a revision of etcd on (inclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    from: i64,
    base: i64,
}

/// What is added to the revisions of etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// Ascending in both. Before the first one nothing is added.
    steps: Vec<Step>,
}

impl Revisions {
    /// Reads the key's value. `written_at`: the revision of etcd at which it was written.
    pub(crate) fn decode(value: &[u8], written_at: i64) -> Result<Self, StoreError> {
        let unreadable = || StoreError::Format("the base of the revisions cannot be read".to_owned());
        let (version, rest) = value.split_first().ok_or_else(unreadable)?;
        let (steps, last) = rest.as_chunks::<STEP_LEN>();
        let last = last.try_into().map_err(|_| unreadable())?;
        if *version != VERSION || steps.len() >= STEPS_MAX {
            return Err(unreadable());
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number: i64, byte| number << 8 | i64::from(*byte));
        let before = steps.iter().map(|step| Step { from: number(&step[..8]), base: number(&step[8..]) });
        let steps: Vec<_> = before.chain([Step { from: written_at, base: i64::from_be_bytes(last) }]).collect();
        if !steps.is_sorted_by(|one, other| one.from < other.from && one.base < other.base) {
            return Err(unreadable());
        }
        Ok(Self { steps })
    }

    /// The value that makes every revision from its own on greater than `floor`, when etcd is at `current` or later.
    pub(crate) fn encode_above(&self, floor: Revision, current: i64) -> Result<Bytes, StoreError> {
        if self.steps.len() + 1 >= STEPS_MAX {
            return Err(StoreError::Invalid(format!("the store has taken the place of others {STEPS_MAX} times")));
        }
        let mut value = BytesMut::with_capacity(1 + self.steps.len() * STEP_LEN + 8);
        value.put_u8(VERSION);
        for step in &self.steps {
            value.put_i64(step.from);
            value.put_i64(step.base);
        }
        value.put_i64(floor - current);
        Ok(value.freeze())
    }

    /// How often the base has grown.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The revision of etcd at which the base was written last.
    pub(crate) fn written_at(&self) -> Option<i64> {
        self.steps.last().map(|step| step.from)
    }

    /// What a revision of etcd is called outside.
    pub(crate) fn of(&self, raw: i64) -> Revision {
        let step = self.steps.iter().rev().find(|step| step.from <= raw);
        raw + step.map_or(0, |step| step.base)
    }

    /// The latest revision of etcd that is called this, or less.
    pub(crate) fn at_or_below(&self, revision: Revision) -> i64 {
        let mut below = i64::MAX;
        for step in self.steps.iter().rev() {
            if step.from + step.base <= revision {
                return (revision - step.base).min(below);
            }
            below = step.from - 1;
        }
        revision.min(below)
    }

    /// The revision of etcd that is called this. `None`: none is.
    pub(crate) fn exactly(&self, revision: Revision) -> Option<i64> {
        Some(self.at_or_below(revision)).filter(|raw| self.of(*raw) == revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(before: &Revisions, floor: Revision, current: i64, written_at: i64) -> Revisions {
        Revisions::decode(&before.encode_above(floor, current).unwrap(), written_at).unwrap()
    }

    #[test]
    fn revisions_grow_over_every_base_and_lead_back() {
        let plain = Revisions::default();
        assert_eq!((plain.of(7), plain.exactly(7), plain.at_or_below(7)), (7, Some(7), 7));
        let once = raised(&plain, 1_000, 10, 12);
        assert_eq!((once.of(11), once.of(12)), (11, 1_002));
        let twice = raised(&once, 9_000, 20, 21);
        assert_eq!((twice.of(11), twice.of(20), twice.of(21)), (11, 1_010, 9_001));
        for (name, revisions) in [("plain", plain), ("once", once), ("twice", twice)] {
            let (mut last, mut gaps) = (0, 0);
            for raw in 1..40 {
                let revision = revisions.of(raw);
                assert!(revision > last, "{name}");
                assert_eq!((revisions.exactly(revision), revisions.at_or_below(revision)), (Some(raw), raw), "{name}");
                if revision > last + 1 {
                    gaps += 1;
                    assert_eq!(revisions.exactly(revision - 1), None, "{name}: nothing has this number");
                    assert_eq!(revisions.at_or_below(revision - 1), raw - 1, "{name}");
                }
                last = revision;
            }
            assert_eq!(gaps, revisions.steps.len(), "{name}");
        }
    }

    #[test]
    fn the_value_keeps_its_layout_and_others_are_refused() {
        let once = raised(&Revisions::default(), 0x0102, 2, 5);
        let value = once.encode_above(0x0a0b0c, 0x0c).unwrap();
        let golden = [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b, 0];
        assert_eq!(value[..], golden);
        assert!(Revisions::decode(&golden, 6).is_ok());
        let unordered = Revisions::decode(&golden, 5);
        assert!(matches!(unordered, Err(StoreError::Format(_))), "{unordered:?}");
        for wrong in [&golden[..24], &[2][..], &[]] {
            assert!(Revisions::decode(wrong, 9).is_err());
        }
    }
}
