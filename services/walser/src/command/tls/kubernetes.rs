//! Certificates of a cluster in Secrets of Kubernetes: what is missing is made, what ends soon or has other names is made
//! anew, everything else stays as it is.

mod api;

use std::collections::BTreeMap;
use std::time::Duration;

use walser_tls::{Authority, Issued, PeerIdentity, Purpose, ServiceRole};

use super::TlsKubernetesArgs;
use crate::error::CliError;
use crate::output;

use api::ApiServer;

/// Keys of a Secret, as Kubernetes names them for type kubernetes.io/tls; those of an authority are its own.
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Where a Secret says which names its certificate was made for.
const NAMES: &str = "walser.dev/names";
/// How long authorities are valid: longer than anybody renews leaves, since all that believes one has to change with it.
const AUTHORITY_VALID: Duration = Duration::from_secs(20 * 365 * 86_400);

/// A Secret, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) names: String,
    /// All of it as it was read, with what others have put there; null in one that is new.
    pub(super) object: serde_json::Value,
    pub(super) data: BTreeMap<String, String>,
}

/// Where Secrets are kept.
pub(super) trait Secrets {
    /// `None`: there is none of that name.
    async fn get(&self, name: &str) -> Result<Option<Secret>, CliError>;
    /// Says whether it was made; not, if there was one by then.
    async fn create(&self, secret: &Secret) -> Result<bool, CliError>;
    async fn replace(&self, secret: &Secret) -> Result<(), CliError>;
}

/// What is made at once.
struct Maker<S> {
    secrets: S,
    prefix: String,
    valid: Duration,
    /// Seconds since the epoch.
    now: u64,
}

/// Runs the command.
pub(super) async fn run(arguments: &TlsKubernetesArgs) -> Result<(), CliError> {
    let secrets = ApiServer::of_pod(arguments.labels.clone())?;
    let (prefix, valid) = (arguments.secrets.clone(), super::days(arguments.days));
    Maker { secrets, prefix, valid, now: super::now() }.make(arguments).await
}

// === impl Maker ===

impl<S: Secrets> Maker<S> {
    async fn make(&self, arguments: &TlsKubernetesArgs) -> Result<(), CliError> {
        let public = self.authority("tls-ca", "Walser authority").await?;
        self.leaf("tls", &public, &Purpose::Server(arguments.hosts.clone())).await?;
        let cluster = &arguments.cluster;
        let internal = self.authority("internal-tls-ca", &format!("Walser cluster {cluster}")).await?;
        for role in ServiceRole::ALL {
            let identity = PeerIdentity { cluster: cluster.clone(), role, id: None };
            self.leaf(&format!("internal-tls-{role}"), &internal, &Purpose::Process(identity)).await?;
        }
        if !arguments.etcd_hosts.is_empty() {
            let etcd = self.authority("etcd-tls-ca", &format!("etcd of Walser cluster {cluster}")).await?;
            self.leaf("etcd-tls", &etcd, &Purpose::Peer(arguments.etcd_hosts.clone())).await?;
            self.leaf("etcd-client-tls", &etcd, &Purpose::Client("walser".to_owned())).await?;
        }
        Ok(())
    }

    /// The authority in a Secret, which is made if there is none.
    async fn authority(&self, kind: &str, shown: &str) -> Result<Authority, CliError> {
        let name = format!("{}-{kind}", self.prefix);
        // Of two that make one at once, the first has made it: it is read then.
        for _ in 0..2 {
            if let Some(secret) = self.secrets.get(&name).await? {
                let part = |key: &str| {
                    let missing = || CliError::failed(format!("Secret {name} has no {key}"));
                    secret.data.get(key).cloned().ok_or_else(missing)
                };
                let kept = Issued { cert: part(CA_CERT)?, key: part(CA_KEY)? };
                return Authority::open(&kept).map_err(|error| CliError::failed(format!("Secret {name}: {error}")));
            }
            let made = Authority::new(shown, self.now, AUTHORITY_VALID);
            let (authority, kept) = made.map_err(|error| CliError::failed(error.to_string()))?;
            let data = [(CA_CERT, kept.cert), (CA_KEY, kept.key)].map(|(key, value)| (key.to_owned(), value)).into();
            if self.secrets.create(&Secret { name: name.clone(), data, ..Secret::default() }).await? {
                output::data(&format!("made {name}"));
                return Ok(authority);
            }
        }
        Err(CliError::failed(format!("Secret {name} is there, and cannot be read")))
    }

    /// Sees to it that a Secret has a certificate of this authority that is good for long enough.
    async fn leaf(&self, kind: &str, authority: &Authority, purpose: &Purpose) -> Result<(), CliError> {
        let (name, names) = (format!("{}-{kind}", self.prefix), named(purpose));
        let before = self.secrets.get(&name).await?;
        let of_authority = |secret: &Secret| secret.data.get(CA_CERT).is_some_and(|cert| cert == authority.cert());
        let good = |secret: &Secret| secret.names == names && of_authority(secret) && !self.ends_soon(secret);
        if before.as_ref().is_some_and(good) {
            output::note(&format!("kept {name}"));
            return Ok(());
        }
        let issued = super::issue(authority, purpose, self.now, self.valid)?;
        let data = [(CA_CERT, authority.cert().to_owned()), (CERT, issued.cert), (KEY, issued.key)];
        let data = data.map(|(key, value)| (key.to_owned(), value)).into();
        let object = before.as_ref().map(|before| before.object.clone()).unwrap_or_default();
        let secret = Secret { name: name.clone(), names, object, data };
        match before {
            Some(_) => {
                self.secrets.replace(&secret).await?;
                output::data(&format!("renewed {name}"));
            }
            None if self.secrets.create(&secret).await? => output::data(&format!("made {name}")),
            None => output::note(&format!("{name} was made by another at the same time")),
        }
        Ok(())
    }

    /// Whether less than a third of its time is left.
    fn ends_soon(&self, secret: &Secret) -> bool {
        let end = secret.data.get(CERT).and_then(|cert| walser_tls::not_after(cert).ok()).unwrap_or(0);
        let renewed_from = self.now + self.valid.as_secs() / 3;
        end < i64::try_from(renewed_from).unwrap_or(i64::MAX)
    }
}

/// What a certificate is for, in a line: another line is another certificate.
fn named(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Server(names) | Purpose::Peer(names) => names.join(","),
        Purpose::Client(name) => name.clone(),
        Purpose::Process(identity) => identity.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Secrets of a test.
    #[derive(Default)]
    struct Kept(RefCell<BTreeMap<String, Secret>>);

    impl Secrets for &Kept {
        async fn get(&self, name: &str) -> Result<Option<Secret>, CliError> {
            Ok(self.0.borrow().get(name).cloned())
        }

        async fn create(&self, secret: &Secret) -> Result<bool, CliError> {
            let made = self.0.borrow_mut().insert(secret.name.clone(), secret.clone()).is_none();
            assert!(made, "it was there");
            Ok(true)
        }

        async fn replace(&self, secret: &Secret) -> Result<(), CliError> {
            self.0.borrow_mut().insert(secret.name.clone(), secret.clone()).map(drop).ok_or_else(|| unreachable!())
        }
    }

    fn wanted(hosts: &[&str], etcd_hosts: &[&str]) -> TlsKubernetesArgs {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        TlsKubernetesArgs {
            cluster: "prod".to_owned(),
            secrets: "walser".to_owned(),
            hosts: list(hosts),
            etcd_hosts: list(etcd_hosts),
            days: 90,
            labels: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_good_stays_and_what_is_not_is_made_anew() {
        let kept = Kept::default();
        let make = async |arguments: TlsKubernetesArgs, days: u64| {
            let before = kept.0.borrow().clone();
            let now = super::super::now() + days * 86_400;
            let maker = Maker { secrets: &kept, prefix: "walser".to_owned(), valid: super::super::days(90), now };
            maker.make(&arguments).await.unwrap();
            let after = kept.0.borrow();
            let changed = after.iter().filter(|(name, secret)| before.get(*name) != Some(*secret));
            changed.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(make(wanted(&["a.svc"], &[]), 0).await.len(), 7, "two authorities, one server, four roles");
        assert_eq!(make(wanted(&["a.svc"], &[]), 0).await, [""; 0], "nothing is to be done");
        assert_eq!(make(wanted(&["a.svc", "b.svc"], &[]), 0).await, ["walser-tls"]);
        let more = ["walser-etcd-client-tls", "walser-etcd-tls", "walser-etcd-tls-ca"];
        assert_eq!(make(wanted(&["a.svc", "b.svc"], &["e-0", "e-1"]), 0).await, more);
        assert_eq!(make(wanted(&["a.svc", "b.svc"], &["e-0", "e-1"]), 59).await, [""; 0]);
        assert_eq!(make(wanted(&["a.svc", "b.svc"], &["e-0", "e-1"]), 61).await.len(), 7, "leaves, not authorities");
        kept.0.borrow_mut().remove("walser-internal-tls-ca");
        assert_eq!(make(wanted(&["a.svc", "b.svc"], &["e-0", "e-1"]), 61).await.len(), 5, "a new one has new leaves");
    }
}
