//! A server that cannot start says why; one that runs stays up whatever happens around it.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use crate::server::{PATIENCE, Server, binary, create, place, read_all, record, wait_a_little};

/// Asks the admin port of a server.
pub(crate) fn get(server: &Server, path: &str) -> String {
    get_from(&server.admin, path)
}

/// Asks an admin port.
pub(crate) fn get_from(admin: &str, path: &str) -> String {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Looks again and again until something holds.
pub(crate) async fn until(holds: impl AsyncFn() -> bool, what: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        wait_a_little();
    }
}

fn refused(data: &Path, more: &[&str]) -> String {
    let log = data.with_extension("log");
    let _ = std::fs::remove_file(&log);
    Server::try_start(data, more).map(|_| ()).expect_err("the server started")
}

#[test]
fn a_bad_start_is_refused_with_a_reason() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let said = refused(&data, &[]);
    assert!(said.contains("is in use by pid"), "{said}");
    let other = dir.path().join("other");
    let said = refused(&other, &["--listen", &server.address]);
    assert!(said.contains("already in use"), "{said}");
    server.stop();

    let config = dir.path().join("config.toml");
    std::fs::write(&config, b"\x00\x01garbage = [").unwrap();
    let said = refused(&other, &["--config", config.to_str().unwrap()]);
    assert!(said.contains("config file"), "{said}");
    let said = refused(&other, &["--set", "storage.shard=2"]);
    assert!(said.contains("did you mean \"storage.shards\""), "{said}");
    let said = refused(&other, &["--set", "storage.shards=900"]);
    assert!(said.contains("from 0 to 64"), "{said}");
    let said = refused(&other, &["--listen", "0.0.0.0:0"]);
    assert!(said.contains("--insecure"), "{said}");

    let nowhere = dir.path().join("nowhere").join("ready");
    let up = ["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"];
    let ended = Command::new(binary()).args(up).arg(&other).arg("--ready-file").arg(&nowhere).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("ready file") && !said.contains("serving"), "{said}");

    let meta = data.join("meta");
    let text = std::fs::read_to_string(&meta).unwrap();
    std::fs::write(&meta, text.replace("format=1", "format=9")).unwrap();
    let said = refused(&data, &[]);
    assert!(said.contains("format 9") && said.contains("newer version"), "{said}");
    let foreign = "cluster-id=00000000-0000-4000-8000-000000000001";
    let lines: Vec<&str> =
        text.lines().map(|line| if line.starts_with("cluster-id=") { foreign } else { line }).collect();
    std::fs::write(&meta, lines.join("\n") + "\n").unwrap();
    // Data of another cluster: the server is up and says so, and nothing on the disk changes.
    let server = Server::start(&data);
    let probe = get(&server, "/readyz");
    assert!(probe.starts_with("HTTP/1.1 503") && probe.contains("CLUSTER_ID_MISMATCH"), "{probe}");
    let status = server.cli(&["status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.code() == Some(10) && said.contains("CLUSTER_ID_MISMATCH"), "{said}");
    let accepted = server.cli(&["metadata", "accept-restore", "--yes"]);
    let said = String::from_utf8_lossy(&accepted.stderr).into_owned();
    assert!(!accepted.status.success() && said.contains("CLUSTER_ID_MISMATCH"), "nothing to accept: {said}");
    server.stop();
    std::fs::write(&meta, text).unwrap();
    let server = Server::start(&data);
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200"));
    server.stop();

    let file = dir.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    let said = refused(&file, &[]);
    assert!(said.contains("data directory"), "{said}");
}

/// The cap of a server in memory is its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_serves_reads_until_there_is_space() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--memory", "24MiB", "--set", "storage.disk.reserve.bytes=1MiB"]);
    let client = server.client();
    create(&client, "big", 1, &[("segment.bytes", "1MiB")]).await;
    create(&client, "small", 1, &[]).await;
    let write = |topic: &str| pb::ProduceRequest {
        topic: topic.to_owned(),
        records: vec![record(vec![7; 500_000])],
        ..Default::default()
    };
    let mut written = 0;
    let refused = loop {
        match client.producer().produce(write("big")).await {
            Ok(_) => written += 1,
            Err(status) => break ApiError::from(status),
        }
        assert!(written < 100, "the disk never fills");
    };
    assert_eq!((refused.reason_name(), refused.code()), ("DISK_FULL", tonic::Code::ResourceExhausted));
    assert_eq!(read_all(&client, "big", 0).await.len(), written);
    let probed = async || {
        let probe = get(&server, "/readyz");
        assert!(probe.starts_with("HTTP/1.1 200"), "reads go on: {probe}");
        probe.contains("\ndisk full: records are refused")
    };
    until(probed, "the probe shows that the disk is full").await;
    let shown = async || {
        let cluster = client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().cluster;
        let issues = cluster.unwrap().health.unwrap().issues;
        issues.iter().any(|issue| issue.code == "DISK_FULL")
    };
    until(shown, "the status shows that the disk is full").await;
    let request = pb::DeleteTopicRequest { name: "big".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.producer().produce(write("small")).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "{}", server.printed());
        wait_a_little();
    }
    until(async || get(&server, "/readyz").ends_with("\r\n\r\nok\n"), "the probe has nothing to say any more").await;
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_and_half_messages_disturb_nobody() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let silent: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    let mut half = TcpStream::connect(&server.address).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x20\x04\x00\x00\x00\x00\x00\x00").unwrap();
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    for _ in 0..20 {
        let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    assert_eq!(read_all(&client, "t", 0).await.len(), 20);
    drop((silent, half));
    server.assert_no_panic();
}

/// A partition whose files cannot be read costs nobody else anything, and is as it was once they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_partition_leaves_the_others_in_service() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let write =
        |topic: &str| pb::ProduceRequest { topic: topic.to_owned(), records: vec![record("x")], ..Default::default() };
    create(&client, "good", 1, &[]).await;
    create(&client, "bad", 1, &[]).await;
    client.producer().produce(write("good")).await.unwrap();
    let before: Vec<_> = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    client.producer().produce(write("bad")).await.unwrap();
    let all = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    let bad = all.into_iter().find(|path| !before.contains(path)).unwrap();
    let data = server.kill();
    let epochs = bad.join("leader-epochs");
    std::fs::rename(&epochs, bad.join("aside")).unwrap();
    std::fs::create_dir(&epochs).unwrap();

    let server = Server::start(&data);
    let client = server.client();
    client.producer().produce(write("good")).await.unwrap();
    let refused = ApiError::from(client.producer().produce(write("bad")).await.unwrap_err());
    assert_eq!(refused.reason_name(), "STORAGE_ERROR", "{refused:?}");
    assert!(server.printed().contains("cannot be opened"), "{}", server.printed());
    let named = async || {
        let probe = get(&server, "/readyz");
        assert!(probe.starts_with("HTTP/1.1 200"), "the others are served: {probe}");
        let directory = bad.file_name().unwrap().to_str().unwrap();
        probe.contains(&format!("partition bad/0 ({directory}): cannot be opened"))
    };
    until(named, "the probe names the partition").await;

    let data = server.kill();
    std::fs::remove_dir(&epochs).unwrap();
    std::fs::rename(bad.join("aside"), &epochs).unwrap();
    let server = Server::start(&data);
    let client = server.client();
    client.producer().produce(write("bad")).await.unwrap();
    assert_eq!(read_all(&client, "bad", 0).await.len(), 2);
    assert_eq!(read_all(&client, "good", 0).await.len(), 2);
    server.assert_no_panic();
}

/// A client that stops reading holds back its own stream and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_costs_bounded_memory() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("durability", "page-cache")]).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let target = pb::ReadTarget {
            topic: "t".to_owned(),
            start: Some(crate::server::bound(pb::Bound::Earliest)),
            ..Default::default()
        };
        let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
        stalled.push(client.separate().consumer().read(request).await.unwrap());
    }
    for _ in 0..120 {
        let records = (0..10).map(|_| record(vec![9; 90_000])).collect();
        let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(kibibytes < 450 << 10, "{kibibytes} KiB for 8 stalled readers of 100 MB");
    assert_eq!(read_all(&client.separate(), "t", 0).await.len(), 1200);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_say_how_the_server_is() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    for path in ["/livez", "/readyz", "/startupz"] {
        assert!(get(&server, path).starts_with("HTTP/1.1 200"), "{path}");
    }
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let metrics = get(&server, "/metrics");
    assert!(metrics.contains("walser_storage_append_records_total 1"), "{metrics}");
}

/// With `log.level=debug` for the calls, what is logged in the course of a call names the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_client_of_a_call() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "log.level=info,walser=debug"]);
    create(&server.client(), "named", 1, &[]).await;
    let printed = server.stop();
    let created = printed.lines().find(|line| line.contains("topic created")).unwrap();
    assert!(created.contains(r#""client_id":"walser""#), "{created}");
}
