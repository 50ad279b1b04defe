//! What an answer to a poll has room for. A client takes messages of so many bytes; what it has to be told comes first, and records,
//! and what cannot be read, get what is left. Where too little is left the poll fails, and says what to do: half of the truth
//! about partitions or commits is none.

use walser_rpc::{ApiError, Effect, MemberToken, PollState, Reason};

use crate::groups::Groups;
use crate::groups::told_bytes::{failure_bytes, name_bytes, reset_bytes};
use crate::reading::{PartitionFailure, Reset};

use super::places::Standing;
use super::{PollRequest, Poller};

/// Of an answer beside what is counted.
const ANSWER_OVERHEAD: usize = 256;

impl Groups {
    /// Bytes of the answer that are taken by what the client is told: its token, what it has and has lost, the commits that were
    /// refused and the positions that were moved. The token grows by less than what each chunk of records is counted with.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`: they are more than three quarters of what the client takes.
    pub(super) fn told_bytes(
        &self,
        poller: &Poller,
        standing: &mut Standing,
        asked: &PollRequest,
        (refused, resets): (&[PartitionFailure], &[Reset]),
    ) -> Result<usize, ApiError> {
        let held = standing.held(&poller.current.assigned);
        let lost = poller.before.held.keys().filter(|partition| !held.contains_key(partition));
        let names: usize =
            held.keys().chain(lost).filter_map(|it| self.name_of(it)).map(|name| name_bytes(&name)).sum();
        let (count, places) = (held.len(), standing.places.clone());
        let poll = PollState { epoch: poller.current.epoch, held, places, settings: asked.settings.clone() };
        let token = MemberToken { member: poller.of.clone(), poll: Some(poll) }.seal(&poller.key)?;
        let refusals: usize = refused.iter().map(failure_bytes).sum();
        let moved: usize = resets.iter().map(|reset| reset_bytes(&reset.of)).sum();
        let told = ANSWER_OVERHEAD + token.len() + names + refusals + moved;
        let limit = asked.read.options.shape.message_bytes_max;
        if told <= limit - limit / 4 {
            return Ok(told);
        }
        let what = if refusals > told / 2 {
            format!(
                "{} commits were refused, which takes {refusals} bytes to say: commit fewer in one call",
                refused.len()
            )
        } else {
            format!(
                "the member has {count} partitions, which takes {told} bytes to say: let more members share them, read with Consume"
            )
        };
        let text =
            format!("{what}, or join with a higher max_message_bytes; the client takes messages of {limit} bytes");
        // What was not refused is committed.
        Err(ApiError::new(Reason::QuotaExceeded, text).with("limit", limit).with_effect(Effect::Maybe))
    }
}
