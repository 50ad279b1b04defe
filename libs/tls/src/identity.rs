//! Who a process of a cluster is, as its certificate says it: a URI among the alternative names of the subject,
//! `spiffe://CLUSTER/ROLE` or `spiffe://CLUSTER/ROLE/ID` (<https://spiffe.io>, SPIFFE-ID).

use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::files::TlsError;

const SCHEME: &str = "spiffe://";

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceRole {
    Controller,
    StorageNode,
    Gateway,
    GroupCoordinator,
}

/// A process of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster that the certificate was made for.
    pub cluster: String,
    pub role: ServiceRole,
    /// The one process of its role that may use the certificate. `None`: all of that role share it.
    pub id: Option<i32>,
}

/// What is read out of a certificate.
pub(crate) struct Leaf {
    /// The identity that it claims; an error where it is not one of a cluster, or there are several.
    pub(crate) identity: Result<Option<PeerIdentity>, TlsError>,
    /// Seconds since the epoch until which it is valid; inclusive.
    pub(crate) not_after: i64,
    /// Its extended key usage, where it has one, is not that of a server: clients refuse it.
    pub(crate) not_of_server: bool,
}

/// Reads what matters here out of a certificate, whose signature somebody else judges.
pub(crate) fn leaf(certificate: &CertificateDer<'_>) -> Result<Leaf, TlsError> {
    let unreadable = |error: String| TlsError::Certificate(format!("it is not an X.509 certificate: {error}"));
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut identities = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(uri.parse::<PeerIdentity>()),
        _ => None,
    });
    let identity = match (identities.next().transpose(), identities.next()) {
        (_, Some(_)) => Err(TlsError::Certificate("it names more than one identity".to_owned())),
        (first, None) => first.map_err(TlsError::Certificate),
    };
    let usage = parsed.extended_key_usage().map_err(|error| unreadable(error.to_string()))?;
    let not_of_server = usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any);
    Ok(Leaf { identity, not_after: parsed.validity().not_after.timestamp(), not_of_server })
}

/// Until when the first certificate in a PEM text is valid, in seconds since the epoch; inclusive.
///
/// # Errors
/// When there is none that can be read.
pub fn not_after(pem: &str) -> Result<i64, TlsError> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes());
    let first = first.map_err(|_| TlsError::Certificate("there is none in the text".to_owned()))?;
    Ok(leaf(&first)?.not_after)
}

// === impl ServiceRole ===

impl ServiceRole {
    pub const ALL: [Self; 4] = [Self::Controller, Self::StorageNode, Self::Gateway, Self::GroupCoordinator];

    /// The name in certificates, and of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::StorageNode => "storage-node",
            Self::Gateway => "gateway",
            Self::GroupCoordinator => "group-coordinator",
        }
    }
}

impl fmt::Display for ServiceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl PeerIdentity ===

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, role, id } = self;
        match id {
            Some(id) => write!(f, "{SCHEME}{cluster}/{role}/{id}"),
            None => write!(f, "{SCHEME}{cluster}/{role}"),
        }
    }
}

impl std::str::FromStr for PeerIdentity {
    type Err = String;

    fn from_str(uri: &str) -> Result<Self, String> {
        let wrong = || format!("\"{uri}\" is not spiffe://CLUSTER/ROLE or spiffe://CLUSTER/ROLE/ID");
        let rest = uri.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let mut parts = rest.split('/');
        let cluster = parts.next().filter(|cluster| !cluster.is_empty()).ok_or_else(wrong)?.to_owned();
        let role = parts.next().ok_or_else(wrong)?;
        let role = ServiceRole::ALL.into_iter().find(|known| known.name() == role).ok_or_else(wrong)?;
        let id = parts.next().map(|id| id.parse().map_err(|_| wrong())).transpose()?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { cluster, role, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_written_as_it_is_read() {
        for uri in ["spiffe://prod/controller", "spiffe://a.b-c/storage-node/3", "spiffe://x/group-coordinator/0"] {
            assert_eq!(uri.parse::<PeerIdentity>().unwrap().to_string(), uri);
        }
        let node: PeerIdentity = "spiffe://prod/storage-node/3".parse().unwrap();
        assert_eq!(node, PeerIdentity { cluster: "prod".to_owned(), role: ServiceRole::StorageNode, id: Some(3) });
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for uri in [
            "https://prod/controller",
            "spiffe://prod",
            "spiffe:///controller",
            "spiffe://prod/admin",
            "spiffe://prod/controller/x",
            "spiffe://prod/controller/1/2",
            "spiffe://prod/Controller",
        ] {
            assert!(uri.parse::<PeerIdentity>().is_err(), "{uri}");
        }
    }
}
