//! TLS of a client program: whom it believes, and what it shows.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: ClientTlsFiles,
    server_name: Option<ServerName<'static>>,
    loaded: ArcSwap<Loaded>,
}

/// What the files had when they were read last.
#[derive(Debug)]
struct Loaded {
    contents: ClientTlsContents,
    config: Arc<ClientConfig>,
}

/// What is in the files, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientTlsContents {
    /// Certificates of the authorities that are believed.
    pub ca: Option<Vec<u8>>,
    /// The client's own certificate, and the key to it.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

// === impl ClientTlsFiles ===

impl ClientTlsFiles {
    fn read(&self) -> Result<ClientTlsContents, TlsError> {
        let ca = self.ca.as_deref().map(read).transpose()?;
        let own = self.own.as_ref().map(|(cert, key)| Ok((read(cert)?, read(key)?))).transpose()?;
        Ok(ClientTlsContents { ca, own })
    }

    fn config(&self, contents: &ClientTlsContents) -> Result<ClientConfig, TlsError> {
        let believed = match self.ca.as_deref().zip(contents.ca.as_deref()) {
            Some((path, pem)) => authorities(path, pem)?,
            None => of_system()?,
        };
        let unusable = |error: rustls::Error| TlsError::Certificate(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?.with_root_certificates(believed);
        let mut config = match self.own.as_ref().zip(contents.own.as_ref()) {
            Some(((cert_path, key_path), (cert, key))) => {
                let own = certified_key((cert_path, cert), (key_path, key))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![PROTOCOLS[0].to_vec()];
        Ok(config)
    }
}

// === impl ClientTlsContents ===

impl fmt::Debug for ClientTlsContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientTlsContents").finish_non_exhaustive()
    }
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads the files. It waits for the disk.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &ClientTlsFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let config = Arc::new(files.config(&contents)?);
        let server_name = files.server_name.as_deref().map(named).transpose()?;
        let loaded = ArcSwap::from_pointee(Loaded { contents, config });
        Ok(Self { shared: Arc::new(Shared { files: files.clone(), server_name, loaded }) })
    }

    /// What the files had when they were read last: it can be used.
    pub fn contents(&self) -> ClientTlsContents {
        self.shared.loaded.load().contents.clone()
    }

    /// Reads the files again, and takes what is new in them: a client lives longer than its certificate. Files that cannot
    /// be used, or do not fit each other while they are being replaced, change nothing. It waits for the disk.
    fn refresh(&self) {
        let Shared { files, loaded, .. } = &*self.shared;
        let Ok(contents) = files.read() else { return };
        if contents != loaded.load().contents
            && let Ok(config) = files.config(&contents)
        {
            loaded.store(Arc::new(Loaded { contents, config: Arc::new(config) }));
        }
    }

    /// Agrees on keys with a server that has been dialled by this name, with what the files have now.
    ///
    /// # Errors
    /// What the system says, and in words why there is no agreement.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        if self.shared.files.ca.is_some() || self.shared.files.own.is_some() {
            let tls = self.clone();
            tokio::task::spawn_blocking(move || tls.refresh()).await?;
        }
        let name = match &self.shared.server_name {
            Some(name) => name.clone(),
            None => named(host).map_err(std::io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.shared.loaded.load().config));
        Ok(dialled(connector.connect(name, stream), |_| Ok(())).await?.into())
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
