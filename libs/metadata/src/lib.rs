//! Cluster metadata as every process holds it: topics, partitions, nodes, and topics that are being deleted.
//!
//! Pure: values in, values out. A [`View`] is the metadata at one version. A [`Delta`] leads from one version to a later
//! one, or replaces everything ([`Delta::snapshot`]); [`View::apply`] says what has changed. Two feeders make deltas: the
//! controller from the watch of its store, the other services from the controller's `WatchMetadata` stream. The
//! controller decides on its view, and the simulator of `integration-tests/sim` feeds its controllers with the same code.
//!
//! [`value`] has the values as the metadata store keeps them.
//!
//! Invariants:
//! - A delta takes effect as a whole, or not at all.
//! - The version of a view never goes back, nor does the revision of any record in it.
//! - A field that this version does not know is kept, and written again with the value that has it.
//! - A partition whose topic is not there is not visible, whatever order its parts arrive in.

mod delta;
mod settings;
pub mod value;
mod view;

pub use delta::{Changes, Delta, MetadataChange};
pub use settings::TopicSettings;
pub use view::{GroupShardEntry, NodeEntry, PartitionEntry, TombstoneEntry, TopicEntry, VersionRegression, View};
