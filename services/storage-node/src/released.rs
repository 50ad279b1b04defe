//! Writes that are durable here and wait for other replicas only: they hold neither room nor memory of the shard.

/// Most such writes of one partition; further ones are refused.
const WRITES_MAX: usize = 1024;
/// Bytes of such writes, above which further ones are refused: their senders keep the batches until they are answered.
const BYTES_MAX: usize = 4 << 20;

/// How many writes of a partition have given up their room. Their own bound takes its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) writes: usize,
    pub(crate) bytes: usize,
}

impl Released {
    /// Whether the partition takes no more writes until some of these are answered.
    pub(crate) fn is_full(self) -> bool {
        self.writes >= WRITES_MAX || self.bytes >= BYTES_MAX
    }
}
