//! A member of etcd on this machine. Tests of the services include it, too.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
    /// Free ports; clients come by this scheme.
    pub(crate) fn free(scheme: &str) -> Self {
        let address = |scheme: &str| {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            format!("{scheme}://{free}")
        };
        Self { client: address(scheme), peer: address("http") }
    }
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
