//! A cluster whose metadata is in etcd. `WALSER_ETCD` names the program; `scripts/test.sh` builds it.

#[path = "../../../../libs/metastore/tests/etcd/member.rs"]
mod member;

use walser_proto::v1 as pb;

use self::member::{Member, Place};
use crate::faults::until;
use crate::hurt_copies::copy_dir;
use crate::processes::Cluster;
use crate::server::{Server, cli_at, create, place, values, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_in_etcd_outlive_the_controller_and_records_flow_without_etcd() {
    let (_dir, data) = place();
    let at = Place::free("http");
    let mut etcd = Member::start(&data.join("etcd"), "m0", &at, &format!("m0={}", at.peer), &[]);
    let settings = vec!["controller.metastore=etcd".to_owned(), format!("controller.etcd.endpoints={}", etcd.client)];
    let mut cluster = Cluster::start_with(&data, settings);
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

/// Runs `walser metadata` without a server; what it printed, when it failed.
fn metadata(arguments: &[&str]) -> Result<(), String> {
    let output = cli_at("127.0.0.1:1", &[&["metadata"], arguments].concat(), b"");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_moves_from_a_file_into_etcd_under_running_nodes() {
    let (dir, data) = place();
    let at = Place::free("http");
    let etcd = Member::start(&data.join("etcd"), "m0", &at, &format!("m0={}", at.peer), &[]);
    let in_etcd = vec!["controller.metastore=etcd".to_owned(), format!("controller.etcd.endpoints={}", etcd.client)];
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 2, &[]).await;
    write(&client, "t", 0, "1").await;

    let (address, old) = (cluster.controller_address(), data.join("controller").display().to_string());
    let file = dir.path().join("cluster.json").display().to_string();
    let running = metadata(&["export", &file, "--data", &old]).unwrap_err();
    assert!(running.contains("is open in another process"), "{running}");
    cluster.stop_controller();
    metadata(&["export", &file, "--data", &old]).unwrap();
    assert!(metadata(&["export", &file, "--data", &old]).unwrap_err().contains("is there already"));
    write(&client, "t", 0, "2").await;
    let import = ["import", &file, "--set", &in_etcd[0], "--set", &in_etcd[1]];
    metadata(&import).unwrap();
    assert!(metadata(&import).unwrap_err().contains("has a cluster already"));

    cluster.controller_settings = in_etcd;
    cluster.start_controller(&address);
    until(async || create_again(&cluster, "in-etcd"), "the new metadata is taken").await;
    // The node registers again, and its partitions have no leader for a moment.
    let written = cli_at(&cluster.address(), &["produce", "t", "-p", "0", "3"], b"");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    cluster.kill_storage();
    cluster.start_storage();
    until(async || create_again(&cluster, "after-a-restart"), "also after a restart").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2", "3"]);

    // The old one is another history now.
    cluster.stop_controller();
    cluster.controller_settings.clear();
    cluster.start_controller(&address);
    let refused = async || {
        let answer = client.cluster().get_cluster(pb::GetClusterRequest {}).await;
        let health = answer.ok().and_then(|answer| answer.into_inner().cluster?.health).unwrap_or_default();
        health.issues.iter().any(|issue| issue.code == "METADATA_ROLLBACK")
    };
    until(refused, "the node refuses it").await;
    assert!(!create_again(&cluster, "in-the-old-one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_one_process_becomes_a_cluster_of_several() {
    let (dir, data) = place();
    let laptop = dir.path().join("laptop");
    let server = Server::start(&laptop);
    let client = server.client();
    create(&client, "t", 3, &[("retention.ms", "-1")]).await;
    write(&client, "t", 0, "1").await;
    server.stop();
    let file = dir.path().join("cluster.json").display().to_string();
    metadata(&["export", &file, "--data", &laptop.display().to_string()]).unwrap();
    copy_dir(&laptop, &data.join("storage"));
    metadata(&["import", &file, "--data", &data.join("controller").display().to_string()]).unwrap();
    let cluster = Cluster::start(&data);
    let client = cluster.client();
    write(&client, "t", 0, "2").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2"]);
    assert!(create_again(&cluster, "another"));
}

/// Whether a topic is there, or can be made.
fn create_again(cluster: &Cluster, name: &str) -> bool {
    let made = cli_at(&cluster.address(), &["topic", "create", name, "--if-not-exists"], b"");
    made.status.success()
}
