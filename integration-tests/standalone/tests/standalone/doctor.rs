//! `walser doctor`, which says what keeps a server or clients from working well, and `walser debug bundle`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::faults::until;
use crate::server::{Server, binary, create, place, write};

/// What the environment of a test may have, and what is told of it.
const PROXIES: [&str; 7] =
    ["grpc_proxy", "https_proxy", "http_proxy", "GRPC_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

fn doctor(server: &str, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["doctor", "--server", server]).args(more);
    for name in PROXIES {
        command.env_remove(name);
    }
    command.output().unwrap()
}

/// What was found, as check, state, text and help. Of this machine's disks nothing is promised.
fn found(server: &str, more: &[&str]) -> (Vec<[String; 4]>, Option<i32>) {
    let output = doctor(server, &[&["-o", "json"], more].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.map(|finding| ["check", "state", "text", "help"].map(|name| text(finding, name)));
    (checks.filter(|[check, ..]| check != "disk").collect(), output.status.code())
}

/// The last thing that was found, which has to be an error.
fn end(server: &str, more: &[&str]) -> [String; 4] {
    let (checks, code) = found(server, more);
    assert_eq!(code, Some(7), "{checks:?}");
    let last = checks.last().unwrap().clone();
    assert_eq!(last[1], "error", "{checks:?}");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_sound_server_everything_is_well() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    let (checks, _) = found(&server.address, &[]);
    let states: Vec<_> = checks.iter().map(|[check, state, ..]| (check.as_str(), state.as_str())).collect();
    let expected = ["server", "tcp", "http2", "grpc", "roundtrip", "clock", "health", "version", "topics"];
    assert_eq!(states, expected.map(|check| (check, "ok")), "{checks:?}");
    let plain = String::from_utf8(doctor(&server.address, &[]).stdout).unwrap();
    assert!(plain.contains("ok      the server answers calls\n") && !plain.contains('\u{1b}'), "{plain}");
    let named = found(&server.address.replace("127.0.0.1", "localhost"), &[]).0;
    assert!(named.iter().any(|[check, state, ..]| check == "name" && state == "ok"), "{named:?}");
}

#[test]
fn how_far_the_way_to_a_server_is_open_is_told() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let [check, _, text, help] = end(&closed, &[]);
    assert!(check == "tcp" && text.contains("refused") && help.contains("walser up"), "{text} {help}");
    let [check, _, text, _] = end("nowhere.invalid:7460", &[]);
    assert!(check == "name" && text.contains("nowhere.invalid does not resolve"), "{text}");
    let [check, _, _, help] = end(&server.admin, &[]);
    assert!(check == "grpc" && help.contains(&format!("--server {}", server.address)), "{check} {help}");
}

#[test]
fn what_is_wrong_with_tls_is_told() {
    let (_place, dir) = place();
    let (tls, other) = (dir.join("tls"), dir.join("other"));
    for made in [&tls, &other] {
        assert!(Command::new(binary()).args(["tls", "dev"]).arg(made).output().unwrap().status.success());
    }
    let path = |dir: &Path, file: &str| dir.join(file).display().to_string();
    let settings = [("tls.cert.file", "server.crt"), ("tls.key.file", "server.key")];
    let settings = settings.map(|(name, file)| format!("{name}={}", path(&tls, file)));
    let server = Server::start_with(&dir.join("data"), &["--set", &settings[0], "--set", &settings[1]]);
    let (ca, wrong) = (path(&tls, "ca.crt"), path(&other, "ca.crt"));
    let (checks, _) = found(&server.address, &["--tls-ca", &ca]);
    let shown = checks.iter().find(|[check, ..]| check == "tls").unwrap();
    assert!(shown[1] == "ok" && shown[2].contains("TLS 1.3") && shown[2].contains("more days"), "{shown:?}");
    let [check, _, text, help] = end(&server.address, &["--tls-ca", &wrong]);
    assert!(check == "tls" && text.contains("not believed") && help.contains("--tls-ca"), "{text} {help}");
    let [check, _, text, _] = end(&server.address, &["--tls-ca", &ca, "--tls-server-name", "other.example"]);
    assert!(check == "tls" && text.contains("for other names"), "{text}");
    let [check, _, text, help] = end(&server.address, &[]);
    assert!(check == "grpc" && text.contains("speaks TLS") && help.contains("--tls-ca"), "{check} {text} {help}");
}

/// Files of a bundle by name, below its root.
fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().strip_prefix("walser-debug").unwrap().display().to_string(), text)
    });
    entries.collect()
}

fn bundle(file: &Path, more: &[&str]) -> Output {
    Command::new(binary()).args(["debug", "bundle"]).arg(file).args(more).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_examined_and_bundled_with_what_is_wrong_in_it() {
    let (place, dir) = place();
    let up = Up::start(&dir);
    let client = up.client();
    create(&client, "orders", 2, &[]).await;
    for (name, replication_factor) in [("pair", 2), ("single", 1)] {
        let topic = pb::Topic { name: name.to_owned(), replication_factor, ..Default::default() };
        let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
        client.topics().create_topic(request).await.unwrap();
    }
    write(&client, "orders", 0, "a-secret-value").await;
    up.act_ok(&["kill", "storage-node", "3"]);
    let told = async || found(&up.server(), &[]).0.iter().any(|finding| finding[2].contains("(NODE_DOWN)"));
    until(told, "the node is told as down").await;
    let (checks, code) = found(&up.server(), &[]);
    assert_eq!(code, Some(10), "{checks:?}");
    for text in ["min.insync.replicas is all replicas: pair", "one replica in a cluster of 3 storage nodes: single"] {
        assert!(checks.iter().any(|[check, state, said, _]| check == "topics" && state == "warning" && said == text));
    }

    let file = place.path().join("walser.tar.gz");
    let made = bundle(&file, &["--dir", &dir.display().to_string()]);
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(made.status.success() && said.contains("storage-node-3: it is down"), "{said}");
    let files = unpacked(&file);
    for process in ["controller-1", "storage-node-1", "group-coordinator-2", "gateway-2"] {
        for part in ["livez.txt", "readyz.txt", "startupz.txt", "metrics.txt", "settings.toml", "recent.log"] {
            let text = &files[&format!("processes/{process}/{part}")];
            assert!(!text.is_empty(), "{process} {part}");
        }
        assert_eq!(files[&format!("processes/{process}/log-level.txt")], "info\n");
    }
    assert!(files["processes/gateway-1/recent.log"].contains("serving"));
    assert!(files["processes/storage-node-3/end.log"].contains("serving"), "the file says what a dead process said");
    assert!(files["cluster/partitions.ndjson"].lines().count() >= 4 && files["doctor.json"].contains("NODE_DOWN"));
    let topics: Value = serde_json::from_str(&files["cluster/topics.json"]).unwrap();
    assert!(topics["topics"].as_array().unwrap().iter().any(|topic| topic["name"] == "orders"));
    let manifest: Value = serde_json::from_str(&files["MANIFEST.json"]).unwrap();
    assert_eq!(manifest["files"].as_array().unwrap().len(), files.len() - 1);
    assert!(files.values().all(|text| !text.contains("a-secret-value")), "no records are in it");
    let again = bundle(&file, &["--dir", &dir.display().to_string()]);
    assert_eq!(again.status.code(), Some(4), "it is never overwritten unasked");

    drop(up);
    let made = bundle(&file, &["--dir", &dir.display().to_string(), "--force"]);
    assert_eq!(made.status.code(), Some(7), "what dead processes have logged is no answer");
    assert!(unpacked(&file)["processes/storage-node-1/end.log"].contains("serving"));
}

#[test]
fn a_bundle_is_made_of_what_can_be_had() {
    let (place, data) = place();
    let server = Server::start(&data);
    let file = place.path().join("alone.tar.gz");
    let made = bundle(&file, &["--server", &server.address, "--admin", &server.admin]);
    assert!(made.status.success() && made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
    let address = server.address.clone();
    server.stop();
    let made = bundle(&file, &["--server", &address, "--admin", &address, "--force"]);
    assert_eq!(made.status.code(), Some(7), "there is a file, and nothing has answered");
    let files = unpacked(&file);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["MANIFEST.json", "doctor.json"]);
    let manifest: Value = serde_json::from_str(&files["MANIFEST.json"]).unwrap();
    assert_eq!(manifest["missing"].as_array().unwrap().len(), 2, "{manifest}");
}
