//! Metadata that is older than the data: nothing is lost, nothing is written, and there is a way out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use crate::faults::{get, until};
use crate::server::{Server, create, place, read_all, record};

/// Partitions of the topic `first`.
const PARTITIONS: i32 = 2;
/// Records that are written to a partition at once.
const RECORDS: usize = 10;

/// A stopped server whose metadata was copied before some topics were created.
struct Stopped {
    _dir: tempfile::TempDir,
    data: PathBuf,
    /// The metadata from before `first` and `second`, and before half of the records of `old`.
    older: PathBuf,
    /// The last metadata.
    right: PathBuf,
}

async fn write(client: &Client, topic: &str, partition: i32) -> Result<pb::ProduceResponse, ApiError> {
    let records = (0..RECORDS).map(|number| record(format!("{topic}/{partition}/{number}"))).collect();
    let partition = Some(partition);
    let request = pb::ProduceRequest { topic: topic.to_owned(), partition, records, ..Default::default() };
    Ok(client.producer().produce(request).await?.into_inner())
}

/// Whether a partition has exactly the records of `times` writes.
async fn has(client: &Client, topic: &str, partition: i32, times: usize) -> bool {
    let records = read_all(client, topic, partition).await;
    let values = records.iter().map(|record| record.value.as_deref().unwrap().to_vec());
    let expected = (0..times * RECORDS).map(|number| format!("{topic}/{partition}/{}", number % RECORDS).into_bytes());
    values.eq(expected)
}

async fn topic_id(client: &Client, name: &str) -> String {
    let found = client.topics().get_topic(pb::GetTopicRequest { name: name.to_owned() }).await.unwrap();
    found.into_inner().topic.unwrap().id
}

/// Every segment below a directory, with its bytes.
fn segments(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(segments(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            // What is being removed may be gone by now.
            found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes)));
        }
    }
    found
}

/// What the command line says, with its exit code.
fn said(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let output = server.cli(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Topic id and partition of everything that is set aside.
fn set_aside(server: &Server) -> Vec<(String, i64)> {
    let text = server.cli_ok(&["partition", "set-aside", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let replicas = list["replicas"].as_array().cloned().unwrap_or_default();
    let id = |replica: &serde_json::Value| replica["topicId"].as_str().unwrap().to_owned();
    replicas.iter().map(|replica| (id(replica), replica["partition"].as_i64().unwrap_or(0))).collect()
}

async fn ready(server: &Server) {
    until(async || get(server, "/readyz").starts_with("HTTP/1.1 200"), "the server is ready").await;
}

/// `old` has records from before the copy and from after it; `first` and `second` were created after it.
async fn stopped() -> Stopped {
    let (dir, data) = place();
    let (older, right) = (dir.path().join("older.redb"), dir.path().join("right.redb"));
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "old", 2, &[]).await;
    write(&client, "old", 0).await.unwrap();
    server.stop();
    std::fs::copy(data.join("metadata.redb"), &older).unwrap();

    let server = Server::start(&data);
    let client = server.client();
    create(&client, "first", PARTITIONS, &[]).await;
    create(&client, "second", 1, &[]).await;
    for (topic, partition) in [("old", 0), ("first", 0), ("first", 1), ("second", 0)] {
        write(&client, topic, partition).await.unwrap();
    }
    server.stop();
    std::fs::copy(data.join("metadata.redb"), &right).unwrap();
    Stopped { _dir: dir, data, older, right }
}

// === impl Stopped ===

impl Stopped {
    /// Starts with one of the two copies.
    fn start_with(&self, metadata: &Path) -> Server {
        std::fs::copy(metadata, self.data.join("metadata.redb")).unwrap();
        Server::start(&self.data)
    }

    fn segments(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        segments(&self.data.join("logs"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_metadata_changes_nothing_on_disk_until_the_right_metadata_is_back() {
    let stopped = stopped().await;
    let before = stopped.segments();
    assert_eq!(before.len(), 4, "one segment for each partition");

    let server = stopped.start_with(&stopped.older);
    let client = server.client();
    let refused = async || {
        let answer = get(&server, "/readyz");
        answer.starts_with("HTTP/1.1 503") && answer.contains("METADATA_ROLLBACK")
    };
    until(refused, "the probe names METADATA_ROLLBACK").await;
    let (code, text) = said(&server, &["status"]);
    assert_eq!(code, Some(10), "{text}");
    assert!(text.contains("METADATA_ROLLBACK"), "{text}");
    assert!(has(&client, "old", 0, 2).await, "reads go on, with everything that was written");
    let failure = write(&client, "old", 0).await.unwrap_err();
    assert_eq!((failure.reason_name(), failure.code()), ("METADATA_ROLLBACK", tonic::Code::FailedPrecondition));
    assert_eq!(failure.effect(), pb::Effect::None);
    assert!(has(&client, "old", 0, 2).await, "a refused write leaves nothing behind");
    for change in [["topic", "create", "new"].as_slice(), &["topic", "delete", "old", "--yes"]] {
        let (code, text) = said(&server, change);
        assert!(code != Some(0) && text.contains("METADATA_ROLLBACK"), "{change:?}: {text}");
    }
    let (code, text) = said(&server, &["consume", "old", "-p", "1", "--to", "latest"]);
    assert!(code == Some(0) || text.contains("METADATA_ROLLBACK"), "a partition without records: {text}");
    server.assert_no_panic();
    server.stop();
    assert!(stopped.segments() == before, "segments changed under older metadata");

    // A kill in this state is no different.
    let server = stopped.start_with(&stopped.older);
    assert!(has(&server.client(), "old", 0, 2).await);
    server.kill();
    assert!(stopped.segments() == before, "segments changed under older metadata");

    let server = stopped.start_with(&stopped.right);
    let client = server.client();
    ready(&server).await;
    assert_eq!(set_aside(&server), []);
    for (topic, partition, times) in [("old", 0, 2), ("first", 0, 1), ("first", 1, 1), ("second", 0, 1)] {
        assert!(has(&client, topic, partition, times).await, "{topic}/{partition}");
        write(&client, topic, partition).await.unwrap();
        assert!(has(&client, topic, partition, times + 1).await, "{topic}/{partition}");
    }
    server.assert_no_panic();
}

/// However little it lacks: the copy is one change behind, and what a start writes has that change's number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lacks_one_change_is_not_obeyed() {
    let changes: [&[&str]; 2] = [&["topic", "create", "new"], &["topic", "alter", "old", "-c", "retention.ms=-1"]];
    for change in changes {
        let (dir, data) = place();
        let copy = dir.path().join("copy.redb");
        let server = Server::start(&data);
        create(&server.client(), "old", 1, &[]).await;
        std::fs::copy(data.join("metadata.redb"), &copy).unwrap();
        server.cli_ok(change);
        server.kill();
        std::fs::copy(&copy, data.join("metadata.redb")).unwrap();
        let server = Server::start(&data);
        let refused = async || get(&server, "/readyz").contains("METADATA_ROLLBACK");
        until(refused, "the probe names METADATA_ROLLBACK").await;
        server.kill();
    }
}

/// Metadata of another cluster, and fresh metadata: neither has the data's node, and neither takes its changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_another_cluster_is_not_changed() {
    let (_other_dir, other) = place();
    let foreign = Server::start(&other);
    create(&foreign.client(), "foreign", 1, &[]).await;
    foreign.stop();
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "own", 1, &[]).await;
    write(&server.client(), "own", 0).await.unwrap();
    server.stop();
    let right = data.with_extension("redb");
    std::fs::rename(data.join("metadata.redb"), &right).unwrap();
    let before = segments(&data.join("logs"));

    for metadata in [Some(other.join("metadata.redb")), None] {
        let _ = std::fs::remove_file(data.join("metadata.redb"));
        if let Some(copy) = &metadata {
            std::fs::copy(copy, data.join("metadata.redb")).unwrap();
        }
        let server = Server::start(&data);
        let refused = async || get(&server, "/readyz").contains("CLUSTER_ID_MISMATCH");
        until(refused, "the probe names CLUSTER_ID_MISMATCH").await;
        let mut changes: Vec<&[&str]> = vec![&["topic", "create", "new"], &["produce", "new", "a record"]];
        changes.extend(metadata.as_ref().map(|_| ["topic", "delete", "foreign", "--yes"].as_slice()));
        for change in changes {
            let (code, text) = said(&server, change);
            assert!(code != Some(0) && text.contains("CLUSTER_ID_MISMATCH"), "{change:?}: {text}");
        }
        let (code, text) = said(&server, &["status"]);
        assert!(code == Some(10) && text.contains("CLUSTER_ID_MISMATCH") && !text.contains(" active "), "{text}");
        let topics = server.client().topics().list_topics(pb::ListTopicsRequest::default()).await.unwrap().into_inner();
        let names: Vec<_> = topics.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, metadata.iter().map(|_| "foreign").collect::<Vec<_>>());
        server.stop();
        assert!(segments(&data.join("logs")) == before, "segments changed under foreign metadata");
    }

    std::fs::rename(&right, data.join("metadata.redb")).unwrap();
    let server = Server::start(&data);
    ready(&server).await;
    assert!(has(&server.client(), "own", 0, 1).await);
    write(&server.client(), "own", 0).await.unwrap();
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_older_metadata_keeps_aside_what_it_does_not_know() {
    let stopped = stopped().await;
    let server = stopped.start_with(&stopped.right);
    let (first, second) = (topic_id(&server.client(), "first").await, topic_id(&server.client(), "second").await);
    server.stop();

    let server = stopped.start_with(&stopped.older);
    let client = server.client();
    let (code, text) = said(&server, &["metadata", "accept-restore"]);
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(write(&client, "old", 0).await.unwrap_err().reason_name(), "METADATA_ROLLBACK");
    server.cli_ok(&["metadata", "accept-restore", "--yes"]);
    // A list that says that it is complete is.
    until(async || said(&server, &["partition", "set-aside", "list"]).0 == Some(0), "the list is complete").await;
    let mut expected = vec![(first.clone(), 0), (first.clone(), 1), (second.clone(), 0)];
    expected.sort();
    assert_eq!(set_aside(&server), expected);
    until(async || write(&client, "old", 0).await.is_ok(), "writes work again").await;
    assert!(has(&client, "old", 0, 3).await, "records from before and after the copy, and the one write that worked");
    ready(&server).await;
    let (code, text) = said(&server, &["partition", "set-aside", "list"]);
    assert!(code == Some(0) && text.contains(&first) && text.contains("set-aside restore"), "{text}");

    restore_and_delete(&server, &first, &second);
    assert!(has(&client, "first", 0, 1).await && has(&client, "first", 1, 1).await, "every record is back");
    assert_eq!(topic_id(&client, "first").await, first);
    for partition in 0..PARTITIONS {
        write(&client, "first", partition).await.unwrap();
    }
    let gone = second.replace('-', "");
    let left: Vec<PathBuf> =
        stopped.segments().into_keys().filter(|path| path.to_string_lossy().contains(&gone)).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    server.assert_no_panic();

    let data = server.kill();
    let server = Server::start(&data);
    let client = server.client();
    ready(&server).await;
    for (topic, partition, times) in [("old", 0, 3), ("first", 0, 2), ("first", 1, 2)] {
        assert!(has(&client, topic, partition, times).await, "{topic}/{partition} after a restart");
    }
    assert_eq!(set_aside(&server), []);
}

/// Restores one topic and deletes the other; what the commands refuse changes nothing.
fn restore_and_delete(server: &Server, first: &str, second: &str) {
    let aside = |arguments: &[&str]| said(server, &[&["partition", "set-aside"], arguments].concat());
    let unknown = "00000000-0000-4000-8000-000000000001";
    let listed = set_aside(server);
    let refused: [(&[&str], i32); 6] = [
        (&["restore", first, "--topic", "old"], 4),
        (&["restore", first, "--topic", "no/name"], 2),
        (&["restore", unknown, "--topic", "free"], 3),
        (&["delete", second], 2),
        (&["delete", second, "--accept-loss", "--partition", "7"], 3),
        (&["delete", unknown, "--accept-loss"], 3),
    ];
    for (arguments, expected) in refused {
        let (code, text) = aside(arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {text}");
    }
    assert_eq!(set_aside(server), listed);

    let (code, text) = aside(&["restore", first, "--topic", "first"]);
    assert!(code == Some(0) && text.contains("restored first"), "{text}");
    assert_eq!(set_aside(server), [(second.to_owned(), 0)]);
    let (code, text) = aside(&["restore", first, "--topic", "again"]);
    assert_eq!(code, Some(3), "a topic that is in use is not set aside any more: {text}");
    let (code, text) = aside(&["delete", second, "--accept-loss"]);
    assert!(code == Some(0) && text.contains("deleted 1 replica"), "{text}");
    let (code, text) = aside(&["list"]);
    assert_eq!((code, text.trim()), (Some(0), "nothing is set aside"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_after_the_copy_is_empty_and_takes_writes_once_the_copy_is_accepted() {
    let (dir, data) = place();
    let older = dir.path().join("older.redb");
    let server = Server::start(&data);
    create(&server.client(), "gone", 1, &[]).await;
    write(&server.client(), "gone", 0).await.unwrap();
    server.stop();
    std::fs::copy(data.join("metadata.redb"), &older).unwrap();

    let server = Server::start(&data);
    server.cli_ok(&["topic", "delete", "gone", "--yes"]);
    until(async || segments(&data.join("logs")).is_empty(), "a deleted topic's data is removed").await;
    server.stop();
    std::fs::copy(&older, data.join("metadata.redb")).unwrap();

    let server = Server::start(&data);
    server.cli_ok(&["metadata", "accept-restore", "--yes"]);
    let client = server.client();
    until(async || write(&client, "gone", 0).await.is_ok(), "the topic takes writes").await;
    assert!(has(&client, "gone", 0, 1).await, "deleted records stay deleted");
    assert_eq!(set_aside(&server), []);
    server.assert_no_panic();
}

#[test]
fn commands_that_lose_or_change_something_ask_for_a_flag() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::server::binary());
        // Nothing listens there: a command that were to call a server would end with another code.
        let output = command.args(arguments).env("WALSER_SERVER", "127.0.0.1:1").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let id = "00000000-0000-4000-8000-000000000001";
    let aside = ["partition", "set-aside"];
    let cases: [(&[&str], &str); 5] = [
        (&["delete", id], "--accept-loss"),
        (&["delete", "orders", "--accept-loss"], "is not a UUID"),
        (&["delete", id, "--accept-loss", "--partition", "-1"], "-1"),
        (&["restore", id], "--topic"),
        (&["restore", "orders", "--topic", "orders"], "is not a UUID"),
    ];
    for (arguments, expected) in cases {
        let (code, text) = run(&[&aside, arguments].concat());
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    let (code, text) = run(&["metadata", "accept-restore"]);
    assert!(code == Some(2) && text.contains("--yes") && text.contains("set aside"), "{text}");
    assert_eq!(run(&["metadata", "accept-restore", "--yes"]).0, Some(7), "with the flag it calls the server");
}

/// Topics would be served as empty, and their offsets given a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_without_its_data_is_refused_and_data_without_its_id_is_not() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 3, &[]).await;
    write(&client, "t", 1).await.unwrap();
    server.stop();
    let alone = dir.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    std::fs::copy(data.join("metadata.redb"), alone.join("metadata.redb")).unwrap();
    let error = Server::try_start(&alone, &[]).err().expect("it has no data");
    assert!(error.contains("another data directory than before") && error.contains("3 partitions"), "{error}");

    // The way out that it names: another id. The node that has the records is away then, and gets no new ones.
    let server = Server::start_with(&alone, &["--set", "storage.node.id=2"]);
    let client = server.client();
    until(async || said(&server, &["status"]).1.contains("NODE_DOWN"), "node 1 is fenced").await;
    for number in 0..5 {
        create(&client, &format!("new-{number}"), 1, &[]).await;
        write(&client, &format!("new-{number}"), 0).await.unwrap();
    }
    server.cli_ok(&["topic", "delete", "t", "--yes"]);
    server.stop();

    std::fs::remove_file(data.join("meta")).unwrap();
    let server = Server::start(&data);
    assert!(has(&server.client(), "t", 1, 1).await, "the data has lost its id only");
    server.stop();
    assert!(has(&Server::start(&data).client(), "t", 1, 1).await, "its new id is the right one from now on");
}
