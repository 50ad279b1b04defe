//! Settings of topics that are allowed, and hurt.

use walser_model::parse_bytes;
use walser_proto::v1 as pb;

use super::report::Report;
use crate::command::status::Seen;
use crate::output::{bytes, first_of, plural};
use crate::server::Server;
use crate::topics;

/// Largest message that clients take which gRPC libraries make when nobody says otherwise.
const CLIENT_BYTES_MAX: i64 = 4 << 20;
/// Nodes from which on a topic can have copies that outlive one of them and still take records.
const NODES_FOR_COPIES: usize = 3;
/// Topics that a line names.
const NAMED_MAX: usize = 5;

/// What topics are judged by.
#[derive(Debug, Clone, Copy)]
struct Surrounding {
    storage_nodes: usize,
    /// Of all disks together; `None`: not of all it is known.
    disk_bytes: Option<i64>,
    /// `min.insync.replicas` of topics that do not say.
    min_insync: i64,
}

pub(super) async fn look(server: &Server, seen: &Seen, report: &mut Report) {
    let listed = tokio::try_join!(topics::list(server, false, false), server.cluster_configs());
    let (listed, settings) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            return report.failed("topics", error.what(), error.help().unwrap_or("look at the log of the server"));
        }
    };
    let setting = |name: &str| settings.iter().find(|setting| setting.name == name)?.value.parse().ok();
    let known = |node: &pb::Node| {
        let disks = node.storage.as_ref().map(|storage| storage.disks.iter().map(|disk| disk.total_bytes).sum::<i64>());
        disks.filter(|bytes| *bytes > 0)
    };
    let surrounding = Surrounding {
        storage_nodes: seen.nodes().len(),
        disk_bytes: seen.nodes().iter().map(known).sum(),
        min_insync: setting("cluster.min.insync.replicas").unwrap_or(1),
    };
    places(seen.nodes(), setting("cluster.replication.factor").unwrap_or(1), report);
    let before = report.len();
    judge(&listed, surrounding, report);
    if report.len() == before {
        let count = plural(i64::try_from(listed.len()).unwrap_or(i64::MAX), "topic");
        report.fine("topics", format!("settings of {count}: none that hurts was found"));
    }
}

/// Storage nodes that take no new replicas, where the others are too few for a topic by default.
fn places(nodes: &[pb::Node], replication_factor: i64, report: &mut Report) {
    let (out, open): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.cordoned);
    if out.is_empty() || i64::try_from(open.len()).unwrap_or(i64::MAX) >= replication_factor {
        return;
    }
    let named = first_of(out.iter().map(|node| node.id.to_string()), out.len(), NAMED_MAX);
    let (open, all) = (open.len(), nodes.len());
    let text = format!(
        "{open} of {all} storage nodes take new replicas, and topics have {replication_factor} by default: none is created without a smaller number"
    );
    let help =
        format!("`walser node uncordon ID` ends that a node is cordoned or drained, also over restarts: {named}");
    report.warned("topics", text, help);
}

fn judge(topics: &[pb::Topic], surrounding: Surrounding, report: &mut Report) {
    replicas(topics, surrounding, report);
    let record_max = |topic: &pb::Topic| number(topic, "max.message.bytes").filter(|bytes| *bytes > CLIENT_BYTES_MAX);
    let large = of(topics, |topic| record_max(topic).is_some());
    if let Some(named) = large.named() {
        let most = topics.iter().filter_map(record_max).max().unwrap_or(0);
        let help = format!(
            "the clients that gRPC libraries make take messages of 4 MiB: have those that read set their limit \
             (grpc.max_receive_message_length, MaxCallRecvMsgSize, maxInboundMessageSize) above {}",
            bytes(most)
        );
        report.warned(
            "topics",
            format!("records may be larger than clients take by default (max.message.bytes): {named}"),
            help,
        );
    }
    let Some(disk_bytes) = surrounding.disk_bytes else { return };
    let kept: i64 = topics.iter().map(kept_bytes).fold(0, i64::saturating_add);
    if kept > disk_bytes {
        let (kept, disk_bytes) = (bytes(kept), bytes(disk_bytes));
        let text =
            format!("retention.bytes of all topics, over all replicas, allows {kept}; the disks have {disk_bytes}");
        report.warned("topics", text, "lower retention.bytes, which counts for each partition, or add disks and nodes");
    }
}

/// Numbers of replicas that leave no room for a node that is away.
fn replicas(topics: &[pb::Topic], Surrounding { storage_nodes, min_insync, .. }: Surrounding, report: &mut Report) {
    let required = |topic: &pb::Topic| number(topic, "min.insync.replicas").unwrap_or(min_insync);
    let all =
        of(topics, |topic| topic.replication_factor > 1 && required(topic) >= i64::from(topic.replication_factor));
    if let Some(named) = all.named() {
        let help = "while one node is away, also for a restart, writes with acks=all are refused: have one replica more than \
                    min.insync.replicas, as with 3 and 2";
        report.warned("topics", format!("min.insync.replicas is all replicas: {named}"), help);
    }
    let copies = |topic: &pb::Topic| usize::try_from(topic.replication_factor).unwrap_or(0);
    let loose = of(topics, |topic| copies(topic) >= NODES_FOR_COPIES && required(topic) == 1);
    if let Some(named) = loose.named() {
        let help = "a write is acknowledged with one copy of it, and is lost with the disk of that: set min.insync.replicas=2 for \
                    topics with three replicas (`walser topic alter`, or `walser cluster config set \
                    cluster.min.insync.replicas=2` for all that do not say otherwise)";
        report.warned("topics", format!("three replicas or more, of which one must have a write: {named}"), help);
    }
    let single = of(topics, |topic| storage_nodes >= NODES_FOR_COPIES && topic.replication_factor == 1);
    if let Some(named) = single.named() {
        let help = "the records are gone with the disk of one node, and away while it is down: create such topics with \
                    --replicas 3 (`walser cluster config set cluster.replication.factor=3` for those to come), and copy the \
                    records over";
        report.warned("topics", format!("one replica in a cluster of {storage_nodes} storage nodes: {named}"), help);
    }
}

/// Topics of which one thing is to be told.
struct Told<'a>(Vec<&'a pb::Topic>);

fn of<'a>(topics: &'a [pb::Topic], which: impl Fn(&pb::Topic) -> bool) -> Told<'a> {
    Told(topics.iter().filter(|topic| which(topic)).collect())
}

/// An override that is a number. `None`: there is none.
fn number(topic: &pb::Topic, name: &str) -> Option<i64> {
    parse_bytes(topic.config.get(name)?).ok()
}

/// Bytes that retention leaves of a topic by its settings, with all replicas, where it is bounded by size: what is kept is at
/// least that large, and whole segments go.
fn kept_bytes(topic: &pb::Topic) -> i64 {
    let partition = number(topic, "retention.bytes").filter(|bytes| *bytes >= 0).unwrap_or(0);
    let replicas = i64::from(topic.partition_count).saturating_mul(i64::from(topic.replication_factor));
    partition.saturating_mul(replicas)
}

// === impl Told ===

impl Told<'_> {
    /// Their names, of many the first. `None`: there are none.
    fn named(&self) -> Option<String> {
        let names = self.0.iter().map(|topic| topic.name.clone());
        (!self.0.is_empty()).then(|| first_of(names, self.0.len(), NAMED_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURROUNDING: Surrounding = Surrounding { storage_nodes: 3, disk_bytes: Some(1 << 30), min_insync: 2 };

    fn topic(name: &str, replication_factor: i32, config: &[(&str, &str)]) -> pb::Topic {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        pb::Topic { name: name.to_owned(), partition_count: 2, replication_factor, config, ..Default::default() }
    }

    fn troubles(topics: &[pb::Topic], surrounding: Surrounding) -> Vec<String> {
        let mut report = Report::default();
        judge(topics, surrounding, &mut report);
        report.troubles().into_iter().map(|(_, text)| text.to_owned()).collect()
    }

    #[test]
    fn drained_nodes_that_leave_no_place_for_a_topic_are_told() {
        let nodes = [false, true, true].map(|cordoned| pb::Node { cordoned, ..Default::default() });
        let told = |factor| {
            let mut report = Report::default();
            places(&nodes, factor, &mut report);
            report.troubles().into_iter().map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
        };
        assert!(told(1).is_empty());
        let expected = "1 of 3 storage nodes take new replicas, and topics have 3 by default: none is created without a smaller number";
        assert_eq!(told(3), [expected]);
    }

    #[test]
    fn settings_that_hurt_are_told_with_their_topics() {
        let fine = topic("fine", 3, &[("max.message.bytes", "4194304"), ("retention.bytes", "100MiB")]);
        assert!(troubles(std::slice::from_ref(&fine), SURROUNDING).is_empty());
        let all = topic("all", 2, &[]);
        let own = topic("own", 3, &[("min.insync.replicas", "3")]);
        let single = topic("single", 1, &[("min.insync.replicas", "1")]);
        let loose = topic("loose", 3, &[("min.insync.replicas", "1")]);
        let large = topic("large", 3, &[("max.message.bytes", "8388608")]);
        let told = troubles(&[fine, all, own, loose, single, large], SURROUNDING);
        let expected = [
            "min.insync.replicas is all replicas: all, own",
            "three replicas or more, of which one must have a write: loose",
            "one replica in a cluster of 3 storage nodes: single",
            "records may be larger than clients take by default (max.message.bytes): large",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn retention_by_size_has_to_fit_the_disks() {
        let half = |name: &str| topic(name, 3, &[("retention.bytes", "90MiB")]);
        assert!(troubles(&[half("a")], SURROUNDING).is_empty());
        let told = troubles(&[half("a"), half("b")], SURROUNDING);
        assert_eq!(told, ["retention.bytes of all topics, over all replicas, allows 1.1 GiB; the disks have 1.0 GiB"]);
        let unknown = Surrounding { disk_bytes: None, ..SURROUNDING };
        assert!(troubles(&[half("a"), half("b"), topic("c", 3, &[("retention.bytes", "-1")])], unknown).is_empty());
    }

    #[test]
    fn of_many_topics_the_first_are_named() {
        let many: Vec<_> = (0..10_000).map(|number| topic(&format!("t{number}"), 1, &[])).collect();
        let told = troubles(&many, SURROUNDING);
        assert_eq!(told, ["one replica in a cluster of 3 storage nodes: t0, t1, t2, t3, t4 and 9995 more"]);
        let standalone = Surrounding { storage_nodes: 1, ..SURROUNDING };
        assert!(troubles(&many, standalone).is_empty());
    }
}
