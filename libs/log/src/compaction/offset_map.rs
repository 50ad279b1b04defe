//! The latest offset of each key, in memory that is bounded.

use std::hash::{BuildHasher as _, RandomState};

use walser_model::Offset;

/// Of the places that there are, at most this many of sixteen are used: the others keep searches short.
const FULL_SIXTEENTHS: usize = 13;
/// Fewer keys would make a compaction of every batch.
const PLACES_MIN: usize = 1 << 10;

/// Bits of an offset, counted from one below the first that can be noted.
const OFFSET_BITS: u32 = 40;

/// A key by 88 bits of two hashes with keys of their own: that any two of ten million keys are taken for one has a
/// probability of 10^-13, also where somebody chooses the keys. Below them the offset; 0: nothing is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u128);

/// Open addressing (Knuth, TAOCP volume 3, section 6.4, linear probing); nothing is ever taken out.
#[derive(Debug)]
pub(super) struct OffsetMap {
    hashers: [RandomState; 2],
    places: Vec<Place>,
    used: usize,
    /// The first offset that can be noted.
    base: Offset,
}

impl Place {
    const NONE: Self = Self(0);

    /// That of a key, without an offset.
    fn of_key(hash: [u64; 2]) -> Self {
        Self((u128::from(hash[0]) << 64 | u128::from(hash[1])) >> OFFSET_BITS << OFFSET_BITS)
    }

    fn is_of(self, key: Self) -> bool {
        self.0 >> OFFSET_BITS == key.0 >> OFFSET_BITS
    }

    /// Counted from one below the base of the map.
    fn offset(self) -> u64 {
        u64::try_from(self.0 & ((1 << OFFSET_BITS) - 1)).unwrap_or(0)
    }
}

impl OffsetMap {
    /// One that takes so many bytes of memory, or what the fewest keys need, for offsets from `base` on.
    pub(super) fn new(memory_bytes: usize, base: Offset) -> Self {
        let count = (memory_bytes / size_of::<Place>()).max(PLACES_MIN);
        Self { hashers: Default::default(), places: vec![Place::NONE; count], used: 0, base }
    }

    /// Where a key is, or would be.
    fn place(&self, key: &[u8]) -> (usize, Place) {
        let hash = [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)];
        let (key, count) = (Place::of_key(hash), self.places.len());
        // Without a division, of which there would be one for each place looked at (Lemire, "Fast random integer
        // generation in an interval", 2019).
        let mut at = usize::try_from((u128::from(hash[0]) * count as u128) >> 64).unwrap_or(0);
        while self.places[at] != Place::NONE && !self.places[at].is_of(key) {
            at += 1;
            if at == count {
                at = 0;
            }
        }
        (at, key)
    }

    /// Notes a later offset of a key. False: there is no room for another key, or none for such an offset.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let (at, key) = self.place(key);
        let is_new = self.places[at] == Place::NONE;
        let counted = u64::try_from(offset.since(self.base)).ok().and_then(|above| above.checked_add(1));
        let Some(counted) = counted.filter(|counted| counted >> OFFSET_BITS == 0) else { return false };
        if is_new && self.used >= self.places.len() / 16 * FULL_SIXTEENTHS {
            return false;
        }
        self.used += usize::from(is_new);
        self.places[at] = Place(key.0 | u128::from(counted));
        true
    }

    /// The latest offset that was noted of a key.
    pub(super) fn latest(&self, key: &[u8]) -> Option<Offset> {
        let above = self.places[self.place(key).0].offset().checked_sub(1)?;
        Some(self.base.plus(i64::try_from(above).ok()?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }
}

#[test]
fn the_latest_offset_of_each_key_is_there_until_it_is_full() {
    let mut map = OffsetMap::new(0, Offset::ZERO);
    let mut taken = 0;
    while map.note(&[b"key", &i64::to_be_bytes(taken)[..]].concat(), Offset(taken)) {
        taken += 1;
    }
    assert!(taken > 500 && map.note(&[b"key", &i64::to_be_bytes(3)[..]].concat(), Offset(9_000)), "{taken}");
    for number in 0..taken {
        let expected = if number == 3 { 9_000 } else { number };
        assert_eq!(map.latest(&[b"key", &i64::to_be_bytes(number)[..]].concat()), Some(Offset(expected)));
    }
    assert_eq!(map.latest(b"another"), None);
}

#[test]
fn offsets_count_from_the_first_one_and_reach_as_far_as_there_is_room() {
    let base = Offset(1 << 60);
    let mut map = OffsetMap::new(0, base);
    let last = base.plus((1 << OFFSET_BITS) - 2);
    assert!(map.note(b"first", base) && map.note(b"last", last));
    assert!(!map.note(b"first", last.plus(1)) && !map.note(b"another", last.plus(1)));
    assert_eq!([map.latest(b"first"), map.latest(b"last"), map.latest(b"another")], [Some(base), Some(last), None]);
}
