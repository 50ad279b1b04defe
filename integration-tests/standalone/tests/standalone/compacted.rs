//! Compacted topics: of each key the newest record stays, on every replica, whatever ends in between.

use std::collections::BTreeMap;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::replicated::{NODES, Nodes, all_in_sync, leader, leads, preferred_lead};
use crate::server::{Server, create, place, read_all};

/// Of each key the newest value; `None`: it was deleted.
type Newest = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Segments are small, and are compacted soon after they are closed.
const SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16KiB"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "0"),
];
const SOON: &str = "storage.retention.check.ms=100";

fn keyed(key: &str, value: Option<String>) -> pb::Record {
    let value = value.map(|value| value.into_bytes().into());
    pb::Record { key: Some(key.as_bytes().to_vec().into()), value, ..Default::default() }
}

/// What was written, and acknowledged.
#[derive(Default)]
struct Written {
    newest: Newest,
    count: usize,
}

impl Written {
    async fn write(&mut self, client: &Client, topic: &str, records: Vec<pb::Record>) {
        self.count += records.len();
        for record in &records {
            let value = record.value.as_ref().map(|value| value.to_vec());
            self.newest.insert(record.key.as_ref().unwrap().to_vec(), value);
        }
        let request = pb::ProduceRequest { topic: topic.to_owned(), partition: Some(0), records, ..Default::default() };
        // While another leader is elected it is written again: that changes nothing of the newest records.
        let written = async || client.producer().produce(request.clone()).await.is_ok();
        until(written, "the records are written").await;
    }

    /// Every key so many times.
    async fn rounds(&mut self, client: &Client, topic: &str, keys: usize, rounds: usize) {
        for _ in 0..rounds {
            let number = self.count;
            let record = |key: usize| keyed(&format!("key-{key}"), Some(format!("{number:0>100}")));
            self.write(client, topic, (0..keys).map(record).collect()).await;
        }
    }

    /// Waits until most has gone of what is not the newest of its key.
    async fn compacted(&self, client: &Client, topic: &str) {
        let few = async || read_all(client, topic, 0).await.len() < self.newest.len() + self.count / 4;
        until(few, "the topic is compacted").await;
        self.holds(client, topic).await;
    }

    /// Of each key the newest is there, and no deleted one.
    async fn holds(&self, client: &Client, topic: &str) {
        let mut found = Newest::new();
        let mut last = -1;
        for record in read_all(client, topic, 0).await {
            assert!(record.offset > last, "{} follows {last}", record.offset);
            last = record.offset;
            found.insert(record.key.unwrap().to_vec(), record.value.map(|value| value.to_vec()));
        }
        let there = |all: &Newest| -> Newest {
            all.iter().filter(|(_, value)| value.is_some()).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let differs = there(&self.newest).into_iter().filter(|(key, value)| found.get(key) != Some(value)).count();
        assert_eq!((there(&found).len(), differs), (there(&self.newest).len(), 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_every_key_stays_and_deleted_keys_go() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", SOON]);
    let client = server.client();
    create(&client, "t", 1, &SETTINGS).await;
    let mut written = Written::default();
    written.rounds(&client, "t", 20, 200).await;
    written.compacted(&client, "t").await;
    written.write(&client, "t", vec![keyed("key-3", None)]).await;
    let gone = async |written: &mut Written, client: &Client| {
        written.rounds(client, "t", 3, 20).await;
        read_all(client, "t", 0).await.iter().all(|record| record.key.as_deref() != Some(b"key-3"))
    };
    while !gone(&mut written, &client).await {}
    written.holds(&client, "t").await;

    let data = server.kill();
    let server = Server::start_with(&data, &["--set", SOON]);
    let client = server.client();
    written.holds(&client, "t").await;
    written.rounds(&client, "t", 1_000, 10).await;
    written.compacted(&client, "t").await;
    written.rounds(&client, "t", 10_000, 2).await;
    written.holds(&client, "t").await;
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_altered_to_compact_and_takes_no_record_without_a_key_any_more() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", SOON]);
    let client = server.client();
    create(&client, "t", 1, &SETTINGS[1..]).await;
    let mut written = Written::default();
    written.rounds(&client, "t", 20, 200).await;
    assert_eq!(read_all(&client, "t", 0).await.len(), written.count);
    server.cli_ok(&["topic", "alter", "t", "--config", "cleanup.policy=compact,delete"]);
    written.compacted(&client, "t").await;
    let refused = async || {
        let records = vec![keyed("k", None), pb::Record::default()];
        let request = pb::ProduceRequest { topic: "t".to_owned(), partition: Some(0), records, ..Default::default() };
        let failure = walser_client::ApiError::from(client.producer().produce(request).await.err()?);
        Some((
            failure.reason_name().to_owned(),
            failure.value("rule")?.to_owned(),
            failure.value("recordIndex")?.to_owned(),
        ))
    };
    let expected = Some(("RECORD_INVALID".to_owned(), "KEY_REQUIRED".to_owned(), "1".to_owned()));
    assert_eq!(refused().await, expected);
    let said = server.cli_with_input(&["produce", "t"], b"no key\n");
    assert!(String::from_utf8_lossy(&said.stderr).contains("has no key"), "{said:?}");
    let shown = String::from_utf8(server.cli_ok(&["topic", "describe", "t"])).unwrap();
    assert!(shown.contains("compact,delete"), "{shown}");
}

/// How much is dirty, and what the latest run has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_explains_itself() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", SOON]);
    let client = server.client();
    create(&client, "t", 1, &SETTINGS).await;
    create(&client, "plain", 1, &[]).await;
    let of = async |client: &Client, topic: &str| {
        let request = pb::ListPartitionsRequest { topic: topic.to_owned(), ..Default::default() };
        let mut listed = client.topics().list_partitions(request).await.unwrap().into_inner();
        listed.partitions.remove(0).partition.unwrap().compaction
    };
    assert_eq!(of(&client, "t").await, Some(pb::Compaction::default()));
    let mut written = Written::default();
    written.write(&client, "t", vec![keyed("deleted", Some("there".to_owned()))]).await;
    written.write(&client, "t", vec![keyed("deleted", None)]).await;
    written.rounds(&client, "t", 20, 200).await;
    written.compacted(&client, "t").await;
    let clean = async || of(&client, "t").await.is_some_and(|found| found.dirty_bytes == 0 && !found.running);
    until(clean, "all of it is compacted").await;
    let found = of(&client, "t").await.unwrap();
    let run = found.last_run.unwrap();
    assert!(run.bytes_after < run.bytes_before && found.clean_bytes > 0, "{found:?}");
    let left = (run.record_count, run.tombstone_count.unwrap());
    assert!(left.0 == Some(20) && left.1 <= 1 && found.compacted_offset > 3_000, "{found:?}");
    let shown = String::from_utf8(server.cli_ok(&["topic", "describe", "t"])).unwrap();
    assert!(shown.contains("KEYS") && shown.contains("at most 4,002 records"), "{shown}");
    let plain = String::from_utf8(server.cli_ok(&["topic", "describe", "plain"])).unwrap();
    assert!(of(&client, "plain").await.is_none() && !plain.contains("COMPACTION"), "{plain}");
    server.kill();
    let server = Server::start_with(&data, &["--set", SOON]);
    let after = of(&server.client(), "t").await.unwrap();
    assert!(after.compacted_offset == found.compacted_offset && after.last_run.is_none(), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_has_the_newest_of_every_key_through_kills() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_settings(&data, &SETTINGS, &[SOON]).await;
    let mut written = Written::default();
    for round in 0..6 {
        written.rounds(&client, "t", 20, 40).await;
        written.write(&client, "t", vec![keyed(&format!("deleted-{round}"), Some("there".to_owned()))]).await;
        let killed = leader(&client, "t").await;
        nodes.kill(killed);
        written.write(&client, "t", vec![keyed(&format!("deleted-{round}"), None)]).await;
        written.rounds(&client, "t", 20, 40).await;
        nodes.restart_with(killed, &[SOON]);
        all_in_sync(&client, "t").await;
        written.holds(&client, "t").await;
    }
    written.compacted(&client, "t").await;
}

/// It has a record whose tombstone the others do not need any more: they keep it, or it takes all of their log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_deleted_key_returns_with_a_replica_that_was_away_for_long() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_settings(&data, &SETTINGS, &[SOON]).await;
    preferred_lead(&client, 1).await;
    let first = leader(&client, "t").await;
    let away = (1..=NODES).find(|node| *node != first).unwrap();
    let mut written = Written::default();
    written.write(&client, "t", vec![keyed("deleted", Some("there".to_owned()))]).await;
    written.rounds(&client, "t", 20, 40).await;
    nodes.kill(away);
    written.write(&client, "t", vec![keyed("deleted", None)]).await;
    for _ in 0..5 {
        written.rounds(&client, "t", 20, 40).await;
        written.compacted(&client, "t").await;
    }
    nodes.restart_with(away, &[SOON]);
    all_in_sync(&client, "t").await;
    nodes.kill_others(away);
    leads(&client, away).await;
    written.holds(&client, "t").await;
    written.rounds(&client, "t", 20, 40).await;
    written.compacted(&client, "t").await;
}

/// What was at an offset may be gone: a bounded read goes on behind it, from wherever it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_read_from_any_offset_finds_the_next_record_that_is_left() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", SOON]);
    let client = server.client();
    create(&client, "t", 1, &SETTINGS).await;
    let mut written = Written::default();
    written.rounds(&client, "t", 10, 300).await;
    written.compacted(&client, "t").await;
    let left: Vec<i64> = read_all(&client, "t", 0).await.iter().map(|record| record.offset).collect();
    for offset in (0..i64::try_from(written.count).unwrap()).step_by(7) {
        let start = Some(pb::Position { at: Some(pb::position::At::Offset(offset)) });
        let target = pb::ReadTarget { topic: "t".to_owned(), partition: Some(0), start, ..Default::default() };
        let request = pb::FetchRequest { targets: vec![target], ..Default::default() };
        let fetched = client.consumer().fetch(request).await.unwrap().into_inner();
        let first = fetched.chunks.first().and_then(|chunk| chunk.records.first()).map(|record| record.offset);
        let next = left.iter().copied().find(|found| *found >= offset);
        // Compaction goes on meanwhile: what is found was left then.
        assert!(first >= next && first.is_some(), "from {offset}: {first:?}, and {next:?} was left");
    }
}
