//! The process kit: what every service needs around its own work.
//!
//! Settings ([`Settings`]), logs and traces ([`telemetry`]), signals and drain ([`Shutdown`]), the gRPC listener with
//! its limits ([`Listener`]), metrics and the admin port ([`admin`]), the parts whose death ends the process
//! ([`vital`], [`Tasks`]), secrets in files ([`reload`]); and the process that puts them together ([`process`]).

pub mod admin;
mod caller;
mod certificates;
mod door;
mod listener;
mod metrics;
mod preface;
pub mod process;
pub mod reload;
mod settings;
mod shutdown;
mod signals;
mod socket;
mod stream_end;
mod tasks;
pub mod telemetry;
pub mod vital;

pub use caller::Caller;
pub use certificates::{CertificateError, INTERNAL_TLS, PUBLIC_TLS};
pub use listener::{CallService, ConnectionAge, Exposure, Listener, ListenerError, ListenerLimits};
pub use metrics::Metrics;
pub use process::{MainError, Process, ProcessArgs, ProcessError};
pub use settings::{Key, Kind, Settings, SettingsError};
pub use shutdown::Shutdown;
pub use signals::{HangUp, signals};
pub use stream_end::StreamEnd;
pub use tasks::Tasks;
