//! What an operator has for finding a fault: logs that are changed while a server runs, settings, and the order of a stop.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::faults::{get, get_from, until};
use crate::processes::{Cluster, signal};
use crate::server::{Server, cli_at, create, place, record, values, write};

/// Asks an admin port as a program on this machine does. Returns the status and the body.
fn ask(admin: &str, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    let length = body.len();
    write!(stream, "{request} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// The same with a host by which this machine is named.
fn local(admin: &str, request: &str, body: &str) -> (u16, String) {
    ask(admin, request, &format!("Host: {admin}\r\n"), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_is_changed_while_the_server_runs() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "log.level=warn"]);
    let admin = &server.admin;
    assert_eq!(local(admin, "GET /log", ""), (200, "warn\n".to_owned()));
    create(&server.client(), "quiet", 1, &[]).await;
    let (status, said) = local(admin, "PUT /log?for=10m", "info,walser=debug\n");
    assert_eq!(status, 200);
    assert!(said.starts_with("info,walser=debug\nlog.level is warn, in force again in "), "{said}");
    create(&server.client(), "told", 1, &[]).await;
    let (_, recent) = local(admin, "GET /log/recent", "");
    assert!(recent.contains("log level changed") && recent.contains("\"told\""), "{recent}");
    assert!(!recent.contains("\"quiet\""), "{recent}");
    assert_eq!(local(admin, "PUT /log", "warn"), (200, "warn\n".to_owned()));
    create(&server.client(), "silent", 1, &[]).await;
    let printed = server.stop();
    assert!(printed.contains("\"told\"") && !printed.contains("\"silent\""), "standard error has the same: {printed}");
}

/// Whatever libraries say at their lowest level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_level_logs_records_or_their_keys() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "log.level=trace"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let key = Some("a-secret-key".into());
    let records = vec![pb::Record { key, ..record("a-secret-value") }];
    let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    assert_eq!(values(&client, "t", 0).await, ["a-secret-value"]);
    let (_, recent) = local(&server.admin, "GET /log/recent", "");
    let printed = server.stop();
    assert!(printed.contains("TRACE") && recent.contains("TRACE"));
    assert!(!printed.contains("a-secret") && !recent.contains("a-secret"));
}

#[test]
fn a_log_level_that_is_none_is_refused_while_the_server_runs() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let admin = &server.admin;
    let long = "info,".repeat(1000) + "info";
    for (request, body, why) in [
        ("PUT /log", "loud", "\"loud\" is not a level; write one of off, error, warn, info, debug, trace"),
        ("PUT /log", "", "is not a level"),
        ("PUT /log", &long, "more than 4096 bytes"),
        ("PUT /log?for=0s", "debug", "longer than 0"),
        ("PUT /log?for=30d", "debug", "at most 7d"),
        ("PUT /log?until=now", "debug", "is not for=TIME"),
    ] {
        let (status, said) = local(admin, request, body);
        assert!(status == 400 && said.contains(why), "{request}: {status} {said}");
    }
    assert_eq!(local(admin, "GET /log", "").1, "info\n");
}

#[test]
fn settings_and_logs_are_for_callers_on_this_machine() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "otel.endpoint=http://me:s3cret@127.0.0.1:1"]);
    let (status, settings) = local(&server.admin, "GET /settings", "");
    assert_eq!(status, 200);
    assert!(settings.contains("otel.endpoint = \"http://***@127.0.0.1:1\" # --set"), "{settings}");
    assert!(settings.contains("# log.level = \"info\" # default") && !settings.contains("s3cret"), "{settings}");
    // A page in a browser that has this address under a name of its own, and one that is open to another site.
    let page = format!("Host: {}\r\nOrigin: http://other.example\r\n", server.admin);
    for headers in ["Host: other.example:7463\r\n", &page] {
        for request in ["GET /settings", "GET /log", "GET /log/recent", "PUT /log"] {
            let (status, said) = ask(&server.admin, request, headers, "trace");
            assert!(status == 403 && said.contains("admin.remote"), "{request}: {status} {said}");
        }
    }
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200"), "probes are for everybody");
    let open = Server::start_with(&data.with_extension("open"), &["--set", "admin.remote=true"]);
    assert_eq!(ask(&open.admin, "GET /log", "Host: other.example:7463\r\n", ""), (200, "info\n".to_owned()));
}

#[test]
fn the_command_changes_the_log_level_of_every_process_of_a_cluster() {
    let (_place, dir) = place();
    let up = Up::start_with(&dir, &["--storage-nodes", "1", "--group-coordinators", "1", "--gateways", "1"]);
    let dir = dir.display().to_string();
    let run = |arguments: &[&str]| cli_at("", &[&["debug", "log-level"], arguments].concat(), b"");
    let changed = run(&["warn,walser_gateway=debug", "--for", "1h", "--dir", &dir]);
    let said = String::from_utf8(changed.stdout).unwrap();
    assert_eq!(changed.status.code(), Some(0), "{}", String::from_utf8_lossy(&changed.stderr));
    for name in ["controller-1", "storage-node-1", "group-coordinator-1", "gateway-1"] {
        let begin = format!("{name}  warn,walser_gateway=debug; log.level is info");
        assert!(said.lines().any(|line| line.starts_with(&begin)), "{name}: {said}");
    }
    let gateway = up.address("gateway", 1, "admin");
    let refused = run(&["loud", "--admin", &gateway]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("\"loud\" is not a level"), "{said}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = run(&["--admin", &closed, "--admin", &gateway]);
    assert_eq!(missing.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&missing.stdout).contains("warn,walser_gateway=debug"), "the other one is asked");
}

/// What a storage node does by itself after its session, and what others may do meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_may_be_fenced_is_not_ready() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let probe = |cluster: &Cluster| {
        let admins = cluster.admins();
        let (_, admin) = admins.iter().find(|(name, _)| *name == "storage node").unwrap();
        get_from(admin, "/readyz")
    };
    until(async || probe(&cluster).starts_with("HTTP/1.1 200"), "the node is ready").await;
    let address = cluster.controller_address();
    cluster.kill_controller();
    let fenced = async || probe(&cluster).starts_with("HTTP/1.1 503") && probe(&cluster).contains("may be fenced");
    until(fenced, "the node says that it is not heard").await;
    assert!(get_from(&cluster.gateway_admin(), "/readyz").starts_with("HTTP/1.1 200"), "records flow");
    cluster.start_controller(&address);
    until(async || probe(&cluster).starts_with("HTTP/1.1 200"), "the node is ready again").await;
}

/// Its leads are given to others first, which takes its time; nobody is to be sent there meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_is_not_ready_from_the_signal_on() {
    let (_dir, data) = place();
    // For so long a node may lead without a controller, and waits for one at its stop.
    let mut cluster = Cluster::start_with(&data, vec!["controller.node.session.ms=60000".to_owned()]);
    let address = cluster.controller_address();
    cluster.kill_controller();
    let storage = cluster.storage_told_to_stop();
    let draining = async || get_from(&storage.ready.admin, "/readyz").ends_with("\r\n\r\ndraining\n");
    until(draining, "the node drains, though its stop has not begun").await;
    cluster.start_controller(&address);
    storage.ended();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_told_to_stop_is_not_ready_and_answers_what_runs() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    write(&client, "t", 0, "first").await;
    let storage = cluster.take_storage();
    signal("-STOP", &storage);
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    let running = tokio::spawn(async move { client.producer().produce(request).await });
    let admin = cluster.gateway_admin();
    let under_way = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("walser_gateway_write_memory_bytes ")).unwrap();
        !line.ends_with(" 0")
    };
    until(async || under_way(&get_from(&admin, "/metrics")), "the write waits for its leader").await;
    let gateway = cluster.gateway_told_to_stop();
    until(async || get_from(&admin, "/readyz").ends_with("\r\n\r\ndraining\n"), "the gateway drains").await;
    signal("-CONT", &storage);
    running.await.unwrap().expect("what runs is answered");
    gateway.ended();
}

/// The controller has to give its groups to another one first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_coordinator_is_not_ready_from_the_signal_on() {
    let (_place, dir) = place();
    let up = Up::start_with(&dir, &["--storage-nodes", "1", "--group-coordinators", "1", "--gateways", "1"]);
    let admin = up.address("group-coordinator", 1, "admin");
    until(async || get_from(&admin, "/readyz").starts_with("HTTP/1.1 200"), "the coordinator is ready").await;
    up.act_ok(&["pause", "controller"]);
    let mut stopping = up.command(&["stop", "group-coordinator", "1"]).spawn().unwrap();
    until(async || get_from(&admin, "/readyz").ends_with("\r\n\r\ndraining\n"), "the coordinator drains").await;
    assert!(stopping.wait().unwrap().success(), "it does not wait for ever");
}
