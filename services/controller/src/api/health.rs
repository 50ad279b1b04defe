//! What is wrong with the cluster, in words, and what to do about it.

mod lacking;
mod out_of_service;

use walser_metadata::TopicEntry;
use walser_model::{NodeId, Timestamp};
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason, wire_time};

use self::lacking::LackingPartitions;
use self::out_of_service::partition_issue;
use super::Controller;
use super::cluster::registered;
use crate::cluster_view::ClusterView;

/// Processes that are refused and that issues name.
const STRANGERS_MAX: usize = 20;

impl Controller {
    /// What is wrong with the cluster, as far as the controller knows.
    pub(super) fn health(&self, view: &ClusterView) -> pb::ClusterHealth {
        let refused = self.refused.refused(self.clock.monotonic());
        // One whose directory is refused is not in service with that, although it may count as that for a moment.
        let other_serves = |node, directory: &String| {
            let heard = self.sessions.get(node).is_some_and(|session| !session.given);
            let registered = view.metadata.node(node);
            let counts = registered.filter(|entry| !entry.liveness.fenced);
            heard && counts.is_some_and(|entry| directory.is_empty() || entry.registration.directory != *directory)
        };
        let (mut issues, mut obeyed) = (Vec::new(), true);
        for ((node, directory), why) in refused {
            let stranger = other_serves(node, &directory);
            obeyed &= stranger || why.reason() == Reason::ClusterIdMismatch;
            issues.push(refused_issue(node, stranger, &why));
        }
        // One that is refused is there.
        let none_heard = issues.is_empty() && registered(view).next().is_none();
        issues.extend(none_heard.then(no_node_issue));
        let takes_no_writes = self.problems.takes_no_writes().or_else(|| self.writes.problem());
        issues.extend(takes_no_writes.map(|problem| store_issue(&problem)));
        issues.extend(self.problems.of_parts().into_iter().map(store_part_issue));
        // In one process it ends with everything else.
        let had_coordinators = !self.config.standalone && view.metadata.group_shards().next().is_some();
        // Where nodes do not obey this metadata, coordinators do not either, and say so themselves.
        issues.extend((obeyed && had_coordinators && !self.coordinators.any_living()).then(no_coordinator_issue));
        issues.extend(self.coordinators.refused().into_iter().take(STRANGERS_MAX).map(refused_coordinator_issue));
        let none_left = registered(view).all(|(node, entry)| self.is_down(node, entry));
        let availability = self.availability(view);
        let mut away = false;
        for (node, entry) in registered(view) {
            let session = self.sessions.get(node);
            away |= self.is_away(node, entry);
            if self.is_down(node, entry) {
                let turned_away = self.refused.turned_away(node, self.clock.monotonic());
                let down = down_issue(node, none_left, session.as_ref().map(|session| session.heard_ms));
                issues.push(match turned_away {
                    Some(why) => turned_away_issue(node, &why, down),
                    None => down,
                });
            }
            let said_last = || self.sessions.said_last(node).map(|said| said.stats);
            let stats = session.map(|session| session.stats).unwrap_or_else(|| failed_disks(said_last()));
            issues.extend(stats.disks.iter().flat_map(|disk| disk_issues(node, disk)));
            issues.extend(set_aside_issue(node, &stats));
            issues.extend(stats.problems.iter().map(|problem| partition_issue(view, &availability, node, problem)));
        }
        let down = |node| view.metadata.node(node).is_some_and(|entry| self.is_down(node, entry));
        let mut strangers = self.refused.all_turned_away(self.clock.monotonic());
        strangers.retain(|(node, _)| !down(*node));
        issues.extend(strangers.iter().take(STRANGERS_MAX).map(|(node, why)| stranger_issue(*node, why)));
        issues.extend(view.metadata.topics().filter_map(|topic| unreadable_issue(topic)));
        let lacking = LackingPartitions::of(view);
        issues.extend(lacking.issues(away));
        let critical = issues.iter().any(|issue| issue.severity() == pb::HealthStatus::Critical);
        let status = match (issues.is_empty(), critical) {
            (true, _) => pb::HealthStatus::Ok,
            (false, false) => pb::HealthStatus::Degraded,
            (false, true) => pb::HealthStatus::Critical,
        };
        let (topics, partitions) = view.metadata.user_counts();
        pb::ClusterHealth {
            status: status.into(),
            issues,
            totals: Some(lacking.stats()),
            topic_count: count_of(topics),
            partition_count: count_of(partitions),
        }
    }
}

fn count_of(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A node that does not obey this metadata. `other_serves`: one of the same id does, and is in service.
fn refused_issue(node: NodeId, other_serves: bool, why: &ApiError) -> pb::HealthIssue {
    let objects = vec![format!("nodes/{node}")];
    if other_serves {
        let message = format!(
            "another process calls itself storage node {node}, and does not obey this metadata: {why}; the storage node \
             {node} of this cluster is in service"
        );
        let hint = "nothing of this cluster is touched; find the process, which names the wrong controller.address";
        return issue(why.reason_name(), pb::HealthStatus::Degraded, message, hint.to_owned(), objects);
    }
    let hint = "its disk is not changed, writes are refused, reads go on; see \"When metadata and data disagree\" in \
                docs/operations.md";
    let message = format!("storage node {node} does not obey this metadata: {why}");
    critical(why.reason_name(), message, hint.to_owned(), objects)
}

/// Nothing can be changed.
fn store_issue(problem: &str) -> pb::HealthIssue {
    let message = format!("the metadata store takes no writes: {problem}");
    let hint = "records flow in partitions whose in-sync replicas are all in service; no other leader is elected, no in-sync set \
                shrinks, and topics cannot be changed: free space in it, or look at it. What is said of partitions is as of \
                before";
    critical("METADATA_STORE_UNAVAILABLE", message, hint.to_owned(), Vec::new())
}

/// Something is wrong with a part of the store.
fn store_part_issue(problem: String) -> pb::HealthIssue {
    let hint = "records flow, and nothing is refused as long as most members of etcd are there; look at etcd";
    issue("METADATA_STORE_DEGRADED", pb::HealthStatus::Degraded, problem, hint.to_owned(), Vec::new())
}

/// No group coordinator is heard, where there was one.
fn no_coordinator_issue() -> pb::HealthIssue {
    let message =
        "no group coordinator is there: consumer groups read nothing new, and nothing is committed".to_owned();
    let hint = "start one (walser group-coordinator); members go on then where they were".to_owned();
    issue("GROUP_COORDINATOR_DOWN", pb::HealthStatus::Degraded, message, hint, Vec::new())
}

/// A group coordinator that gets no groups.
fn refused_coordinator_issue(why: ApiError) -> pb::HealthIssue {
    let hint = "the others serve its groups; it is taken as soon as nobody else is at its address".to_owned();
    let message = format!("a group coordinator was refused: {}", why.message());
    issue(why.reason_name(), pb::HealthStatus::Degraded, message, hint, Vec::new())
}

/// No node has ever registered.
fn no_node_issue() -> pb::HealthIssue {
    let hint = "start one, and name this controller to it with controller.address";
    critical("NO_STORAGE_NODE", "no storage node has registered yet".to_owned(), hint.to_owned(), Vec::new())
}

/// A node that is fenced. What nobody can read or write for it is an issue of its own, unless nobody is left at all.
fn down_issue(node: NodeId, none_left: bool, heard_ms: Option<Timestamp>) -> pb::HealthIssue {
    let severity = if none_left { pb::HealthStatus::Critical } else { pb::HealthStatus::Degraded };
    let message = format!("storage node {node} is down");
    let hint = format!(
        "start it again; where its process runs, it hangs or is cut off: look at its log. If it is gone for good: `walser \
         node deregister {node}`, which says what stands against it"
    );
    let issue = issue("NODE_DOWN", severity, message, hint, vec![format!("nodes/{node}")]);
    pb::HealthIssue { start_time: heard_ms.map(wire_time), ..issue }
}

/// A node that is down, whose process is there and is not taken.
fn turned_away_issue(node: NodeId, why: &ApiError, down: pb::HealthIssue) -> pb::HealthIssue {
    let message = format!("storage node {node} is down: its process was refused: {}", why.message());
    let hint = "nothing was changed in its directory; \"What to do when\" in docs/operations.md says more".to_owned();
    pb::HealthIssue { code: why.reason_name().to_owned(), message, hint, ..down }
}

/// A process that is not taken, and whose id is that of nobody else, or of a node that is in service.
fn stranger_issue(node: NodeId, why: &ApiError) -> pb::HealthIssue {
    let message = format!("a process that is to be storage node {node} was refused: {}", why.message());
    let ends = match why.reason() {
        Reason::NodeIdInUse | Reason::NodeAddressInUse => "it tries again for a while, and then ends",
        _ => "it has ended",
    };
    let hint = format!("{ends}; nothing was changed in its directory");
    issue(why.reason_name(), pb::HealthStatus::Degraded, message, hint, vec![format!("nodes/{node}")])
}

/// What a node that is gone has said of its disks before, where that may be why.
fn failed_disks(said_last: Option<pb::StorageStats>) -> pb::StorageStats {
    let mut disks = said_last.unwrap_or_default().disks;
    disks.retain(|disk| disk.failed);
    pb::StorageStats { disks, ..Default::default() }
}

fn critical(code: &str, message: String, hint: String, objects: Vec<String>) -> pb::HealthIssue {
    issue(code, pb::HealthStatus::Critical, message, hint, objects)
}

fn issue(
    code: &str,
    severity: pb::HealthStatus,
    message: String,
    hint: String,
    objects: Vec<String>,
) -> pb::HealthIssue {
    let (severity, code) = (severity.into(), code.to_owned());
    pb::HealthIssue { severity, code, message, hint, objects, start_time: None }
}

/// A topic with settings that this version does not know.
fn unreadable_issue(topic: &TopicEntry) -> Option<pb::HealthIssue> {
    let error = topic.settings.unreadable.as_ref()?;
    let name = &topic.name;
    let message = format!("topic \"{name}\" has a setting that this version cannot read: {error}");
    let hint =
        "its records stay and can be read, writes are refused; reset the setting, or run a version that knows it";
    Some(critical("TOPIC_SETTINGS_UNREADABLE", message, hint.to_owned(), vec![format!("topics/{name}")]))
}

/// Data that waits for a decision.
fn set_aside_issue(node: NodeId, stats: &pb::StorageStats) -> Option<pb::HealthIssue> {
    let (count, bytes) = (stats.set_aside_count, stats.set_aside_bytes);
    (count > 0).then(|| {
        let message =
            format!("node {node} has set partitions aside that the metadata does not know: {count} ({bytes} bytes)");
        let hint = "`walser partition set-aside list` shows them; restore or delete them".to_owned();
        issue("DATA_SET_ASIDE", pb::HealthStatus::Degraded, message, hint, vec![format!("nodes/{node}")])
    })
}

/// What is wrong with a data directory.
fn disk_issues(node: NodeId, disk: &pb::DiskStats) -> impl Iterator<Item = pb::HealthIssue> {
    let of_disk = |code: &str, problem: &str, hint: &str| {
        let message = format!("data directory {} of node {node} {problem}", disk.path);
        critical(code, message, hint.to_owned(), vec![format!("nodes/{node}")])
    };
    let full = disk.full.then(|| {
        let problem = "is full: records are refused, reading and deleting still work";
        of_disk("DISK_FULL", problem, "free space, or shorten retention.ms or retention.bytes of large topics")
    });
    let failed = disk.failed.then(|| {
        let problem = format!("cannot be used: {}", disk.problem);
        of_disk(
            "DATA_DIRECTORY_FAILED",
            &problem,
            "mount it, or put it back, and look at the disk; the node goes on by itself",
        )
    });
    full.into_iter().chain(failed)
}
