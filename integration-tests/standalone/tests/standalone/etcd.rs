//! A cluster whose metadata is in etcd. `WALSER_ETCD` names the program; `scripts/test.sh` builds it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::faults::until;
use crate::processes::Cluster;
use crate::server::{create, place, values, write};

/// One member of etcd; killed when it is dropped.
struct Etcd {
    dir: PathBuf,
    client: String,
    peer: String,
    process: Child,
}

impl Etcd {
    fn start(dir: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        let process = Self::spawn(dir, &client, &peer);
        Self { dir: dir.to_owned(), client, peer, process }
    }

    fn spawn(dir: &Path, client: &str, peer: &str) -> Child {
        let program = std::env::var("WALSER_ETCD").expect("WALSER_ETCD names no etcd; run scripts/test.sh");
        std::fs::create_dir_all(dir).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        Command::new(program)
            .args(["--name", "m0", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("m0={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(&self.dir, &self.client, &self.peer);
    }

    fn settings(&self) -> Vec<String> {
        vec!["controller.metastore=etcd".to_owned(), format!("controller.etcd.endpoints={}", self.client)]
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_in_etcd_outlive_the_controller_and_records_flow_without_etcd() {
    let (_dir, data) = place();
    let mut etcd = Etcd::start(&data.join("etcd"));
    let mut cluster = Cluster::start_with(&data, etcd.settings());
    let client = cluster.client();
    create(&client, "t", 2, &[]).await;
    write(&client, "t", 0, "1").await;

    cluster.restart_controller();
    write(&client, "t", 0, "2").await;
    until(async || create_again(&cluster, "after-the-controller"), "the next controller knows the cluster").await;

    etcd.kill();
    write(&client, "t", 0, "3").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2", "3"]);
    assert!(!create_again(&cluster, "without-etcd"), "there is nowhere to write it");
    etcd.restart();
    until(async || create_again(&cluster, "after-etcd"), "the controller finds etcd again").await;

    // Of the data directory of the controller nothing is needed.
    cluster.change_metadata(|data| assert!(!data.exists()));
    cluster.kill_storage();
    cluster.start_storage();
    until(async || create_again(&cluster, "after-all"), "everything is there again").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2", "3"]);
}

/// Whether a topic is there, or can be made.
fn create_again(cluster: &Cluster, name: &str) -> bool {
    let made = crate::server::cli_at(&cluster.address(), &["topic", "create", name, "--if-not-exists"], b"");
    made.status.success()
}
