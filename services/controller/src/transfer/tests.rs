use std::sync::Arc;

use walser_metadata::value::{NodeLiveness, PartitionValue, TopicValue};
use walser_metastore::{Memory, Op, Txn};
use walser_model::{NodeId, PartitionIndex, SystemRandom, TopicId, TopicPartition};
use walser_replication::PartitionState;

use super::*;
use crate::keys::{node, partition, put};
use crate::leadership::ControllerLead;
use crate::store::Store;
use crate::store_problems::StoreProblems;

const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

fn state() -> PartitionState {
    PartitionState::new([1, 2, 3].map(NodeId).to_vec(), 2)
}

async fn written(store: &Memory, ops: Vec<Op>) {
    assert!(matches!(
        store.transact(Txn { compares: vec![], ops }).await.unwrap(),
        walser_metastore::Outcome::Committed(_)
    ));
}

/// The store of a cluster with this many partitions.
async fn cluster(partitions: i32) -> Memory {
    let store = Memory::new();
    let record = ClusterRecord::new("c1".into(), "laptop".into(), 5);
    written(&store, vec![put(lineage::key(0), &Lineage::new("first"))]).await;
    written(&store, vec![put(cluster::KEY.into(), &record)]).await;
    let topic = TopicValue { name: "t".into(), partition_count: partitions, ..TopicValue::default() };
    written(&store, vec![put(topic::key(TOPIC), &topic)]).await;
    let all: Vec<i32> = (0..partitions).collect();
    for some in all.chunks(100) {
        let at = |number: &i32| TopicPartition::new(TOPIC, PartitionIndex(*number));
        let puts = some.iter().map(|number| put(partition::key(at(number)), &PartitionValue::from(state())));
        written(&store, puts.collect()).await;
    }
    let served = NodeLiveness { served_epoch: 9, ..NodeLiveness::default() };
    written(&store, vec![put(node::live_key(NodeId(1)), &served), put("store/probe".into(), &Lineage::new("x"))]).await;
    written(&store, vec![put(lineage::key(1), &Lineage::new("second"))]).await;
    store
}

async fn exported(partitions: i32) -> Export {
    read(&cluster(partitions).await).await.unwrap()
}

fn bytes(export: &Export) -> Vec<u8> {
    let mut file = Vec::new();
    export.write(&mut file).unwrap();
    file
}

#[tokio::test]
async fn metadata_in_another_store_is_the_same_and_later() {
    for partitions in [0, 1, 1_000, 10_000] {
        let old = cluster(partitions).await;
        let before = read_all(&old, "").await.unwrap();
        let export = read(&old).await.unwrap();
        let file = bytes(&export);
        assert_eq!(Export::read(&file[..]).unwrap(), export);
        assert_eq!(
            (export.summary().partitions, export.revision),
            (usize::try_from(partitions).unwrap(), before.revision)
        );

        let new = Memory::new();
        load::load(&new, &export, &SystemRandom).await.unwrap();
        let after = read_all(&new, "").await.unwrap();
        assert!(after.entries.iter().all(|entry| entry.create_revision > before.revision), "versions go on");
        let found = |key: &str| after.entries.iter().find(|entry| entry.key == key).unwrap();
        let starts: Vec<Lineage> = (0..3).map(|number| decode(found(&lineage::key(number))).unwrap()).collect();
        let firsts: Vec<_> = starts.iter().map(|start| start.first).collect();
        let created = |key: &str| before.entries.iter().find(|entry| entry.key == key).unwrap().create_revision;
        assert_eq!(
            firsts,
            [Some(created(&lineage::key(0))), Some(created(&lineage::key(1))), Some(before.revision + 1)]
        );
        let topic: TopicValue = decode(found(&topic::key(TOPIC))).unwrap();
        assert_eq!(topic.durability_revision, created(&topic::key(TOPIC)), "its durability has not changed");
        let keys = |entries: &[KeyValue]| {
            let moved = entries.iter().map(|entry| entry.key.clone());
            moved.filter(|key| *key != lineage::key(2) && key != "store/probe").collect::<Vec<_>>()
        };
        assert_eq!(keys(&after.entries), keys(&before.entries));

        // What it is exported to again says the same.
        let again = read(&new).await.unwrap();
        let kept = |entry: &&(String, Vec<u8>)| entry.0 != lineage::key(2);
        assert!(again.entries.iter().filter(kept).eq(export.entries.iter()));
    }
}

#[tokio::test]
async fn an_import_that_was_interrupted_goes_on_and_no_controller_starts_meanwhile() {
    let (export, other) = (exported(1_000).await, exported(3).await);
    let new = Memory::new();
    let begun = load::begin(&new, &export).await.unwrap();
    let begun = Compare::CreatedAt(transfer::KEY.to_owned(), begun);
    let first = load::transactions(&export, &begun).next().unwrap();
    new.transact(first).await.unwrap();

    let shared: Arc<dyn Metastore> = Arc::new(new.clone());
    let refused = Store::new(Arc::clone(&shared), ControllerLead::new(shared, "a", StoreProblems::default()))
        .begin_lineage([1; 16])
        .await;
    assert!(refused.unwrap_err().to_string().contains("run it again with the same file"));
    assert!(matches!(read(&new).await, Err(TransferError::OtherImport)));
    let refused = load::load(&new, &other, &SystemRandom).await;
    assert!(matches!(refused, Err(TransferError::OtherImport)), "{refused:?}");

    load::load(&new, &export, &SystemRandom).await.unwrap();
    assert_eq!(read(&new).await.unwrap().entries.len(), export.entries.len() + 1);
    let twice = load::load(&new, &export, &SystemRandom).await;
    assert!(matches!(&twice, Err(TransferError::NotEmpty(id)) if id == "c1"), "{twice:?}");
}

#[tokio::test]
async fn what_is_led_or_no_cluster_is_not_exported() {
    assert!(matches!(read(&Memory::new()).await, Err(TransferError::NoCluster)));
    assert!(matches!(close(&Memory::new()).await, Err(TransferError::NoCluster)));
    let store = cluster(1).await;
    assert!(matches!(open_again(&store).await, Err(TransferError::NotExported)));
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.campaign("controller", "a", lease).await.unwrap();
    assert!(matches!(close(&store).await, Err(TransferError::InUse)));
    store.revoke(lease).await.unwrap();
    let before = read(&store).await.unwrap();

    // Then nobody begins there, or wins, and the export can be repeated.
    for _ in 0..2 {
        close(&store).await.unwrap();
        assert_eq!(read(&store).await.unwrap().entries, before.entries);
    }
    let shared: Arc<dyn Metastore> = Arc::new(store.clone());
    let refused = Store::new(Arc::clone(&shared), ControllerLead::new(shared, "a", StoreProblems::default()))
        .begin_lineage([1; 16])
        .await;
    assert!(refused.unwrap_err().to_string().contains("goes on in another store"));
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let campaign = tokio::time::timeout(Duration::from_millis(50), store.campaign("controller", "b", lease)).await;
    assert!(campaign.is_err(), "it waits");
    open_again(&store).await.unwrap();
    store.campaign("controller", "b", lease).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_as_it_was_written_is_refused() {
    let file = bytes(&exported(3).await);
    for length in 0..file.len() {
        assert!(Export::read(&file[..length]).is_err(), "cut at {length}");
    }
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(Export::read(&changed[..]).is_err(), "changed at {at}");
    }
    assert!(Export::read(&[&file[..], b"{}\n"].concat()[..]).is_err());
    assert!(matches!(Export::read(&b"hello\n"[..]), Err(FormError::Foreign)));
    assert!(matches!(Export::read(&vec![b'x'; 10 << 20][..]), Err(FormError::Foreign)));
    assert!(matches!(Export::read(&b"{\"walser_metadata\":2,\"else\":1}\n"[..]), Err(FormError::Newer(2))));
}
