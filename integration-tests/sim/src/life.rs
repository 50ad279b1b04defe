//! The life of a node: it starts, registers, stops, dies, and loses what was not flushed or a whole disk.

use walser_model::Durability;
use walser_replication::control::ReplicaIntegrity;
use walser_replication::{ReplicaEvent, may_stop_clean};

use crate::key::Key;
use crate::network::Body;
use crate::store::{id, number};
use crate::world::World;

impl World {
    /// Starts, or registers again.
    pub(crate) fn start(&mut self, node: usize) -> bool {
        if self.nodes[node].registered && self.refuses(node) {
            self.give_up(node);
        }
        if self.healing && self.has_failed(node) {
            self.die(node);
        }
        let here = &mut self.nodes[node];
        if here.registered || self.dead == Some(node) {
            return false;
        }
        if !here.up {
            here.up = true;
            here.process += 1;
        }
        let (unclean, gone) = (here.keys(ReplicaIntegrity::Unclean), here.keys(ReplicaIntegrity::Gone));
        let body = Body::Register { process: here.process, unclean, gone };
        let controller = self.guess_controller();
        self.network.send(node, controller, Key::default(), body);
        self.say(|| format!("node {node} asks to be registered"));
        true
    }

    pub(crate) fn registered(&mut self, node: usize, process: u32, epoch: i64) {
        let here = &mut self.nodes[node];
        if here.registered || here.process != process || epoch <= here.epoch {
            return;
        }
        here.registered = true;
        here.epoch = epoch;
        self.say(|| format!("node {node} is registered as {epoch}"));
        for slot in 0..self.setup.partitions {
            self.tell(node, slot);
        }
    }

    /// Dies; sometimes with a loss of power.
    pub(crate) fn crash(&mut self, node: usize) -> bool {
        if !self.nodes[node].up {
            return false;
        }
        let power_loss = self.random.chance(self.weights.power_loss);
        let lazy = self.lazy(node);
        let power_loss = power_loss && (lazy == 0 || self.may_lose(node, lazy));
        self.die(node);
        if power_loss {
            self.lose_unflushed(node);
            self.lost(node, lazy);
        }
        self.say(|| format!("node {node} dies{}", if power_loss { ", and what was not flushed with it" } else { "" }));
        true
    }

    /// Partitions of which something may have counted that is only in the page cache, one bit each.
    fn lazy(&self, node: usize) -> u32 {
        let replicas = self.nodes[node].replicas.iter().enumerate();
        replicas.filter(|(_, replica)| replica.machine.lazy()).fold(0, |mask, (partition, _)| mask | 1 << partition)
    }

    pub(crate) fn die(&mut self, node: usize) {
        self.fault();
        let here = &mut self.nodes[node];
        (here.up, here.registered) = (false, false);
        // Whoever it followed sees the connection break, sooner or later.
        for (slot, replica) in here.replicas.iter().enumerate() {
            if let Some(follower) = replica.machine.follower() {
                let body = Body::Closed(id(node), follower.open());
                let key = Key { slot, generation: replica.generation };
                self.network.send(node, number(follower.leader()), key, body);
            }
        }
        for (replica, truth) in here.replicas.iter_mut().zip(&self.truths) {
            // What was under way is done, or it is not.
            if self.random.chance(500) && replica.end_work().is_some() {
                replica.compare(&truth.committed);
            }
            let (lazy, before) = (replica.machine.lazy(), replica.machine.integrity());
            let unclean = lazy && before == ReplicaIntegrity::Intact;
            let integrity = if unclean { ReplicaIntegrity::Unclean } else { before };
            replica.crash((self.setup.rules, id(node)), integrity, lazy);
        }
        self.touched = u32::MAX;
    }

    fn lose_unflushed(&mut self, node: usize) {
        for partition in 0..self.setup.partitions {
            let replica = &mut self.nodes[node].replicas[partition];
            let unflushed = replica.log.len() - replica.durable;
            let kept = if self.random.chance(300) { 0 } else { self.random.below(unflushed + 1) };
            replica.cut(replica.durable + kept);
            // What the next process reads of its log is what is left.
            let (integrity, lazy) = (replica.machine.integrity(), replica.machine.lazy());
            replica.crash((self.setup.rules, id(node)), integrity, lazy);
        }
    }

    /// Stops in good order: everything is flushed, and a mark says so.
    pub(crate) fn stop(&mut self, node: usize) -> bool {
        let rules = self.setup.rules;
        let here = &mut self.nodes[node];
        if !here.up || here.disk_hangs {
            return false;
        }
        let clean = may_stop_clean(rules, here.registered);
        (here.up, here.registered) = (false, false);
        for (replica, durability) in here.replicas.iter_mut().zip(&here.durability) {
            replica.flush_all();
            let lazy = replica.machine.lazy() && *durability == Durability::PageCache;
            // Everything is flushed now; what was lost before stays lost until it is recorded.
            let before = replica.machine.integrity();
            let over = before == ReplicaIntegrity::Unclean && clean;
            let integrity = if over { ReplicaIntegrity::Intact } else { before };
            replica.crash((rules, id(node)), integrity, lazy);
        }
        self.touched = u32::MAX;
        self.say(|| format!("node {node} stops"));
        true
    }

    /// Dies, and comes back without some or all of its replicas.
    pub(crate) fn lose_disk(&mut self, node: usize) -> bool {
        let partitions = u32::MAX >> (32 - self.setup.partitions);
        let lost = if self.random.chance(500) { partitions } else { 1 << self.random.below(self.setup.partitions) };
        if !self.nodes[node].up || !self.may_lose(node, lost) {
            return false;
        }
        self.die(node);
        let here = &mut self.nodes[node];
        for (partition, replica) in here.replicas.iter_mut().enumerate() {
            if lost >> partition & 1 == 1 {
                replica.lose();
                replica.crash((self.setup.rules, id(node)), ReplicaIntegrity::Gone, false);
                self.truths[partition].changed = true;
            }
        }
        self.lost(node, lost);
        self.say(|| format!("node {node} dies and loses partitions {lost:b}"));
        true
    }

    /// Whether somebody sees to a node whose logs failed: once others lead what others can.
    fn has_failed(&self, node: usize) -> bool {
        let failed = |slot: &usize| self.nodes[node].replicas[*slot].machine.failed();
        let led = |slot: usize| {
            let state = self.store.partition(slot).map(|known| &known.state);
            state.is_some_and(|state| state.leader == Some(id(node)) && state.isr.len() > 1)
        };
        let mut slots = (0..self.setup.partitions).filter(failed).peekable();
        slots.peek().is_some() && !slots.any(led)
    }

    /// A write or a flush of a replica's log fails: its node goes on without it.
    pub(crate) fn fail_log(&mut self, node: usize, partition: usize) -> bool {
        if !self.nodes[node].up || self.nodes[node].replicas[partition].machine.failed() {
            return false;
        }
        self.fault();
        self.drive(node, partition, ReplicaEvent::LogFailed);
        self.say(|| format!("the log of partition {partition} fails on node {node}"));
        true
    }

    pub(crate) fn hang(&mut self, node: usize) -> bool {
        let hangs = &mut self.nodes[node].disk_hangs;
        *hangs = !*hangs;
        let hangs = *hangs;
        self.fault();
        self.say(|| format!("the disk of node {node} {}", if hangs { "hangs" } else { "goes on" }));
        true
    }
}
