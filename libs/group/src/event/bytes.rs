//! Cursors over the bytes of an event. All numbers are big-endian.

use std::collections::BTreeMap;
use std::time::Duration;

use walser_model::{PartitionIndex, TopicId, TopicPartition, whole_millis};

use super::codec::EventCodecError;

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

/// Reads values from bytes. Never reads beyond the end, and allocates no more than the bytes can hold.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn int(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn long(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn millis(&mut self, value: Duration) {
        self.long(whole_millis(value));
    }

    pub(super) fn count(&mut self, value: usize) {
        self.0.extend(u32::try_from(value).expect("limits are far below 2^32").to_be_bytes());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.count(value.len());
        self.0.extend(value.as_bytes());
    }

    /// An option as a byte, 0 or 1, and the value.
    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn topic_partition(&mut self, value: &TopicPartition) {
        self.0.extend(value.topic.to_bytes());
        self.int(value.partition.0);
    }

    /// Partitions in their order, each topic once: its id, how many, and of each the index and what belongs to it.
    pub(super) fn by_topic<T: Copy>(
        &mut self,
        partitions: impl Iterator<Item = (TopicPartition, T)>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let mut topics: BTreeMap<TopicId, Vec<(PartitionIndex, T)>> = BTreeMap::new();
        for (partition, of_it) in partitions {
            topics.entry(partition.topic).or_default().push((partition.partition, of_it));
        }
        self.count(topics.len());
        for (topic, partitions) in topics {
            self.0.extend(topic.to_bytes());
            self.count(partitions.len());
            for (partition, of_it) in partitions {
                self.int(partition.0);
                write(self, of_it);
            }
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], EventCodecError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(EventCodecError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], EventCodecError> {
        Ok(self.take(N)?.try_into().expect("exactly N bytes were taken"))
    }

    pub(super) fn byte(&mut self) -> Result<u8, EventCodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn int(&mut self) -> Result<i32, EventCodecError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, EventCodecError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn millis(&mut self) -> Result<Duration, EventCodecError> {
        let millis = u64::try_from(self.long()?).map_err(|_| EventCodecError::Invalid("time span"))?;
        Ok(Duration::from_millis(millis))
    }

    pub(super) fn count(&mut self) -> Result<usize, EventCodecError> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| EventCodecError::Invalid("count"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, EventCodecError> {
        let length = self.count()?;
        str::from_utf8(self.take(length)?).map_err(|_| EventCodecError::Invalid("text"))
    }

    /// A text that is parsed.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, what: &'static str) -> Result<T, EventCodecError> {
        self.text()?.parse().map_err(|_| EventCodecError::Invalid(what))
    }

    pub(super) fn bool(&mut self) -> Result<bool, EventCodecError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(EventCodecError::Invalid("flag")),
        }
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, EventCodecError>,
    ) -> Result<Option<T>, EventCodecError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    fn topic(&mut self) -> Result<TopicId, EventCodecError> {
        self.array().map(TopicId::from_bytes)
    }

    pub(super) fn topic_partition(&mut self) -> Result<TopicPartition, EventCodecError> {
        Ok(TopicPartition::new(self.topic()?, PartitionIndex(self.int()?)))
    }

    /// The partitions that [`Writer::by_topic`] wrote. They must be in their order, none of them twice.
    pub(super) fn by_topic<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, EventCodecError>,
    ) -> Result<Vec<(TopicPartition, T)>, EventCodecError> {
        let mut found: Vec<(TopicPartition, T)> = Vec::new();
        for _ in 0..self.count()? {
            let topic = self.topic()?;
            for _ in 0..self.count()? {
                let partition = TopicPartition::new(topic, PartitionIndex(self.int()?));
                if found.last().is_some_and(|(last, _)| *last >= partition) {
                    return Err(EventCodecError::Invalid("order of partitions"));
                }
                found.push((partition, read(self)?));
            }
        }
        Ok(found)
    }

    /// Fails unless everything was read.
    pub(super) fn end(self) -> Result<(), EventCodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(EventCodecError::Trailing(self.0.len())) }
    }
}
