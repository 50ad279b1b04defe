//! What a reader wants to read: targets, positions and options, checked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use walser_model::{Clock, LeaderEpoch, Offset};
use walser_proto::v1 as pb;
use walser_rpc::{Failure, OffsetQuery};

use crate::error::no_answer;
use crate::metadata::TopicView;
use crate::router::Router;
use crate::topics::Topics;

use super::decode::Shape;

/// Targets of one call after topics are spread over their partitions.
const PARTITIONS_MAX: usize = 10_000;
/// What a client takes that says nothing: the default of most gRPC libraries.
const CLIENT_MESSAGE_BYTES: usize = 4 << 20;
const CLIENT_MESSAGE_BYTES_MIN: i32 = 8 << 10;
/// Largest message that is sent, whatever a client takes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long a leader may take to answer what needs no waiting, before it counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A place in a log, as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Offset(i64),
    Time(i64),
    Earliest,
    Latest,
    /// Records before the end.
    Last(i64),
}

/// One partition to read.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) topic: Arc<TopicView>,
    pub(crate) partition: i32,
    pub(crate) start: Place,
    pub(crate) end: Option<Place>,
    pub(crate) last_epoch: i32,
}

/// Options of a read, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) shape: Shape,
    pub(crate) out_of_range: pb::OutOfRangePolicy,
}

/// A place found in a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundPlace {
    /// -1: no record at or after the time.
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: i32,
}

impl Target {
    pub(crate) fn topic_partition(&self) -> pb::TopicPartition {
        pb::TopicPartition { topic: self.topic.name.to_string(), partition: self.partition }
    }
}

impl Options {
    /// The same, with room for what is in the answer already.
    pub(crate) fn within(mut self, taken: usize) -> Self {
        self.shape.message_bytes_max = self.shape.message_bytes_max.saturating_sub(taken);
        self
    }
}

/// Checks the options of a read.
pub(crate) fn options(options: Option<&pb::ReadOptions>) -> Result<Options, Failure> {
    let options = options.cloned().unwrap_or_default();
    let bad = |field: &str, value: i32| Err(Failure::field(field, format!("{value} is not a value of the enum")));
    if pb::Isolation::try_from(options.isolation).is_err() {
        return bad("options.isolation", options.isolation);
    }
    let Ok(encoding) = pb::Encoding::try_from(options.encoding) else {
        return bad("options.encoding", options.encoding);
    };
    let Ok(out_of_range) = pb::OutOfRangePolicy::try_from(options.out_of_range) else {
        return bad("options.out_of_range", options.out_of_range);
    };
    let message_bytes_max = match options.max_message_bytes {
        0 => CLIENT_MESSAGE_BYTES,
        bytes if bytes < CLIENT_MESSAGE_BYTES_MIN => {
            let text = format!("must be at least {CLIENT_MESSAGE_BYTES_MIN}, or 0 for 4 MiB");
            return Err(Failure::field("options.max_message_bytes", text));
        }
        bytes => usize::try_from(bytes).unwrap_or(CLIENT_MESSAGE_BYTES).min(MESSAGE_BYTES_MAX),
    };
    let batches = encoding == pb::Encoding::RecordBatches;
    if batches && options.metadata_only {
        return Err(Failure::field("options.metadata_only", "cannot be used with whole batches"));
    }
    let shape = Shape { batches, metadata_only: options.metadata_only, message_bytes_max };
    Ok(Options { shape, out_of_range })
}

/// Reads a position from a request.
pub(crate) fn place(position: &pb::Position, field: &str, now: i64) -> Result<Place, Failure> {
    use pb::position::At;
    let bad = |problem: &str| Err(Failure::field(field, problem));
    match &position.at {
        None => bad("is empty; set one of offset, timestamp, bound, tail_count or age"),
        Some(At::Offset(offset)) if *offset < 0 => bad("an offset is at least 0"),
        Some(At::Offset(offset)) => Ok(Place::Offset(*offset)),
        Some(At::Timestamp(time)) => {
            // Records are stamped in whole milliseconds: the first one at or after the instant.
            let fraction = i64::from(time.nanos).div_euclid(1_000_000);
            let fraction = fraction + i64::from(time.nanos.rem_euclid(1_000_000) > 0);
            let millis = time.seconds.checked_mul(1000).and_then(|millis| millis.checked_add(fraction));
            millis.map_or_else(|| bad("the timestamp is out of range"), |millis| Ok(Place::Time(millis)))
        }
        Some(At::Bound(bound)) => match pb::Bound::try_from(*bound) {
            Ok(pb::Bound::Earliest) => Ok(Place::Earliest),
            Ok(pb::Bound::Latest) => Ok(Place::Latest),
            _ => bad("the bound is neither EARLIEST nor LATEST"),
        },
        Some(At::TailCount(count)) if *count < 0 => bad("tail_count is at least 0"),
        Some(At::TailCount(count)) => Ok(Place::Last(*count)),
        Some(At::Age(age)) => match Duration::try_from(*age) {
            Ok(age) => {
                let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                Ok(Place::Time(now.saturating_sub(age)))
            }
            Err(_) => bad("an age is not negative"),
        },
    }
}

/// Where the reader of a whole topic stands, by partition; checked.
fn resumed(target: &pb::ReadTarget) -> Result<HashMap<i32, pb::PartitionResume>, Failure> {
    let bad = |field: &str, problem: &str| Err(Failure::field(field, problem));
    if target.last_leader_epoch.is_some_and(|epoch| epoch < 0) {
        return bad("targets.last_leader_epoch", "is at least 0; leave it out when unknown");
    }
    if target.last_leader_epoch.is_some() && target.partition.is_none() {
        return bad("targets.last_leader_epoch", "belongs to one partition: set resume.leader_epoch instead");
    }
    if target.partition.is_some() && !target.resume.is_empty() {
        return bad("targets.resume", "is for whole topics: set start instead");
    }
    let mut resume = HashMap::new();
    for standing in &target.resume {
        if standing.partition < 0 || standing.next_offset < 0 || standing.leader_epoch.is_some_and(|epoch| epoch < 0) {
            return bad("targets.resume", "partition, next_offset and leader_epoch are at least 0");
        }
        if resume.insert(standing.partition, *standing).is_some() {
            return bad("targets.resume", &format!("names partition {} twice", standing.partition));
        }
    }
    Ok(resume)
}

/// Finds places in logs. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    topics: Topics,
    router: Router,
    clock: Arc<dyn Clock>,
}

impl Positions {
    pub(crate) fn new(topics: Topics, router: Router, clock: Arc<dyn Clock>) -> Self {
        Self { topics, router, clock }
    }

    /// Spreads targets over partitions, each of which begins where the reader stands in it, else at `start`.
    pub(crate) async fn targets(&self, targets: &[pb::ReadTarget]) -> Result<Vec<Target>, Failure> {
        if targets.is_empty() {
            return Err(Failure::field("targets", "names nothing to read"));
        }
        let now = self.clock.now_millis();
        let mut spread = Vec::new();
        let mut seen = HashSet::new();
        for target in targets {
            let resume = resumed(target)?;
            let topic = self.topics.find(&target.topic).await?;
            if !target.topic_id.is_empty() {
                let id =
                    target.topic_id.parse().map_err(|_| Failure::field("targets.topic_id", "is not a topic id"))?;
                self.topics.check_id(&topic, id).await?;
            }
            let start = target.start.as_ref().map(|position| place(position, "targets.start", now)).transpose()?;
            let end = target.end.as_ref().map(|position| place(position, "targets.end", now)).transpose()?;
            // Every partition that the reader names exists, also when this gateway has not heard of it yet.
            let named = target.partition.or_else(|| resume.keys().max().copied());
            let topic = match named {
                Some(partition) => self.topics.with_partition(topic, partition).await?,
                None => topic,
            };
            let partitions = match target.partition {
                Some(partition) => partition..partition + 1,
                None => 0..topic.value.partition_count,
            };
            for partition in partitions {
                if !seen.insert((topic.id, partition)) {
                    let text = format!("partition {partition} of topic \"{}\" is named twice", topic.name);
                    return Err(Failure::field("targets", text));
                }
                let (start, last_epoch) = match resume.get(&partition) {
                    Some(standing) => (Place::Offset(standing.next_offset), standing.leader_epoch),
                    None => (start.unwrap_or(Place::Earliest), target.last_leader_epoch),
                };
                let (topic, last_epoch) = (Arc::clone(&topic), last_epoch.unwrap_or(-1));
                spread.push(Target { topic, partition, start, end, last_epoch });
            }
            if spread.len() > PARTITIONS_MAX {
                return Err(Failure::field("targets", format!("at most {PARTITIONS_MAX} partitions in one call")));
            }
        }
        Ok(spread)
    }

    /// Finds a place in a partition's log.
    pub(crate) async fn find(&self, topic: &TopicView, partition: i32, place: Place) -> Result<FoundPlace, Failure> {
        match place {
            Place::Offset(offset) => Ok(FoundPlace { offset, timestamp: -1, leader_epoch: -1 }),
            Place::Earliest => self.look_up(topic, partition, OffsetQuery::Earliest).await,
            Place::Latest => self.look_up(topic, partition, OffsetQuery::Latest).await,
            Place::Time(millis) => self.look_up(topic, partition, OffsetQuery::Time(millis)).await,
            Place::Last(count) => {
                let end = self.look_up(topic, partition, OffsetQuery::Latest).await?;
                let start = self.look_up(topic, partition, OffsetQuery::Earliest).await?;
                let offset = end.offset.saturating_sub(count).max(start.offset);
                Ok(FoundPlace { offset, ..start })
            }
        }
    }

    /// Where reading begins or ends: a time after the last record is the end of the log as of now.
    pub(crate) async fn boundary(&self, target: &Target, place: Place) -> Result<Offset, Failure> {
        let find = |place| self.find(&target.topic, target.partition, place);
        if !matches!(place, Place::Time(_)) {
            return Ok(Offset(find(place).await?.offset));
        }
        // The end comes first: a record that is written between the two questions is not skipped.
        let end = find(Place::Latest).await?.offset;
        let found = find(place).await?.offset;
        Ok(Offset(if found >= 0 { found } else { end }))
    }

    async fn look_up(&self, topic: &TopicView, partition: i32, query: OffsetQuery) -> Result<FoundPlace, Failure> {
        let route = self.router.route(topic, partition)?;
        let answer = tokio::time::timeout(ANSWER_MAX, route.storage.look_up(route.partition, query)).await;
        let found = answer.map_err(|_elapsed| no_answer(topic, partition))??;
        Ok(FoundPlace {
            offset: found.offset.map_or(-1, |offset| offset.0),
            timestamp: found.timestamp.unwrap_or(-1),
            leader_epoch: found.leader_epoch.unwrap_or(LeaderEpoch::NONE).0,
        })
    }
}
