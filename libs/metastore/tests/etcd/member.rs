//! A member of etcd on this machine. Tests of the services include it, too.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// A member; killed when it is dropped.
pub(crate) struct Member {
    command: Command,
    log: PathBuf,
    pub(crate) client: String,
    /// While it runs.
    pub(crate) process: Option<Child>,
}

/// Where a member is to be.
pub(crate) struct Place {
    client: String,
    pub(crate) peer: String,
}

impl Place {
    /// Free ports of an address of its own; clients come by this scheme.
    pub(crate) fn free(scheme: &str) -> Self {
        Self::free_at(own_address(), scheme)
    }

    /// Free ports of an address.
    pub(crate) fn free_at(address: Ipv4Addr, scheme: &str) -> Self {
        // Both are held at once: two different ports.
        let [client, peer] = [(); 2].map(|()| TcpListener::bind((address, 0)).unwrap());
        let url = |scheme: &str, listener: TcpListener| format!("{scheme}://{}", listener.local_addr().unwrap());
        Self { client: url(scheme, client), peer: url("http", peer) }
    }
}

/// An address of loopback that nobody else has, where the system allows that: a port of it is not given to a connection
/// of somebody else before the member listens, or while it is killed.
pub(crate) fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high | 1, low, COUNT.fetch_add(1, Ordering::Relaxed));
    if TcpListener::bind((own, 0)).is_ok() { own } else { Ipv4Addr::LOCALHOST }
}

impl Member {
    /// Starts a member of a new cluster. `initial`: names of all members, and where their peers find them.
    pub(crate) fn start(dir: &Path, name: &str, place: &Place, initial: &str, flags: &[String]) -> Self {
        let program = std::env::var("WALSER_ETCD")
            .expect("WALSER_ETCD names no etcd; `scripts/etcd.sh` builds one and prints where");
        std::fs::create_dir_all(dir).unwrap();
        let Place { client, peer } = place;
        let mut command = Command::new(program);
        command
            .args(["--name", name, "--log-level", "warn", "--logger", "zap"])
            .arg("--data-dir")
            .arg(dir.join(name))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", initial, "--initial-cluster-state", "new"])
            .args(flags)
            .stdout(Stdio::null());
        let log = dir.join(name).with_extension("log");
        let mut member = Self { command, log, client: client.clone(), process: None };
        member.restart();
        member
    }

    /// Starts it again, with its data.
    pub(crate) fn restart(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        self.process = Some(self.command.stderr(log).spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
