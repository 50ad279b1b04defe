//! Members of etcd on this machine.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use walser_metastore::{Etcd, EtcdConfig, EtcdTls, Metastore as _};

/// How long members have to find a leader.
const READY_MAX: Duration = Duration::from_secs(60);

/// An authority, and what it has signed for this machine.
pub(crate) struct Certificates {
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
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let (ca, certificate) = (ca.pem().into_bytes(), certificate.pem().into_bytes());
        Self { ca, certificate, key: key.serialize_pem().into_bytes() }
    }

    pub(crate) fn of_client(&self) -> EtcdTls {
        EtcdTls { ca: self.ca.clone(), identity: Some((self.certificate.clone(), self.key.clone())) }
    }
}

/// A cluster of etcd. Its members are killed when it is dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    members: Vec<Member>,
    flags: Vec<String>,
}

struct Member {
    client: String,
    peer: String,
    process: Child,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program() -> String {
    std::env::var("WALSER_ETCD").expect("WALSER_ETCD names no etcd; `scripts/etcd.sh` builds one and prints its path")
}

impl Cluster {
    /// Starts members with more flags, and waits until they answer.
    pub(crate) async fn start(count: usize, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Self::start_in(dir, "http", count, flags);
        cluster.ready().await;
        cluster
    }

    /// Starts one member that asks its clients for certificates, and waits until it answers.
    pub(crate) async fn start_with_tls(certificates: &Certificates) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Certificates { ca, certificate, key } = certificates;
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (ca, certificate, key) = (file("ca.pem", ca), file("cert.pem", certificate), file("key.pem", key));
        let flags = ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &certificate, "--key-file", &key];
        let cluster = Self::start_in(dir, "https", 1, &flags);
        let store = EtcdConfig { tls: Some(certificates.of_client()), ..cluster.config("/ready/") };
        answers(&Etcd::new(&store).unwrap()).await;
        cluster
    }

    fn start_in(dir: TempDir, scheme: &str, count: usize, flags: &[&str]) -> Self {
        let addresses: Vec<_> = (0..count).map(|_| (address(scheme), address("http"))).collect();
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self { dir, members: Vec::new(), flags };
        let named = addresses.iter().enumerate().map(|(number, (_, peer))| format!("m{number}={peer}"));
        let initial = named.collect::<Vec<_>>().join(",");
        for (number, (client, peer)) in addresses.into_iter().enumerate() {
            let process = cluster.spawn(number, &client, &peer, &initial);
            cluster.members.push(Member { client, peer, process });
        }
        cluster
    }

    fn spawn(&self, number: usize, client: &str, peer: &str, initial: &str) -> Child {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join(format!("m{number}.log")));
        Command::new(program())
            .args(["--name", &format!("m{number}"), "--log-level", "warn", "--logger", "zap"])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{number}")))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", initial, "--initial-cluster-state", "new"])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap()
    }

    /// Waits until the members answer.
    pub(crate) async fn ready(&self) {
        answers(&self.store("/ready/")).await;
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
        let process = &mut self.members[number].process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts a member again that was killed, with its data.
    pub(crate) fn restart(&mut self, number: usize) {
        let named = self.members.iter().enumerate().map(|(number, member)| format!("m{number}={}", member.peer));
        let initial = named.collect::<Vec<_>>().join(",");
        let Member { client, peer, .. } = &self.members[number];
        let process = self.spawn(number, client, peer, &initial);
        self.members[number].process = process;
    }

    /// Sends a signal to a member.
    pub(crate) fn signal(&self, number: usize, name: &str) {
        let id = self.members[number].process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

fn address(scheme: &str) -> String {
    format!("{scheme}://127.0.0.1:{}", free_port())
}

async fn answers(store: &Etcd) {
    let answers = async {
        while store.get("a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(READY_MAX, answers).await.expect("etcd has no leader");
}
