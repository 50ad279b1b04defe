//! The PEM files of a process, and what is in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Where a process finds its certificate, the key, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The process's own certificate, and those between it and the authority, in this order.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// Certificates of the authorities that sign those of peers. `None`: no peer is asked for a certificate.
    pub ca: Option<PathBuf>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// As given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file has something else in it.
    #[error("{path}: {problem}")]
    Contents {
        /// As given.
        path: String,
        /// What is wrong, in words.
        problem: String,
    },
    /// A certificate cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// The authorities of the system cannot be read.
    #[error("the authorities that this system believes cannot be read: {0}")]
    System(String),
}

/// What every PEM file has.
const BEGIN: &[u8] = b"-----BEGIN ";
const NOT_PEM: &str = "it is not a PEM file; of PKCS#12, `openssl pkcs12 -in FILE -nodes` writes one";

/// The bytes of the files: they have changed when these have, whatever the file system says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// What a process shows, and whom it believes.
pub(crate) struct Material {
    pub(crate) own: Arc<CertifiedKey>,
    pub(crate) authorities: Option<Arc<RootCertStore>>,
}

/// The one provider of cryptography: asking for it here makes no call depend on a default of the process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.display().to_string(), source })
}

/// The authorities in a PEM file.
pub(crate) fn authorities(path: &Path, pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let wrong = |problem: String| TlsError::Contents { path: path.display().to_string(), problem };
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        store.add(certificate).map_err(|error| wrong(format!("a certificate in it cannot be used: {error}")))?;
    }
    Ok(Arc::new(store))
}

/// A certificate with its chain, and the key to it.
pub(crate) fn certified_key(
    (cert_path, cert): (&Path, &[u8]),
    (key_path, key): (&Path, &[u8]),
) -> Result<Arc<CertifiedKey>, TlsError> {
    let wrong = |problem: String| TlsError::Contents { path: key_path.display().to_string(), problem };
    let chain = certificates(cert_path, cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| wrong(without_key(key).to_owned()))?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(format!("this is not the key of {}", cert_path.display())),
        other => wrong(format!("the private key in it cannot be used: {other}")),
    })?;
    Ok(Arc::new(certified))
}

/// Why there is no key in a file.
fn without_key(file: &[u8]) -> &'static str {
    let has = |text: &[u8]| file.windows(text.len()).any(|found| found == text);
    if has(b"ENCRYPTED") {
        "the key in it has a passphrase, which is not supported: `openssl pkey -in FILE -out NEW` writes it without"
    } else if has(BEGIN) {
        "there is no private key in it"
    } else {
        NOT_PEM
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: &str| TlsError::Contents { path: path.display().to_string(), problem: problem.to_owned() };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| wrong("it is not a PEM file"))?;
    let text = pem.windows(BEGIN.len()).any(|found| found == BEGIN) || pem.is_empty();
    match found.is_empty() {
        true => Err(wrong(if text { "there is no certificate in it" } else { NOT_PEM })),
        false => Ok(found),
    }
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Reads the files. It waits for the disk.
    pub(crate) fn read(&self) -> Result<Contents, TlsError> {
        let ca = self.ca.as_deref().map(read).transpose()?;
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, ca })
    }

    /// What the contents say.
    pub(crate) fn material(&self, contents: &Contents) -> Result<Material, TlsError> {
        let own = certified_key((&self.cert, &contents.cert), (&self.key, &contents.key))?;
        let ca = self.ca.as_deref().zip(contents.ca.as_deref());
        Ok(Material { own, authorities: ca.map(|(path, pem)| authorities(path, pem)).transpose()? })
    }
}
