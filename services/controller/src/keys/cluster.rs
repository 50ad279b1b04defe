//! `cluster`: the cluster itself.

use serde::{Deserialize, Serialize};
use walser_metadata::value::{FIRST_LEVEL, UnknownFields, Value, first_level, is_first_level};
use walser_rpc::{FEATURE_LEVELS, FeatureLevels};

pub(crate) const KEY: &str = "cluster";

/// Replicas of a partition, and how many of them must be in sync, where nobody says otherwise.
const DEFAULT: i32 = 1;

/// Written when the cluster is formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub(crate) struct ClusterRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_ms: i64,
    /// The replication factor of topics that ask for none, however many nodes there are.
    pub(crate) replication_factor: i32,
    /// `min.insync.replicas` of topics without the setting.
    pub(crate) min_insync_replicas: i32,
    /// The feature level at which the cluster works.
    pub(crate) feature_level: i32,
    pub(crate) unknown: UnknownFields,
}

/// As it is written. From level 2 on the id has another name: programs that know nothing of levels cannot read the record
/// then, and do not start.
#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    created_ms: i64,
    #[serde(default = "default")]
    replication_factor: i32,
    #[serde(default = "default")]
    min_insync_replicas: i32,
    #[serde(default = "first_level", skip_serializing_if = "is_first_level")]
    feature_level: i32,
    #[serde(flatten)]
    unknown: UnknownFields,
}

impl TryFrom<Form> for ClusterRecord {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        let Form { id, cluster_id, name, created_ms, replication_factor, min_insync_replicas, feature_level, unknown } =
            form;
        if !FEATURE_LEVELS.include(feature_level) {
            let FeatureLevels { min, max } = FEATURE_LEVELS;
            return Err(format!(
                "the cluster works at feature level {feature_level}, and this program at {min} to {max}; start the version \
                 that the other processes have"
            ));
        }
        let id = cluster_id.or(id).ok_or("it has no id")?;
        Ok(Self { id, name, created_ms, replication_factor, min_insync_replicas, feature_level, unknown })
    }
}

impl From<ClusterRecord> for Form {
    fn from(record: ClusterRecord) -> Self {
        let ClusterRecord { id, name, created_ms, replication_factor, min_insync_replicas, feature_level, unknown } =
            record;
        let (id, cluster_id) = if feature_level == FIRST_LEVEL { (Some(id), None) } else { (None, Some(id)) };
        Self { id, cluster_id, name, created_ms, replication_factor, min_insync_replicas, feature_level, unknown }
    }
}

fn default() -> i32 {
    DEFAULT
}

impl Value for ClusterRecord {}

impl ClusterRecord {
    /// A cluster whose topics have one replica where nobody says otherwise, at the highest feature level that this version
    /// knows: nobody is older.
    pub(crate) fn new(id: String, name: String, created_ms: i64) -> Self {
        let (replication_factor, min_insync_replicas, feature_level) = (DEFAULT, DEFAULT, FEATURE_LEVELS.max);
        let unknown = UnknownFields::default();
        Self { id, name, created_ms, replication_factor, min_insync_replicas, feature_level, unknown }
    }

    /// The effective `min.insync.replicas`: the topic's, else the cluster's; never more than there are replicas.
    pub(crate) fn min_isr(&self, setting: Option<i32>, replication_factor: i32) -> usize {
        let wanted = setting.unwrap_or(self.min_insync_replicas).min(replication_factor);
        usize::try_from(wanted).unwrap_or(0).max(1)
    }
}

#[test]
fn the_form_is_the_documented_one() {
    let value = ClusterRecord::new("c".into(), "walser".into(), 5);
    let text = concat!(
        r#"{"cluster_id":"c","name":"walser","created_ms":5,"replication_factor":1,"min_insync_replicas":1,"#,
        r#""feature_level":3}"#
    );
    super::assert_form(&value, text);
    let first = ClusterRecord { feature_level: 1, ..value };
    let text = r#"{"id":"c","name":"walser","created_ms":5,"replication_factor":1,"min_insync_replicas":1}"#;
    super::assert_form(&first, text);
    let older = walser_metadata::value::decode(br#"{"id":"c","name":"walser","created_ms":5}"#);
    assert_eq!(older.ok(), Some(first), "a cluster that an older version has formed");
}

#[test]
fn a_cluster_of_a_later_level_is_not_worked_in() {
    let later = walser_metadata::value::decode::<ClusterRecord>(br#"{"cluster_id":"c","feature_level":9}"#);
    let text = later.unwrap_err().to_string();
    assert!(text.contains("feature level 9, and this program at 1 to 3; start the version"), "{text}");
    assert!(walser_metadata::value::decode::<ClusterRecord>(br#"{"name":"walser"}"#).is_err());
}

#[test]
fn the_smallest_in_sync_set_is_one_unless_the_topic_says_otherwise() {
    let cluster = ClusterRecord::new("c".into(), "walser".into(), 5);
    assert_eq!(cluster.min_isr(None, 1), 1);
    assert_eq!(cluster.min_isr(None, 3), 1);
    assert_eq!(cluster.min_isr(Some(3), 2), 2);
}
