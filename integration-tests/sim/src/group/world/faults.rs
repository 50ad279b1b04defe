//! What goes wrong, what operators do, and what producers write.

use std::time::Duration;

use walser_group::{GroupId, OffsetToCommit};
use walser_model::{Offset, TopicPartition};

use super::requests::simple;
use super::{Event, World, partition_of};
use crate::group::message::Request;

impl World {
    /// A tenth of a second passes.
    pub(super) fn weather(&mut self) -> Result<(), String> {
        self.after(Duration::from_millis(100), Event::Weather);
        self.produce();
        if self.fault(self.setup.gateway_faults) {
            self.break_gateway();
        }
        if self.fault(self.setup.coordinator_faults) {
            self.break_coordinator()?;
        }
        if self.fault(self.setup.log_faults) {
            let slow = self.random.one_of(&[300, 2_000, 4_000]);
            self.log_slow_until = self.now + Duration::from_millis(slow);
        }
        if self.fault(self.setup.topic_changes) {
            self.change_topic();
        }
        if self.fault(self.setup.operations) {
            self.operate();
        }
        let calm = self.is_calm();
        if calm {
            self.recover();
        }
        let dead = self.coordinators.last().is_none_or(|coordinator| coordinator.shard.is_none());
        if dead && (calm || self.random.chance(200)) { self.elect() } else { Ok(()) }
    }

    fn produce(&mut self) {
        if self.is_calm() || self.now < self.silent_until {
            return;
        }
        if self.fault(self.setup.silences) {
            self.silent_until = self.now + Duration::from_secs(40);
        }
        for topic in self.topics.iter().filter(|topic| topic.exists) {
            for index in 0..topic.partition_count {
                if self.random.chance(300) {
                    *self.ends.entry(partition_of(topic.id, index)).or_default() += 1 + self.random.below(9) as i64;
                }
            }
        }
    }

    /// A gateway vanishes, and another process takes its place; or it pauses, for up to twenty seconds.
    fn break_gateway(&mut self) {
        let alive: Vec<usize> = (0..self.gateways.len()).filter(|gateway| self.gateways[*gateway].alive).collect();
        let number = alive[self.random.below(alive.len())];
        if self.random.chance(400) {
            self.gateways[number].alive = false;
            self.start_gateway();
        } else {
            let pause = self.random.one_of(&[300, 2_000, 8_000, 20_000]);
            self.gateways[number].paused_until = self.now + Duration::from_millis(pause);
        }
    }

    /// A coordinator dies, pauses, or is replaced and does not know it.
    fn break_coordinator(&mut self) -> Result<(), String> {
        let number = self.coordinators.len() - 1;
        match self.random.below(4) {
            0 => self.drop_shard(number),
            1 => {
                let pause = self.random.one_of(&[200, 3_000]);
                self.coordinators[number].paused_until = self.now + Duration::from_millis(pause);
            }
            2 => {
                let pause = self.random.one_of(&[200, 3_000, 15_000]);
                self.coordinators[number].paused_until = self.now + Duration::from_millis(pause);
                return self.elect();
            }
            _ => return self.elect(),
        }
        Ok(())
    }

    /// A topic grows, goes, or comes again under another id. Coordinators hear of it a little later.
    fn change_topic(&mut self) {
        let number = self.random.below(self.topics.len());
        let (id, count) = (self.topic_id(), self.partition_count());
        let topic = &mut self.topics[number];
        match topic.exists {
            false => (topic.exists, topic.id, topic.partition_count) = (true, id, count),
            true if topic.partition_count < 9 && self.random.chance(600) => topic.partition_count += 1,
            true => topic.exists = false,
        }
        self.tell_topic(number);
    }

    fn tell_topic(&mut self, number: usize) {
        // In order: one delay for all changes.
        let change = self.topics[number].change();
        for coordinator in 0..self.coordinators.len() {
            if self.coordinators[coordinator].shard.is_some() {
                self.after(Duration::from_millis(30), Event::Topics(coordinator, vec![change.clone()]));
            }
        }
    }

    fn operate(&mut self) {
        let groups = self.groups();
        let group = groups[self.random.below(groups.len())].clone();
        let newest = self.coordinators.len() - 1;
        let request = match self.random.below(5) {
            0 | 1 => self.simple_commit(group),
            2 => self.reset(group),
            3 => self.remove(group),
            _ => Some(Request::Delete(group)),
        };
        if let Some(request) = request {
            let delay = self.millis(20);
            self.after(delay, Event::Request(newest, None, request));
        }
    }

    fn some_partition(&mut self) -> TopicPartition {
        let topic = &self.topics[self.random.below(self.topics.len())];
        partition_of(topic.id, i32::try_from(self.random.below(3)).unwrap_or(0))
    }

    /// A client that is no member commits what was processed.
    fn simple_commit(&mut self, group: GroupId) -> Option<Request> {
        let partition = self.some_partition();
        let processed = self.check.processed(&group, partition);
        Some(simple(group, offset_of(partition, processed)))
    }

    fn reset(&mut self, group: GroupId) -> Option<Request> {
        let partition = self.some_partition();
        let committed = usize::try_from(self.check.committed(&group, partition)).unwrap_or(0);
        let to = self.random.below(committed + 1) as i64;
        (committed > 0).then(|| Request::Reset(group, offset_of(partition, to)))
    }

    fn remove(&mut self, group: GroupId) -> Option<Request> {
        let of_group: Vec<_> = self.clients.iter().filter(|client| client.group == group).collect();
        let client = of_group[self.random.below(of_group.len())];
        let member = client.token.as_ref().map(|(member, _)| member.clone())?;
        Some(Request::Remove(group, member))
    }

    /// Everything works again, and every topic exists.
    fn recover(&mut self) {
        for number in 0..self.topics.len() {
            if !self.topics[number].exists {
                let id = self.topic_id();
                (self.topics[number].exists, self.topics[number].id) = (true, id);
                self.tell_topic(number);
            }
        }
    }
}

fn offset_of(partition: TopicPartition, offset: i64) -> OffsetToCommit {
    OffsetToCommit { partition, offset: Offset(offset), leader_epoch: None, metadata: String::new() }
}
