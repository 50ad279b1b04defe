//! What the certificate of a server says, for people.

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// Most names of a certificate that are told.
const NAMES_MAX: usize = 20;

/// The certificate that the other side of a connection has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The authority that signed it.
    pub issuer: String,
    /// The hosts that it is for, the first twenty.
    pub names: Vec<String>,
    /// Seconds since the epoch until which it is valid; inclusive.
    pub not_after: i64,
    /// The version of TLS that both sides agreed on, such as `TLSv1_3`.
    pub version: String,
}

// === impl ShownCertificate ===

impl ShownCertificate {
    /// That of the other side. `None`: it has shown none that can be read.
    pub fn of(stream: &TlsStream<TcpStream>) -> Option<Self> {
        let (_, connection) = stream.get_ref();
        let version = connection.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
        Self::read(connection.peer_certificates()?.first()?, version)
    }

    fn read(certificate: &CertificateDer<'_>, version: String) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        Some(Self {
            issuer: parsed.issuer().to_string(),
            names: names.iter().filter_map(host).take(NAMES_MAX).collect(),
            not_after: parsed.validity().not_after.timestamp(),
            version,
        })
    }
}

/// The host that a name is of, as people write it.
fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::{Authority, Purpose};

    #[test]
    fn a_certificate_says_who_signed_it_and_for_whom() {
        let (now, valid) = (1_700_000_000, Duration::from_secs(86_400));
        let (authority, _) = Authority::new("Test authority", now, valid).unwrap();
        let names = ["walser.example", "10.0.0.7", "::1"].map(str::to_owned).to_vec();
        let issued = authority.issue(&Purpose::Server(names.clone()), now, valid).unwrap();
        let der = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        let shown = ShownCertificate::read(&der, "TLSv1_3".to_owned()).unwrap();
        assert!(shown.issuer.contains("Test authority"), "{shown:?}");
        assert_eq!((shown.names, shown.not_after), (names, 1_700_086_400));
    }
}
