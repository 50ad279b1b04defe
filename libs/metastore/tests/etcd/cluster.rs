//! Members of etcd on this machine.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use walser_metastore::{Etcd, EtcdConfig, EtcdCredentials, EtcdTls, Metastore as _, StoreProblem};

use crate::member::{Member, Place, own_address};

/// How long members have to find a leader.
const READY_MAX: Duration = Duration::from_secs(60);

/// An authority, and what it has signed for an address of this machine.
pub(crate) struct Certificates {
    address: Ipv4Addr,
    pub(crate) ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    pub(crate) fn generate() -> Self {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let address = own_address();
        let params = rcgen::CertificateParams::new(vec![address.to_string()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let (ca, certificate) = (ca.pem().into_bytes(), certificate.pem().into_bytes());
        Self { address, ca, certificate, key: key.serialize_pem().into_bytes() }
    }

    pub(crate) fn of_client(&self) -> EtcdTls {
        EtcdTls { ca: self.ca.clone(), identity: Some((self.certificate.clone(), self.key.clone())) }
    }
}

/// Credentials without a user.
pub(crate) fn of_tls(tls: EtcdTls) -> EtcdCredentials {
    EtcdCredentials { user: None, tls: Some(tls) }
}

/// A cluster of etcd. Its members are killed when it is dropped, before their files are removed.
pub(crate) struct Cluster {
    members: Vec<Member>,
    _dir: TempDir,
}

impl Cluster {
    /// Starts members with more flags, and waits until they answer.
    pub(crate) async fn start(count: usize, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = (0..count).map(|_| Place::free("http")).collect();
        let cluster = Self::start_in(dir, places, flags);
        cluster.ready().await;
        cluster
    }

    /// Starts one member that asks its clients for certificates, and waits until it answers.
    pub(crate) async fn start_with_tls(certificates: &Certificates) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Certificates { address, ca, certificate, key } = certificates;
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (ca, certificate, key) = (file("ca.pem", ca), file("cert.pem", certificate), file("key.pem", key));
        let flags = ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &certificate, "--key-file", &key];
        let cluster = Self::start_in(dir, vec![Place::free_at(*address, "https")], &flags);
        let store = EtcdConfig { credentials: of_tls(certificates.of_client()), ..cluster.config("/ready/") };
        all_answer(&Etcd::new(&store).unwrap()).await;
        cluster
    }

    fn start_in(dir: TempDir, places: Vec<Place>, flags: &[&str]) -> Self {
        let named = |(number, place)| (format!("m{number}"), place);
        let places: Vec<(String, Place)> = places.into_iter().enumerate().map(named).collect();
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let initial: Vec<_> = places.iter().map(|(name, place)| format!("{name}={}", place.peer)).collect();
        let start =
            |(name, place): &(String, Place)| Member::start(dir.path(), name, place, &initial.join(","), &flags);
        Self { members: places.iter().map(start).collect(), _dir: dir }
    }

    /// Waits until all members answer.
    pub(crate) async fn ready(&self) {
        all_answer(&self.store("/ready/")).await;
    }

    /// Where the members are.
    pub(crate) fn config(&self, prefix: &str) -> EtcdConfig {
        let endpoints = self.members.iter().map(|member| member.client.clone()).collect();
        EtcdConfig { endpoints, prefix: prefix.to_owned(), compacts: true, ..EtcdConfig::default() }
    }

    pub(crate) fn store(&self, prefix: &str) -> Etcd {
        Etcd::new(&self.config(prefix)).unwrap()
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.members[number].kill();
    }

    /// Starts a member again that was killed, with its data.
    pub(crate) fn restart(&mut self, number: usize) {
        self.members[number].restart();
    }

    /// Sends a signal to a member.
    pub(crate) fn signal(&self, number: usize, name: &str) {
        let id = self.members[number].process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }
}

/// Waits until something can be read, and no member is missed.
pub(crate) async fn all_answer(store: &Etcd) {
    let answers = async {
        while store.get("a").await.is_err()
            || store
                .problems()
                .await
                .iter()
                .any(|problem| matches!(problem, StoreProblem::Part(text) if text.contains("does not answer")))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(READY_MAX, answers).await.is_err() {
        panic!("etcd does not answer: {:?}, {:?}", store.get("a").await, store.problems().await);
    }
}
