//! A sequencer with what surrounds it: its callers, its session and its link.

use std::collections::BTreeSet;
use std::time::Duration;

use walser_sequencer::{Config, Number, Numbering, Rules, Sequencer, Ticket};

use super::leader::Why;

/// Whose records a part of a batch holds.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A caller of the simulation.
    User { call: usize, records: Vec<u64> },
    /// The attempt of a client that a gateway relays.
    Relayed { partition: u8, attempt: (Ticket, u32) },
}

/// The bytes of a batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) records: Vec<u64>,
    /// Of the client whose batch is relayed.
    pub(super) number: Option<Number>,
}

/// What a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The writer of a gateway for one partition.
    Gathered,
    /// The batches without sequences of a stream, for one partition.
    Unnumbered,
    /// A client; `relay` is the gateway's end of its stream.
    Client { relay: Option<usize> },
    /// The gateway's end of a client's stream.
    Relay { client: usize },
}

/// Batches of one partition on a link: they arrive in order, and so do their answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Order {
    pub(super) arrived: Duration,
    pub(super) answered: Duration,
}

/// A sequencer and its driver.
pub(super) struct Driven {
    pub(super) role: Role,
    pub(super) sequencer: Sequencer<u8, Caller, Content, Why>,
    pub(super) alive: bool,
    /// Counts the connections of its link.
    pub(super) link: u32,
    pub(super) order: [Order; 3],
    /// Attempts that the link has not answered.
    pub(super) pending: BTreeSet<(u8, Ticket, u32)>,
    /// When it is stepped for a retry.
    pub(super) retry_at: Option<Duration>,
}

impl Caller {
    /// Records that the batch is made of; a relayed batch comes with its bytes.
    pub(super) fn records(&self) -> &[u64] {
        match self {
            Self::User { records, .. } => records,
            Self::Relayed { .. } => &[],
        }
    }
}

impl Driven {
    pub(super) fn new(role: Role, rules: Rules) -> Self {
        let numbering = match role {
            Role::Gathered | Role::Client { .. } => Numbering::Own,
            Role::Unnumbered => Numbering::Without,
            Role::Relay { .. } => Numbering::Given,
        };
        let config = Config {
            numbering,
            in_flight_max: 5,
            grace: Duration::from_millis(50),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
            rules,
        };
        let mut sequencer = Sequencer::new(config);
        if let Role::Client { .. } = role {
            sequencer.disconnected::<i64>(Duration::ZERO, &Why::Moved, &mut Vec::new());
        }
        Self {
            role,
            sequencer,
            alive: true,
            link: 0,
            order: Default::default(),
            pending: BTreeSet::new(),
            retry_at: None,
        }
    }

    /// Whether callers of the simulation submit to it.
    pub(super) fn has_users(&self) -> bool {
        !matches!(self.role, Role::Relay { .. })
    }
}
