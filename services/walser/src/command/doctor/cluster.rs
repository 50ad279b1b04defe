//! The cluster: what it says of itself, versions, and room on its disks.

use std::collections::BTreeMap;

use walser_proto::v1 as pb;
use walser_rpc::FEATURE_LEVELS;

use super::report::Report;
use crate::command::status::Seen;
use crate::output::{bytes, first_of, plural};

/// This program.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// A disk of which less than this many percent are free is told, as by the alert `WalserDiskNearlyFull`.
const FREE_TOLD: i64 = 10;
/// Nodes that a line names.
const NAMED_MAX: usize = 5;

pub(super) fn look(seen: &Seen, report: &mut Report) {
    let Seen { cluster, .. } = seen;
    health(cluster, report);
    versions(cluster, seen.nodes(), report);
    disks(seen.nodes(), report);
}

/// What the server says that is wrong, in its words.
fn health(cluster: &pb::Cluster, report: &mut Report) {
    let health = cluster.health.clone().unwrap_or_default();
    if health.issues.is_empty() {
        let (topics, partitions) = (i64::from(health.topic_count), i64::from(health.partition_count));
        let holds = format!("{}, {}", plural(topics, "topic"), plural(partitions, "partition"));
        report.fine("health", format!("cluster \"{}\" is healthy: {holds}", cluster.name));
    }
    for issue in health.issues {
        let text = format!("{} ({})", issue.message, issue.code);
        match issue.severity() {
            pb::HealthStatus::Critical => report.failed("health", text, issue.hint),
            _ => report.warned("health", text, issue.hint),
        }
    }
}

/// Programs of different versions, and an upgrade that is not ended.
fn versions(cluster: &pb::Cluster, nodes: &[pb::Node], report: &mut Report) {
    let mut by_version = BTreeMap::<&str, Vec<String>>::new();
    for node in nodes.iter().filter(|node| node.state() != pb::NodeState::Down) {
        by_version.entry(&node.version).or_default().push(node.id.to_string());
    }
    if by_version.len() > 1 {
        let of = |(version, ids): (&&str, &Vec<String>)| {
            format!("{version} on {}", first_of(ids.iter().cloned(), ids.len(), NAMED_MAX))
        };
        let text = by_version.iter().map(of).collect::<Vec<_>>().join("; ");
        let help = "go on with the upgrade: restart the nodes of the older version with the newer one";
        report.warned("version", format!("storage nodes run different versions: {text}"), help);
    }
    let (server, level) = (&cluster.version, cluster.feature_level);
    // Without a controller it is not known.
    let at = if level > 0 { format!(" at feature level {level}") } else { String::new() };
    let newest = FEATURE_LEVELS.max;
    let text = format!("server {server}{at}, this program {OWN_VERSION} with levels up to {newest}");
    if level > newest {
        let help = "this program is older than the cluster works: use the one of the server's version";
        report.failed("version", text, help);
    } else if server != OWN_VERSION {
        let help =
            "one may have commands and settings that the other does not know: use the program of the server's version";
        report.warned("version", text, help);
    } else if (1..newest).contains(&level) && by_version.len() <= 1 {
        let help = "an upgrade is not ended: once all processes run the new version and stay so, `walser cluster \
                    finalize-upgrade`, which cannot be undone";
        report.warned("version", text, help);
    } else {
        report.fine("version", text);
    }
}

/// Room on the disks. A node that is full or failed is told by the server.
fn disks(nodes: &[pb::Node], report: &mut Report) {
    let disks = nodes
        .iter()
        .flat_map(|node| node.storage.iter().flat_map(move |it| it.disks.iter().map(move |disk| (node, disk))));
    let known: Vec<_> = disks.filter(|(_, disk)| disk.total_bytes > 0 && !disk.failed).collect();
    let percent = |disk: &pb::DiskStats| disk.free_bytes.saturating_mul(100) / disk.total_bytes;
    let Some((node, fullest)) = known.iter().min_by_key(|(_, disk)| percent(disk)) else { return };
    let of = |node: &pb::Node, disk: &pb::DiskStats| {
        format!("node {} {} % ({})", node.id, percent(disk), bytes(disk.free_bytes))
    };
    let low: Vec<_> = known.iter().filter(|(_, disk)| percent(disk) < FREE_TOLD).collect();
    if low.is_empty() {
        return report.fine("disk", format!("free on disks, at least: {}", of(node, fullest)));
    }
    let named = first_of(low.iter().map(|(node, disk)| of(node, disk)), low.len(), NAMED_MAX);
    let help = "free space, lower retention.bytes or retention.ms of large topics (`walser topic list` shows their size), or \
                enlarge the disk: below the reserve, records are refused";
    report.warned("disk", format!("little is free on disks: {named}"), help);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: i32, version: &str, free_bytes: i64) -> pb::Node {
        let disks = vec![pb::DiskStats { free_bytes, total_bytes: 1000, ..Default::default() }];
        let storage = Some(pb::StorageStats { disks, ..Default::default() });
        let state = pb::NodeState::Active.into();
        pb::Node { id, version: version.to_owned(), state, storage, ..Default::default() }
    }

    #[test]
    fn disks_with_little_room_are_named() {
        let mut report = Report::default();
        disks(&[node(1, "", 500), node(2, "", 160)], &mut report);
        assert_eq!(report.troubles(), []);
        disks(&[node(1, "", 500), node(2, "", 90), node(3, "", 0)], &mut report);
        assert_eq!(report.troubles(), [("disk", "little is free on disks: node 2 9 % (90 B), node 3 0 % (0 B)")]);
        disks(&[], &mut report);
    }

    #[test]
    fn an_upgrade_under_way_is_told() {
        let of = |version: &str, feature_level, nodes: &[pb::Node]| {
            let mut report = Report::default();
            let cluster = pb::Cluster { version: version.to_owned(), feature_level, ..Default::default() };
            versions(&cluster, nodes, &mut report);
            report.troubles().len()
        };
        let newest = FEATURE_LEVELS.max;
        assert_eq!(of(OWN_VERSION, newest, &[node(1, OWN_VERSION, 1)]), 0);
        assert_eq!(of(OWN_VERSION, newest - 1, &[node(1, OWN_VERSION, 1)]), 1);
        assert_eq!(of(OWN_VERSION, newest, &[node(1, "0.0.9", 1), node(2, OWN_VERSION, 1)]), 1);
        assert_eq!(of("9.9.9", newest + 1, &[]), 1);
        assert_eq!(of(OWN_VERSION, 0, &[]), 0, "no controller could tell");
    }
}
