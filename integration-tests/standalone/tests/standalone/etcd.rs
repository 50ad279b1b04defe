//! A cluster whose metadata is in etcd. `WALSER_ETCD` names the program; `scripts/test.sh` builds it.

#[path = "../../../../libs/metastore/tests/etcd/member.rs"]
mod member;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use walser_proto::v1 as pb;

use self::member::{Member, Place, own_address};
use crate::faults::{get_from, until};
use crate::hurt_copies::copy_dir;
use crate::processes::{Cluster, Service};
use crate::runbook::shows;
use crate::server::{Server, binary, cli_at, create, place, values, write};

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

    // No controller starts on the old one; and where it is used again, it is another history.
    cluster.stop_controller();
    let on_old = format!("controller.data={old}");
    let output =
        Command::new(binary()).args(["controller", "--listen", "127.0.0.1:0", "--set", &on_old]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("goes on in another store"), "{output:?}");
    metadata(&["reopen", "--data", &old, "--yes"]).unwrap();
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

/// The way to a member that can be cut.
struct Link {
    address: String,
    ways: tokio::task::JoinHandle<()>,
}

impl Link {
    async fn to(member: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let member = member.trim_start_matches("http://").to_owned();
        let ways = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            while let Ok((mut here, _)) = listener.accept().await {
                let member = member.clone();
                ways.spawn(async move {
                    let mut there = tokio::net::TcpStream::connect(member).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                });
            }
        });
        Self { address, ways }
    }

    /// Connections break, and no other ones are taken.
    fn cut(self) {
        self.ways.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_cut_off_from_etcd_is_followed_by_nobody() {
    let (_dir, data) = place();
    let at = Place::free("http");
    let etcd = Member::start(&data.join("etcd"), "m0", &at, &format!("m0={}", at.peer), &[]);
    let link = Link::to(&etcd.client).await;
    let controller = |name: &str, endpoint: &str| {
        let dir = data.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let endpoints = format!("controller.etcd.endpoints={endpoint}");
        Service::start("walser-controller", &dir, &["controller.metastore=etcd".to_owned(), endpoints])
    };
    // The first one leads, and everybody follows it first.
    let controllers = [controller("a", &link.address), controller("b", &etcd.client)];
    let [first, second] = controllers.each_ref().map(|controller| controller.ready.grpc.clone());
    let address = format!("controller.address={first},{second}");
    let gateway = Service::start("walser-gateway", &data, std::slice::from_ref(&address));
    let storage = format!("storage.data={}", data.join("storage").display());
    let _node = Service::start("walser-storage-node", &data, &[storage, address]);
    let client = walser_client::Client::new(&gateway.ready.grpc).unwrap();
    create(&client, "t", 1, &[]).await;
    write(&client, "t", 0, "before").await;

    link.cut();
    // It was not only made: gateway and node have heard of it.
    let told = async || cli_at(&gateway.ready.grpc, &["produce", "later", "-p", "0", "after"], b"").status.success();
    let makes = async || {
        let made = cli_at(&gateway.ready.grpc, &["topic", "create", "later", "--if-not-exists"], b"");
        made.status.success() && told().await
    };
    until(makes, "the metadata of the other controller takes effect").await;
    write(&client, "t", 0, "after").await;
    assert_eq!(values(&client, "t", 0).await, ["before", "after"]);
    // It is there, and nobody can rely on it.
    let text = shows(&gateway.ready.grpc, "CONTROLLER_CANNOT_LEAD").await;
    assert!(text.contains(&format!("1 of 2 controllers could not take over: {first}")), "{text}");
    let admin = controllers[0].ready.admin.clone();
    until(async || get_from(&admin, "/readyz").starts_with("HTTP/1.1 503"), "it is not ready").await;
    assert!(get_from(&admin, "/readyz").contains("the metadata store does not answer it"));
    assert!(get_from(&controllers[1].ready.admin, "/readyz").starts_with("HTTP/1.1 200"));
    controllers.into_iter().for_each(Service::kill);
}

/// Certificates for an address, with an authority of their own.
fn certificates(dir: &Path, host: Ipv4Addr) {
    let made =
        Command::new(binary()).args(["tls", "dev"]).arg(dir).args(["--host", &host.to_string()]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_takes_new_certificates_for_etcd_without_a_restart() {
    let (_dir, data) = place();
    let host = own_address();
    let [before, after, of_etcd, own] = ["before", "after", "of-etcd", "own"].map(|name| data.join(name));
    for (made, used) in [(&before, &of_etcd), (&before, &own)] {
        certificates(made, host);
        copy_dir(made, used);
    }
    certificates(&after, host);
    let file = |dir: &Path, name: &str| dir.join(name).display().to_string();
    let (ca, cert, key) = (file(&of_etcd, "ca.crt"), file(&of_etcd, "server.crt"), file(&of_etcd, "server.key"));
    let flags = ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    let at = Place::free_at(host, "https");
    let mut etcd = Member::start(&data.join("etcd"), "m0", &at, &format!("m0={}", at.peer), &flags.map(str::to_owned));
    let of_file = |setting: &str, name: &str| format!("controller.etcd.{setting}.file={}", file(&own, name));
    let cluster = Cluster::start_with(
        &data,
        vec![
            "controller.metastore=etcd".to_owned(),
            format!("controller.etcd.endpoints={}", etcd.client),
            of_file("ca", "ca.crt"),
            of_file("cert", "client.crt"),
            of_file("key", "client.key"),
            "tls.reload.interval.ms=100".to_owned(),
        ],
    );
    assert!(create_again(&cluster, "before"));
    // etcd believes another authority from here on, and the controller still shows a certificate of the one before.
    etcd.kill();
    copy_dir(&after, &of_etcd);
    etcd.restart();
    assert!(!create_again(&cluster, "between"), "the two do not know each other");
    copy_dir(&after, &own);
    until(async || create_again(&cluster, "after"), "the controller shows the new certificate").await;
    let client = cluster.client();
    write(&client, "after", 0, "1").await;
    assert_eq!(values(&client, "after", 0).await, ["1"]);
}

/// Whether a topic is there, or can be made.
fn create_again(cluster: &Cluster, name: &str) -> bool {
    let made = cli_at(&cluster.address(), &["topic", "create", name, "--if-not-exists"], b"");
    made.status.success()
}
