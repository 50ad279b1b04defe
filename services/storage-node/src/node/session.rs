//! The session with the controller: beats, and what they report.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walser_model::TopicPartition;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Outage, Reason};

use super::{Membership, RETRY, is_foreign};
use crate::board::Problem;
use crate::metrics::Totals;

/// Partitions out of service that a beat names.
const PROBLEMS_MAX: usize = 100;
/// Deleted topics that one beat confirms.
const CONFIRMED_MAX: usize = 1000;

fn problem((id, problem): (TopicPartition, Problem)) -> pb::PartitionProblem {
    pb::PartitionProblem {
        topic_id: id.topic.to_string(),
        partition: id.partition.0,
        problem: problem.text,
        damaged: problem.damaged,
    }
}

fn closed() -> Failure {
    Failure::new(Reason::ControllerNotAvailable, "the controller closed the session")
}

impl Membership {
    /// Beats until the controller says that the session is over, and why; or that its metadata is not that of this
    /// node.
    pub(super) async fn keep_session(&self, node_epoch: i64, every: Duration) -> Result<String, Failure> {
        let mut outage = Outage::of("the session with the controller");
        loop {
            match self.session(node_epoch, every, &mut outage).await {
                Err(failure) if !is_foreign(&failure) => outage.failed(&failure),
                ended => return ended,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn session(&self, node_epoch: i64, every: Duration, outage: &mut Outage) -> Result<String, Failure> {
        let (beats, stream) = mpsc::channel(4);
        let mut client = ControllerServiceClient::new(self.controller.clone());
        let mut answers = client.node_session(ReceiverStream::new(stream)).await?.into_inner();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.beat_now.notified() => {}
            }
            let removed = self.disposal.removed(CONFIRMED_MAX);
            let seen = self.seen();
            let beat = pbi::NodeSessionRequest {
                node_epoch,
                metadata_version: self.view.load().version(),
                stats: Some(self.stats()),
                removed_topic_ids: removed.iter().map(|topic| topic.to_bytes().to_vec().into()).collect(),
                cluster_id: seen.cluster_id,
                lineage: seen.lineage,
            };
            beats.send(beat).await.map_err(|_| closed())?;
            let answer = answers.message().await?.ok_or_else(closed)?;
            outage.ended();
            if let Some(pbi::node_session_response::Action::Fenced(fenced)) = answer.action {
                return Ok(fenced.reason);
            }
        }
    }

    fn stats(&self) -> pb::StorageStats {
        let replicas = self.board.all();
        let held: u64 = replicas.iter().map(|(_, replica)| replica.reader.size_bytes()).sum();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let space = self.engine.space.seen();
        let (problems, unusable) = (self.board.problems(), self.engine.problem());
        let aside = self.engine.directory.set_aside_partitions();
        let Totals { appended_records, appended_bytes, read_bytes } = self.metrics.totals();
        pb::StorageStats {
            replica_count: count(replicas.len()),
            leader_count: count(replicas.iter().filter(|(_, replica)| replica.serving()).count()),
            disks: vec![pb::DiskStats {
                path: self.engine.directory.path().display().to_string(),
                used_bytes: bytes(held + aside.iter().map(|aside| aside.size_bytes).sum::<u64>()),
                free_bytes: bytes(space.free),
                total_bytes: bytes(space.total),
                failed: unusable.is_some(),
                full: self.engine.space.full(),
                problem: unusable.unwrap_or_default(),
            }],
            problems: problems.into_iter().take(PROBLEMS_MAX).map(problem).collect(),
            set_aside_count: count(aside.len()),
            set_aside_bytes: bytes(aside.iter().map(|aside| aside.size_bytes).sum()),
            appended_records,
            appended_bytes,
            read_bytes,
        }
    }
}
