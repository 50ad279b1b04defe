//! What the log of the process says of groups: who comes and goes, and when partitions are shared out anew. It says so once
//! that is replicated: a member whose join was lost has never come.

use walser_group::{Event, GroupEpoch, GroupId, MemberId, MemberRecord};

/// What is said of one event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MemberLine {
    Came { group: GroupId, member: MemberId, instance: String, client_id: String, client_address: String },
    Gone { group: GroupId, member: MemberId },
    Assigned { group: GroupId, epoch: GroupEpoch },
}

/// What there is to say of events.
pub(super) fn member_lines(events: &[Event]) -> Vec<MemberLine> {
    events.iter().filter_map(MemberLine::of).collect()
}

// === impl MemberLine ===

impl MemberLine {
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Member(group, member, Some(record)) => Some(Self::came(group, member, record)),
            Event::Member(group, member, None) => Some(Self::Gone { group: group.clone(), member: member.clone() }),
            Event::AssignmentEpoch(group, Some(epoch)) => Some(Self::Assigned { group: group.clone(), epoch: *epoch }),
            _ => None,
        }
    }

    fn came(group: &GroupId, member: &MemberId, record: &MemberRecord) -> Self {
        Self::Came {
            group: group.clone(),
            member: member.clone(),
            instance: record.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            client_id: record.client_id.clone(),
            client_address: record.client_address.clone(),
        }
    }

    pub(super) fn log(&self) {
        match self {
            Self::Came { group, member, instance, client_id, client_address } => tracing::info!(
                %group, %member, instance, client_id, client_address, "a member of a group has come, or reads other topics"
            ),
            Self::Gone { group, member } => tracing::info!(%group, %member, "a member of a group is gone"),
            Self::Assigned { group, epoch } => {
                tracing::info!(%group, %epoch, "the partitions of a group are shared out anew");
            }
        }
    }
}
