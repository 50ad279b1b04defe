//! From what a member has to what it is to have, one step at a time: `CurrentAssignmentBuilder` of Kafka (KIP-848).
//!
//! ```text
//!   assigned, not in the target  ->  revoking, until the member releases it or its time is over
//!   nothing left in revoking     ->  the member reaches the epoch of the target
//!   in the target, held by none  ->  assigned, in the epoch of the target
//! ```
//!
//! What a member was asked to release stays so, even when a later target gives it back: the member releases it, and gets
//! it again in a later epoch. So does Kafka. To give it back in place would not be safe:
//!
//! - In the epoch that it had: a release names a partition and the epoch in which it was assigned. One that was sent before
//!   the partition was given back, and arrives when it is being revoked for the second time, would free what its member
//!   reads. It would have to name the member epoch too, and all that is being revoked to be given back at once, so that the
//!   member epoch moves on.
//! - In another epoch: the last commits of the member, which it makes before it confirms, would be refused.

use walser_model::TopicPartition;

use super::Group;
use crate::event::CurrentAssignment;
use crate::id::MemberId;
use crate::rules::{GroupRule, GroupRules};

impl Group {
    /// What a member has after its next step; `None` when there is no step to take.
    pub(crate) fn next_assignment(&self, id: &MemberId, rules: GroupRules) -> Option<CurrentAssignment> {
        let member = self.members.get(id)?;
        if member.is_settled(self.assignment_epoch) {
            return None;
        }
        let wanted = |partition: &TopicPartition| member.target.binary_search(partition).is_ok();
        let mut next = member.current.clone();
        let unwanted: Vec<TopicPartition> = next.assigned.keys().filter(|found| !wanted(found)).copied().collect();
        for partition in unwanted {
            let epoch = next.assigned.remove(&partition).expect("the partition was found in it");
            next.revoking.insert(partition, epoch);
        }
        if next.revoking.is_empty() {
            next.epoch = self.assignment_epoch;
            for partition in &member.target {
                let free = self.owner(partition).is_none() || !rules.hold(GroupRule::RevocationIsAwaited);
                if free && !next.assigned.contains_key(partition) {
                    next.assigned.insert(*partition, self.assignment_epoch);
                }
            }
        }
        (next != member.current).then_some(next)
    }
}
