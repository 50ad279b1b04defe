//! The latest offset of each key, in memory that is bounded.

use std::hash::{BuildHasher as _, RandomState};

use walser_model::Offset;

/// Of the places that there are, at most this many of sixteen are used: the others keep searches short.
const FULL_SIXTEENTHS: usize = 13;
/// Fewer keys would make a compaction of every batch.
const PLACES_MIN: usize = 1 << 10;

/// A key by two hashes of it, with keys of their own: two keys that are taken for one by chance, or on purpose, have
/// 128 bits in common.
#[derive(Debug, Clone, Copy)]
struct Place {
    hash: [u64; 2],
    /// Negative: nothing is here.
    offset: Offset,
}

/// Open addressing (Knuth, TAOCP volume 3, section 6.4, linear probing); nothing is ever taken out.
#[derive(Debug)]
pub(super) struct OffsetMap {
    hashers: [RandomState; 2],
    places: Vec<Place>,
    used: usize,
}

impl OffsetMap {
    /// One that takes so many bytes of memory, or what the fewest keys need.
    pub(super) fn new(memory_bytes: usize) -> Self {
        let count = (memory_bytes / size_of::<Place>()).max(PLACES_MIN);
        let nothing = Place { hash: [0; 2], offset: Offset(-1) };
        Self { hashers: Default::default(), places: vec![nothing; count], used: 0 }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)]
    }

    /// Where a key is, or would be.
    fn place(&self, hash: [u64; 2]) -> usize {
        let count = self.places.len();
        let mut at = usize::try_from(hash[0] % count as u64).unwrap_or(0);
        while self.places[at].offset >= Offset::ZERO && self.places[at].hash != hash {
            at = (at + 1) % count;
        }
        at
    }

    /// Notes a later offset of a key. False: there is no room for another key.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let at = self.place(hash);
        let is_new = self.places[at].offset < Offset::ZERO;
        if is_new && self.used >= self.places.len() / 16 * FULL_SIXTEENTHS {
            return false;
        }
        self.used += usize::from(is_new);
        self.places[at] = Place { hash, offset };
        true
    }

    /// The latest offset that was noted of a key.
    pub(super) fn latest(&self, key: &[u8]) -> Option<Offset> {
        Some(self.places[self.place(self.hash(key))].offset).filter(|offset| *offset >= Offset::ZERO)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }
}

#[test]
fn the_latest_offset_of_each_key_is_there_until_it_is_full() {
    let mut map = OffsetMap::new(0);
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
