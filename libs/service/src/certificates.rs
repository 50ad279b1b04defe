//! The certificates of a process: settings, and following the files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGaugeVec;
use walser_model::Clock;
use walser_tls::{ProcessTls, ServiceRole, TlsError, TlsFiles};

use crate::metrics::Metrics;
use crate::reload;
use crate::settings::{Key, Kind, Settings};
use crate::shutdown::Shutdown;

/// TLS of the port that clients call.
pub const PUBLIC_TLS: &[Key] = &[
    Key {
        name: "tls.cert.file",
        kind: Kind::Text,
        default: "",
        doc: "Certificate that clients are shown, with those between it and the authority, as PEM. Empty: no TLS.",
    },
    Key { name: "tls.key.file", kind: Kind::Text, default: "", doc: "Private key of `tls.cert.file`, as PEM." },
    Key {
        name: "tls.client.ca.file",
        kind: Kind::Text,
        default: "",
        doc: "Authorities, as PEM, one of which must have signed the certificate that every client shows. Empty: clients need none.",
    },
];

/// TLS between the processes of a cluster.
pub const INTERNAL_TLS: &[Key] = &[
    Key {
        name: "internal.tls.cert.file",
        kind: Kind::Text,
        default: "",
        doc: "Certificate of this process among those of its cluster, as PEM, with the URI `spiffe://CLUSTER/ROLE` or `spiffe://CLUSTER/ROLE/ID`. Empty: no TLS.",
    },
    Key {
        name: "internal.tls.key.file",
        kind: Kind::Text,
        default: "",
        doc: "Private key of `internal.tls.cert.file`, as PEM.",
    },
    Key {
        name: "internal.tls.ca.file",
        kind: Kind::Text,
        default: "",
        doc: "Authority of the cluster, as PEM: it signs the certificates of all processes, and no others.",
    },
];

/// From so many seconds before its end on, a certificate is warned of.
const WARNED_BEFORE: i64 = 7 * 86_400;
/// How often that is.
const WARNED_EVERY: Duration = Duration::from_secs(3600);

/// TLS of a process, for its ports and its connections. `None`: plain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Certificates {
    pub(crate) public: Option<ProcessTls>,
    pub(crate) cluster: Option<ProcessTls>,
}

/// Why a process cannot have the certificates that its settings name.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Some settings are missing that belong to others.
    #[error("setting {missing} is missing: {given} is of no use without it")]
    Missing {
        /// What is to be set.
        missing: &'static str,
        /// What is.
        given: &'static str,
    },
    /// The files cannot be used.
    #[error("settings {names}: {source}")]
    Unusable {
        /// Whose files they are.
        names: &'static str,
        /// What is wrong with them.
        source: TlsError,
    },
}

// === impl Certificates ===

impl Certificates {
    /// The certificates that the settings name for a process of this role; `None`: for one that is a cluster of its own.
    pub(crate) fn load(settings: &Settings, role: Option<ServiceRole>) -> Result<Self, CertificateError> {
        let mut certificates = Self::default();
        if role.is_none_or(|role| role == ServiceRole::Gateway) {
            let files = files(settings, ["tls.cert.file", "tls.key.file"], "tls.client.ca.file", false)?;
            let unusable = |source| CertificateError::Unusable { names: "tls.*", source };
            certificates.public = files.map(ProcessTls::for_clients).transpose().map_err(unusable)?;
        }
        if let Some(role) = role {
            let names = ["internal.tls.cert.file", "internal.tls.key.file"];
            let files = files(settings, names, "internal.tls.ca.file", true)?;
            let unusable = |source| CertificateError::Unusable { names: "internal.tls.*", source };
            let cluster = files.map(|files| ProcessTls::for_cluster(files, role));
            certificates.cluster = cluster.transpose().map_err(unusable)?;
        }
        Ok(certificates)
    }

    /// Follows the files until the stop.
    pub(crate) fn follow(&self, settings: &Settings, clock: Arc<dyn Clock>, metrics: &Metrics, stop: &Shutdown) {
        let ends = metrics.gauges(
            "walser_tls_certificate_not_after_timestamp_seconds",
            "Until when the certificate of a port is valid, in seconds since the epoch.",
            &["port"],
        );
        for (port, tls) in [("public", &self.public), ("internal", &self.cluster)] {
            let Some(tls) = tls.clone() else { continue };
            let (ends, clock) = (ends.clone(), Arc::clone(&clock));
            let followed = Followed { port, tls, ends, clock, warned: Mutex::new(None) };
            reload::follow(port, settings, stop, move || followed.look());
        }
    }
}

/// The files of one port.
struct Followed {
    port: &'static str,
    tls: ProcessTls,
    ends: IntGaugeVec,
    clock: Arc<dyn Clock>,
    /// When the end of this certificate was last warned of.
    warned: Mutex<Option<Duration>>,
}

// === impl Followed ===

impl Followed {
    fn look(&self) -> Result<bool, TlsError> {
        let read = self.tls.refresh();
        let mut warned = self.warned.lock();
        if matches!(read, Ok(true)) {
            *warned = None;
        }
        self.look_at_end(&mut warned);
        read
    }

    /// Says how long the certificate is valid, and warns when that is not long.
    fn look_at_end(&self, warned: &mut Option<Duration>) {
        let end = self.tls.not_after();
        self.ends.with_label_values(&[self.port]).set(end);
        let left = end.saturating_sub(self.clock.now_millis() / 1000);
        let now = self.clock.monotonic();
        if left > WARNED_BEFORE || warned.is_some_and(|at| now.saturating_sub(at) < WARNED_EVERY) {
            return;
        }
        *warned = Some(now);
        let file = self.tls.files().cert.display().to_string();
        if left < 0 {
            tracing::error!(port = self.port, file, "the certificate has expired: others refuse it");
        } else {
            tracing::warn!(port = self.port, file, hours_left = left / 3600, "the certificate expires soon");
        }
    }
}

/// The files of a port; `None`: none of them is named.
fn files(
    settings: &Settings,
    [cert, key]: [&'static str; 2],
    ca: &'static str,
    ca_needed: bool,
) -> Result<Option<TlsFiles>, CertificateError> {
    let path = |name: &str| Some(settings.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(given) = [cert, key, ca].into_iter().find(|name| path(name).is_some()) else { return Ok(None) };
    let needed = |name: &'static str| path(name).ok_or(CertificateError::Missing { missing: name, given });
    let (cert, key) = (needed(cert)?, needed(key)?);
    let ca = if ca_needed { Some(needed(ca)?) } else { path(ca) };
    Ok(Some(TlsFiles { cert, key, ca }))
}

#[cfg(test)]
mod tests;
