//! Every problem that `walser status` names is made to happen, and what docs/operations.md says helps.
//!
//! Problems that need more than this have tests of their own: METADATA_ROLLBACK in `elections` and `controllers`,
//! CLUSTER_ID_MISMATCH in `metadata_loss`, METADATA_STORE_DEGRADED in `controllers` (row 17).

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use walser_proto::v1 as pb;

use crate::cluster_up::{Up, with_etcd};
use crate::elections::refused_by;
use crate::faults::until;
use crate::group_member::Member;
use crate::hurt_copies::{accepts_loss, segment, with_damaged_leader};
use crate::processes::{Cluster, Service};
use crate::replicated::{Nodes, all_in_sync, alone_in_sync, create_replicated, leader, partitions};
use crate::server::{binary, cli_at, create, place, program, start, values, write};

/// Exit code and text of `walser status`.
fn status(address: &str) -> (Option<i32>, String) {
    let output = cli_at(address, &["status"], b"");
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Waits until `walser status` names a problem, and says so with its exit code; returns what it shows.
pub(crate) async fn shows(address: &str, code: &str) -> String {
    let shown = || {
        let (exit, text) = status(address);
        (exit == Some(10) && text.contains(&format!("({code})"))).then_some(text)
    };
    until(async || shown().is_some(), &format!("{code} is shown")).await;
    shown().unwrap_or_default()
}

/// Waits until `walser status` names no problem.
pub(crate) async fn healthy(address: &str) {
    until(async || status(address).0 == Some(0), "nothing is wrong any more").await;
}

fn ok(nodes: &Nodes, arguments: &[&str]) -> String {
    let output = cli_at(&nodes.cluster.address(), arguments, b"");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_down_are_named_with_what_lacks_them_until_they_are_started() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 10, 2).await;
    let address = nodes.cluster.address();
    healthy(&address).await;
    nodes.kill(1);
    shows(&address, "NODE_DOWN").await;
    shows(&address, "PARTITIONS_UNDER_REPLICATED").await;
    write(&client, "t", 0, "one more failure is too many").await;
    nodes.kill(2);
    let text = shows(&address, "PARTITIONS_UNDER_MIN_ISR").await;
    assert!(text.contains("DEGRADED") || text.contains("CRITICAL"), "{text}");
    nodes.kill(3);
    shows(&address, "PARTITIONS_OFFLINE").await;
    let output = cli_at(&address, &["produce", "t", "nobody takes this", "--timeout", "5"], b"");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("no acknowledgement yet"), "{text}");
    (1..=3).for_each(|number| nodes.restart(number));
    healthy(&address).await;
    assert_eq!(values(&client, "t", 0).await, ["one more failure is too many"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_leader_is_elected_without_proof_recovers() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let address = nodes.cluster.address();
    let last = leader(&client, "t").await;
    // Who goes before too few are in sync need not have everything; who goes after that may lead again by itself.
    let (behind, eligible) = (last % 3 + 1, (last + 1) % 3 + 1);
    nodes.kill(behind);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "it is out of the in-sync set").await;
    nodes.kill(eligible);
    alone_in_sync(&client, last).await;
    nodes.kill(last);
    shows(&address, "PARTITIONS_OFFLINE").await;
    nodes.restart(behind);
    let elected = ["partition", "elect", "t", "0", "--unclean", "--node", &behind.to_string()];
    until(async || accepts_loss(&nodes, &elected), "it leads").await;
    shows(&address, "PARTITIONS_RECOVERING").await;
    nodes.restart_others(behind);
    healthy(&address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_storage_nodes_says_so_until_one_is_started() {
    let (_dir, data) = place();
    let mut cluster = Cluster::without_storage(&data);
    let address = cluster.address();
    shows(&address, "NO_STORAGE_NODE").await;
    cluster.start_storage();
    healthy(&address).await;
}

/// Their leader is known, and does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_nobody_serves_although_they_have_a_leader_are_named() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    nodes.cluster.controller_settings = vec!["controller.node.session.ms=60000".to_owned()];
    nodes.cluster.change_metadata(|_| {});
    let address = nodes.cluster.address();
    healthy(&address).await;
    let silent = leader(&client, "t").await;
    nodes.signal(silent, "-STOP");
    let text = shows(&address, "PARTITIONS_NOT_SERVED").await;
    nodes.signal(silent, "-CONT");
    assert!(text.contains("1 of 1 partitions, for example t/0"), "{text}");
    assert!(text.contains(&format!("node {silent} did not answer this gateway")), "{text}");
    healthy(&address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_files_cannot_be_opened_is_named_and_comes_back_with_them() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    let address = nodes.cluster.address();
    write(&client, "t", 0, "kept").await;
    let follower = leader(&client, "t").await % 3 + 1;
    nodes.stop(follower);
    let (file, aside) = (segment(&nodes.data_of(follower)), data.join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    nodes.restart(follower);
    let text = shows(&address, "REPLICA_OUT_OF_SERVICE").await;
    assert!(text.contains(&format!("node {follower} cannot use its replica")), "{text}");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    healthy(&address).await;
    all_in_sync(&client, "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_only_whole_copy_is_damaged_is_named_until_it_is_repaired() {
    let (_dir, data) = place();
    let (mut nodes, _client, damaged) = with_damaged_leader(&data, 1, 400).await;
    let address = nodes.cluster.address();
    let text = shows(&address, "PARTITION_OUT_OF_SERVICE").await;
    assert!(text.contains("walser partition repair t 0"), "{text}");
    nodes.restart_others(damaged);
    until(async || accepts_loss(&nodes, &["partition", "repair", "t", "0"]), "it is repaired").await;
    healthy(&address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_are_full_or_away_are_named_until_they_are_not() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 3, 2).await;
    let address = nodes.cluster.address();
    nodes.stop(1);
    nodes.restart_with(1, &["storage.disk.reserve.bytes=1125899906842624"]);
    shows(&address, "DISK_FULL").await;
    nodes.stop(1);
    nodes.restart(1);
    healthy(&address).await;

    let (at, away) = (nodes.data_of(2), data.join("away"));
    std::fs::rename(&at, &away).unwrap();
    shows(&address, "DATA_DIRECTORY_FAILED").await;
    let listed = cli_at(&address, &["node", "list"], b"");
    assert!(String::from_utf8(listed.stdout).unwrap().contains("active, directory failed"));
    // What is created meanwhile does without it, and where it cannot, does not wait for it.
    let created = cli_at(&address, &["topic", "create", "beside", "-p", "12", "--replicas", "2"], b"");
    assert!(created.status.success(), "{created:?}");
    let beside = partitions(&client, "beside").await;
    assert!(beside.iter().all(|found| found.replicas.len() == 2 && !found.replicas.contains(&2)), "{beside:?}");
    create_replicated(&client, "everywhere", 3, 3).await;
    assert!(
        partitions(&client, "everywhere").await.iter().all(|found| found.leader != Some(2) && !found.isr.contains(&2))
    );
    std::fs::rename(&away, &at).unwrap();
    healthy(&address).await;
    all_in_sync(&client, "everywhere").await;
    write(&client, "t", 0, "works").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_set_aside_is_named_until_it_is_restored_or_deleted() {
    let (dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let copy = dir.path().join("metadata.redb");
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(metadata.join("metadata.redb"), &copy).unwrap();
    });
    create_replicated(&client, "later", 1, 2).await;
    all_in_sync(&client, "later").await;
    write(&client, "later", 0, "kept").await;
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(&copy, metadata.join("metadata.redb")).unwrap();
    });
    nodes.cluster.restart_gateway(&[]);
    let (client, address) = (nodes.cluster.client(), nodes.cluster.address());
    refused_by(&client, 3).await;
    ok(&nodes, &["metadata", "accept-restore", "--yes"]);
    let text = shows(&address, "DATA_SET_ASIDE").await;
    assert!(text.contains("set-aside list"), "{text}");
    let listed = ok(&nodes, &["partition", "set-aside", "list", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let topic = listed["replicas"][0]["topicId"].as_str().unwrap();
    ok(&nodes, &["partition", "set-aside", "restore", "--topic", "again", topic]);
    // One of the three copies is in use again; the others stay until somebody says so.
    shows(&address, "DATA_SET_ASIDE").await;
    ok(&nodes, &["partition", "set-aside", "delete", topic, "--accept-loss"]);
    healthy(&address).await;
    assert_eq!(values(&client, "again", 0).await, ["kept"]);
}

/// As a later version leaves it, and somebody goes back to this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_of_a_topic_that_is_not_known_is_named_until_it_is_reset() {
    let (dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    create(&client, "later", 1, &[("retention.ms", "1000000")]).await;
    write(&client, "later", 0, "kept").await;
    let exported = dir.path().join("cluster.json");
    nodes.cluster.change_metadata(|metadata| {
        transfer("export", &exported, metadata);
        rename_setting(&exported, "retention.ms", "retention.moons");
        std::fs::remove_file(metadata.join("metadata.redb")).unwrap();
        transfer("import", &exported, metadata);
    });
    let address = nodes.cluster.address();
    let text = shows(&address, "TOPIC_SETTINGS_UNREADABLE").await;
    assert!(text.contains("retention.moons"), "{text}");
    assert_eq!(values(&client, "later", 0).await, ["kept"]);
    ok(&nodes, &["topic", "alter", "later", "--unset", "retention.moons"]);
    healthy(&address).await;
    let works = async || cli_at(&address, &["produce", "later", "works"], b"").status.success();
    until(works, "its leader knows").await;
}

/// Metadata out of a store, or into one.
fn transfer(command: &str, file: &Path, data: &Path) {
    let done = Command::new(binary()).args(["metadata", command]).arg(file).arg("-d").arg(data).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Gives a setting of topics another name in exported metadata.
fn rename_setting(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let (lines, end) = text.trim_end().rsplit_once('\n').unwrap();
    let mut lines = format!("{}\n", lines.replace(from, to));
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, lines.as_bytes());
    end["crc32c"] = format!("{checksum:08x}").into();
    writeln!(lines, "{end}").unwrap();
    std::fs::write(file, lines).unwrap();
}

/// As on a disk that something else has filled: no file can grow beyond a few kilobytes, nor be written there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_store_that_takes_no_writes_is_named_until_it_does() {
    let (_dir, data) = place();
    std::fs::create_dir_all(&data).unwrap();
    let mut command = Command::new("sh");
    // The signal that comes with a refused write is ignored, as most servers do.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program("walser-controller"));
    command.args(["--listen", "127.0.0.1:0", "--set"]).arg(format!("controller.data={}", data.display()));
    let log = data.join("controller.log");
    let controller = Service { ready: start(command, &data.join("controller.ready"), &log).unwrap(), log };
    let gateway = Cluster::gateway_alone(&data, &controller.ready.grpc);
    let address = gateway.address();
    shows(&address, "NO_STORAGE_NODE").await;
    let limit = |bytes: &str| {
        let pid = controller.ready.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status().unwrap();
        assert!(limited.success());
    };
    limit("4096:unlimited");
    let written = gateway.client().producer().init_producer(pb::InitProducerRequest::default()).await;
    assert!(written.is_err(), "producer ids are handed out in the store");
    shows(&address, "METADATA_STORE_UNAVAILABLE").await;
    limit("unlimited:unlimited");
    until(async || !status(&address).1.contains("METADATA_STORE_UNAVAILABLE"), "it takes writes again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_are_down_are_named_also_where_none_is_left_to_say_it() {
    let (_dir, data) = place();
    let up = Up::start_with(&data, &with_etcd("1"));
    let (address, client) = (up.server(), up.client());
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    healthy(&address).await;
    for hangs in ["1", "2"] {
        up.act_ok(&["pause", "controller", hangs]);
        let listed = cli_at(&address, &["topic", "list"], b"");
        assert!(listed.status.success(), "the other one answers: {}", String::from_utf8_lossy(&listed.stderr));
        shows(&address, "CONTROLLER_DOWN").await;
        up.act_ok(&["resume", "controller", hangs]);
        healthy(&address).await;
    }
    up.act_ok(&["kill", "controller", "1"]);
    let text = shows(&address, "CONTROLLER_DOWN").await;
    let down = up.address("controller", 1, "internal");
    assert!(text.contains(&format!("1 of 2 controllers does not answer: {down}")), "{text}");
    up.act_ok(&["kill", "controller", "2"]);
    let text = shows(&address, "CONTROLLER_NOT_AVAILABLE").await;
    assert!(text.contains("CRITICAL") && text.contains("2 of 2 controllers do not answer"), "{text}");
    assert!(text.contains("storage nodes not known") && text.contains("1 topic · 1 partition"), "{text}");
    let json = cli_at(&address, &["status", "-o", "json"], b"").stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert!(json["nodes"].is_null() && json["cluster"]["health"]["status"] == "HEALTH_STATUS_CRITICAL", "{json}");
    write(&client, "t", 0, "records flow").await;
    up.act_ok(&["start", "controller"]);
    healthy(&address).await;
    assert_eq!(values(&client, "t", 0).await, ["records flow"]);
}

/// What it had the only copies of can be given up only where the others run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_up_without_a_node_that_has_lost_the_only_copies() {
    let (_dir, data) = place();
    let up = Up::start(&data);
    let created = cli_at(&up.server(), &["topic", "create", "lost", "--replicas", "1", "--partitions", "6"], b"");
    assert!(created.status.success());
    drop(up);
    std::fs::remove_dir_all(data.join("storage-node-1")).unwrap();
    let up = Up::start(&data);
    let address = up.server();
    shows(&address, "PARTITIONS_OFFLINE").await;
    assert!(cli_at(&address, &["topic", "delete", "lost", "--yes"], b"").status.success());
    shows(&address, "NODE_DOWN").await;
    up.act_ok(&["start", "storage-node", "1"]);
    healthy(&address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_group_coordinators_says_so_and_its_members_go_on_with_the_next_one() {
    let (_dir, data) = place();
    let up = Up::start(&data);
    let (address, client) = (up.server(), up.client());
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    healthy(&address).await;
    let mut member = Member::join(&client, "g", "t").await;
    member.own(1).await;
    up.act_ok(&["kill", "group-coordinator", "1"]);
    member.commit(Vec::new()).await;
    healthy(&address).await;
    up.act_ok(&["kill", "group-coordinator", "2"]);
    shows(&address, "GROUP_COORDINATOR_DOWN").await;
    write(&client, "t", 0, "records flow").await;
    up.act_ok(&["start", "group-coordinator", "1"]);
    healthy(&address).await;
    member.read_many(1).await;
    member.commit_all().await;
    assert_eq!(member.revoked.len(), 0);
}

/// The topic of groups is spread over all nodes when the first group comes, and a cluster of three has no other ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_group_comes_while_a_node_is_cordoned() {
    let (_dir, data) = place();
    let up = Up::start(&data);
    let (address, client) = (up.server(), up.client());
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    for wish in ["cordon", "drain"] {
        assert!(cli_at(&address, &["node", wish, "1"], b"").status.success(), "{wish}");
    }
    write(&client, "t", 0, "one").await;
    let mut member = Member::join(&client, "g", "t").await;
    member.own(1).await;
    member.read_many(1).await;
    member.commit_all().await;
}

/// The controllers hear a coordinator, and gateways cannot reach it; or they would reach another one in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_that_cannot_be_reached_or_are_at_one_address_are_named() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let address = cluster.address();
    let controller = format!("controller.address={}", cluster.controller_address());
    let at = |advertise: &str| {
        let settings = [controller.clone(), format!("coordinator.advertise={advertise}")];
        Service::start("walser-group-coordinator", &data, &settings)
    };
    let nowhere = at("127.0.0.1:1");
    let text = shows(&address, "GROUPS_NOT_SERVED").await;
    assert!(text.contains("16 of 16 shards") && text.contains("the group coordinator at 127.0.0.1:1"), "{text}");
    let second = at("127.0.0.1:1");
    let text = shows(&address, "NODE_ADDRESS_IN_USE").await;
    assert!(text.contains("a group coordinator was refused") && text.contains("coordinator.advertise"), "{text}");
    second.stop();
    nowhere.kill();
    shows(&address, "GROUP_COORDINATOR_DOWN").await;
    let _there = at("");
    healthy(&address).await;
}
