//! Reading: bounded, as a stream, and look-ups of offsets, whatever protocol they come by.
//!
//! [`Positions`] finds what is to be read, [`PartitionReader`] reads one partition, and [`Reading`] reads several for one
//! caller: once, or as a stream.

mod answer;
mod budget;
mod cursor;
mod decode;
mod fetch;
mod follow;
mod offsets;
mod open_partitions;
mod outlet;
mod read;
mod request;
mod target;

use std::sync::Arc;

use walser_model::{Clock, Random};
use walser_service::Shutdown;

pub(crate) use answer::{Chunk, Fetched, LookedUp, PartitionFailure, PartitionName, Progress, ReadEvent, Reset};
pub(crate) use answer::{in_messages, in_parts};
pub(crate) use budget::{ReadBudget, ReadPermit};
pub(crate) use decode::{Decoded, ReadRecord};
pub(crate) use follow::PartitionEvent;
pub(crate) use offsets::LOOK_UPS_AT_ONCE;
pub(crate) use open_partitions::OpenPartitions;
pub(crate) use outlet::{Item, Outlet, OutletClosed, outlet};
pub(crate) use request::{FetchRequest, Options, OutOfRange, ReadPosition, ReadRequest, ReadTarget, Resume, Shape};
pub(crate) use target::{Positions, Target};

use crate::heartbeat::Heartbeats;
use crate::metadata::Metadata;
use crate::metrics::GatewayMetrics;
use crate::router::Router;
use crate::topics::Topics;

use self::budget::StreamBudget;
use self::cursor::PartitionReader;

/// Reads several partitions for one caller. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    positions: Positions,
    partitions: PartitionReader,
    budget: ReadBudget,
    metadata: Metadata,
    heartbeats: Heartbeats,
    random: Arc<dyn Random>,
    metrics: GatewayMetrics,
    shutdown: Shutdown,
}

/// What reading needs from the rest of the gateway.
pub(crate) struct ReadingParts {
    pub(crate) topics: Topics,
    pub(crate) router: Router,
    pub(crate) budget: ReadBudget,
    pub(crate) metadata: Metadata,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) shutdown: Shutdown,
}

impl Reading {
    pub(crate) fn new(parts: ReadingParts) -> Self {
        let ReadingParts { topics, router, budget, metadata, clock, random, metrics, shutdown } = parts;
        let positions = Positions::new(topics, router.clone());
        let partitions = PartitionReader::new(positions.clone(), router, metrics.clone());
        let heartbeats = Heartbeats::new(clock, Arc::clone(&random));
        Self { positions, partitions, budget, metadata, heartbeats, random, metrics, shutdown }
    }

    /// A budget for what one stream has read and not sent.
    pub(crate) fn stream_budget(&self) -> StreamBudget {
        self.budget.stream()
    }

    /// When streams on which nothing happens send heartbeats.
    pub(crate) fn heartbeats(&self) -> &Heartbeats {
        &self.heartbeats
    }

    /// What finds the places that readers ask for.
    pub(crate) fn positions(&self) -> &Positions {
        &self.positions
    }
}
