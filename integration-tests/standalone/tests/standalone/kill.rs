//! SIGKILL under load, again and again: every acknowledged record is there at its offset with its bytes, no record is
//! there in part, none is there that nobody sent, and the next start says what it found.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify};
use walser_client::{Client, Producer, ProducerConfig};
use walser_model::{Acks, Compression};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, RecordFields};

use crate::server::{PATIENCE, Server, create, place, read_all, record};

const PARTITIONS: i32 = 3;
const WRITERS: u64 = 4;

fn kills() -> u64 {
    std::env::var("WALSER_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100)
}

/// What was acknowledged, by partition and offset, and everything that was ever sent.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<(i32, i64), String>,
    sent: HashSet<String>,
}

/// Writes until the server goes away.
async fn write(client: Client, ledger: Arc<Mutex<Ledger>>, next: Arc<AtomicU64>, progress: Arc<(AtomicU64, Notify)>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let size = usize::try_from(number * 131 % 3000).unwrap();
        let value = format!("record-{number}-{}", "x".repeat(size));
        let partition = i32::try_from(number % 3).unwrap();
        ledger.lock().await.sent.insert(value.clone());
        let request = pb::ProduceRequest {
            topic: "ledger".to_owned(),
            partition: Some(partition),
            records: vec![record(value.clone())],
            ..Default::default()
        };
        let Ok(answer) = client.producer().produce(request).await else { return };
        let offset = answer.into_inner().positions[0].offset;
        let before = ledger.lock().await.acknowledged.insert((partition, offset), value);
        assert_eq!(before, None, "an offset was given twice");
        progress.0.fetch_add(1, Ordering::Relaxed);
        progress.1.notify_one();
    }
}

async fn check(client: &Client, ledger: &Ledger) {
    for partition in 0..PARTITIONS {
        let records = read_all(client, "ledger", partition).await;
        let mut values = BTreeMap::new();
        for (expected, record) in (0..).zip(&records) {
            assert_eq!(record.offset, expected, "offsets are contiguous");
            let value = String::from_utf8(record.value.as_deref().unwrap().to_vec()).unwrap();
            assert!(ledger.sent.contains(&value), "partition {partition} offset {}: nobody sent this", record.offset);
            values.insert(record.offset, value);
        }
        for ((_, offset), value) in ledger.acknowledged.range((partition, 0)..(partition + 1, 0)) {
            assert_eq!(values.get(offset), Some(value), "partition {partition} offset {offset} was acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_acknowledged() {
    let (_dir, mut data) = place();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let next = Arc::new(AtomicU64::new(0));
    for round in 0..kills() {
        let server = Server::start(&data);
        let client = server.client();
        if round == 0 {
            create(&client, "ledger", PARTITIONS, &[("segment.bytes", "64KiB")]).await;
        } else if round % 10 == 1 {
            check(&client, &*ledger.lock().await).await;
            assert!(server.recovered()["records"].as_i64().unwrap() > 0, "{}", server.printed());
        }
        let progress = Arc::new((AtomicU64::new(0), Notify::new()));
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| tokio::spawn(write(client.separate(), ledger.clone(), next.clone(), progress.clone())))
            .collect();
        // Killed in the middle of the work, at another moment each time.
        let enough = 5 + round * 7 % 60;
        let reached = async {
            while progress.0.load(Ordering::Relaxed) < enough {
                progress.1.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("records are acknowledged");
        server.assert_no_panic();
        data = server.kill();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let server = Server::start(&data);
    check(&server.client(), &*ledger.lock().await).await;
    let found = server.recovered();
    assert!(found["records"].as_i64().unwrap() > 0 && found["damaged"] == 0, "{found}");
    server.stop();
    let again = Server::start(&data);
    assert_eq!(again.recovered()["checked_segments"], 0, "the stop was clean: {}", again.printed());
    check(&again.client(), &*ledger.lock().await).await;
}

/// The client's producer writes exactly once while the server is killed under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_the_clients_producer_writes_exactly_once() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "once", 2, &[]).await;
    let address = server.address.clone();
    let config =
        ProducerConfig { topic: "once".to_owned(), acks: Acks::All, delivery_timeout: PATIENCE, buffer_bytes: 4 << 20 };
    let producer = Producer::start(&server.client(), config).await.unwrap();
    let mut deliveries = Vec::new();
    let mut server = Some(server);
    for number in 0..400 {
        if number % 100 == 50 {
            // Most of what was sent is not answered yet.
            let data = server.take().unwrap().kill();
            server = Some(Server::start_with(&data, &["--listen", &address]));
        }
        let mut builder = BatchBuilder::new(Compression::None, 0);
        let value = format!("value-{number}-{}", "y".repeat(2000));
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(value.as_bytes()), headers: &[] });
        deliveries.push((number, producer.send(number % 2, builder).await.unwrap()));
    }
    let mut offsets = BTreeMap::new();
    for (number, delivery) in deliveries {
        let delivered = delivery.await.unwrap();
        offsets.insert((delivered.partition, delivered.base_offset), number);
    }
    assert_eq!(offsets.len(), 400, "every batch has an offset of its own");
    let client = server.as_ref().unwrap().client();
    for partition in 0..2 {
        let records = read_all(&client, "once", partition).await;
        let numbers: Vec<i32> = records
            .iter()
            .map(|record| {
                String::from_utf8_lossy(record.value.as_deref().unwrap()).split('-').nth(1).unwrap().parse().unwrap()
            })
            .collect();
        let expected: Vec<i32> = (0..400).filter(|number| number % 2 == partition).collect();
        assert_eq!(numbers, expected, "in order, once each");
    }
}
