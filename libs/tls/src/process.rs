//! TLS of a process, which follows its files.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::files::{Contents, Material, TlsError, TlsFiles, provider};
use crate::handshake::{dialled, in_time};
use crate::identity::{PeerIdentity, ServiceRole, leaf};
use crate::{HTTP1, PROTOCOLS};

/// The name that processes of a cluster call each other in a handshake, which needs one: nobody looks at it.
const ANY_NAME: &str = "walser.internal";

/// TLS of a process at one of its ports. Clones share what is loaded.
#[derive(Debug, Clone)]
pub struct ProcessTls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: TlsFiles,
    kind: Kind,
    loaded: ArcSwap<Loaded>,
}

/// Whom a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clients,
    Cluster,
}

struct Loaded {
    contents: Contents,
    server: Arc<ServerConfig>,
    /// For processes of a cluster: how they dial others.
    client: Option<Arc<ClientConfig>>,
    identity: Option<PeerIdentity>,
    not_after: i64,
    /// The authorities of the files have signed the certificate, as those of the peers do.
    believed: bool,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("identity", &self.identity).field("not_after", &self.not_after).finish()
    }
}

/// A connection whose other side is who it says it is.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TlsStream<TcpStream>,
    /// Who has connected; known of processes of the cluster.
    pub identity: Option<PeerIdentity>,
    /// The client can speak nothing newer.
    pub http1: bool,
}

/// Whether one of the authorities in the files has signed the certificate, and it is valid now.
fn is_believed(material: &Material) -> bool {
    let (Some(authorities), Some((own, between))) = (&material.authorities, material.own.cert.split_first()) else {
        return false;
    };
    SignedByAuthority(Arc::clone(authorities)).check(own, between, UnixTime::now()).is_ok()
}

/// Judges a certificate by who has signed it: which process it names is looked at after the handshake.
#[derive(Debug)]
struct SignedByAuthority(Arc<RootCertStore>);

impl SignedByAuthority {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.0, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for SignedByAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

// === impl ProcessTls ===

impl ProcessTls {
    /// TLS for a port that clients connect to; with an authority in the files, they must show a certificate of it.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn for_clients(files: TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, Kind::Clients)
    }

    /// TLS between the processes of a cluster, for the port of this one and for connections to others. The files must name an
    /// authority, and the certificate an [`PeerIdentity`] of this role.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn for_cluster(files: TlsFiles, role: ServiceRole) -> Result<Self, TlsError> {
        let cert = files.cert.display().to_string();
        let tls = Self::load(files, Kind::Cluster)?;
        let named = tls.identity().ok_or_else(|| TlsError::Certificate(format!("{cert} names no identity")))?;
        if named.role != role {
            let problem = format!("{cert} is one of a {}, and this is a {role}", named.role);
            return Err(TlsError::Certificate(problem));
        }
        Ok(tls)
    }

    fn load(files: TlsFiles, kind: Kind) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let loaded = kind.load(&files, contents)?;
        Ok(Self { shared: Arc::new(Shared { files, kind, loaded: ArcSwap::from_pointee(loaded) }) })
    }

    /// Reads the files again, and takes them when their contents have changed: connections that exist go on as they are. It
    /// waits for the disk. Says whether they had changed.
    ///
    /// # Errors
    /// What the files say cannot be used, or is another identity; what was loaded before stays.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let (shared, before) = (&self.shared, self.shared.loaded.load());
        let contents = shared.files.read()?;
        if contents == before.contents {
            return Ok(false);
        }
        let loaded = shared.kind.load(&shared.files, contents)?;
        if loaded.identity != before.identity {
            let named = |identity: &Option<PeerIdentity>| {
                identity.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string)
            };
            let (now, then) = (named(&loaded.identity), named(&before.identity));
            return Err(TlsError::Certificate(format!("it is one of {now}, and the process has begun as {then}")));
        }
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        if loaded.not_after < now && before.not_after >= now {
            return Err(TlsError::Certificate("it has expired, and the one in use has not".to_owned()));
        }
        if before.believed && !loaded.believed {
            let problem = "no authority in the file beside it has signed it, or it is not valid now";
            return Err(TlsError::Certificate(problem.to_owned()));
        }
        shared.loaded.store(Arc::new(loaded));
        Ok(true)
    }

    /// The files that it follows.
    pub fn files(&self) -> &TlsFiles {
        &self.shared.files
    }

    /// Who this process is in its cluster.
    pub fn identity(&self) -> Option<PeerIdentity> {
        self.shared.loaded.load().identity.clone()
    }

    /// Seconds since the epoch until which the certificate is valid; inclusive.
    pub fn not_after(&self) -> i64 {
        self.shared.loaded.load().not_after
    }

    /// Agrees on keys with whoever has connected.
    ///
    /// # Errors
    /// The handshake fails or takes too long, or the other side is of another cluster. The text says what went wrong.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let loaded = self.shared.loaded.load_full();
        let handshake = TlsAcceptor::from(Arc::clone(&loaded.server)).accept(stream);
        let stream = in_time(handshake).await?;
        let session = stream.get_ref().1;
        let identity = match self.shared.kind {
            Kind::Cluster => Some(loaded.peer(session.peer_certificates())?),
            Kind::Clients => None,
        };
        let http1 = session.alpn_protocol() == Some(HTTP1);
        Ok(Accepted { stream: stream.into(), identity, http1 })
    }

    /// Agrees on keys with a process of the cluster that has been dialled, which must be of this role.
    ///
    /// # Errors
    /// The handshake fails or takes too long, or the other side is of another cluster or role.
    pub(crate) async fn connect(&self, stream: TcpStream, role: ServiceRole) -> io::Result<TlsStream<TcpStream>> {
        let loaded = self.shared.loaded.load_full();
        let client = loaded.client.clone().ok_or_else(|| io::Error::other("this TLS is for clients only"))?;
        let name = ServerName::try_from(ANY_NAME).map_err(io::Error::other)?;
        let judge = |session: &ClientConnection| {
            let peer = loaded.peer(session.peer_certificates())?;
            match peer.role == role {
                true => Ok(()),
                false => Err(refused(format!("it is {peer}, and a {role} was looked for"))),
            }
        };
        Ok(dialled(TlsConnector::from(client).connect(name, stream), judge).await?.into())
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

// === impl Kind ===

impl Kind {
    fn load(self, files: &TlsFiles, contents: Contents) -> Result<Loaded, TlsError> {
        let material = files.material(&contents)?;
        let own = material.own.end_entity_cert().map_err(|error| TlsError::Certificate(error.to_string()))?;
        let leaf = leaf(own)?;
        // Of the cluster's, gateways only dial with theirs.
        if self == Self::Clients && leaf.not_of_server {
            let why = "it is not for a server: its extended key usage has no serverAuth, and clients refuse it";
            return Err(TlsError::Certificate(why.to_owned()));
        }
        let (client, identity) = match self {
            Self::Cluster => (Some(Arc::new(dialling(&material)?)), leaf.identity?),
            // Whose it is among other systems is no matter here.
            Self::Clients => (None, None),
        };
        let believed = self == Self::Clients || is_believed(&material);
        let server = Arc::new(serving(&material)?);
        Ok(Loaded { contents, server, client, identity, not_after: leaf.not_after, believed })
    }
}

fn serving(material: &Material) -> Result<ServerConfig, TlsError> {
    let unusable = |error: &dyn std::fmt::Display| TlsError::Certificate(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(&error))?;
    let builder = match &material.authorities {
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider());
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.own))));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if material.authorities.is_some() {
        // A session that is taken up again brings no certificate: one that has expired would be let in for ever.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn dialling(material: &Material) -> Result<ClientConfig, TlsError> {
    let no_authority = || TlsError::Certificate("there is no authority that signs those of other processes".to_owned());
    let authorities = material.authorities.clone().ok_or_else(no_authority)?;
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| TlsError::Certificate(error.to_string()))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(SignedByAuthority(authorities)));
    let own = SingleCertAndKey::from(Arc::clone(&material.own));
    let mut config = builder.with_client_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![PROTOCOLS[0].to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

// === impl Loaded ===

impl Loaded {
    /// Who the other side is: of the cluster of this process, or refused.
    fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> io::Result<PeerIdentity> {
        let shown = chain.and_then(<[_]>::first).ok_or_else(|| refused("it has shown no certificate".to_owned()))?;
        let named = leaf(shown).and_then(|leaf| leaf.identity).map_err(|error| refused(error.to_string()))?;
        let peer = named.ok_or_else(|| refused("its certificate names no process of a cluster".to_owned()))?;
        match &self.identity {
            Some(own) if own.cluster == peer.cluster => Ok(peer),
            Some(own) => Err(refused(format!("it is {peer}, and this is a process of {}", own.cluster))),
            None => Err(refused("this process has no identity".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
