//! `walser log inspect` names topics, and says so when a directory is not one of Walser.

use std::path::Path;

use walser_proto::v1 as pb;

use crate::faults::until;
use crate::server::{Server, cli_at, create, place, record};

/// Exit code, standard output and standard error of `log inspect`.
fn inspect(dir: &Path) -> (i32, String, String) {
    let output = cli_at("127.0.0.1:1", &["log", "inspect", dir.to_str().unwrap()], b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_named_by_their_topics_while_the_server_runs_and_after_a_kill() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "orders", 1, &[]).await;
    let write = pb::ProduceRequest { topic: "orders".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write).await.unwrap();
    let named = async || inspect(&data).1.contains("orders/0  ");
    until(named, "the names of topics are written down").await;
    let partition = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    let partition = partition.into_iter().find(|path| path.is_dir()).unwrap();
    let data = server.kill();
    let (code, shown, said) = inspect(&data);
    assert!(code == 0 && shown.contains(partition.file_name().unwrap().to_str().unwrap()), "{shown}{said}");
    let (code, shown, said) = inspect(&partition);
    assert!(code == 0 && shown.starts_with("partition orders/0\n") && shown.contains("0–0"), "{shown}{said}");

    // Nothing needs the names.
    std::fs::write(data.join("topic-names"), b"\xff\x00 garbage").unwrap();
    assert_eq!(inspect(&data).0, 0);
    assert!(inspect(&data).1.contains("?  "), "{}", inspect(&data).1);
    let server = Server::start(&data);
    until(named, "the names are written down again").await;
    server.assert_no_panic();
}

#[test]
fn what_is_not_ours_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    std::fs::create_dir_all(other.join("logs/nginx")).unwrap();
    std::fs::write(other.join("logs/nginx/access.log"), b"GET / HTTP/1.1").unwrap();
    for path in [other.clone(), other.join("logs/nginx"), other.join("logs/nginx/access.log"), dir.path().join("none")]
    {
        let (code, shown, said) = inspect(&path);
        assert_eq!((code, &*shown), (2, ""), "{said}");
        assert!(said.contains("is neither a data directory") || said.contains("does not exist"), "{said}");
        assert_eq!(said.lines().count(), 2, "a sentence and what to do: {said}");
    }
}
