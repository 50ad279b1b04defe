//! Bytes that what members are told takes in a message of any protocol, beside records: never too few.

use crate::reading::{PartitionFailure, PartitionName};

/// Of a partition's name beside that of its topic.
const NAME_OVERHEAD: usize = 24;
/// Of what is told of a position that was moved, beside the name: numbers in their longest form.
const RESET_OVERHEAD: usize = 48;

/// Of the name of a partition.
pub(super) fn name_bytes(name: &PartitionName) -> usize {
    name.topic.len() + NAME_OVERHEAD
}

/// Of a position that was moved.
pub(super) fn reset_bytes(of: &PartitionName) -> usize {
    name_bytes(of) + RESET_OVERHEAD
}

/// Of a failure: names and text, and its other values, which are few.
pub(super) fn failure_bytes(failure: &PartitionFailure) -> usize {
    let of = &failure.of.topic;
    3 * of.len() + 2 * failure.failure.message().len() + 400
}
