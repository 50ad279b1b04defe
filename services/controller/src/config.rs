//! Settings of the controller.

use std::time::Duration;

use walser_service::{Key, Kind, Settings};

/// Every setting of the service.
pub const KEYS: &[Key] = &[
    Key {
        name: "cluster.name",
        kind: Kind::Text,
        default: "walser",
        doc: "Name of the cluster for people; taken when the cluster is made.",
    },
    Key {
        name: "cluster.replication.factor",
        kind: Kind::Int(1, REPLICAS_MAX),
        default: "1",
        doc: "Replicas of topics that ask for no number; taken when the cluster is made, changed with `walser cluster config set`, and taken again with `--unset`.",
    },
    Key {
        name: "cluster.min.insync.replicas",
        kind: Kind::Int(1, REPLICAS_MAX),
        default: "1",
        doc: "min.insync.replicas of topics without it; taken when the cluster is made, changed with `walser cluster config set`, and taken again with `--unset`.",
    },
    Key {
        name: "controller.partitions.max",
        kind: Kind::Int(1, 10_000_000),
        default: "200000",
        doc: "Most partitions in the cluster.",
    },
    Key {
        name: "controller.topic.partitions.max",
        kind: Kind::Int(1, 100_000),
        default: "10000",
        doc: "Most partitions of one topic.",
    },
    Key {
        name: "controller.node.session.ms",
        kind: Kind::Millis(500, 60_000),
        default: "2000",
        doc: "A node that is not heard of for this long is fenced.",
    },
    Key {
        name: "controller.node.beat.ms",
        kind: Kind::Millis(50, 10_000),
        default: "200",
        doc: "Time between a node's heartbeats.",
    },
];

/// Settings of a controller that is a process of its own.
pub const PROCESS_KEYS: &[Key] = crate::metadata_store::KEYS;

/// Most replicas of a partition by default.
pub(crate) const REPLICAS_MAX: i64 = 100;
/// Heartbeats that fit into a session, at the least.
const BEATS_MIN: u32 = 3;

/// Settings that do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnfitSettings {
    /// Nodes would be fenced between two of their heartbeats.
    #[error(
        "controller.node.beat.ms={} is more than a third of controller.node.session.ms={}: nodes would be taken for dead \
         between two heartbeats; make the beat shorter or the session longer",
        beat.as_millis(), session.as_millis()
    )]
    SessionTooShort {
        /// The longest time without a heartbeat.
        session: Duration,
        /// The time between two heartbeats.
        beat: Duration,
    },
    /// No topic by default could ever be written.
    #[error(
        "cluster.min.insync.replicas={min_insync_replicas} is more than cluster.replication.factor={replication_factor}: \
         no write would ever be acknowledged; make it at most as large"
    )]
    TooFewReplicas {
        /// Replicas of a partition.
        replication_factor: i32,
        /// How many of them must be in sync.
        min_insync_replicas: i32,
    },
}

/// The settings of the service, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Display name of the cluster.
    pub cluster_name: String,
    /// Replicas of topics that ask for no number.
    pub replication_factor: i32,
    /// `min.insync.replicas` of topics without it.
    pub min_insync_replicas: i32,
    /// Most partitions in the cluster.
    pub partitions_max: i64,
    /// Most partitions of one topic.
    pub topic_partitions_max: i32,
    /// How long a node counts without a beat.
    pub session: Duration,
    /// Time between two heartbeats of a node.
    pub beat: Duration,
    /// Everything runs in one process: only nodes that are no part of it can be away.
    pub standalone: bool,
}

impl Config {
    /// From settings.
    ///
    /// # Errors
    /// Settings that do not fit each other.
    pub fn from_settings(settings: &Settings, standalone: bool) -> Result<Self, UnfitSettings> {
        let (session, beat) =
            (settings.duration("controller.node.session.ms"), settings.duration("controller.node.beat.ms"));
        if beat * BEATS_MIN > session {
            return Err(UnfitSettings::SessionTooShort { session, beat });
        }
        let replication_factor = settings.number("cluster.replication.factor");
        let min_insync_replicas = settings.number("cluster.min.insync.replicas");
        if min_insync_replicas > replication_factor {
            return Err(UnfitSettings::TooFewReplicas { replication_factor, min_insync_replicas });
        }
        Ok(Self {
            cluster_name: settings.text("cluster.name").to_owned(),
            replication_factor,
            min_insync_replicas,
            partitions_max: settings.number("controller.partitions.max"),
            topic_partitions_max: settings.number("controller.topic.partitions.max"),
            session,
            beat,
            standalone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(session: &str, beat: &str) -> Result<Config, UnfitSettings> {
        let pairs = [format!("controller.node.session.ms={session}"), format!("controller.node.beat.ms={beat}")];
        let settings = Settings::load(&[KEYS], None, |_| None, &pairs).unwrap();
        Config::from_settings(&settings, true)
    }

    #[test]
    fn a_session_lasts_for_three_heartbeats() {
        assert_eq!(config("600", "200").unwrap().session, Duration::from_millis(600));
        let text = config("2000", "5000").unwrap_err().to_string();
        assert!(text.contains("beat.ms=5000") && text.contains("session.ms=2000"), "{text}");
    }

    #[test]
    fn a_topic_by_default_can_be_written() {
        let replicas = |factor: i32, min: i32| {
            let pairs = [format!("cluster.replication.factor={factor}"), format!("cluster.min.insync.replicas={min}")];
            Config::from_settings(&Settings::load(&[KEYS], None, |_| None, &pairs).unwrap(), false)
        };
        assert_eq!(replicas(3, 3).unwrap().min_insync_replicas, 3);
        assert!(replicas(2, 3).unwrap_err().to_string().contains("min.insync.replicas=3"));
    }
}
