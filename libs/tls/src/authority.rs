//! An authority of one's own: makes the certificates of a cluster that has no other, for development and for charts.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::files::TlsError;
use crate::identity::PeerIdentity;

/// Clocks of two machines may differ by so much.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and the key to it, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// A server that is reached by these names and IP addresses.
    Server(Vec<String>),
    /// A client of this name.
    Client(String),
    /// A server that is also a client of its peers, under these names and IP addresses.
    Peer(Vec<String>),
    /// A process of a cluster.
    Process(PeerIdentity),
}

// === impl Authority ===

impl Authority {
    /// A new authority, and what to keep of it. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str, now: u64, valid: Duration) -> Result<(Self, Issued), TlsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(Vec::new(), name, now, valid)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).map_err(failed)?.pem();
        let kept = Issued { cert: cert.clone(), key: key.serialize_pem() };
        Ok((Self { cert, issuer: Issuer::new(params, key) }, kept))
    }

    /// An authority that was kept.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn open(kept: &Issued) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(&kept.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&kept.cert, key).map_err(failed)?;
        Ok(Self { cert: kept.cert.clone(), issuer })
    }

    /// Its own certificate, as PEM: whoever believes it believes what it signs.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// A certificate for a new key. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// When a name is none, or no key can be made.
    pub fn issue(&self, purpose: &Purpose, now: u64, valid: Duration) -> Result<Issued, TlsError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let (names, common, usages) = match purpose {
            Purpose::Server(names) => (names.clone(), "server", vec![ServerAuth]),
            Purpose::Peer(names) => (names.clone(), "peer", vec![ServerAuth, ClientAuth]),
            Purpose::Client(name) => (Vec::new(), name.as_str(), vec![ClientAuth]),
            Purpose::Process(identity) => (Vec::new(), identity.role.name(), vec![ServerAuth, ClientAuth]),
        };
        let mut params = params(names, common, now, valid)?;
        if let Purpose::Process(identity) = purpose {
            let uri = identity.to_string().try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn params(names: Vec<String>, common: &str, now: u64, valid: Duration) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(names).map_err(failed)?;
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    (params.not_before, params.not_after) = (now - BACKDATED, now + valid);
    params.distinguished_name.push(DnType::CommonName, common);
    Ok(params)
}

fn failed(error: rcgen::Error) -> TlsError {
    TlsError::Certificate(error.to_string())
}
