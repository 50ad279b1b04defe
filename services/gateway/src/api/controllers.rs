//! What a gateway says of the controllers: one that is gone cannot say it, and the one that leads need not know how many
//! there are to be.

use std::time::Duration;

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Network, Reason};

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

/// The controllers that say nothing, of several. `led`: one of them leads.
pub(super) async fn silent_issue(network: &Network, led: bool) -> Option<pb::HealthIssue> {
    let (silent, count) = network.silent_controllers(ANSWER_TIMEOUT).await;
    if silent.is_empty() || count == 1 {
        return None;
    }
    let verb = if silent.len() == 1 { "does" } else { "do" };
    let whole = if led { "another one leads: nothing is refused" } else { "none of the others leads" };
    Some(pb::HealthIssue {
        severity: pb::HealthStatus::Degraded.into(),
        code: "CONTROLLER_DOWN".to_owned(),
        message: format!("{} of {count} controllers {verb} not answer: {}", silent.len(), silent.join(", ")),
        hint: format!("{whole}; start what is down again, or look at its log"),
        objects: Vec::new(),
        start_time: None,
    })
}
