//! What a gateway says of the controllers: one that is gone cannot say it, and the one that leads need not know how many
//! there are to be.

use std::collections::BTreeSet;
use std::time::Duration;

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, ControllerClient, ControllerState, Network, Reason};

use crate::metadata::Metadata;

/// How long a controller may take to answer anything at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster as this gateway knows it, while no controller leads. Its id and name, and what only the controller knows,
/// stay empty.
///
/// # Errors
/// `failure`, when it is another one, or when this gateway has not met a controller yet.
pub(super) fn without_leader(metadata: &Metadata, failure: ApiError) -> Result<pb::Cluster, ApiError> {
    if failure.reason() != Reason::ControllerNotAvailable || !metadata.known() {
        return Err(failure);
    }
    let issue = pb::HealthIssue {
        severity: pb::HealthStatus::Critical.into(),
        code: failure.reason_name().to_owned(),
        message: format!("no controller leads: {}", failure.message()),
        hint:
            "records flow in partitions whose in-sync replicas are all in service; no other leader is elected, no \
               in-sync set shrinks, and topics cannot be changed: start a controller, or look at the log of one and at the metadata store"
                .to_owned(),
        objects: Vec::new(),
        start_time: None,
    };
    let view = metadata.view();
    let count_of = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (topics, partitions) = view.user_counts();
    let health = pb::ClusterHealth {
        issues: vec![issue],
        topic_count: count_of(topics),
        partition_count: count_of(partitions),
        ..Default::default()
    };
    let (version, mode) = (env!("CARGO_PKG_VERSION").to_owned(), "DISTRIBUTED".to_owned());
    Ok(pb::Cluster { version, mode, health: Some(health), ..Default::default() })
}

/// What the controllers of other processes say of themselves.
#[derive(Debug, Default)]
pub(super) struct Controllers {
    count: usize,
    /// Address of the one that leads.
    pub(super) leader: Option<String>,
    /// Addresses of those that say nothing.
    silent: Vec<String>,
    /// Addresses of those that could not begin to lead, and why.
    hindered: Vec<(String, String)>,
    /// What is wrong with parts of the metadata store, as any of them sees it.
    store_problems: BTreeSet<String>,
}

// === impl Controllers ===

impl Controllers {
    /// Asks each of them, for at most 1 s.
    pub(super) async fn ask(network: &Network) -> Self {
        let elsewhere = network.controllers_elsewhere();
        let mut controllers = Self { count: elsewhere.len(), ..Self::default() };
        let asked = elsewhere.into_iter().map(async |(address, connection)| {
            (address, tokio::time::timeout(ANSWER_TIMEOUT, ControllerClient::new(connection).state()).await)
        });
        for (address, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(Ok(state)) => controllers.note(address, state),
                // One of an older version does not know the question, and is there.
                Ok(Err(failure)) if failure.reason() != Reason::ControllerNotAvailable => {}
                _ => controllers.silent.push(address),
            }
        }
        controllers
    }

    fn note(&mut self, address: String, state: ControllerState) {
        self.store_problems.extend(state.store_problems);
        if state.leads {
            self.leader = Some(address.clone());
        }
        if let Some(obstacle) = state.obstacle.filter(|_| !state.leads) {
            self.hindered.push((address, obstacle));
        }
    }

    /// What is wrong with them. `led`: one of them leads, and has said what it sees of the metadata store.
    pub(super) fn issues(self, led: bool) -> Vec<pb::HealthIssue> {
        let mut issues = Vec::new();
        issues.extend(self.silent_issue(led));
        if led {
            issues.extend(self.hindered_issue());
            return issues;
        }
        let hint = "look at etcd: it answers while most of its members are there";
        issues
            .extend(self.store_problems.into_iter().map(|problem| degraded("METADATA_STORE_DEGRADED", problem, hint)));
        issues
    }

    /// Those that say nothing, of several.
    fn silent_issue(&self, led: bool) -> Option<pb::HealthIssue> {
        let Self { count, silent, .. } = self;
        if silent.is_empty() || *count == 1 {
            return None;
        }
        let verb = if silent.len() == 1 { "does" } else { "do" };
        let whole = if led { "another one leads: nothing is refused" } else { "none of the others leads" };
        let message = format!("{} of {count} controllers {verb} not answer: {}", silent.len(), silent.join(", "));
        let hint = format!("{whole}; start what is down again, or look at its log");
        Some(degraded("CONTROLLER_DOWN", message, &hint))
    }

    /// Those that could not take over from the one that leads.
    fn hindered_issue(&self) -> Option<pb::HealthIssue> {
        let Self { count, hindered, .. } = self;
        let (first, obstacle) = hindered.first()?;
        let addresses: Vec<_> = hindered.iter().map(|(address, _)| address.as_str()).collect();
        let which = if hindered.len() == 1 { String::new() } else { format!("{first}: ") };
        let message = format!(
            "{} of {count} controllers could not take over: {} ({which}{obstacle})",
            hindered.len(),
            addresses.join(", ")
        );
        let hint = "another one leads: nothing is refused; look at the log of the one that is named, and at its way to the \
                    metadata store";
        Some(degraded("CONTROLLER_CANNOT_LEAD", message, hint))
    }
}

/// Something that works with less than there is to be.
pub(super) fn degraded(code: &str, message: String, hint: &str) -> pb::HealthIssue {
    pb::HealthIssue {
        severity: pb::HealthStatus::Degraded.into(),
        code: code.to_owned(),
        message,
        hint: hint.to_owned(),
        objects: Vec::new(),
        start_time: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(issues: &[pb::HealthIssue]) -> Vec<&str> {
        issues.iter().map(|issue| issue.code.as_str()).collect()
    }

    fn hindered(why: &str) -> ControllerState {
        let store_problems = vec!["etcd 2 does not answer".to_owned()];
        ControllerState { leads: false, obstacle: Some(why.to_owned()), store_problems }
    }

    #[test]
    fn one_that_could_not_take_over_is_named_with_the_reason() {
        let mut controllers = Controllers { count: 2, ..Controllers::default() };
        controllers.note("a:1".to_owned(), ControllerState { leads: true, ..hindered("no answer yet") });
        controllers.note("b:2".to_owned(), hindered("the metadata store does not answer it"));
        let issues = controllers.issues(true);
        assert_eq!(codes(&issues), ["CONTROLLER_CANNOT_LEAD"], "what the store lacks is said by the one that leads");
        let expected = "1 of 2 controllers could not take over: b:2 (the metadata store does not answer it)";
        assert_eq!(issues[0].message, expected);
    }

    #[test]
    fn where_none_leads_what_any_of_them_sees_of_the_store_is_said_once() {
        let mut controllers = Controllers { count: 3, silent: vec!["c:3".to_owned()], ..Controllers::default() };
        controllers.note("a:1".to_owned(), hindered("x"));
        controllers.note("b:2".to_owned(), hindered("x"));
        let issues = controllers.issues(false);
        assert_eq!(codes(&issues), ["CONTROLLER_DOWN", "METADATA_STORE_DEGRADED"]);
        assert_eq!(issues[1].message, "etcd 2 does not answer");
    }
}
