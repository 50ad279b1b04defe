//! Partitions that lack a leader, or replicas in sync.

use walser_model::RESERVED_PREFIX;
use walser_proto::v1 as pb;
use walser_replication::PartitionState;

use super::{critical, issue};
use crate::cluster_view::ClusterView;

/// Partitions that an issue names; the rest is counted.
const NAMED_MAX: usize = 5;

/// Partitions that lack the same.
#[derive(Debug, Default)]
struct Lacking {
    count: usize,
    /// The first of them, each as its topic and its number.
    first: Vec<(String, i32)>,
    /// How many of them have one replica.
    single: usize,
    /// How many of them are of topics of Walser itself.
    internal: usize,
}

/// What the visible partitions lack.
#[derive(Debug, Default)]
pub(super) struct LackingPartitions {
    offline: Lacking,
    under_min_isr: Lacking,
    /// In spite of which records are written.
    behind: Lacking,
    recovering: Lacking,
    /// With and without a leader.
    stats: pb::TopicStats,
}

impl Lacking {
    fn note(&mut self, topic: &str, number: i32, state: &PartitionState) {
        self.count += 1;
        self.single += usize::from(state.replicas.len() == 1);
        self.internal += usize::from(topic.starts_with(RESERVED_PREFIX));
        if self.first.len() < NAMED_MAX {
            self.first.push((topic.to_owned(), number));
        }
    }

    /// "1 partition `one`: orders/3", or "12 partitions `more`: orders/0, orders/1 and 10 more".
    fn message(&self, one: &str, more: &str) -> String {
        let named: Vec<_> = self.first.iter().map(|(topic, number)| format!("{topic}/{number}")).collect();
        let named = named.join(", ");
        match self.count - self.first.len() {
            0 if self.count == 1 => format!("1 partition {one}: {named}"),
            0 => format!("{} partitions {more}: {named}", self.count),
            rest => format!("{} partitions {more}: {named} and {rest} more", self.count),
        }
    }

    fn objects(&self) -> Vec<String> {
        self.first.iter().map(|(topic, number)| format!("topics/{topic}/partitions/{number}")).collect()
    }
}

impl LackingPartitions {
    pub(super) fn of(view: &ClusterView) -> Self {
        let mut found = Self::default();
        for topic in view.metadata.topics() {
            for partition in topic.partitions() {
                found.add(&topic.name, partition.record.key.partition.0, &partition.record.state);
            }
        }
        found
    }

    fn add(&mut self, topic: &str, number: i32, state: &PartitionState) {
        let (refusing, behind) = (state.is_under_min_isr(), state.is_under_replicated());
        self.stats.under_min_isr_count += i32::from(refusing);
        self.stats.under_replicated_count += i32::from(behind);
        if state.leader.is_none() {
            self.stats.offline_count += 1;
            return self.offline.note(topic, number, state);
        }
        if state.recovering {
            self.recovering.note(topic, number, state);
        }
        match (refusing, behind) {
            (true, _) => self.under_min_isr.note(topic, number, state),
            (false, true) => self.behind.note(topic, number, state),
            (false, false) => {}
        }
    }

    pub(super) fn stats(&self) -> pb::TopicStats {
        self.stats
    }

    /// `away`: there are nodes that are down.
    pub(super) fn issues(&self, away: bool) -> impl Iterator<Item = pb::HealthIssue> {
        let of = |lacking: &Lacking, issue: &dyn Fn(&Lacking) -> pb::HealthIssue| {
            (lacking.count > 0).then(|| issue(lacking))
        };
        let issues = [
            of(&self.offline, &|offline| offline_issue(offline, away)),
            of(&self.recovering, &recovering_issue),
            of(&self.under_min_isr, &|refusing| refusing_issue(refusing, away)),
            of(&self.behind, &|behind| behind_issue(behind, away)),
        ];
        issues.into_iter().flatten()
    }
}

/// What helps where replicas are missing. `away`: there are nodes that are down.
fn missing_hint(away: bool) -> &'static str {
    if away {
        "start the nodes that are down"
    } else {
        "all nodes are in service: replicas catch up by themselves, unless another line here says what is wrong with one"
    }
}

/// Partitions that nobody leads.
fn offline_issue(offline: &Lacking, away: bool) -> pb::HealthIssue {
    let message = offline.message("has no leader", "have no leader");
    let first =
        if away { "start the nodes that are down" } else { "no replica in service is known to have everything" };
    let elect = "`walser partition elect TOPIC PARTITION --unclean --accept-loss` goes on with what the replicas in service \
                 have, if those with the records never come back; one alone takes writes and shows them once \
                 min.insync.replicas of the topic is 1";
    let single = "the records of a partition with one replica are on its node alone: it comes back with the node, or the \
                  topic is deleted and created again";
    let hint = match offline.single {
        0 => format!("{first}; {elect}"),
        all if all == offline.count => format!("{first}; {single}"),
        _ => format!("{first}; {elect}; {single}"),
    };
    critical("PARTITIONS_OFFLINE", message, hint, offline.objects())
}

/// Partitions of which too few replicas are in sync.
fn refusing_issue(refusing: &Lacking, away: bool) -> pb::HealthIssue {
    let message = refusing.message(
        "has fewer replicas in sync than min.insync.replicas",
        "have fewer replicas in sync than min.insync.replicas",
    );
    let of_topic = "`walser topic alter TOPIC -c min.insync.replicas=N`";
    let of_cluster = "`walser cluster config set cluster.min.insync.replicas=N`";
    let fewer = match refusing.internal {
        0 => of_topic.to_owned(),
        all if all == refusing.count => of_cluster.to_owned(),
        _ => format!("{of_topic}, and {of_cluster} for topics of Walser itself,"),
    };
    let hint = format!(
        "writes with acks=all are refused there, and what is known to be committed can be read; {}; a leader that does not \
         reach the others makes way for one that does (`walser partition elect TOPIC PARTITION --node ID --unclean \
         --accept-loss`); where nodes are lost for good, {fewer} goes on with fewer: put it back when they \
         are replaced",
        missing_hint(away)
    );
    critical("PARTITIONS_UNDER_MIN_ISR", message, hint, refusing.objects())
}

/// Partitions of which not all replicas are in sync, but enough.
fn behind_issue(behind: &Lacking, away: bool) -> pb::HealthIssue {
    let message = behind.message("has replicas that are not in sync", "have replicas that are not in sync");
    let hint = format!("unless another line here names them, they are read and written; {}", missing_hint(away));
    issue("PARTITIONS_UNDER_REPLICATED", pb::HealthStatus::Degraded, message, hint, behind.objects())
}

/// Partitions whose leader was elected without proof, and that are not whole again.
fn recovering_issue(recovering: &Lacking) -> pb::HealthIssue {
    let message = recovering.message(
        "is led by a replica that need not have everything",
        "are led by replicas that need not have everything",
    );
    let hint = "records may be lost: an operator has elected the leader, or accepted restored metadata; this ends when \
                enough replicas are in sync";
    issue("PARTITIONS_RECOVERING", pb::HealthStatus::Degraded, message, hint.to_owned(), recovering.objects())
}

#[cfg(test)]
mod tests {
    use walser_model::NodeId;

    use super::*;

    #[test]
    fn what_partitions_lack_is_said_with_the_first_of_them() {
        let mut found = LackingPartitions::default();
        let whole = PartitionState::new(vec![NodeId(1), NodeId(2)], 1);
        found.add("t", 0, &whole);
        assert_eq!(found.issues(true).count(), 0);
        (1..9).for_each(|number| found.add("t", number, &PartitionState { leader: None, ..whole.clone() }));
        let isr = std::iter::once(NodeId(1)).collect();
        found.add("u", 3, &PartitionState { isr, ..whole });
        let issues: Vec<_> = found.issues(true).map(|issue| (issue.code, issue.message, issue.objects.len())).collect();
        let said = |code: &str, message: &str, objects| (code.to_owned(), message.to_owned(), objects);
        assert_eq!(
            issues,
            [
                said("PARTITIONS_OFFLINE", "8 partitions have no leader: t/1, t/2, t/3, t/4, t/5 and 3 more", 5),
                said("PARTITIONS_UNDER_REPLICATED", "1 partition has replicas that are not in sync: u/3", 1),
            ]
        );
        assert_eq!((found.stats().offline_count, found.stats().under_replicated_count), (8, 1));
    }

    #[test]
    fn an_election_is_not_advised_where_no_other_replica_can_lead() {
        let hint = |replicas: &[&[i32]]| {
            let mut found = LackingPartitions::default();
            for nodes in replicas {
                let state = PartitionState::new(nodes.iter().copied().map(NodeId).collect(), 1);
                found.add("t", 0, &PartitionState { leader: None, ..state });
            }
            found.issues(true).next().map(|issue| issue.hint).unwrap_or_default()
        };
        let advises = |hint: &str| (hint.contains("--unclean"), hint.contains("deleted and created again"));
        assert_eq!(advises(&hint(&[&[1]])), (false, true));
        assert_eq!(advises(&hint(&[&[1, 2]])), (true, false));
        assert_eq!(advises(&hint(&[&[1], &[1, 2]])), (true, true));
    }

    #[test]
    fn topics_of_walser_itself_are_altered_by_the_setting_of_the_cluster() {
        let hint = |topics: &[&str]| {
            let mut found = LackingPartitions::default();
            let isr = std::iter::once(NodeId(1)).collect();
            let state = PartitionState { isr, ..PartitionState::new(vec![NodeId(1), NodeId(2)], 2) };
            topics.iter().for_each(|topic| found.add(topic, 0, &state));
            found.issues(true).next().map(|issue| issue.hint).unwrap_or_default()
        };
        let advises = |hint: &str| (hint.contains("topic alter"), hint.contains("cluster config set"));
        assert_eq!(advises(&hint(&["t"])), (true, false));
        assert_eq!(advises(&hint(&["__walser_groups"])), (false, true));
        assert_eq!(advises(&hint(&["t", "__walser_groups"])), (true, true));
    }
}
