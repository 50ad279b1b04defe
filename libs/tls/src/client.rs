//! TLS of a client program: whom it believes, and what it shows.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::PROTOCOLS;
use crate::files::{TlsError, authorities, certified_key, provider, read};
use crate::handshake::dialled;

/// What a client is told about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Certificates of the authorities that are believed, as PEM. `None`: those that the system believes.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, as PEM, and the key to it, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The name that must be in the server's certificate. `None`: the host that is connected to.
    pub server_name: Option<String>,
}

/// TLS of a client. Clones share it.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads the files. It waits for the disk.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &ClientTlsFiles) -> Result<Self, TlsError> {
        let believed = match &files.ca {
            Some(path) => authorities(path, &read(path)?)?,
            None => of_system()?,
        };
        let unusable = |error: rustls::Error| TlsError::Certificate(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?.with_root_certificates(believed);
        let mut config = match &files.own {
            Some((cert, key)) => {
                let own = certified_key((cert, &read(cert)?), (key, &read(key)?))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![PROTOCOLS[0].to_vec()];
        let server_name = files.server_name.as_deref().map(named).transpose()?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Agrees on keys with a server that has been dialled by this name.
    pub(crate) async fn connect(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => named(host).map_err(std::io::Error::other)?,
        };
        Ok(dialled(TlsConnector::from(Arc::clone(&self.config)).connect(name, stream), |_| Ok(())).await?.into())
    }
}

/// A name that certificates can have.
fn named(host: &str) -> Result<ServerName<'static>, TlsError> {
    // An IPv6 address in an address of a server has brackets.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(bare.to_owned());
    name.map_err(|_| TlsError::Certificate(format!("\"{host}\" is neither a DNS name nor an IP address")))
}

fn of_system() -> Result<Arc<RootCertStore>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(TlsError::System(why));
    }
    Ok(Arc::new(store))
}
