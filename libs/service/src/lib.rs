//! The process kit: what every service needs around its own work.
//!
//! Settings ([`Settings`]), logs and traces ([`telemetry`]), signals and drain ([`Shutdown`]), the gRPC listener with
//! its limits ([`Listener`]), metrics and the admin port ([`admin`]).

pub mod admin;
mod listener;
mod metrics;
mod settings;
mod shutdown;
mod socket;
pub mod telemetry;

pub use listener::{Exposure, Listener, ListenerError, ListenerLimits};
pub use metrics::Metrics;
pub use settings::{Key, Kind, Settings, SettingsError};
pub use shutdown::{Shutdown, signals};
