//! Members that are on their way here: the coordinator may have let one in, and its answer not be here yet.

use std::sync::Arc;

use tokio::time::Instant;
use walser_group::{Attach, Attached, GroupId, MemberId};
use walser_rpc::{ApiError, MemberAnswer, MemberRequest};

use super::{Entry, HostedShard, SaidAt};
use crate::groups::membership::{attached, replaced};

/// A member that asks to attach here: reports name it, so that the coordinator does not take it for one that has gone.
#[derive(Debug)]
struct Expected {
    shard: Arc<HostedShard>,
    key: (GroupId, MemberId),
}

impl Expected {
    fn new(shard: &Arc<HostedShard>, key: (GroupId, MemberId)) -> Self {
        *shard.expected.lock().entry(key.clone()).or_default() += 1;
        Self { shard: Arc::clone(shard), key }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut expected = self.shard.expected.lock();
        if let Some(count) = expected.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                expected.remove(&self.key);
            }
        }
    }
}

impl HostedShard {
    /// Attaches a member here, and makes it known. A stream of it that is open is not disturbed before the coordinator agrees.
    ///
    /// # Errors
    /// As the coordinator refuses; why it does not answer until `until`; the member has attached here on another stream meanwhile.
    pub(in crate::groups) async fn attach(
        self: &Arc<Self>,
        attach: Attach,
        until: Instant,
    ) -> Result<(SaidAt, Attached, Entry), ApiError> {
        let (group, member) = (attach.member.group.clone(), attach.member.member.clone());
        let _expected = Expected::new(self, (group.clone(), member.clone()));
        let (said, answer): (_, MemberAnswer) = self.ask(MemberRequest::Attach(Box::new(attach)), until).await?;
        let attached = attached(answer)?;
        let entry = self.enter((&group, &member), attached.attachment).ok_or_else(replaced)?;
        Ok((said, attached, entry))
    }
}
