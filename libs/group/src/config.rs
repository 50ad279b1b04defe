//! Limits and times of a shard.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::rules::GroupRules;

/// Limits and times. Every limit is inclusive; what exceeds one is refused with an error that names it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Groups of the shard, those with nothing but offsets included.
    pub groups_max: usize,
    /// Members of all groups of the shard.
    pub members_max: usize,
    /// Members of one group.
    pub group_members_max: usize,
    /// Partitions of which one group has committed offsets. Before one is refused, those of topics that are gone make room.
    pub group_offsets_max: usize,
    /// Partitions that one group shares among its members; those of the topics last in the order of ids stay unassigned.
    pub group_partitions_max: usize,
    /// Topics that one member names.
    pub member_topics_max: usize,
    /// Topics that all members of one group name together, each counted once per member.
    pub group_topics_max: usize,
    /// Different patterns in one group: each takes up to [`Config::pattern_compiled_bytes_max`].
    pub group_patterns_max: usize,
    /// The text of a pattern, in bytes.
    pub pattern_bytes_max: usize,
    /// A compiled pattern, in bytes.
    pub pattern_compiled_bytes_max: usize,
    /// The metadata of a committed offset, in bytes.
    pub offset_metadata_bytes_max: usize,
    /// Offsets in one commit or reset.
    pub request_partitions_max: usize,
    /// What a member may ask for as its session timeout.
    pub session_timeout: RangeInclusive<Duration>,
    /// The longest revocation timeout.
    pub revocation_timeout_max: Duration,
    /// What a dynamic member is left after its stream was closed at a living gateway.
    pub detached_grace: Duration,
    /// Of a gateway that was not heard for longer it is not certain that it still has its members.
    pub gateway_silence_max: Duration,
    /// The least time between two assignments of one group: changes in between are assigned together.
    pub assignment_interval: Duration,
    /// How long offsets are kept in a group without members.
    pub offsets_retention: Duration,
    /// How long a group without members and offsets is kept.
    pub empty_group_retention: Duration,
    /// So long after its start a shard believes neither its clock that a retention is over, nor the metadata that a topic is
    /// gone: the one may be wrong, and the other late.
    pub start_grace: Duration,
    /// The rules that hold.
    pub rules: GroupRules,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            groups_max: 100_000,
            members_max: 100_000,
            group_members_max: 10_000,
            group_offsets_max: 100_000,
            group_partitions_max: 100_000,
            member_topics_max: 1_000,
            group_topics_max: 100_000,
            group_patterns_max: 16,
            pattern_bytes_max: 1_024,
            pattern_compiled_bytes_max: 256 << 10,
            offset_metadata_bytes_max: 4_096,
            request_partitions_max: 10_000,
            session_timeout: Duration::from_secs(6)..=Duration::from_secs(60),
            revocation_timeout_max: Duration::from_secs(600),
            detached_grace: Duration::from_millis(500),
            gateway_silence_max: Duration::from_secs(3),
            assignment_interval: Duration::from_millis(50),
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            empty_group_retention: Duration::from_secs(600),
            start_grace: Duration::from_secs(3600),
            rules: GroupRules::ALL,
        }
    }
}
