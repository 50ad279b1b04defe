//! A log as its users see it: appends, reads, restarts, power loss, damage.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "log/below_start.rs"]
mod below_start;
#[path = "log/compaction.rs"]
mod compaction;
#[path = "log/compaction_faults.rs"]
mod compaction_faults;
#[path = "log/crash.rs"]
mod crash;
#[path = "log/damage.rs"]
mod damage;
#[path = "log/extension.rs"]
mod extension;
#[path = "log/flipped_bits.rs"]
mod flipped_bits;
#[path = "log/large_index.rs"]
mod large_index;
#[path = "log/meetings.rs"]
mod meetings;
#[path = "log/names_and_files.rs"]
mod names_and_files;
#[path = "log/ordinary.rs"]
mod ordinary;
#[path = "log/producers.rs"]
mod producers;
#[path = "log/removed.rs"]
mod removed;
#[path = "log/rot_and_power.rs"]
mod rot_and_power;
#[path = "log/set_aside.rs"]
mod set_aside;
#[path = "log/site.rs"]
mod site;
#[path = "log/tombstones.rs"]
mod tombstones;
#[path = "log/uncleaned.rs"]
mod uncleaned;
