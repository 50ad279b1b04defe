//! What the log of the process says of groups: who comes and goes, and when partitions are shared out anew.

use walser_group::Event;

/// Says what events that are new mean for members.
pub(super) fn log_members(events: &[Event]) {
    for event in events {
        match event {
            Event::Member(group, member, Some(record)) => {
                let instance = record.instance.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::info!(
                    %group, %member, instance, client_id = record.client_id, client_address = record.client_address,
                    "a member of a group has come, or reads other topics"
                );
            }
            Event::Member(group, member, None) => tracing::info!(%group, %member, "a member of a group is gone"),
            Event::AssignmentEpoch(group, Some(epoch)) => {
                tracing::info!(%group, %epoch, "the partitions of a group are shared out anew");
            }
            _ => {}
        }
    }
}
