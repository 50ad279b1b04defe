//! What a shard does by itself, or has done: lazy flushes, retention, resting partitions, and the end.

use std::collections::VecDeque;
use std::time::Duration;

use walser_log::Condition;
use walser_model::TopicPartition;

use super::maintenance::Task;
use super::{Command, Shard, Wait};
use crate::error::not_leader;

/// How often idle partitions are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// How often partitions that wait for others are told that time passes.
const TICK: Duration = Duration::from_millis(200);
/// Segments that are closed for their age in one pass, to which nothing is written: each costs some syncs.
const SEGMENTS_CLOSED_PER_PASS: usize = 20;
/// At most this many partitions rest in one pass: each costs a few writes.
const RESTS_PER_PASS: usize = 20;
/// How often a shard that stops says how much is left to do.
const STOP_REPORT: Duration = Duration::from_secs(2);
/// How long a shard that stops waits for its partitions before it looks again, unless one comes back.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// A tail cache that nobody adds to shrinks by this part per look.
const TAIL_SHRINK: usize = 8;

/// When things are due, in monotonic time.
#[derive(Debug)]
pub(crate) struct Schedule {
    retention_every: Duration,
    retention_at: Duration,
    idle_at: Duration,
    tick_at: Duration,
    appended_at_last_look: Duration,
}

impl Schedule {
    /// `now`: the monotonic clock.
    pub(crate) fn new(now: Duration, retention_every: Duration) -> Self {
        let (retention_at, idle_at) = (now + retention_every, now + IDLE_CHECK);
        Self { retention_every, retention_at, idle_at, tick_at: now + TICK, appended_at_last_look: Duration::ZERO }
    }
}

impl Shard {
    /// Does what is due; gives back how long nothing will be.
    pub(super) fn keep_up(&mut self, now: Duration) -> Duration {
        if now >= self.upkeep.retention_at {
            self.apply_retention();
            self.upkeep.retention_at = now + self.upkeep.retention_every;
        }
        if now >= self.upkeep.idle_at {
            self.rest_idle(now);
            self.reopen(now);
            self.compact(now);
            self.upkeep.idle_at = now + IDLE_CHECK;
        }
        if now >= self.upkeep.tick_at {
            for id in &self.ticking {
                if let Some(partition) = self.partitions.get_mut(id) {
                    partition.tick(&self.context);
                    if partition.has_errand() {
                        self.touched.insert(*id);
                    }
                }
            }
            self.upkeep.tick_at = now + TICK;
        }
        for id in self.flushes_due.take_due(now) {
            self.submit_disk_jobs(id);
        }
        // At the end of a turn: one that has come back in it has served what waited for it.
        self.lend_for_upkeep();
        let mut next = self.upkeep.retention_at.min(self.upkeep.idle_at);
        if !self.ticking.is_empty() {
            next = next.min(self.upkeep.tick_at);
        }
        if let Some(at) = self.flushes_due.next() {
            next = next.min(at);
        }
        next.saturating_sub(now)
    }

    pub(super) fn apply_retention(&mut self) {
        if self.context.writes_refused().is_some() {
            return;
        }
        let now = self.context.clock.now_millis();
        let trusted = self.context.retention_clock.is_trusted(&*self.context.clock);
        let (mut due, mut closed) = (VecDeque::new(), 0);
        // Of the others it is not known what their topics keep: they may be set aside, or led again with other settings.
        for (id, partition) in self.partitions.iter_mut().filter(|(_, partition)| partition.leads()) {
            if trusted {
                partition.log.expire_producers(now);
            }
            partition.log.release_closed_segments();
            self.touched.insert(*id);
            let close_old = trusted && closed < SEGMENTS_CLOSED_PER_PASS && partition.log.has_old_segment(now);
            closed += usize::from(close_old);
            if close_old || partition.log.retention_due(now, trusted, partition.handle.high_watermark()) {
                due.push_back((*id, Task::Retain { trusted, close_old }));
            }
        }
        let left = self.partitions.iter().filter(|(_, found)| !found.leads() && found.log.has_deleted());
        due.extend(left.map(|(id, _)| (*id, Task::RemoveDeleted)));
        // Those that are left of the pass before are among them.
        self.upkeep_due = due;
        self.lend_for_upkeep();
    }

    fn rest_idle(&mut self, now: Duration) {
        let idle = self.context.idle;
        let newest = self.partitions.values().map(|partition| partition.last_write).max().unwrap_or_default();
        let resting = self.partitions.iter().filter(|(_, partition)| {
            let log = &partition.log;
            let quiet = now.saturating_sub(partition.last_write) >= idle && !log.dirty() && !partition.log.is_busy();
            quiet && log.open_files() > 0 && *log.condition() == Condition::Healthy
        });
        // Not while others wait for their turn: the next pass finds them again.
        let room = RESTS_PER_PASS.saturating_sub(self.upkeep_due.len());
        let resting: Vec<TopicPartition> = resting.map(|(id, _)| *id).take(room).collect();
        self.upkeep_due.extend(resting.into_iter().map(|id| (id, Task::ReleaseIdle)));
        self.lend_for_upkeep();
        if newest == self.upkeep.appended_at_last_look {
            let target = self.tail_budget.used() - self.tail_budget.used() / TAIL_SHRINK;
            self.tail_budget.shrink_to(if target < (1 << 20) { 0 } else { target });
        }
        self.upkeep.appended_at_last_look = newest;
    }

    /// Has everything made durable and written down where it ends, so that the next start has nothing to read. Ends when
    /// the last partition has been closed.
    pub(super) fn wind_up(&mut self) -> Wait {
        self.upkeep_due.clear();
        self.context.compactor.end();
        self.close_files();
        let ids: Vec<_> = self.partitions.keys().copied().collect();
        ids.into_iter().for_each(|id| self.lend(id, Task::Close));
        if !self.away.is_empty() {
            let now = self.context.clock.monotonic();
            if now >= *self.stop_report_at.get_or_insert(now + STOP_REPORT) {
                self.stop_report_at = Some(now + STOP_REPORT);
                tracing::info!(partitions_left = self.away.len(), "partitions are being made durable and closed");
            }
            return Wait::For(STOP_WAIT);
        }
        for command in self.queue.close() {
            self.perform(command);
        }
        if let Some(done) = self.stopping.take() {
            let _ = done.send(());
        }
        Wait::Stopped
    }

    /// Gives those commands back that a shard carries out which stops: completions. It refuses appends, and whoever waits
    /// for an answer to another one hears that there is none.
    pub(super) fn finish_command(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Append(job) => {
                job.refuse(not_leader(self.context.node), &self.context.metrics);
                None
            }
            Command::Flushed { .. } | Command::Extended { .. } | Command::Returned(_) => Some(command),
            _ => None,
        }
    }
}
