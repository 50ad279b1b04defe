//! What the node is told of its partitions in the world of the shard's simulation, and what it has to answer to.

use tokio::sync::oneshot;
use walser_metadata::TopicSettings;
use walser_model::{Offset, TopicPartition};
use walser_replication::PartitionState;

use super::{NODE, World, config};
use crate::shard::{Command, PartitionMetadata};

/// A reply that somebody waits for.
pub(super) struct Awaited {
    what: String,
    told: Box<dyn FnMut() -> bool>,
}

impl World {
    /// The metadata says that this node leads a partition, in the next leader epoch.
    pub(super) fn install(&mut self, partition: TopicPartition) {
        self.epoch = self.epoch.next();
        let mut state = PartitionState::new(vec![NODE], 1);
        state.leader_epoch = self.epoch;
        let settings = TopicSettings { config: config(partition), unreadable: None }.into();
        let version = i64::from(self.epoch.0);
        let (node_epoch, partition_epoch) = (1, version);
        let metadata = PartitionMetadata { partition, node_epoch, version, state, partition_epoch, settings };
        self.shard.queue.push(Command::Install(Box::new(metadata)));
    }

    /// The node leads no more, or again; damage is met that is none; somebody waits until all that is carried out.
    pub(super) fn change_role(&mut self) {
        let partition = self.any_partition();
        let queue = std::sync::Arc::clone(&self.shard.queue);
        match self.below(10) {
            0 => queue.push(Command::Resign(partition)),
            1..4 => self.install(partition),
            4 => queue.push(Command::ServeReads),
            5 => queue.push(Command::CloseFiles),
            6 => {
                let end = self.seen.get(&partition).map_or(0, |seen| usize::try_from(seen.0).unwrap());
                let from = Offset(i64::try_from(self.below(end + 1)).unwrap());
                let Some(handle) = self.shard.context.registry.all().into_iter().find(|(id, _)| *id == partition)
                else {
                    return;
                };
                let generation = handle.1.reader.generation();
                self.blamed.insert(partition);
                queue.push(Command::Damaged { partition, from, generation });
            }
            7 | 8 => {
                let (reply, told) = oneshot::channel();
                let led = self.shard.context.registry.led(partition);
                let epoch = led.map_or(walser_model::LeaderEpoch::NONE, |found| found.epoch());
                queue.push(Command::Repair { partition, epoch, reply });
                self.await_reply(format!("repair of {partition}"), told);
            }
            _ => {
                let (done, told) = oneshot::channel();
                queue.push(Command::Barrier(done));
                self.await_reply("barrier".to_owned(), told);
            }
        }
    }

    pub(super) fn await_reply<T: 'static>(&mut self, what: String, mut reply: oneshot::Receiver<T>) {
        let told = Box::new(move || !matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        self.awaited.push(Awaited { what, told });
    }

    /// Whoever waits for the shard has been told.
    pub(super) fn check_every_reply_was_given(&mut self) {
        self.awaited.retain_mut(|awaited| !(awaited.told)());
        let left: Vec<_> = self.awaited.iter().map(|awaited| awaited.what.as_str()).collect();
        assert!(left.is_empty(), "never told: {left:?}");
    }
}
