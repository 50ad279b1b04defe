//! Settings of the storage node.

use std::net::SocketAddr;
use std::time::Duration;

use walser_model::NodeId;
use walser_rpc::NodeRole;
use walser_service::{Key, Kind, Settings};

use crate::compactor::CompactionLimits;

/// Every setting of the service.
pub const KEYS: &[Key] = &[
    Key {
        name: "storage.node.id",
        kind: Kind::Int(1, 1_000_000),
        default: "1",
        doc: "Id of this storage node, unique in the cluster.",
    },
    Key {
        name: "storage.ready.wait.ms",
        kind: Kind::Millis(0, 86_400_000),
        default: "300000",
        doc: "How long after a start `/readyz` waits until every replica has been in sync once. A rolling restart goes on by it.",
    },
    Key {
        name: "storage.shards",
        kind: Kind::Int(0, 64),
        default: "0",
        doc: "Log shards: threads that each own a part of the partitions. 0: half the cores, at least 1.",
    },
    Key { name: "storage.flush.threads", kind: Kind::Int(1, 64), default: "2", doc: "Threads that wait for the disk." },
    Key {
        name: "storage.append.bytes.max",
        kind: Kind::Bytes(1 << 20, 1 << 40),
        default: "64MiB",
        doc: "Bytes of appends that may wait for the log, per shard; more wait at the sender.",
    },
    Key {
        name: "storage.tail.cache.bytes",
        kind: Kind::Bytes(0, 1 << 40),
        default: "64MiB",
        doc: "Memory for the newest records, which tailing readers get without the disk.",
    },
    Key {
        name: "storage.disk.reserve.bytes",
        kind: Kind::Bytes(-1, 1 << 50),
        default: "-1",
        doc: "Appends are refused while less than this is free. -1: 5 % of the disk, at least 16 MiB, at most 1 GiB or a quarter of it.",
    },
    Key {
        name: "storage.disk.stall.ms",
        kind: Kind::Millis(1000, 86_400_000),
        default: "10000",
        doc: "A read, write or sync that takes longer than this does not end: the node steps back, until it has ended. In whole seconds.",
    },
    Key {
        name: "storage.retention.check.ms",
        kind: Kind::Millis(100, 86_400_000),
        default: "10000",
        doc: "Time between two looks for segments that retention removes.",
    },
    Key {
        name: "storage.compaction.memory.bytes",
        kind: Kind::Bytes(1 << 20, 1 << 40),
        default: "64MiB",
        doc: "Memory for keys while a partition is compacted, one at a time: about 20 bytes per key, in one pass.",
    },
    Key {
        name: "storage.compaction.bytes.per.second",
        kind: Kind::Bytes(0, 1 << 40),
        default: "0",
        doc: "Bytes of log that compaction reads in a second. 0: no limit.",
    },
    Key {
        name: "storage.idle.ms",
        kind: Kind::Millis(100, 86_400_000),
        default: "30000",
        doc: "A partition that is not written for this long is closed: no open file, no index in memory.",
    },
];

/// Settings of a storage node that is a process of its own.
pub const PROCESS_KEYS: &[Key] = &[
    Key {
        name: "storage.data",
        kind: Kind::Text,
        default: "./storage-data",
        doc: "Data directory of the storage node.",
    },
    Key {
        name: "storage.advertise",
        kind: Kind::Text,
        default: "",
        doc: "HOST:PORT at which gateways reach this storage node. Empty: the address of its gRPC port.",
    },
];

/// The settings of the service, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Id of the storage node.
    pub node: NodeId,
    /// Number of log shards.
    /// How long after a start the node waits with being ready until its replicas have been in sync.
    pub ready_wait: Duration,
    pub shards: usize,
    /// Threads that wait for the disk.
    pub flush_threads: usize,
    /// Bytes that may wait per shard.
    pub append_bytes_max: usize,
    /// Bytes of the tail cache.
    pub tail_bytes: usize,
    /// Free bytes below which appends are refused; `None`: by the size of the disk.
    pub reserve_bytes: Option<u64>,
    /// A write or sync that takes longer does not end.
    pub disk_stall: Duration,
    /// Time between retention checks.
    pub retention_check: Duration,
    /// What a compaction may take.
    pub(crate) compaction: CompactionLimits,
    /// Time until a partition rests.
    pub idle: Duration,
    /// Address of the public listener, for the node's record.
    pub public_address: String,
    /// `HOST:PORT` of `StorageService` for other processes. Empty: there are none.
    pub internal_address: String,
    /// Roles of the process, as numbers of `walser.v1.NodeRole`.
    pub roles: Vec<NodeRole>,
    /// Version of the binary.
    pub version: String,
}

impl Config {
    /// Of a node that is a process of its own and serves at `address`.
    pub fn for_process(settings: &Settings, address: SocketAddr, cores: usize) -> Self {
        let advertised = settings.text("storage.advertise");
        Self {
            internal_address: if advertised.is_empty() { address.to_string() } else { advertised.to_owned() },
            ..Self::from_settings(settings, cores)
        }
    }

    /// From settings. `cores`: of the machine.
    pub fn from_settings(settings: &Settings, cores: usize) -> Self {
        let shards: usize = settings.number("storage.shards");
        let reserve: i64 = settings.number("storage.disk.reserve.bytes");
        Self {
            node: NodeId(settings.number("storage.node.id")),
            ready_wait: settings.duration("storage.ready.wait.ms"),
            shards: if shards == 0 { (cores / 2).max(1) } else { shards },
            flush_threads: settings.number("storage.flush.threads"),
            append_bytes_max: settings.number("storage.append.bytes.max"),
            tail_bytes: settings.number("storage.tail.cache.bytes"),
            reserve_bytes: u64::try_from(reserve).ok(),
            disk_stall: settings.duration("storage.disk.stall.ms"),
            retention_check: settings.duration("storage.retention.check.ms"),
            compaction: CompactionLimits {
                memory_bytes: settings.number("storage.compaction.memory.bytes"),
                bytes_per_second: settings.number("storage.compaction.bytes.per.second"),
            },
            idle: settings.duration("storage.idle.ms"),
            public_address: String::new(),
            internal_address: String::new(),
            roles: vec![NodeRole::Storage],
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
