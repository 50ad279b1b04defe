//! What a gateway says of the group coordinators: the controller hears them, and cannot know whether this gateway does.

use std::time::Duration;

use walser_proto::v1 as pb;
use walser_rpc::{GROUP_SHARDS, Network, answers};

use super::controllers::degraded;

/// How long a coordinator may take to answer anything at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The groups that clients of this gateway cannot use, since the coordinator to which they were given does not answer it.
pub(super) async fn unserved_issue(network: &Network) -> Option<pb::HealthIssue> {
    let asked = network.coordinators_elsewhere().into_iter().map(async |(address, connection, shards)| {
        (!answers(connection, ANSWER_TIMEOUT).await).then_some((address, shards))
    });
    let silent: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    issue(&silent)
}

/// `silent`: addresses of coordinators that do not answer, and how many shards of groups each has.
fn issue(silent: &[(String, usize)]) -> Option<pb::HealthIssue> {
    let shards: usize = silent.iter().map(|(_, shards)| shards).sum();
    let addresses: Vec<_> = silent.iter().map(|(address, _)| address.as_str()).collect();
    let (who, verb) = if silent.len() == 1 { ("coordinator", "does") } else { ("coordinators", "do") };
    (shards > 0).then(|| {
        let message = format!(
            "consumer groups of {shards} of {GROUP_SHARDS} shards are not served to clients of this gateway: the group \
             {who} at {} {verb} not answer it",
            addresses.join(", ")
        );
        let hint =
            "if this lasts for more than a few seconds, look at the way there from this gateway, and at the log there";
        degraded("GROUPS_NOT_SERVED", message, hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_without_shards_are_not_missed() {
        assert_eq!(issue(&[]), None);
        assert_eq!(issue(&[("a:1".to_owned(), 0)]), None);
        let one = issue(&[("a:1".to_owned(), 8)]).unwrap().message;
        assert!(
            one.contains("of 8 of 16 shards") && one.ends_with("the group coordinator at a:1 does not answer it"),
            "{one}"
        );
        let both = issue(&[("a:1".to_owned(), 8), ("b:2".to_owned(), 8)]).unwrap().message;
        assert!(both.ends_with("the group coordinators at a:1, b:2 do not answer it"), "{both}");
    }
}
