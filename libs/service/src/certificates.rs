//! The certificates of a process: settings, and following the files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::time::MissedTickBehavior;
use walser_model::Clock;
use walser_tls::{ProcessTls, ServiceRole, TlsError, TlsFiles};

use crate::metrics::Metrics;
use crate::settings::{Key, Kind, Settings};
use crate::shutdown::Shutdown;
use crate::vital;

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

/// How the files are followed.
pub(crate) const RELOAD: Key = Key {
    name: "tls.reload.interval.ms",
    kind: Kind::Millis(100, 86_400_000),
    default: "10000",
    doc: "How often the files of certificates are read again; new contents are taken without a restart.",
};

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
            let (every, shutdown) = (settings.duration(RELOAD.name), stop.clone());
            let follower = Follower { port, tls, ends: ends.clone(), clock: Arc::clone(&clock) };
            vital::task("certificates", stop, async move {
                tokio::select! {
                    () = follower.run(every) => {}
                    () = shutdown.wait() => {}
                }
            });
        }
    }
}

/// Follows the files of one port.
struct Follower {
    port: &'static str,
    tls: ProcessTls,
    ends: IntGaugeVec,
    clock: Arc<dyn Clock>,
}

impl Follower {
    async fn run(self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut warned) = (None, None);
        loop {
            ticks.tick().await;
            let tls = self.tls.clone();
            let read = tokio::task::spawn_blocking(move || tls.refresh()).await;
            match read {
                Ok(Ok(changed)) => {
                    told = None;
                    if changed {
                        warned = None;
                        tracing::info!(port = self.port, "new certificates are in use");
                    }
                }
                // Files that are replaced one by one do not fit for a moment: what is still so at the next look is told.
                Ok(Err(error)) => {
                    let error = error.to_string();
                    match &mut told {
                        Some((before, true)) if *before == error => {}
                        Some((before, said)) if *before == error => {
                            *said = true;
                            let port = self.port;
                            tracing::error!(port, error, "new certificates cannot be used, the old ones stay");
                        }
                        _ => told = Some((error, false)),
                    }
                }
                Err(error) => tracing::error!(%error, "reading the certificates"),
            }
            self.look_at_end(&mut warned);
        }
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
