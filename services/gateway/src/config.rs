//! Settings of the gateway.

use std::time::Duration;

use walser_service::{Key, Kind, Settings};

/// Every setting of the service.
pub const KEYS: &[Key] = &[
    Key {
        name: "gateway.message.bytes.max",
        kind: Kind::Bytes(1 << 20, 64 << 20),
        default: "16MiB",
        doc: "Largest gRPC message accepted.",
    },
    Key {
        name: "gateway.stream.in.flight.bytes.max",
        kind: Kind::Bytes(64 << 10, 1 << 30),
        default: "16MiB",
        doc: "Unanswered bytes of one ProduceStream; the gateway stops reading above.",
    },
    Key {
        name: "gateway.write.bytes.max",
        kind: Kind::Bytes(64 << 20, 64 << 30),
        default: "256MiB",
        doc: "Memory for writes that are not answered, over all callers; one partition takes at most a quarter. Writes wait above.",
    },
    Key {
        name: "gateway.read.bytes.max",
        kind: Kind::Bytes(128 << 20, 64 << 30),
        default: "256MiB",
        doc: "Memory for records that are read and not sent yet, over all readers. One stream holds 8 MiB, or one chunk.",
    },
    Key {
        name: "gateway.validate.compressed",
        kind: Kind::Bool,
        default: "true",
        doc: "Decompress and check compressed batches that clients built. false: only their headers and checksums.",
    },
    Key {
        name: "gateway.auto.create.topics",
        kind: Kind::Bool,
        default: "true",
        doc: "Create a missing topic when somebody produces to it.",
    },
    Key {
        name: "gateway.num.partitions",
        kind: Kind::Int(1, 10_000),
        default: "1",
        doc: "Partitions of a topic that is created by producing to it.",
    },
    Key {
        name: "gateway.produce.timeout.ms",
        kind: Kind::Millis(100, 600_000),
        default: "30000",
        doc: "Time for a write whose caller has no deadline.",
    },
    Key {
        name: "gateway.connection.age.max.ms",
        kind: Kind::Millis(0, 604_800_000),
        default: "30m",
        doc: "Age, give or take a tenth, at which a client is told to connect again, so that clients spread over gateways. 0: none.",
    },
    Key {
        name: "gateway.metrics.topics.max",
        kind: Kind::Int(0, 10_000),
        default: "100",
        doc: "Most topics with a label of their own in metrics; the others count together as `__other`. 0: all do.",
    },
];

/// The settings of the service, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest gRPC message in bytes.
    pub message_bytes_max: usize,
    /// Unanswered bytes per stream.
    pub in_flight_bytes_max: usize,
    /// Connections live about so long; zero: for as long as clients like.
    pub connection_age_max: Duration,
    /// Memory for writes that are not answered, in bytes.
    pub write_bytes_max: usize,
    /// Memory for records that are read and not sent yet, in bytes.
    pub read_bytes_max: usize,
    /// Look into compressed batches.
    pub validate_compressed: bool,
    /// Whether a write creates a topic that is missing.
    pub auto_create: bool,
    /// With so many partitions.
    pub partitions: i32,
    /// Time for a write without a deadline.
    pub produce_timeout: Duration,
    /// Topics with a label of their own in metrics.
    pub topic_labels_max: usize,
    /// Name of this gateway in answers.
    pub name: String,
}

impl Config {
    /// Reads the configuration from settings.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            message_bytes_max: settings.number("gateway.message.bytes.max"),
            in_flight_bytes_max: settings.number("gateway.stream.in.flight.bytes.max"),
            connection_age_max: settings.duration("gateway.connection.age.max.ms"),
            write_bytes_max: settings.number("gateway.write.bytes.max"),
            read_bytes_max: settings.number("gateway.read.bytes.max"),
            validate_compressed: settings.flag("gateway.validate.compressed"),
            auto_create: settings.flag("gateway.auto.create.topics"),
            partitions: settings.number("gateway.num.partitions"),
            produce_timeout: settings.duration("gateway.produce.timeout.ms"),
            topic_labels_max: settings.number("gateway.metrics.topics.max"),
            name: format!("gateway/{}", env!("CARGO_PKG_VERSION")),
        }
    }
}
