//! The session with the controller: beats, and what they report.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use walser_metadata::PartitionEntry;
use walser_model::{LeaderEpoch, Offset, TopicPartition};
use walser_replication::control::PartitionRecord;
use walser_rpc::{
    ApiError, BeatAnswer, ControllerClient, DiskUse, LeadOffer, MetadataSeen, NodeBeat, NodeFigures, Outage,
    PartitionOut, Reason,
};

use super::{Membership, RETRY, is_foreign};
use crate::metrics::Totals;
use crate::replica_registry::Problem;

/// Partitions out of service that a beat names.
const PROBLEMS_MAX: usize = 100;
/// Deleted topics that one beat confirms.
const CONFIRMED_MAX: usize = 1000;
/// Time between beats of a node that wants to stop: it waits for an answer.
pub(super) const STOPPING_BEAT: Duration = Duration::from_millis(20);
/// Partitions without a leader that one beat tells of.
const CANDIDATES_MAX: usize = 1000;

fn out_of_service((partition, problem): (TopicPartition, Problem)) -> PartitionOut {
    let Problem { text, damaged, leader_epoch, node_with_more } = problem;
    PartitionOut { partition, problem: text, damaged, node_with_more, leader_epoch }
}

/// Why a session is over.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// Another process has taken the id of this node.
    Replaced(String),
    /// The metadata was imported into another store, in which registrations have other epochs.
    RegisterAgain,
}

/// Counts a session for as long as it lasts.
struct OpenSession<'a>(&'a AtomicUsize);

impl<'a> OpenSession<'a> {
    fn of(sessions: &'a AtomicUsize) -> Self {
        sessions.fetch_add(1, Ordering::AcqRel);
        Self(sessions)
    }
}

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Membership {
    /// Beats at every controller until one says that the session is over; or that its metadata is not that of this node.
    pub(super) async fn keep_sessions(&self, node_epoch: i64, every: Duration) -> Result<SessionEnd, ApiError> {
        let all = self.controllers.iter().map(|controller| self.keep_session(controller, node_epoch, every));
        let mut sessions: FuturesUnordered<_> = all.collect();
        match sessions.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    async fn keep_session(
        &self,
        controller: &ControllerClient,
        node_epoch: i64,
        every: Duration,
    ) -> Result<SessionEnd, ApiError> {
        let mut outage = Outage::of("the session with the controller");
        loop {
            let ended = self.session(controller, (node_epoch, every), &mut outage).await;
            match ended {
                Err(failure) if !is_foreign(&failure) => outage.failed(&failure),
                ended => return ended,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn session(
        &self,
        controller: &ControllerClient,
        (node_epoch, every): (i64, Duration),
        outage: &mut Outage,
    ) -> Result<SessionEnd, ApiError> {
        self.disk_answers()?;
        let mut session = controller.node_session().await?;
        let _open = OpenSession::of(&self.sessions);
        let mut beat_now = self.beat_now.subscribe();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut offered = None;
        loop {
            let stopping = self.shutdown.is_asked();
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = beat_now.changed() => {}
                () = self.shutdown.asked(), if !stopping => {}
                () = tokio::time::sleep(STOPPING_BEAT), if stopping => {}
            }
            let disk = self.disk_answers();
            let beat = NodeBeat {
                node_epoch,
                incarnation: self.incarnation.clone(),
                applied: MetadataSeen::clone(&self.applied.load()),
                removed: self.disposal.removed(CONFIRMED_MAX),
                candidates: self.candidates(&mut offered),
                stopping: self.shutdown.is_asked(),
                figures: self.figures(),
            };
            let sent = self.registry.contact.now();
            let answer = session.beat(beat).await?;
            outage.ended();
            match answer {
                // It decides nothing: that it hears this node is no promise.
                BeatAnswer::GoOn { standby: true, .. } => {}
                BeatAnswer::GoOn { metadata_version, standby: false } => {
                    let contact = &self.registry.contact;
                    contact.controller_answered(sent, metadata_version);
                    contact.applied(self.view.load().version());
                }
                BeatAnswer::Over(reason) => return Ok(SessionEnd::Replaced(reason)),
                BeatAnswer::RegisterAgain => return Ok(SessionEnd::RegisterAgain),
                BeatAnswer::MayStop => self.shutdown.begin(),
            }
            // The controller has been told why.
            disk?;
        }
    }

    /// Without its disk this node is of no use, and others lead only once the controller does not hear it any more.
    fn disk_answers(&self) -> Result<(), ApiError> {
        match self.engine.stalls.problem() {
            Some(problem) => {
                let path = self.engine.directory.path().display();
                let text = format!("this node steps back, the data directory {path} is of no use: {problem}");
                Err(ApiError::new(Reason::StorageError, text))
            }
            None => Ok(()),
        }
    }

    /// What this node has of partitions that nobody leads: of so many, those behind the last one that was offered.
    fn candidates(&self, offered: &mut Option<TopicPartition>) -> Vec<LeadOffer> {
        let view = self.view.load();
        let waits = |partition: &&PartitionEntry| {
            let state = &partition.record.state;
            state.leader.is_none() && state.replicas.contains(&self.config.node)
        };
        let mut waiting: Vec<_> = view.partitions().filter(waits).map(|partition| &partition.record).collect();
        waiting.sort_unstable_by_key(|record| record.key);
        let begin = offered.map_or(0, |last| waiting.partition_point(|record| record.key <= last));
        let turn = waiting[begin..].iter().chain(&waiting[..begin]).take(CANDIDATES_MAX);
        let turn: Vec<_> = turn.collect();
        *offered = turn.last().map(|record| record.key);
        turn.into_iter().filter_map(|record| self.candidate(record)).collect()
    }

    /// What this node would lead with. A replica that has never had a record has no log.
    fn candidate(&self, record: &PartitionRecord<TopicPartition>) -> Option<LeadOffer> {
        if let Some(handle) = self.registry.held(record.key) {
            return handle.offer();
        }
        // It is taken back when this node leads or follows.
        if let Some(aside) = self.engine.directory.set_aside_partition(record.key) {
            return Some(LeadOffer {
                partition: record.key,
                last_epoch: aside.leader_epoch,
                record_epoch: aside.leader_epoch,
                log_end: aside.log_end,
                damaged: false,
                partition_epoch: record.epoch,
            });
        }
        let unusable = self.unopened.contains(&record.key) || self.registry.problem(record.key).is_some();
        (!unusable).then_some(LeadOffer {
            partition: record.key,
            last_epoch: LeaderEpoch::NONE,
            record_epoch: LeaderEpoch::NONE,
            log_end: Offset::ZERO,
            damaged: false,
            partition_epoch: record.epoch,
        })
    }

    fn figures(&self) -> NodeFigures {
        let replicas = self.registry.all();
        let held: u64 = replicas.iter().map(|(_, replica)| replica.reader.size_bytes()).sum();
        let space = self.engine.space.seen();
        // Before the list is made: what is moved meanwhile is in it.
        let set_aside_complete = self.registry.writes_refused().is_none() && !self.disposal.sets_aside();
        let aside = self.engine.directory.set_aside_partitions();
        let set_aside_bytes = aside.iter().map(|aside| aside.size_bytes).sum();
        let Totals { appended_records, appended_bytes, read_bytes } = self.metrics.totals();
        let disk = DiskUse {
            path: self.engine.directory.path().display().to_string(),
            used: held + set_aside_bytes,
            free: space.free,
            total: space.total,
            full: self.engine.space.full(),
            problem: self.engine.problem(),
        };
        NodeFigures {
            replicas: replicas.len(),
            leaders: replicas.iter().filter(|(_, replica)| replica.serving()).count(),
            disks: vec![disk],
            problems: self.registry.problems().into_iter().take(PROBLEMS_MAX).map(out_of_service).collect(),
            set_aside: aside.len(),
            set_aside_bytes,
            set_aside_complete,
            appended_records,
            appended_bytes,
            read_bytes,
        }
    }
}
