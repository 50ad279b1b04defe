//! What is in a file, on the disk and in the cache above it.

/// Unsynced data survives power loss or does not by blocks of this size.
const BLOCK_BYTES: usize = 512;

/// The bytes of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// As the process sees them.
    pub(super) data: Vec<u8>,
    /// As a power loss leaves them.
    pub(super) durable: Vec<u8>,
    /// What the next sync writes, in order.
    pub(super) pending: Vec<Change>,
    /// Writes to the disk that failed.
    pub(super) errors: u64,
}

/// A change that is not on the disk yet.
#[derive(Debug)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// `SplitMix64`: small, seeded, good enough to choose blocks.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("the remainder is below a usize")
    }
}

// === impl Change ===

impl Change {
    pub(super) fn apply(self, data: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(data, at, &bytes),
            Self::Length(len) => data.resize(len, 0),
        }
    }
}

// === impl Contents ===

impl Contents {
    /// What a power loss leaves: the durable bytes and, with a generator, some blocks of later writes.
    pub(super) fn survivors(&self, random: Option<&mut Random>) -> Vec<u8> {
        let mut data = self.durable.clone();
        let Some(random) = random else { return data };
        for change in &self.pending {
            match change {
                Change::Length(len) if random.below(2) == 0 => data.resize(*len, 0),
                Change::Length(_) => {}
                Change::Write { at, bytes } => {
                    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                        if random.below(4) == 0 {
                            continue;
                        }
                        put(&mut data, at + index * BLOCK_BYTES, block);
                    }
                }
            }
        }
        data
    }
}

pub(super) fn put(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].copy_from_slice(bytes);
}
