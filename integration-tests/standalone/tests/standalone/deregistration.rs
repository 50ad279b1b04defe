//! A cluster becomes smaller, as docs/operations.md has it: nodes that have left for good are taken out of it.

use crate::cluster_up::{Up, with_etcd};
use crate::faults::until;
use crate::runbook::{healthy, shows};
use crate::server::{cli_at, create, place, write};

/// Partitions elsewhere, which are of no matter.
const MANY: i32 = 10_000;

/// A cluster of four storage nodes, one of which goes.
struct Shrinking {
    up: Up,
    address: String,
}

impl Shrinking {
    /// Exit code and text of a command.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = cli_at(&self.address, arguments, b"");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (code, text) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
        text
    }

    /// A command that is refused with this exit code, and says this.
    fn refused(&self, arguments: &[&str], code: i32, says: &str) {
        let (exit, text) = self.run(arguments);
        assert!(exit == Some(code) && text.contains(says), "{arguments:?}: {exit:?}: {text}");
    }

    async fn is(&self, state: &str) {
        let shown = async || self.run(&["node", "describe", "4"]).1.starts_with(&format!("node 4  {state}"));
        until(shown, &format!("node 4 is {state}")).await;
    }

    async fn stop(&self) {
        self.up.act_ok(&["stop", "storage-node", "4"]);
        self.is("down").await;
    }

    fn restart_controllers(&self) {
        self.up.act_ok(&["stop", "controller"]);
        self.up.act_ok(&["start", "controller"]);
    }
}

async fn shrinks(arguments: &[String]) {
    let (_place, dir) = place();
    let up = Up::start_with(&dir, &[&["--storage-nodes".to_owned(), "4".to_owned()][..], arguments].concat());
    let address = up.server();
    let cluster = Shrinking { up, address };
    let client = cluster.up.client();
    cluster.ok(&["topic", "create", "t", "--replicas", "4", "--config", "min.insync.replicas=4"]);
    write(&client, "t", 0, "on all nodes").await;
    cluster.refused(&["node", "removable", "--from", "4"], 6, "node 4: 1 of t");
    let (_, told) = cluster.run(&["node", "removable", "--from", "4"]);
    assert!(told.contains("node 4 is not cordoned"), "{told}");
    cluster.refused(&["node", "deregister", "4"], 6, "storage node 4 is in service");
    cluster.ok(&["node", "cordon", "4"]);
    let many = MANY.to_string();
    cluster.ok(&["topic", "create", "many", "--partitions", &many, "--replicas", "1"]);

    // While it is down the cluster counts on its return.
    cluster.stop().await;
    cluster.refused(&["node", "deregister", "4"], 6, "1 replica: 1 of topic \"t\"");
    cluster.ok(&["topic", "delete", "t", "--yes"]);
    let told = shows(&cluster.address, "NODE_DOWN").await;
    assert!(told.contains("deregister"), "{told}");
    cluster.refused(&["partition", "set-aside", "list"], 7, "storage nodes 4");
    cluster.refused(&["node", "removable", "--from", "4"], 6, "not known what node 4 holds aside: it is down");

    cluster.ok(&["node", "deregister", "4"]);
    healthy(&cluster.address).await;
    assert_eq!(cluster.ok(&["node", "list", "-o", "name"]), "1\n2\n3\n");
    cluster.ok(&["partition", "set-aside", "list"]);
    cluster.ok(&["node", "removable", "--from", "4"]);
    cluster.ok(&["cluster", "finalize-upgrade", "--dry-run"]);
    cluster.refused(&["node", "deregister", "4"], 3, "no storage node 4 is registered");
    cluster.refused(&["topic", "create", "four", "--replicas", "4"], 6, "3 available");
    cluster.restart_controllers();
    healthy(&cluster.address).await;
    assert_eq!(cluster.ok(&["node", "list", "-o", "name"]), "1\n2\n3\n");

    // It comes back as a new node, with what nobody waits for any more.
    cluster.up.act_ok(&["start", "storage-node", "4"]);
    cluster.is("active").await;
    shows(&cluster.address, "DATA_SET_ASIDE").await;
    cluster.refused(&["node", "removable", "--from", "4"], 6, "node 4 holds 1 partition aside");
    cluster.stop().await;
    cluster.refused(&["node", "deregister", "4"], 6, "holds data aside");
    cluster.restart_controllers();
    let unknown = async || cluster.run(&["node", "deregister", "4"]).1.contains("it is not known whether");
    until(unknown, "the controller has heard nothing of it").await;
    cluster.ok(&["node", "deregister", "4", "--accept-loss"]);
    healthy(&cluster.address).await;

    // One that only seemed to be gone is stopped once it is heard.
    cluster.up.act_ok(&["start", "storage-node", "4"]);
    cluster.is("active").await;
    cluster.up.act_ok(&["pause", "storage-node", "4"]);
    cluster.is("down").await;
    cluster.ok(&["node", "deregister", "4", "--accept-loss"]);
    cluster.up.act_ok(&["resume", "storage-node", "4"]);
    let ended = async || cluster.up.act(&["status", "storage-node", "4"]).stdout.windows(4).any(|text| text == b"down");
    until(ended, "it ends").await;
    assert_eq!(cluster.ok(&["node", "list", "-o", "name"]), "1\n2\n3\n");

    // And with another directory.
    std::fs::remove_dir_all(dir.join("storage-node-4")).unwrap();
    cluster.up.act_ok(&["start", "storage-node", "4"]);
    cluster.is("active").await;
    healthy(&cluster.address).await;
    create(&client, "again", 4, &[]).await;
    cluster.ok(&["topic", "create", "four", "--replicas", "4"]);
    write(&client, "four", 0, "on all nodes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_becomes_smaller_and_larger_again() {
    shrinks(&["--metastore", "embedded"].map(str::to_owned)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_becomes_smaller_and_larger_again_with_etcd() {
    shrinks(&with_etcd("1")).await;
}
