//! Data directories of earlier versions open with all their records.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::server::{Server, place, read_all};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Unpacks a data directory, and reads what must be in it.
fn unpack(name: &str, data: &Path) -> Value {
    std::fs::create_dir(data).unwrap();
    let archive = fixture(&format!("{name}.tar.gz"));
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(data).status().unwrap();
    assert!(unpacked.success());
    serde_json::from_slice(&std::fs::read(fixture(&format!("{name}.json"))).unwrap()).unwrap()
}

/// Bytes from hexadecimal digits, or those repeated; null stays null.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    let decode = |digits: &str| {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect::<Vec<u8>>()
    };
    match value {
        Value::Null => None,
        Value::String(digits) => Some(decode(digits)),
        repeated => {
            let times = usize::try_from(repeated["times"].as_u64().unwrap()).unwrap();
            Some(decode(repeated["repeat"].as_str().unwrap()).repeat(times))
        }
    }
}

/// Every record of the server is an expected one, and none is missing.
async fn check(client: &Client, expected: &Value) {
    let records = expected["records"].as_array().unwrap();
    for (name, bounds) in expected["partitions"].as_object().unwrap() {
        let (topic, partition) = name.split_once('/').unwrap();
        let number: i32 = partition.parse().unwrap();
        let mut wanted: Vec<_> =
            records.iter().filter(|it| it["topic"] == topic && it["partition"] == number).collect();
        wanted.sort_by_key(|record| record["offset"].as_i64());
        let found = read_all(client, topic, number).await;
        assert_eq!(found.len(), wanted.len(), "{name}: {bounds}");
        for (found, wanted) in found.iter().zip(wanted) {
            let offset = wanted["offset"].as_i64().unwrap();
            assert_eq!(found.offset, offset, "{name}");
            assert_eq!(found.timestamp_millis, wanted["timestamp"].as_i64().unwrap(), "{name} {offset}");
            assert_eq!(found.key.as_deref().map(<[u8]>::to_vec), bytes(&wanted["key"]), "{name} {offset}");
            assert!(found.value.as_deref().map(<[u8]>::to_vec) == bytes(&wanted["value"]), "{name} {offset}");
            let headers: Vec<_> = found
                .headers
                .iter()
                .map(|header| (header.key.clone(), header.value.as_deref().map(<[u8]>::to_vec)))
                .collect();
            let pair = |header: &Value| (header[0].as_str().unwrap().to_owned(), bytes(&header[1]));
            let expected: Vec<_> = wanted["headers"].as_array().unwrap().iter().map(pair).collect();
            assert_eq!(headers, expected, "{name} {offset}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_the_first_version_opens_with_everything_in_it() {
    for name in ["data-0.1.0-killed", "data-0.1.0-stopped"] {
        let (_dir, data) = place();
        let expected = unpack(name, &data);
        let server = Server::start(&data);
        let client = server.client();
        check(&client, &expected).await;
        // An idempotent producer goes on where it was, and its last batch is known.
        let producer = &expected["producer"];
        let number = |field: &str| producer[field].as_i64().unwrap();
        let send = |sequence: i64| pb::ProduceRequest {
            topic: producer["topic"].as_str().unwrap().to_owned(),
            partition: Some(i32::try_from(number("partition")).unwrap()),
            records: vec![crate::server::record("goes on")],
            producer: Some(pb::ProducerIdentity {
                producer_id: number("producer_id"),
                producer_epoch: i32::try_from(number("producer_epoch")).unwrap(),
            }),
            base_sequence: i32::try_from(sequence).unwrap(),
            ..Default::default()
        };
        let mut duplicates = Vec::new();
        for _ in 0..2 {
            let answer = client.producer().produce(send(number("next_sequence"))).await.unwrap().into_inner();
            duplicates.push(answer.appends[0].duplicate);
        }
        assert_eq!(duplicates, [false, true], "{name}");
        // And again after a restart of this version.
        let data = server.kill();
        let server = Server::start(&data);
        let topic = producer["topic"].as_str().unwrap();
        let count = expected["partitions"][format!("{topic}/0")]["log_end_offset"].as_u64().unwrap();
        assert_eq!(read_all(&server.client(), topic, 0).await.len() as u64, count + 1);
        server.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_the_first_version_works_at_its_level_until_the_upgrade_is_ended() {
    let (_dir, data) = place();
    let expected = unpack("data-0.1.0-stopped", &data);
    let server = Server::start(&data);
    let end = |server: &Server, more: &[&str]| {
        String::from_utf8(server.cli_ok(&[&["cluster", "finalize-upgrade"], more].concat())).unwrap()
    };
    assert!(end(&server, &["--dry-run"]).contains("feature level 1 would become 3"));
    assert!(end(&server, &["--dry-run"]).contains("feature level 1 would become 3"), "nothing was done");
    server.stop();
    let server = Server::start(&data);
    assert!(end(&server, &[]).contains("feature level 1 is now 3: older programs are refused"));
    for again in [&["--dry-run"][..], &[]] {
        assert!(end(&server, again).contains("feature level 3: there is no upgrade to end"));
    }
    let data = server.kill();
    let server = Server::start(&data);
    assert!(end(&server, &[]).contains("there is no upgrade to end"));
    check(&server.client(), &expected).await;
    server.assert_no_panic();
}

/// Of each key the newest value, and the values of records without a key.
type Left = (BTreeMap<Vec<u8>, Option<Vec<u8>>>, Vec<Option<Vec<u8>>>);

fn left(records: impl Iterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)>) -> Left {
    let mut left = Left::default();
    for (key, value) in records {
        match key {
            Some(key) => drop(left.0.insert(key, value)),
            None => left.1.push(value),
        }
    }
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_the_first_version_keep_the_newest_value_of_every_key_when_they_are_compacted() {
    const FILLING: &[u8] = b"filling";
    for name in ["data-0.1.0-killed", "data-0.1.0-stopped"] {
        let (_dir, data) = place();
        let expected = unpack(name, &data);
        let server = Server::start_with(&data, &["--set", "storage.retention.check.ms=100"]);
        let client = server.client();
        server.cli_ok(&["cluster", "finalize-upgrade"]);
        for (place, bounds) in expected["partitions"].as_object().unwrap() {
            let (topic, number) = place.split_once('/').unwrap();
            let partition = number.parse().unwrap();
            let settings = ["cleanup.policy=compact", "segment.bytes=16KiB", "min.cleanable.dirty.ratio=0.01"];
            let settings = settings.iter().flat_map(|setting| ["--config", setting]).collect::<Vec<_>>();
            server.cli_ok(&[&["topic", "alter", topic][..], &settings].concat());
            // What is in the last segment is not compacted.
            let filling =
                pb::Record { key: Some(FILLING.into()), value: Some(vec![b'.'; 9_000].into()), ..Default::default() };
            for _ in 0..8 {
                let records = vec![filling.clone()];
                let (topic, partition) = (topic.to_owned(), Some(partition));
                let request = pb::ProduceRequest { topic, partition, records, ..Default::default() };
                client.producer().produce(request).await.unwrap();
            }
            let compacted = async || {
                let request = pb::ListPartitionsRequest { topic: topic.to_owned(), ..Default::default() };
                let listed = client.topics().list_partitions(request).await.unwrap().into_inner().partitions;
                let own = listed.into_iter().filter_map(|info| info.partition).find(|own| own.partition == partition);
                let found = own.unwrap().compaction.unwrap_or_default();
                found.dirty_bytes == 0 && found.compacted_offset >= bounds["log_end_offset"].as_i64().unwrap()
            };
            until(compacted, "all that the first version has written is compacted").await;
            let found = read_all(&client, topic, partition).await.into_iter();
            let bytes_of = |field: Option<bytes::Bytes>| field.map(|field| field.to_vec());
            let found = left(found.map(|record| (bytes_of(record.key), bytes_of(record.value))));
            let records = expected["records"].as_array().unwrap().iter();
            let own = records.filter(|record| record["topic"] == topic && record["partition"] == partition);
            let mut own: Vec<_> = own.collect();
            own.sort_by_key(|record| record["offset"].as_i64());
            let mut wanted = left(own.into_iter().map(|record| (bytes(&record["key"]), bytes(&record["value"]))));
            wanted.0.insert(FILLING.to_vec(), Some(vec![b'.'; 9_000]));
            assert!(found == wanted, "{name}, {place}: {} keys of {}", found.0.len(), wanted.0.len());
        }
        server.assert_no_panic();
    }
}
