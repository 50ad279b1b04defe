//! `walser cluster up` and the commands that act on its processes from another terminal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use walser_client::Client;

use crate::faults::until;
use crate::server::{binary, create, place, values, wait_a_little, write};

/// Arguments for two controllers that share so many members of etcd. `WALSER_ETCD` names its program.
pub(crate) fn with_etcd(members: &str) -> Vec<String> {
    let etcd = std::env::var("WALSER_ETCD").expect("WALSER_ETCD names no etcd; `scripts/etcd.sh` builds one");
    let more = ["--metastore", "etcd", "--etcd", &etcd, "--etcd-members", members, "--controllers", "2"];
    more.map(str::to_owned).to_vec()
}

/// A running `walser cluster up`.
pub(crate) struct Up {
    child: Child,
    dir: PathBuf,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Up {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[""; 0])
    }

    /// The same, with more arguments.
    pub(crate) fn start_with(dir: &Path, more: &[impl AsRef<OsStr>]) -> Self {
        Self::start_program(&binary(), dir, more)
    }

    /// The same, of another program.
    pub(crate) fn start_program(program: &Path, dir: &Path, more: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new(program);
        command.args(["cluster", "up", "--dir"]).arg(dir).args(more).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // As in `walser cluster up | head -1`: nobody reads the table to its end, and the cluster runs on.
        drop(child.stdout.take());
        // Its word that all is ready is the first line on standard error, behind what it may warn of.
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let (mut said, mut begin) = (String::new(), 0);
        while !said[begin..].starts_with("ready") {
            begin = said.len();
            assert_ne!(std::io::BufRead::read_line(&mut stderr, &mut said).unwrap(), 0, "{said}");
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, dir: dir.to_owned() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(["cluster", arguments[0], "--dir"]).arg(&self.dir).args(&arguments[1..]);
        command
    }

    pub(crate) fn act(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Whether nothing runs that has this role.
    pub(crate) fn are_down(&self, role: &str) -> bool {
        processes(&self.dir).iter().all(|process| process["role"] != role || process["state"] == "down")
    }

    pub(crate) fn act_ok(&self, arguments: &[&str]) {
        let output = self.act(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.server()).unwrap()
    }

    /// Where clients connect to.
    pub(crate) fn server(&self) -> String {
        self.address("gateway", 1, "grpc")
    }

    /// An address of a process.
    pub(crate) fn address(&self, role: &str, id: i64, port: &str) -> String {
        find(&self.dir, role, id)["addresses"][port].as_str().unwrap().to_owned()
    }
}

fn processes(dir: &Path) -> Vec<Value> {
    let text = std::fs::read(dir.join("cluster.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["processes"].as_array().unwrap().clone()
}

fn find(dir: &Path, role: &str, id: i64) -> Value {
    processes(dir).into_iter().find(|process| process["role"] == role && process["id"] == id).unwrap()
}

fn addresses(dir: &Path) -> Vec<Value> {
    processes(dir).iter().map(|process| process["addresses"].clone()).collect()
}

/// Whether a process is there that is not only a name left for its parent.
fn lives(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_started_hurt_and_mended_from_other_terminals() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    assert_eq!(processes(&dir).len(), 8, "a controller, three storage nodes, two coordinators, two gateways");
    let client = up.client();
    create(&client, "t", 1, &[]).await;
    let request = walser_proto::v1::ListPartitionsRequest { topic: "t".to_owned(), ..Default::default() };
    let listed = client.topics().list_partitions(request).await.unwrap().into_inner().partitions;
    assert_eq!(listed[0].partition.as_ref().unwrap().replicas.len(), 3, "three replicas without asking");
    write(&client, "t", 0, "one").await;

    let victim = find(&dir, "storage-node", 2);
    up.act_ok(&["kill", "storage-node", "2"]);
    assert!(!lives(&victim["pid"]));
    let down = find(&dir, "storage-node", 2);
    assert_eq!((&down["state"], &down["pid"]), (&Value::from("down"), &Value::Null));
    assert_eq!(down["addresses"], victim["addresses"]);
    let shown: Value = serde_json::from_slice(&up.act(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(shown["processes"], Value::from(processes(&dir)));
    let again = up.act(&["kill", "storage-node", "2"]);
    assert_eq!(again.status.code(), Some(6));
    for (arguments, code) in
        [(["kill", "storage-node", "7"], 3), (["start", "storage-node", "1"], 6), (["resume", "storage-node", "1"], 0)]
    {
        assert_eq!(up.act(&arguments).status.code(), Some(code), "{arguments:?}");
    }
    assert!(String::from_utf8_lossy(&again.stderr).contains("storage-node 2 does not run"));
    write(&client, "t", 0, "two").await;
    up.act_ok(&["start", "storage-node", "2"]);
    assert_eq!(find(&dir, "storage-node", 2)["addresses"], victim["addresses"]);

    up.act_ok(&["pause", "storage-node", "3"]);
    assert_eq!(find(&dir, "storage-node", 3)["state"], "paused");
    let paused = up.act(&["start", "storage-node", "3"]);
    assert!(String::from_utf8_lossy(&paused.stderr).contains("is paused: walser cluster resume"));
    write(&client, "t", 0, "three").await;
    up.act_ok(&["resume", "storage-node", "3"]);
    let unknown = up.act(&["stop", "storage-node", "9"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no storage-node 9"));
    // What keeps a process from its start is said where the start was asked for.
    up.act_ok(&["stop", "storage-node", "3"]);
    let meta = dir.join("storage-node-3").join("meta");
    let sound = std::fs::read(&meta).unwrap();
    std::fs::write(&meta, "of something else").unwrap();
    let refused = up.act(&["start", "storage-node", "3"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("has not come up: ") && said.contains("meta"), "{said}");
    std::fs::write(&meta, sound).unwrap();
    // What waits for another process does not keep that from being resumed.
    up.act_ok(&["pause", "controller"]);
    let mut starting = up.command(&["start", "storage-node", "3"]).spawn().unwrap();
    up.act_ok(&["resume", "controller"]);
    assert!(starting.wait().unwrap().success());
    up.act_ok(&["stop", "gateway", "1"]);
    up.act_ok(&["start"]);
    assert_eq!(values(&up.client(), "t", 0).await, ["one", "two", "three"]);
}

/// What one start has begun, another one waits for: a second process at the same address would take the place of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_overlap_start_no_process_twice() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    up.act_ok(&["stop", "storage-node", "1"]);
    up.act_ok(&["stop", "gateway", "2"]);
    up.act_ok(&["pause", "controller"]);
    let is_there = async |role, id| {
        up.act_ok(&["status"]);
        !find(&dir, role, id)["pid"].is_null()
    };
    // It waits for the storage node, and that for the controller.
    let mut all = up.command(&["start"]).spawn().unwrap();
    until(async || is_there("storage-node", 1).await, "the first start is on its way").await;
    let mut gateway = up.command(&["start", "gateway", "2"]).spawn().unwrap();
    until(async || is_there("gateway", 2).await, "the second start is, too").await;
    up.act_ok(&["resume", "controller"]);
    assert!(gateway.wait().unwrap().success() && all.wait().unwrap().success());
    assert_eq!(find(&dir, "gateway", 2)["state"], "running");

    // What is stopped while it is being started ends the start: the gateway behind it would come up after that.
    up.act_ok(&["stop", "storage-node", "1"]);
    up.act_ok(&["stop", "gateway", "2"]);
    up.act_ok(&["pause", "controller"]);
    let all = up.command(&["start"]).stderr(Stdio::piped()).spawn().unwrap();
    until(async || is_there("storage-node", 1).await, "the start is on its way").await;
    up.act_ok(&["stop", "storage-node", "1"]);
    let ended = all.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && text.contains("storage-node 1 was stopped before all of them served"), "{text}");
    up.act_ok(&["resume", "controller"]);
    assert!(!is_there("gateway", 2).await && !is_there("storage-node", 1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_outlives_the_one_that_started_it_and_the_next_start_has_all_data() {
    let (_place, dir) = place();
    let mut up = Up::start(&dir);
    let first = processes(&dir);
    create(&up.client(), "t", 1, &[]).await;
    write(&up.client(), "t", 0, "one").await;
    // A suspended process can do nothing about it itself.
    up.act_ok(&["pause", "storage-node", "1"]);
    up.child.kill().unwrap();
    up.child.wait().unwrap();
    until(async || !first.iter().any(|process| lives(&process["pid"])), "all processes are gone").await;
    let before = addresses(&dir);

    let mut up = Up::start(&dir);
    assert_eq!(addresses(&dir), before);
    assert_eq!(values(&up.client(), "t", 0).await, ["one"]);
    let second = processes(&dir);
    let interrupted = Command::new("kill").args(["-INT", &up.child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    while up.child.try_wait().unwrap().is_none() {
        wait_a_little();
    }
    assert!(up.child.wait().unwrap().success());
    assert!(!second.iter().any(|process| lives(&process["pid"])));
    assert!(processes(&dir).iter().all(|process| process["state"] == "down"));
}
